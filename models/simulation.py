"""Repeated runs of every kind, and what they say about differences: analysis of variance, all pairs, effect sizes.

A resample draws near-duplicate groups of traders' rows out of the training part as its own test rows; the models are
trained on what is left, once for each seed. The valid part stays valid; the test part of the split is never touched, so
a choice made on these runs leaves it clean. Finished runs are files: a stopped simulation goes on where it was.
"""

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from models.answer import DIGITS
from models.errors import UserError
from models.evaluation import TRADER_KINDS, outcomes, true_codes
from models.gate import paired_bootstrap
from models.nets.base import work_folder
from models.progress import report as say
from models.selection import row_scores

if TYPE_CHECKING:
    import polars as pl

    from config.settings import Settings

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Resample:
    """One draw: indices into train.parquet to learn from and to be tested on; no near-duplicate group is in both."""

    number: int
    train: npt.NDArray[np.intp]
    test: npt.NDArray[np.intp]
    overlap: float
    """Test rows for each training row like them: the part of a run's variance that more runs do not average away."""


def resamples(
    frame: "pl.DataFrame", number: int, test_share: float, seed: int, rows: int | None = None
) -> list[Resample]:
    """Draw `number` resamples of the training part (columns `group`, `label_kind`, `hs6`, `code`).

    Tested are coded rows of traders (all coded rows, where there are no traders'); `test_share` of their groups. Rows
    of the nomenclature that are near-duplicates of a tested row are left out. `rows`: training rows at most, drawn
    evenly.
    """
    coded = np.array([code is not None for code in true_codes(frame)], dtype=bool)
    trader = coded & np.isin(np.array(frame["label_kind"].to_list()), TRADER_KINDS)
    testable = trader if trader.any() else coded
    groups = frame["group"].to_numpy()
    candidates = np.unique(groups[testable])
    drawn = []
    for number_of in range(number):
        rng = np.random.default_rng([seed, number_of])
        size = max(1, round(test_share * len(candidates)))
        inside = np.isin(groups, rng.choice(candidates, size, replace=False))
        train = np.flatnonzero(~inside)
        if rows is not None and rows < len(train):
            train = np.sort(rng.choice(train, rows, replace=False))
        test = np.flatnonzero(inside & testable)
        drawn.append(Resample(number_of, train, test, len(test) / max(1, int(testable[train].sum()))))
    return drawn


