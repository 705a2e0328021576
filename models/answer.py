"""The answer policy "shorter but right", in plain numpy: what serving gives, and what evaluation judges.

Level probabilities are sums of class probabilities. An answer is the longest code that is sure enough: six digits where
the best HS6 probability reaches the threshold of level 6, else the best heading, else the best chapter, else none.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating[Any]]

DIGITS = (2, 4, 6)
"""Levels of the Harmonized System: chapter, heading, subheading."""
NEVER = 2.0
"""A threshold that no probability reaches: at this level nothing is answered."""
VAGUE_AT_LEAST = 0.3
"""The vague class needs at least this probability: on rows unlike the training's its tail is less well calibrated."""
LEAST_ROWS = 20
"""A level is opened on the evidence of at least so many answers."""
STATUSES = ("answered", "shortened", "vague", "unsure")


class Levels:
    """The codes of each level and how classes sum up to them.

    `classes` are six-digit codes in the model's order; `vague` is the index of the class that means "too vague to
    classify" (its probability belongs to no code). Codes of a level are sorted, so ties go to the lowest code.
    """

    def __init__(self, classes: Sequence[str], vague: int | None = None) -> None:
        wrong = [c for i, c in enumerate(classes) if i != vague and not (len(c) == 6 and c.isdigit())]
        if wrong:
            raise ValueError(f"classes must be six-digit codes, got {wrong[0]!r}")
        self.classes = tuple(classes)
        self.vague = vague
        coded = sorted((c, i) for i, c in enumerate(classes) if i != vague)
        self._order = np.array([i for _, i in coded], dtype=np.intp)
        self._sorted = bool((self._order == np.arange(len(self._order))).all())
        self.codes: dict[int, tuple[str, ...]] = {}
        self._starts: dict[int, npt.NDArray[np.intp]] = {}
        for digits in DIGITS:
            prefixes = [c[:digits] for c, _ in coded]
            starts = [i for i, p in enumerate(prefixes) if i == 0 or p != prefixes[i - 1]]
            self.codes[digits] = tuple(prefixes[i] for i in starts)
            self._starts[digits] = np.array(starts, dtype=np.intp)
        self._positions = {d: {c: i for i, c in enumerate(self.codes[d])} for d in DIGITS}

    def probabilities(self, class_probabilities: Floats, digits: int) -> npt.NDArray[np.float64]:
        """(n, classes) → (n, codes of the level): the sums over each code's classes, without the vague class."""
        return self._summed(self._ordered(class_probabilities), digits)

    def all_probabilities(self, class_probabilities: Floats) -> dict[int, npt.NDArray[np.float64]]:
        """`probabilities` of every level."""
        ordered = self._ordered(class_probabilities)
        return {digits: self._summed(ordered, digits) for digits in DIGITS}

    def _ordered(self, class_probabilities: Floats) -> npt.NDArray[np.float64]:
        p = np.asarray(class_probabilities)
        if self._sorted:
            return p[:, : len(self._order)].astype(np.float64)
        return p[:, self._order].astype(np.float64)

    def _summed(self, ordered: npt.NDArray[np.float64], digits: int) -> npt.NDArray[np.float64]:
        if len(self.codes[digits]) == ordered.shape[1]:
            return ordered
        return np.add.reduceat(ordered, self._starts[digits], axis=1)

    def vague_probabilities(self, class_probabilities: Floats) -> npt.NDArray[np.float64]:
        """(n,): the probability of the vague class, 0 where the model has none."""
        if self.vague is None:
            return np.zeros(len(class_probabilities))
        return np.asarray(class_probabilities)[:, self.vague].astype(np.float64)

    def indices(self, codes: Sequence[str | None], digits: int) -> npt.NDArray[np.intp]:
        """Position of each code's prefix among the level's codes; -1 where the code is shorter, None or unknown."""
        known = self._positions[digits]
        return np.array([known.get(c[:digits], -1) if c and len(c) >= digits else -1 for c in codes], dtype=np.intp)


@dataclass(frozen=True)
class Decisions:
    """What the policy gives for n rows: `digits` (n,) of 0, 2, 4, 6; `index` (n,) into the codes of that level and
    `confidence` (n,), -1 and 0 where no code is given; `status` (n,) of STATUSES."""

    digits: npt.NDArray[np.intp]
    index: npt.NDArray[np.intp]
    confidence: npt.NDArray[np.float64]
    status: npt.NDArray[np.str_]

    def codes(self, levels: Levels) -> list[str]:
        """The code given for each row, "" where none is."""
        return [levels.codes[int(d)][int(i)] if d else "" for d, i in zip(self.digits, self.index, strict=True)]


