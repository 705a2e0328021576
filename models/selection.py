"""Which model to take: the cheapest of those that are as good as the best. Pure; the reason is in the result.

A model counts as good as the best when, against each other model, the upper confidence bound of how much it is worse
stays within the margin. Against the truly best model (whichever that is) a model worse than the margin passes with
probability (1 - confidence) / (models - 1) at most, so all such models together pass with 1 - confidence at most. The
model with the best mean is always eligible: without enough evidence for a cheaper one, it is the choice.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from models.answer import DIGITS
from models.evaluation import Bools, Outcomes


@dataclass(frozen=True)
class Contender:
    """One model as the selection saw it; scores are shares (0..1), `cost` is in the price table's currency."""

    kind: str
    score: float
    """Mean over the paired units."""
    behind: float
    """How much its mean is under the best mean."""
    at_most: float
    """Upper confidence bound of how much it is worse than any other; 0 at least."""
    eligible: bool
    cost: float


@dataclass(frozen=True)
class Selection:
    """The choice, its reason in one sentence, and what each model showed (best mean first)."""

    kind: str
    reason: str
    contenders: tuple[Contender, ...]
    margin: float
    confidence: float
    units: int

    def as_dict(self) -> dict[str, Any]:
        """For selection.json and the report."""
        return {
            "kind": self.kind,
            "reason": self.reason,
            "margin": self.margin,
            "confidence": self.confidence,
            "units": self.units,
            "contenders": [vars(c) for c in self.contenders],
        }


def row_scores(
    outcomes: Outcomes, rows: Bools, level_weights: tuple[float, float, float], groups: Sequence[int] | None = None
) -> npt.NDArray[np.float64]:
    """One score a unit, 0..1: the weighted share of levels at which the model's best code is right.

    Units are the true entries of `rows` (n,), or, with `groups` (n,), the means of its near-duplicate groups (rows of
    one group are no independent evidence). A label that does not reach a level counts at the levels it reaches.
    """
    weights = np.array(level_weights)
    right = np.stack([outcomes.right(d)[rows] for d in DIGITS], axis=1)
    judged = np.stack([outcomes.judged[d][rows] for d in DIGITS], axis=1)
    scores: npt.NDArray[np.float64] = (right * weights).sum(axis=1) / np.maximum((judged * weights).sum(axis=1), 1e-9)
    if groups is None:
        return scores
    _, unit = np.unique(np.asarray(groups)[rows], return_inverse=True)
    means: npt.NDArray[np.float64] = np.bincount(unit, weights=scores) / np.bincount(unit)
    return means


def select(
    scores: Mapping[str, Sequence[float] | npt.NDArray[np.float64]],
    costs: Mapping[str, float],
    margin: float = 0.01,
    confidence: float = 0.95,
    overlap: float = 0.0,
) -> Selection:
    """The cheapest model not worse than the best within `margin`.

    `scores` by model: one number a unit (a test row, a near-duplicate group, a simulation run), the same units in the
    same order for all, higher is better. `overlap` is test rows / training rows where units are runs on overlapping
    resamples: their variance is then corrected after Nadeau and Bengio (2003), as such runs are not independent.
    `costs` by model in one currency. Ties in cost go to the better mean, then to the name. Raises ValueError on empty
    or unequal input.
    """
    kinds = sorted(scores)
    if not kinds or set(kinds) != set(costs):
        raise ValueError("scores and costs must name the same models, at least one")
    table = np.array([np.asarray(scores[kind], dtype=np.float64) for kind in kinds])
    units = table.shape[1]
    if not units or not np.isfinite(table).all():
        raise ValueError("each model needs a finite score for each unit")
    means = table.mean(axis=1)
    best = int(means.argmax())
    bounds = _worse_at_most(table, confidence, overlap)
    eligible = [i == best or bool(bounds[i] <= margin) for i in range(len(kinds))]
    chosen = min((i for i in range(len(kinds)) if eligible[i]), key=lambda i: (costs[kinds[i]], -means[i], kinds[i]))
    contenders = tuple(
        Contender(
            kinds[i], float(means[i]), float(means[best] - means[i]), float(bounds[i]), eligible[i], costs[kinds[i]]
        )
        for i in sorted(range(len(kinds)), key=lambda i: (-means[i], kinds[i]))
    )
    reason = _reason(contenders, kinds[chosen], kinds[best], margin, confidence, units)
    return Selection(kinds[chosen], reason, contenders, margin, confidence, units)


def _worse_at_most(table: npt.NDArray[np.float64], confidence: float, overlap: float) -> npt.NDArray[np.float64]:
    """(models,): the largest, over the other models, upper bound of the mean difference to them; 0 at least."""
    from scipy.stats import t

    models, units = table.shape
    bounds = np.zeros(models)
    if models == 1:
        return bounds
    if units < 2:
        return np.full(models, np.inf)
    quantile = float(t.ppf(1 - (1 - confidence) / (models - 1), units - 1))
    for i in range(models):
        differences = np.delete(table, i, axis=0) - table[i]
        errors = differences.std(axis=1, ddof=1) * np.sqrt(1 / units + overlap)
        bounds[i] = max(0.0, float((differences.mean(axis=1) + quantile * errors).max()))
    return bounds


def _reason(
    contenders: tuple[Contender, ...], chosen: str, best: str, margin: float, confidence: float, units: int
) -> str:
    by_kind = {c.kind: c for c in contenders}
    mine, top = by_kind[chosen], by_kind[best]
    if len(contenders) == 1:
        return f"{chosen} is the only model, with a score of {mine.score:.1%} over {units} units."
    if chosen == best:
        others = [c for c in contenders if c.kind != chosen and c.cost < mine.cost]
        if not others:
            return f"{chosen} has the best score, {mine.score:.1%}, and no model costs less ({mine.cost:.2f})."
        runner = min(others, key=lambda c: c.at_most)
        return (
            f"{chosen} has the best score, {mine.score:.1%}, and no cheaper model is shown to be within "
            f"{margin * 100:.1f} points of it: {runner.kind} comes nearest, {runner.behind * 100:.1f} points behind, "
            f"but {units} units leave up to {runner.at_most * 100:.1f} possible at {confidence:.0%} confidence."
        )
    return (
        f"{chosen} ({mine.score:.1%}) is at most {mine.at_most * 100:.1f} points worse than any other at "
        f"{confidence:.0%} confidence, within the margin of {margin * 100:.1f}, and costs {mine.cost:.2f} where "
        f"{best}, the best ({top.score:.1%}), costs {top.cost:.2f}."
    )