def simulate(
    kinds: Sequence[str], split_dir: Path, embedding_dir: Path | None, settings: "Settings", out: Path
) -> dict[str, Any]:
    """Train every kind `settings.simulate.seeds` times on each resample and compare them; writes simulation.json into
    `out` and returns it: `analyse`'s result with `runs` and `overlap`.

    Finished runs lie under ``HSCODE_WORK``, where the environment names it, else under `out`; a stopped simulation
    finds them again there. Raises UserError where fewer than two kinds or runs are asked for.
    """
    import polars as pl

    if len(kinds) < 2 or settings.simulate.seeds * settings.simulate.resamples < 2:
        raise UserError(
            "a simulation compares at least two kinds in at least two runs",
            "settings simulate, models.kinds",
            "raise simulate.seeds or simulate.resamples, or name more kinds",
        )
    frame = pl.read_parquet(split_dir / "train.parquet")
    wanted = settings.simulate
    draws = resamples(frame, wanted.resamples, wanted.test_share, wanted.seed, wanted.rows)
    digest = json.loads((split_dir / "split.json").read_text(encoding="utf-8"))["data_hash"]
    work = os.environ.get("HSCODE_WORK")
    runs = work_folder(Path(work), "simulate", settings.digest(), digest) if work else out / "runs"
    runs.mkdir(parents=True, exist_ok=True)
    out.mkdir(parents=True, exist_ok=True)
    total = len(draws) * wanted.seeds
    for done in range(total):
        draw, seed = draws[done // wanted.seeds], settings.train.seed + done % wanted.seeds
        say("simulate", done, total, f"resample {draw.number + 1}, seed {seed}")
        _run(kinds, frame, draw, seed, split_dir, embedding_dir, settings, runs)
    say("simulate", total, total, "")
    found = [json.loads(file.read_text(encoding="utf-8")) for file in sorted(runs.glob("*.json"))]
    scores = {
        kind: np.array([run["score"] for run in sorted(found, key=_order) if run["kind"] == kind]) for kind in kinds
    }
    overlap = float(np.mean([draw.overlap for draw in draws]))
    result = {**analyse(scores, overlap), "runs": sorted(found, key=_order), "overlap": overlap}
    (out / "simulation.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return result


def _order(run: Mapping[str, Any]) -> tuple[int, int, str]:
    return run["resample"], run["seed"], run["kind"]


def _run(
    kinds: Sequence[str],
    frame: "pl.DataFrame",
    draw: Resample,
    seed: int,
    split_dir: Path,
    embedding_dir: Path | None,
    settings: "Settings",
    runs: Path,
) -> None:
    """All kinds on one resample and seed, pools last as they are made of the others."""
    from models.bundle import Bundle
    from models.training import train_bundle

    files = {kind: runs / f"{draw.number:02d}-{seed}-{kind}.json" for kind in kinds}
    if all(file.exists() for file in files.values()):
        return
    tested = frame[draw.test.tolist()]
    truth, texts = true_codes(tested), tested["description"].to_list()
    work = runs / "work"
    shutil.rmtree(work, ignore_errors=True)
    try:
        for kind in sorted(kinds, key=lambda name: name == "pool"):
            if files[kind].exists() and not ("pool" in kinds and not files["pool"].exists()):
                continue
            members = {name: work / name for name in kinds if name != "pool"} if kind == "pool" else None
            folder = work / kind
            card = train_bundle(
                kind, split_dir, embedding_dir, settings, folder, seed=seed, rows=draw.train, members=members
            )
            bundle = Bundle.load(folder, settings.train.threads)
            seen = outcomes(bundle.levels, bundle.probabilities(texts), truth)
            every = np.ones(len(texts), dtype=bool)
            score = float(row_scores(seen, every, settings.select.level_weights).mean())
            result = {
                "kind": kind,
                "resample": draw.number,
                "seed": seed,
                "train_rows": len(draw.train),
                "test_rows": len(draw.test),
                "score": score,
                "top1": {str(d): float(seen.right(d)[seen.judged[d]].mean()) for d in DIGITS if seen.judged[d].any()},
                "seconds": card["training"]["seconds"],
            }
            partial = files[kind].with_suffix(".part")
            partial.write_text(json.dumps(result), encoding="utf-8")
            partial.rename(files[kind])
    finally:
        shutil.rmtree(work, ignore_errors=True)


# -- what the runs say ---------------------------------------------------------------------------------------------


def analyse(
    scores: Mapping[str, Sequence[float] | Array], overlap: float = 0.0, alpha: float = 0.05, seed: int = 17
) -> dict[str, Any]:
    """Compare models by their scores (0..1) in the same runs in the same order.

    Welch's one-way ANOVA; Tukey's HSD and, without equal spread assumed, Games-Howell for all pairs (statsmodels);
    Hedges' g; a paired bootstrap of the best two; and whether the assumptions hold. Where spreads differ
    (Brown-Forsythe), the pairs' intervals are those of Games-Howell. ANOVA takes runs as independent; runs on
    overlapping resamples are not, so `corrected_p` of a pair is the paired t test with Nadeau and Bengio's variance
    (1/runs + `overlap`), Holm-adjusted.

    Keys: models [{model, scores, mean, sd, low, high}] best first · tests [{name, statistic, df, p, effect}] ·
    pairs [{one, other, difference, low, high, differ, tukey_p, games_howell_p, corrected_p, hedges_g}] ·
    best_two {one, other, difference, low, high, share_reversed} or null · assumptions [sentence] · summary.
    Raises ValueError with fewer than two models or runs.
    """
    from scipy import stats
    from statsmodels.stats.multicomp import pairwise_tukeyhsd
    from statsmodels.stats.multitest import multipletests
    from statsmodels.stats.oneway import anova_oneway

    order = sorted(scores, key=lambda name: (-float(np.mean(scores[name])), name))
    table = {name: np.asarray(scores[name], dtype=np.float64) for name in order}
    runs = len(table[order[0]]) if order else 0
    if len(order) < 2 or runs < 2 or any(len(row) != runs for row in table.values()):
        raise ValueError("at least two models and two runs of each are needed, the same runs for all")
    # A model without any spread (a deterministic one on one resample) would divide by zero.
    noise = np.random.default_rng(seed).normal(0, 1e-9, (len(order), runs))
    rows = [table[name] + noise[i] for i, name in enumerate(order)]

    anova = anova_oneway(rows, use_var="unequal")
    friedman = stats.friedmanchisquare(*rows) if len(order) > 2 else stats.wilcoxon(rows[0], rows[1])
    spread = stats.levene(*rows, center="median")
    equal = bool(spread.pvalue >= alpha)
    values, names = np.concatenate(rows), np.repeat(order, runs)
    tukey, howell = (pairwise_tukeyhsd(values, names, alpha, use_var=how) for how in ("equal", "unequal"))
    used = tukey if equal else howell
    labels = list(tukey.groupsunique)
    first, second = np.triu_indices(len(labels), 1)
    at = {(labels[i], labels[j]): k for k, (i, j) in enumerate(zip(first, second, strict=True))}
    pairs = []
    for i, one in enumerate(order):
        for other in order[i + 1 :]:
            # statsmodels reports the second group's mean less the first's, groups sorted by name.
            k, sign = (at[other, one], 1.0) if (other, one) in at else (at[one, other], -1.0)
            low, high = sorted(sign * float(v) for v in used.confint[k])
            pairs.append(
                {
                    "one": one,
                    "other": other,
                    "difference": float(table[one].mean() - table[other].mean()),
                    "low": low,
                    "high": high,
                    "differ": bool(used.pvalues[k] < alpha),
                    "tukey_p": float(tukey.pvalues[k]),
                    "games_howell_p": float(howell.pvalues[k]),
                    "corrected_p": corrected_p(table[one] - table[other], overlap),
                    "hedges_g": _hedges_g(table[one], table[other]),
                }
            )
    adjusted = multipletests([p["corrected_p"] for p in pairs], alpha, method="holm")[1]
    for pair, p in zip(pairs, adjusted, strict=True):
        pair["corrected_p"] = float(p)
    normal = [float(stats.shapiro(row - row.mean()).pvalue) if runs >= 3 else 1.0 for row in rows]
    tests = [
        {
            "name": "Welch's ANOVA",
            "statistic": float(anova.statistic),
            "df": f"{anova.df[0]:.0f}, {anova.df[1]:.1f}",
            "p": float(anova.pvalue),
            "effect": f"ω² = {_omega_squared(rows):.2f}",
        },
        {
            "name": "Friedman (ranks within a run)" if len(order) > 2 else "Wilcoxon (signed ranks of runs)",
            "statistic": float(friedman.statistic),
            "df": str(len(order) - 1) if len(order) > 2 else "",
            "p": float(friedman.pvalue),
            "effect": "",
        },
        {
            "name": "Brown-Forsythe (equal spread)",
            "statistic": float(spread.statistic),
            "df": f"{len(order) - 1}, {len(order) * (runs - 1)}",
            "p": float(spread.pvalue),
            "effect": "",
        },
    ]
    models = [_model(name, table[name], overlap) for name in order]
    return {
        "models": models,
        "tests": tests,
        "pairs": pairs,
        "best_two": _best_two(order[0], order[1], table[order[0]] - table[order[1]], seed),
        "assumptions": _assumptions(order, normal, float(spread.pvalue), equal, overlap, alpha),
        "summary": _summary(models, pairs, float(anova.pvalue), runs, equal, alpha),
    }


def _model(name: str, row: Array, overlap: float) -> dict[str, Any]:
    from scipy.stats import t

    half = float(t.ppf(0.975, len(row) - 1) * row.std(ddof=1) * np.sqrt(1 / len(row) + overlap))
    return {
        "model": name,
        "scores": [float(s) for s in row],
        "mean": float(row.mean()),
        "sd": float(row.std(ddof=1)),
        "low": float(row.mean()) - half,
        "high": float(row.mean()) + half,
    }


def corrected_p(differences: Array, overlap: float) -> float:
    """Two-sided p of the paired t test on (runs,) differences with Nadeau and Bengio's variance (1/runs + overlap)."""
    from scipy.stats import t

    error = differences.std(ddof=1) * np.sqrt(1 / len(differences) + overlap)
    if error == 0:
        return 0.0 if differences.any() else 1.0
    return float(2 * t.sf(abs(differences.mean()) / error, len(differences) - 1))


def _hedges_g(one: Array, other: Array) -> float:
    """Standardised mean difference with the small-sample correction."""
    pooled = float(np.sqrt((one.var(ddof=1) + other.var(ddof=1)) / 2))
    freedom = len(one) + len(other) - 2
    difference = float(one.mean() - other.mean())
    return difference / pooled * (1 - 3 / (4 * freedom - 1)) if pooled > 0 else float(np.sign(difference)) * 99.0


def _omega_squared(rows: Sequence[Array]) -> float:
    """Share of the variance of scores that the kind of model accounts for (omega squared)."""
    values = np.concatenate(rows)
    within = sum(float(((row - row.mean()) ** 2).sum()) for row in rows)
    total = float(((values - values.mean()) ** 2).sum())
    error = within / (len(values) - len(rows))
    return max(0.0, (total - within - (len(rows) - 1) * error) / (total + error)) if total > 0 else 0.0


def _best_two(one: str, other: str, differences: Array, seed: int) -> dict[str, Any]:
    drawn = paired_bootstrap(differences, None, 10_000, seed)
    low, high = (float(q) for q in np.quantile(drawn, (0.025, 0.975)))
    return {
        "one": one,
        "other": other,
        "difference": float(differences.mean()),
        "low": low,
        "high": high,
        "share_reversed": float((drawn <= 0).mean()),
    }


def _assumptions(
    order: Sequence[str], normal: Sequence[float], spread: float, equal: bool, overlap: float, alpha: float
) -> list[str]:
    least = min(normal)
    odd = [name for name, p in zip(order, normal, strict=True) if p < alpha / len(order)]
    return [
        f"Normal residuals (Shapiro-Wilk): {'refuted for ' + ', '.join(odd) if odd else 'not refuted'}, "
        f"smallest p {least:.2g}. The ranks of the Friedman test do without it.",
        f"Equal spread (Brown-Forsythe): {'not refuted' if equal else 'refuted'}, p {spread:.2g}; the intervals of "
        f"pairs are those of {'Tukey' if equal else 'Games and Howell'}. Welch's ANOVA does without it.",
        f"Independent runs: not given. Runs share training rows (one tests on {overlap:.0%} as many rows as it learns "
        "from) and come in pairs of the same resample and seed. Sharing makes the p values of ANOVA and Tukey too "
        "small, pairing makes them too large; the corrected paired p values allow for both.",
        "Embeddings were trained once, on all texts without labels, those of a resample's test rows included.",
    ]


def _summary(
    models: Sequence[Mapping[str, Any]],
    pairs: Sequence[Mapping[str, Any]],
    p: float,
    runs: int,
    equal: bool,
    alpha: float,
) -> str:
    best = models[0]
    same = [pair["other"] for pair in pairs if pair["one"] == best["model"] and not pair["differ"]]
    start = f"In {runs} runs {best['model']} has the best mean score, {best['mean']:.1%}. "
    if p >= alpha:
        return start + f"The kinds do not differ beyond chance (Welch's ANOVA, p = {p:.2g})."
    test = "Tukey HSD" if equal else "Games-Howell"
    told = f"The kinds differ beyond chance (Welch's ANOVA, p = {p:.2g}); "
    if not same:
        return start + told + f"{best['model']} is better than each other kind ({test})."
    return start + told + f"{best['model']} cannot be told from {', '.join(same)} ({test})."