def decide(
    levels: Levels,
    class_probabilities: Floats,
    thresholds: Mapping[str, float],
    digits: int | Sequence[int] = 6,
    informative: Sequence[bool] | None = None,
    at_levels: Mapping[int, npt.NDArray[np.float64]] | None = None,
) -> Decisions:
    """The policy for (n, classes) probabilities.

    `thresholds` are keyed "2", "4", "6", "vague" (missing: NEVER; for "vague": the vague class must win); `digits` is
    the longest code wanted, for all rows or for each; `informative` says for each row whether its text has any token
    that the model knows: without one it is vague. `at_levels` is `levels.all_probabilities`, where it is known already.
    """
    n = len(class_probabilities)
    wanted = np.broadcast_to(np.asarray(digits, dtype=np.intp), (n,))
    given = np.zeros(n, dtype=np.intp)
    index = np.full(n, -1, dtype=np.intp)
    confidence = np.zeros(n)
    vague = ~np.asarray(informative, dtype=bool) if informative is not None else np.zeros(n, dtype=bool)
    if levels.vague is not None and n:
        limit = thresholds.get("vague")
        p_vague = levels.vague_probabilities(class_probabilities)
        vague = vague | (p_vague >= (limit if limit is not None else np.max(class_probabilities, axis=1)))
    for level in reversed(DIGITS):
        if not n or not levels.codes[level]:
            continue
        p = at_levels[level] if at_levels is not None else levels.probabilities(class_probabilities, level)
        best = p.argmax(axis=1)
        sure = p[np.arange(n), best]
        take = ~vague & (given == 0) & (wanted >= level) & (sure >= thresholds.get(str(level), NEVER))
        given[take], index[take], confidence[take] = level, best[take], sure[take]
    status = np.where(vague, "vague", np.where(given == 0, "unsure", np.where(given < wanted, "shortened", "answered")))
    return Decisions(given, index, confidence, status)


def answers(
    levels: Levels,
    class_probabilities: Floats,
    thresholds: Mapping[str, float],
    texts: Mapping[str, str],
    digits: int | Sequence[int] = 6,
    limit: int | Sequence[int] = 5,
    informative: Sequence[bool] | None = None,
) -> list[dict[str, Any]]:
    """The design's prediction objects for (n, classes) probabilities, keys in the design's order.

    `levels` of an answer are each level's own best code (they nest whenever the longer one is over a half);
    `candidates` are codes of the length asked for, best first, ties by code, even where no code is given; `confidence`
    is that of `code`, 0 where none is given. `texts` maps codes of 2, 4 and 6 digits to legal texts.
    """
    n = len(class_probabilities)
    wanted = np.broadcast_to(np.asarray(digits, dtype=np.intp), (n,))
    limits = np.broadcast_to(np.asarray(limit, dtype=np.intp), (n,))
    p = levels.all_probabilities(class_probabilities)
    decisions = decide(levels, class_probabilities, thresholds, digits, informative, p)
    bests = {level: p[level].argmax(axis=1).tolist() for level in DIGITS if levels.codes[level]}
    out = []
    for row, code in enumerate(decisions.codes(levels)):
        at = int(wanted[row])
        out.append(
            {
                "code": code,
                "digits": int(decisions.digits[row]),
                "confidence": round(float(decisions.confidence[row]), 4),
                "status": str(decisions.status[row]),
                "levels": {
                    str(level): {
                        "code": levels.codes[level][best[row]],
                        "confidence": round(float(p[level][row, best[row]]), 4),
                    }
                    for level, best in bests.items()
                },
                "candidates": [
                    {
                        "code": levels.codes[at][i],
                        "confidence": round(float(p[at][row, i]), 4),
                        "text": texts.get(levels.codes[at][i], ""),
                    }
                    for i in largest(p[at][row], int(limits[row]))
                ],
            }
        )
    return out


def largest(values: Floats, k: int) -> list[int]:
    """Positions of the `k` largest of (m,) values, largest first; what is equal to six decimals goes by position."""
    k = min(k, len(values))
    if k <= 0:
        return []
    exact = np.asarray(values, dtype=np.float64)
    near = np.flatnonzero(exact >= np.partition(exact, len(exact) - k)[len(exact) - k] - 1e-6)
    rounded = np.round(exact[near], 6)
    return [int(i) for i in near[np.argsort(-rounded, kind="stable")][:k]]


