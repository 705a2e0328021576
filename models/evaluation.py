"""What a model is worth on labelled rows: one dict of figures, the same in report, MLflow and the bundle's card.

Layout of the dict (`metrics.json`); shares are 0..1, a `{value, low, high}` is a share with its 95 % Wilson interval:

    format 1 · rows · classes (six-digit, known to the model) · train_rows or null · rare_rows (the limit) · thresholds
    groups   {"all", "trader" (label_kind given or corrected), "nomenclature"} → group; a group without rows is left out
    sources  {name of the source} → group
    vague    {rows, not_answered {value, low, high}, caught {value, low, high} (status vague)} or null
    group    rows
             levels {"2", "4", "6"} → rows · classes (that occur) · top1, top3, top5 {value, low, high} · macro_f1 ·
                    rare_recall {value, low, high, rows, classes} or null · ece ·
                    reliability [{rows, confidence, accuracy, low, high}] · coverage [{coverage, accuracy, threshold}]
             answers status {status: share} · given {value, low, high} (share of rows with any code) ·
                     precision {value, low, high, rows} (right at the length given, of all given) or null ·
                     at {"2", "4", "6"} → rows · share · precision {value, low, high} or null

Rows whose label has two or four digits count at those levels only. Rows are taken as independent in the intervals.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from models.answer import DIGITS, STATUSES, Decisions, Floats, Levels, decide
from models.calibration import ece, reliability, wilson

if TYPE_CHECKING:
    import polars as pl

Bools = npt.NDArray[np.bool_]
TRADER_KINDS = ("given", "corrected")
"""Values of `label_kind` that make a row trader-style: a person described goods, not a law."""


@dataclass(frozen=True)
class Outcomes:
    """Per row and level, what the model said of the truth; arrays (n,) keyed by digits.

    `truth`: index of the true code, -1 unknown to the model; `judged`: the label reaches this level; `rank`: codes
    that the model puts before the true one (0 = right; beyond all if unknown); `best`, `sure`: the best code's
    index and probability.
    """

    truth: Mapping[int, npt.NDArray[np.intp]]
    judged: Mapping[int, Bools]
    rank: Mapping[int, npt.NDArray[np.intp]]
    best: Mapping[int, npt.NDArray[np.intp]]
    sure: Mapping[int, npt.NDArray[np.float64]]

    def right(self, digits: int, k: int = 1) -> Bools:
        """(n,): the true code is among the `k` best of this level."""
        return self.judged[digits] & (self.rank[digits] < k)


def true_codes(frame: "pl.DataFrame") -> list[str | None]:
    """The code each row is judged by: `hs6`, else a shortened `code` of two or four digits, None for vague rows."""
    kinds = frame["label_kind"].to_list() if "label_kind" in frame.columns else ["given"] * frame.height
    codes = frame["code"].to_list() if "code" in frame.columns else [None] * frame.height
    return [
        None if kind == "vague" else hs6 or (code[: 4 if len(code) < 6 else 6] if code else None)
        for kind, hs6, code in zip(kinds, frame["hs6"].to_list(), codes, strict=True)
    ]


def outcomes(levels: Levels, probabilities: Floats, codes: Sequence[str | None], chunk: int = 512) -> Outcomes:
    """Judge (n, classes) probabilities by true codes of 2, 4 or 6 digits, `chunk` rows at a time."""
    n = len(probabilities)
    truth = {d: levels.indices(codes, d) for d in DIGITS}
    judged = {d: np.array([bool(c) and len(c or "") >= d for c in codes], dtype=bool) for d in DIGITS}
    rank = {d: np.full(n, np.iinfo(np.intp).max, dtype=np.intp) for d in DIGITS}
    best = {d: np.zeros(n, dtype=np.intp) for d in DIGITS}
    sure = {d: np.zeros(n) for d in DIGITS}
    for start in range(0, n, chunk):
        part = slice(start, min(n, start + chunk))
        for d in DIGITS:
            p = levels.probabilities(probabilities[part], d)
            rows = np.arange(len(p))
            best[d][part] = p.argmax(axis=1)
            sure[d][part] = p[rows, best[d][part]]
            known = truth[d][part] >= 0
            index = truth[d][part]
            mine = p[rows, index][:, None]
            before = (p > mine).sum(axis=1) + ((p == mine) & (np.arange(p.shape[1]) < index[:, None])).sum(axis=1)
            rank[d][part][known] = before[known]
    return Outcomes(truth, judged, rank, best, sure)


def evaluate(
    levels: Levels,
    probabilities: Floats,
    frame: "pl.DataFrame",
    thresholds: Mapping[str, float],
    train_counts: Mapping[str, int] | None,
    rare_rows: int = 5,
    informative: Sequence[bool] | None = None,
) -> dict[str, Any]:
    """Figures of (n, classes) calibrated `probabilities` on the n rows of `frame` (columns `hs6`, and where they exist
    `code`, `source`, `label_kind`), in the layout above.

    `train_counts` are training rows by six-digit code before any up-sampling; a class with at most `rare_rows` of them
    is rare (None: not known, and no rare-class recall). `informative` (n,): the text has a token that the model knows.
    """
    codes = true_codes(frame)
    seen = outcomes(levels, probabilities, codes)
    decisions = decide(levels, probabilities, thresholds, 6, informative)
    kinds = np.array(frame["label_kind"].to_list() if "label_kind" in frame.columns else ["given"] * frame.height)
    sources = np.array(frame["source"].to_list() if "source" in frame.columns else ["all"] * frame.height)
    coded = np.array([c is not None for c in codes], dtype=bool)
    counts = {d: None if train_counts is None else _level_counts(levels, train_counts, d) for d in DIGITS}
    masks = {
        "all": coded,
        "trader": coded & np.isin(kinds, TRADER_KINDS),
        "nomenclature": coded & (kinds == "nomenclature"),
    }

    def group(mask: Bools) -> dict[str, Any]:
        return {
            "rows": int(mask.sum()),
            "levels": {str(d): _level(levels, seen, mask & seen.judged[d], d, counts[d], rare_rows) for d in DIGITS},
            "answers": _answers(seen, decisions, mask),
        }

    vague = ~coded
    return {
        "format": 1,
        "rows": int(coded.sum()),
        "classes": len(levels.codes[6]),
        "train_rows": None if train_counts is None else int(sum(train_counts.values())),
        "rare_rows": rare_rows,
        "thresholds": dict(thresholds),
        "groups": {name: group(mask) for name, mask in masks.items() if mask.any()},
        "sources": {str(s): group(coded & (sources == s)) for s in np.unique(sources[coded])},
        "vague": {
            "rows": int(vague.sum()),
            "not_answered": share(decisions.digits[vague] == 0),
            "caught": share(decisions.status[vague] == "vague"),
        }
        if vague.any()
        else None,
    }


def share(hits: Bools) -> dict[str, float]:
    """Share of true values with its 95 % Wilson interval: `value` (0 without rows), `low`, `high`."""
    low, high = wilson(int(hits.sum()), len(hits))
    return {"value": float(hits.mean()) if len(hits) else 0.0, "low": low, "high": high}


def macro_f1(truth: npt.NDArray[np.intp], best: npt.NDArray[np.intp]) -> float:
    """Mean F1 over the classes that occur in `truth`; -1 in `truth` is one class that is never hit."""
    size = int(max(truth.max(initial=-1), best.max(initial=-1))) + 2
    hits = np.bincount(truth[truth == best] + 1, minlength=size)
    both = np.bincount(truth + 1, minlength=size) + np.bincount(best + 1, minlength=size)
    occurring = np.bincount(truth + 1, minlength=size) > 0
    return float(np.mean(2 * hits[occurring] / both[occurring])) if occurring.any() else 0.0


def coverage_curve(sure: Floats, right: Bools, points: int = 50) -> list[dict[str, float]]:
    """Accuracy of the surest share of rows, for `points` shares up to all: `coverage`, `accuracy`, `threshold` (the
    least confidence among them)."""
    order = np.argsort(-np.asarray(sure), kind="stable")
    hits = np.cumsum(right[order])
    curve = []
    for rows in np.unique(np.linspace(1, len(order), points).round().astype(int)) if len(order) else []:
        curve.append(
            {
                "coverage": rows / len(order),
                "accuracy": float(hits[rows - 1]) / rows,
                "threshold": float(sure[order[rows - 1]]),
            }
        )
    return curve


def _level_counts(levels: Levels, train_counts: Mapping[str, int], digits: int) -> npt.NDArray[np.int64]:
    counts = np.zeros(len(levels.codes[digits]), dtype=np.int64)
    at = levels.indices(list(train_counts), digits)
    np.add.at(counts, at[at >= 0], np.array(list(train_counts.values()), dtype=np.int64)[at >= 0])
    return counts


def _level(
    levels: Levels, seen: Outcomes, rows: Bools, digits: int, counts: npt.NDArray[np.int64] | None, rare_rows: int
) -> dict[str, Any]:
    truth, best, sure = seen.truth[digits][rows], seen.best[digits][rows], seen.sure[digits][rows]
    right = seen.right(digits)[rows]
    rare = np.zeros(len(truth), dtype=bool)
    if counts is not None:
        rare = (truth < 0) | (counts[truth] <= rare_rows) if len(counts) else ~rare
    return {
        "rows": int(rows.sum()),
        "classes": len(np.unique(truth)),
        "top1": share(right),
        "top3": share(seen.right(digits, 3)[rows]),
        "top5": share(seen.right(digits, 5)[rows]),
        "macro_f1": macro_f1(truth, best),
        "rare_recall": {**share(right[rare]), "rows": int(rare.sum()), "classes": len(np.unique(truth[rare]))}
        if rare.any()
        else None,
        "ece": ece(sure, right),
        "reliability": reliability(sure, right),
        "coverage": coverage_curve(sure, right),
    }


def _answers(seen: Outcomes, decisions: Decisions, rows: Bools) -> dict[str, Any]:
    at: dict[str, Any] = {}
    right_of_given: list[Bools] = []
    for digits in DIGITS:
        given = rows & (decisions.digits == digits)
        right = seen.right(digits)[given & seen.judged[digits]]
        right_of_given.append(right)
        at[str(digits)] = {
            "rows": int(given.sum()),
            "share": float(given.sum() / max(1, rows.sum())),
            "precision": share(right) if len(right) else None,
        }
    judged = np.concatenate(right_of_given)
    return {
        "status": {s: float((decisions.status[rows] == s).mean()) if rows.any() else 0.0 for s in STATUSES},
        "given": share(decisions.digits[rows] > 0),
        "precision": {**share(judged), "rows": len(judged)} if len(judged) else None,
        "at": at,
    }
