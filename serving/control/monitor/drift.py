"""How far live texts are from a reference, and how sure that is. Pure.

The distance is the Jensen-Shannon divergence in bits: 0 for equal distributions, 1 for disjoint ones, finite where one
has what the other lacks (as PSI is not). Two samples of equal distributions have a distance too: for n and m
independent observations in k cells, 8 * JSD(nats) / (1/n + 1/m) is about chi-squared with k - 1 degrees of freedom, and
about non-central chi-squared where the distributions differ (divergence: Lin 1991, IEEE T-IT 37; its law: Menéndez et
al. 1997, J. Franklin Inst. 334). So the expected part is taken off the estimate, and a lower confidence bound is the
smallest true distance with which one as large as seen is not a surprise.

Words of one text, texts of one request and requests of one hour are not independent. How much less they tell is
estimated from how much the parts of the window differ from each other (Rao & Scott 1981, JASA 76: the mean design
effect; its between-parts form is Pearson's X² over its degrees of freedom), and both samples count for that much less.

Cells with few observations are joined with their neighbours until five are expected in each (Cochran 1954).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

LEAST_EXPECTED = 5.0
LEAST_PARTS = 3
"""Parts of a window with observations below which no bound is given: their design effect is not known."""


@dataclass(frozen=True)
class Drift:
    """A distance in [0, 1] bits."""

    ratio: float
    """Estimate, what chance alone gives taken off."""
    lower: float
    """Lower confidence bound, one-sided; 0 where nothing is sure."""
    effect: float
    """Design effect, 1 and more: observations that tell as much as one independent one."""
    cells: int
    """Cells compared after joining."""


NOTHING = Drift(0.0, 0.0, 1.0, 0)


def jensen_shannon(p: npt.ArrayLike, q: npt.ArrayLike) -> float:
    """Divergence of two distributions over the same cells, bits.

    >>> jensen_shannon([1, 0], [0, 1]), jensen_shannon([0.5, 0.5], [0.5, 0.5])
    (1.0, 0.0)
    """
    first, second = np.asarray(p, dtype=np.float64), np.asarray(q, dtype=np.float64)
    middle = (first + second) / 2
    total = 0.0
    for side in (first, second):
        there = side > 0
        total += float(np.sum(side[there] * np.log2(side[there] / middle[there]))) / 2
    return min(1.0, max(0.0, total))


def compare(parts: npt.ArrayLike, reference: npt.ArrayLike, size: float, confidence: float) -> Drift:
    """Distance of a window from its reference.

    `parts` (B, k) are counts by part of the window and cell; `reference` (k,) shares that sum to 1, found on `size`
    observations; `confidence` that of the one-sided bound.
    """
    from scipy.special import chdtr, chndtrinc

    counts = np.asarray(parts, dtype=np.float64)
    counts = counts[counts.sum(axis=1) > 0] if counts.size else counts
    shares = np.asarray(reference, dtype=np.float64)
    n = float(counts.sum())
    if n < 1 or size < 1 or shares.sum() <= 0:
        return NOTHING
    shares = shares / shares.sum()
    effect = design_effect(counts)
    pooled = (counts.sum(axis=0) + shares * size) / (n + size)
    groups = _joined(pooled * min(n, size) / effect)
    if groups[-1] < 1:
        return NOTHING
    counts, shares = _summed(counts, groups), _summed(shares[None, :], groups)[0]
    effect = design_effect(counts)
    live = counts.sum(axis=0) / n
    nats = jensen_shannon(live, shares) * math.log(2)
    scale = effect * (1 / n + 1 / size) / 8
    freedom, seen = len(shares) - 1, nats / scale
    estimate = max(0.0, seen - freedom) * scale / math.log(2)
    lower = 0.0
    if len(counts) >= LEAST_PARTS and chdtr(freedom, seen) > confidence:
        lower = float(chndtrinc(seen, freedom, confidence)) * scale / math.log(2)
    return Drift(min(1.0, estimate), min(lower, estimate, 1.0) if np.isfinite(lower) else 0.0, effect, len(shares))


def design_effect(counts: npt.ArrayLike) -> float:
    """Mean design effect of (B, k) counts, at least 1: how much more the parts differ than independent draws would."""
    table = np.asarray(counts, dtype=np.float64)
    table = table[table.sum(axis=1) > 0]
    table = table[:, table.sum(axis=0) > 0]
    freedom = (table.shape[0] - 1) * (table.shape[1] - 1)
    if freedom < 1:
        return 1.0
    rows, columns, n = table.sum(axis=1), table.sum(axis=0), table.sum()
    squares = float(np.sum((table * table) / np.outer(rows, columns)))
    return max(1.0, float(n * (squares - 1) / freedom))


def _joined(expected: Array) -> npt.NDArray[np.intp]:
    """Group of each cell, 0, 1, …: neighbours together until each group expects enough; what is left joins the last."""
    groups = np.zeros(len(expected), dtype=np.intp)
    group, total = 0, 0.0
    for i, value in enumerate(expected):
        groups[i] = group
        total += float(value)
        if total >= LEAST_EXPECTED:
            group, total = group + 1, 0.0
    if total < LEAST_EXPECTED and group > 0:
        groups[groups == group] = group - 1
    return groups


def _summed(table: Array, groups: npt.NDArray[np.intp]) -> Array:
    out = np.zeros((table.shape[0], int(groups[-1]) + 1))
    for i, group in enumerate(groups):
        out[:, group] += table[:, i]
    return out


def share_upper(good: int, total: int, confidence: float) -> float:
    """Upper bound of a share after `good` of `total`, one-sided (Clopper & Pearson 1934); 1 where nothing was seen.

    >>> round(share_upper(0, 10, 0.95), 4)
    0.2589
    """
    from scipy.special import betaincinv

    return 1.0 if good >= total else float(betaincinv(good + 1, total - good, confidence))


def calibration_error(confidences: npt.ArrayLike, right: npt.ArrayLike, bins: int = 10) -> float:
    """L2 calibration error over equal-mass bins, what chance alone gives taken off (Kumar, Liang & Ma 2019, NeurIPS).

    The square root of the mean squared gap between confidence and share right; 0 where the gaps are within chance.
    """
    sure, hits = np.asarray(confidences, dtype=np.float64), np.asarray(right, dtype=np.float64)
    order = np.argsort(sure, kind="stable")
    squared = 0.0
    for part in np.array_split(order, bins):
        if len(part) > 1:
            share = float(hits[part].mean())
            gap = (float(sure[part].mean()) - share) ** 2 - share * (1 - share) / (len(part) - 1)
            squared += gap * len(part) / len(order)
    return float(np.sqrt(max(0.0, squared)))


def dense(counts: Mapping[str, int], size: int) -> Array:
    """Counts by cell number (as text) as an array (size,)."""
    row = np.zeros(size)
    for cell, count in counts.items():
        if 0 <= int(cell) < size:
            row[int(cell)] += count
    return row