def fit_thresholds(
    levels: Levels,
    class_probabilities: Floats,
    codes: Sequence[str | None],
    precision: float = 0.90,
    assurance: float = 0.8,
    vague_loss: float = 0.02,
) -> dict[str, float]:
    """Thresholds for `decide`, so that of the answers given at each level at least `precision` are right there.

    Rows are those on which the policy must hold (trader-style, not used in training); `codes` are their true codes of
    2, 4 or 6 digits, None or "" for a text that is too vague. Levels are fitted in the order in which the policy asks
    them, each on the rows that longer levels leave. A level's threshold is the lowest at which at least LEAST_ROWS rows
    are answered, the precision seen is at least `precision`, and so is the one-sided bound, at confidence `assurance`,
    of the precision that a logistic curve through all rows expects (the precision seen alone is a maximum over many
    thresholds, and falls short on new rows); without such a threshold it is NEVER. The threshold "vague" is the lowest,
    from VAGUE_AT_LEAST on, that takes at most `vague_loss` of the rows that have a code.
    """
    p = np.asarray(class_probabilities)
    coded = np.array([bool(c) for c in codes], dtype=bool)
    thresholds: dict[str, float] = {}
    open_rows = coded.copy()
    if levels.vague is not None:
        p_vague = levels.vague_probabilities(p)
        thresholds["vague"] = _vague_threshold(p_vague[coded], vague_loss)
        open_rows &= p_vague < thresholds["vague"]
    for level in reversed(DIGITS):
        if not levels.codes[level] or not open_rows.any():
            thresholds[str(level)] = NEVER
            continue
        at_level = levels.probabilities(p, level)
        best = at_level.argmax(axis=1)
        sure = at_level[np.arange(len(p)), best]
        long_enough = np.array([bool(c) and len(c or "") >= level for c in codes], dtype=bool)
        right = best == levels.indices(codes, level)
        judged = open_rows & long_enough
        thresholds[str(level)] = _lowest_threshold(sure[judged], right[judged], precision, assurance)
        open_rows &= sure < thresholds[str(level)]
    return thresholds


def _vague_threshold(p_vague: npt.NDArray[np.float64], loss: float) -> float:
    if not len(p_vague):
        return 0.5
    falling = np.sort(p_vague)[::-1]
    allowed = int(loss * len(falling))
    return max(VAGUE_AT_LEAST, float(np.nextafter(falling[allowed], 2.0)))


def _lowest_threshold(
    sure: npt.NDArray[np.float64], right: npt.NDArray[np.bool_], precision: float, assurance: float
) -> float:
    if len(sure) < LEAST_ROWS:
        return NEVER
    order = np.argsort(-sure, kind="stable")
    sure, right = sure[order], right[order]
    rows = np.arange(1, len(sure) + 1)
    seen = np.cumsum(right) / rows
    expected, error = _precision_curve(sure, right)
    low = expected - NormalDist().inv_cdf(assurance) * error
    last_of_ties = np.append(sure[1:] < sure[:-1], True)
    good = np.flatnonzero((np.minimum(low, seen) >= precision) & (rows >= LEAST_ROWS) & last_of_ties)
    if not len(good):
        return NEVER
    # Between two rows: probabilities move by 1e-4 in export, so a threshold on a row's own value would be a coin toss.
    below = sure[good[-1] + 1] if good[-1] + 1 < len(sure) else sure[good[-1]]
    return float((sure[good[-1]] + below) / 2)


def _precision_curve(
    sure: npt.NDArray[np.float64], right: npt.NDArray[np.bool_]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Precision of the first 1..n rows (sorted, surest first) and its standard error, by a logistic fit of `right` on
    the log-odds of `sure`. The fit is drawn to "calibrated as it is" (intercept 0, slope 1) by a tenth of a row."""
    clipped = np.clip(sure, 0.005, 0.999)
    x = np.column_stack([np.ones_like(clipped), np.log(clipped / (1 - clipped))])
    centre, ridge = np.array([0.0, 1.0]), 0.1 * np.eye(2)
    fit = centre.copy()
    for _ in range(25):
        p = 1 / (1 + np.exp(-np.clip(x @ fit, -30, 30)))
        slope = p * (1 - p)
        information = x.T @ (x * slope[:, None]) + ridge
        step = np.linalg.solve(information, x.T @ (right - p) - ridge @ (fit - centre))
        fit = fit + np.clip(step, -2, 2)
        if np.abs(step).max() < 1e-9:
            break
    rows = np.arange(1, len(sure) + 1)
    gradient = np.cumsum(x * slope[:, None], axis=0) / rows[:, None]
    error = np.sqrt(np.einsum("ij,jk,ik->i", gradient, np.linalg.inv(information), gradient))
    return np.cumsum(p) / rows, error
