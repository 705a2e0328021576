"""Two-sample tests that may be looked at after every block without inflating their error rates.

An e-process is a non-negative process whose expectation is at most 1 at every stopping time while the null hypothesis
holds; so it reaches 1/a with probability at most a, however often one looks (Ville). Here the data come in blocks: n1
outcomes of the challenger and n0 of the champion, each in [0, 1], larger is worse, with block means t1 and t0 that may
change from block to block. The nulls are half-planes: t1 <= ratio * t0 + slack ("not worse") or t1 >= ... ("worse").

For one block and one alternative (a1, a0) let (p1, p0) be its Kullback-Leibler projection on the null, weighted by n1
and n0. Then the product over the block's outcomes y of

    y * a/p + (1 - y) * (1 - a)/(1 - p)

is an e-value: it is linear in each y, so with f and g its two expectations, f^n1 * g^n0 <= m^(n1 + n0) for the weighted
mean m = (n1 f + n0 g)/(n1 + n0); m is linear on the null and at most 1 by the projection's first-order condition. This
is the generic two-sample e-variable of Turner, Ly & Grünwald (JSPI 230, 2024), for half-planes as in Turner & Grünwald
(arXiv:2203.09785); linear in y it is the bet of Waudby-Smith & Ramdas (JRSS-B 86, 2024) for bounded means. Alternatives
may depend on all earlier blocks (plug-in) and are mixed with fixed weights (Robbins' method of mixtures).

Since the null is asked of every block by itself, load, hour and mix of texts may drift: what is compared is always what
was served at the same time. All functions work on arrays with leading batch dimensions: the product judges one canary,
`benchmarks/canary.py` thousands, by the same code.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

BINARY = np.array([0.0, 1.0])
"""Support of outcomes that are either well (0) or bad (1)."""
_EDGE = 1e-9
_PRIOR_COUNT = 2.0
"""Outcomes that the prior guess of the champion's mean is worth; only power depends on it."""
_NEWTON_STEPS = 60
_SOLVED = 1e-12


@dataclass(frozen=True)
class Boundary:
    """The line t1 = ratio * t0 + slack between what is tolerated and what is not. Entries broadcast over blocks."""

    ratio: float | Array
    slack: float | Array

    def at(self, t0: Array) -> Array:
        """The challenger's mean on the line where the champion's is `t0`."""
        return np.asarray(self.ratio * t0 + self.slack, dtype=np.float64)


def project(a1: Array, a0: Array, n1: Array, n0: Array, boundary: Boundary) -> tuple[Array, Array]:
    """Project alternatives on the line: minimises n1 KL(a1 || ratio x + slack) + n0 KL(a0 || x) over x.

    Shapes broadcast to that of `a1`; all means in (0, 1). Returns (challenger's, champion's) mean of the projection.
    """
    shape = a1.shape
    given = (a0, n1, n0, np.asarray(boundary.ratio), np.asarray(boundary.slack))
    a1, a0, n1, n0, ratio, slack = (np.broadcast_to(value, shape).ravel() for value in (a1, *given))
    steep = ratio > 0
    safe = np.where(steep, ratio, 1.0)
    # Where the line lies inside the unit square.
    low = np.where(steep, np.maximum(_EDGE, (_EDGE - slack) / safe), _EDGE)
    high = np.maximum(np.where(steep, np.minimum(1 - _EDGE, (1 - _EDGE - slack) / safe), 1 - _EDGE), low)
    # The derivative is increasing; its zero lies between the two unconstrained optima.
    first = np.where(steep, (a1 - slack) / safe, a0)
    left = np.clip(np.minimum(first, a0), low, high)
    right = np.clip(np.maximum(first, a0), low, high)
    weight = n1 * ratio / np.maximum(n1 * ratio + n0, _EDGE)
    found = np.clip(weight * first + (1 - weight) * a0, left, right)
    open_ = np.flatnonzero(right > left)
    part = tuple(value[open_] for value in (found, left, right, a1, a0, n1, n0, ratio, slack))
    for _ in range(_NEWTON_STEPS):
        if not open_.size:
            break
        new, left, right = _newton(*part)
        moved = np.abs(new - part[0]) > _SOLVED * new
        found[open_] = new
        open_ = open_[moved]
        part = tuple(value[moved] for value in (new, left, right, *part[3:]))
    found = found.reshape(shape)
    one: Array = np.clip(boundary.ratio * found + boundary.slack, _EDGE, 1 - _EDGE)
    return one, found


def _newton(
    x: Array, left: Array, right: Array, a1: Array, a0: Array, n1: Array, n0: Array, ratio: Array, slack: Array
) -> tuple[Array, Array, Array]:
    """One safeguarded step towards the zero of the derivative: the new point and its bracket."""
    u = np.clip(ratio * x + slack, _EDGE, 1 - _EDGE)
    v1, v0 = u * (1 - u), x * (1 - x)
    d1, d0 = u - a1, x - a0
    slope = n1 * ratio * d1 / v1 + n0 * d0 / v0
    left, right = np.where(slope < 0, x, left), np.where(slope < 0, right, x)
    curve = n1 * ratio**2 * (v1 - d1 * (1 - 2 * u)) / v1**2 + n0 * (v0 - d0 * (1 - 2 * x)) / v0**2
    new = x - slope / np.maximum(curve, _EDGE)
    # Halve where Newton leaves the bracket; on a logarithmic scale where it spans one.
    middle = np.where(right > 4 * left, np.sqrt(left * right), (left + right) / 2)
    return np.where((new >= left) & (new <= right), new, middle), left, right


def shift_odds(t: Array, factor: float | Array) -> Array:
    """The mean whose odds are `factor` times those of `t`; stays inside (0, 1)."""
    t = np.clip(t, _EDGE, 1 - _EDGE)
    return np.asarray(factor * t / (1 - t + factor * t), dtype=np.float64)


HARM_ODDS = np.array([1.06, 1.15, 1.3, 1.6, 2.0, 3.0, 5.0, 12.0, 50.0])
"""Alternatives of the test for harm: the odds of a bad outcome, as multiples of the tolerated odds."""
HARM_WEIGHTS = np.array([0.12, 0.17, 0.19, 0.19, 0.14, 0.09, 0.05, 0.03, 0.02])
"""Their shares of the stake: little on what is noticed within a few outcomes anyway."""
_FIRST_STAKE = 0.7
SAFE_PLACES = np.array([0.6, 1.0, 1.3])
"""Alternatives of the test for non-inferiority: how far from the margin towards the champion's mean (1 = equal to it);
beyond 1 the challenger is better."""
SAFE_WEIGHTS = np.array([0.25, 0.5, 0.25])


def running_mean(bad: Array, total: Array, guess: float, before: tuple[float | Array, float | Array]) -> Array:
    """The champion's mean as known before each block: its earlier blocks, `before` (bad, total), and a guess.

    `bad`, `total`: (..., blocks). Returns (..., blocks).
    """
    past_bad = np.cumsum(bad, axis=-1) - bad + np.asarray(before[0])[..., None]
    past_total = np.cumsum(total, axis=-1) - total + np.asarray(before[1])[..., None]
    mean: Array = np.clip((past_bad + guess * _PRIOR_COUNT) / (past_total + _PRIOR_COUNT), 1e-5, 1 - 1e-5)
    return mean


def log_evidence(
    challenger: Array,
    champion: Array,
    values: Array,
    boundary: Boundary,
    mean: Array,
    odds: Array = HARM_ODDS,
    weights: Array = HARM_WEIGHTS,
    starts: Sequence[int] = (0,),
) -> Array:
    """Log e-process against the challenger being on one side of the line, after each block.

    `odds` > 1 (default): against "not worse than the line", the test for harm; `odds` < 1: against "at the line or
    worse"; `weights` sum to 1. `challenger`, `champion`: counts (..., blocks, len(values)) of outcomes; `values` in
    [0, 1]; `mean`: the champion's mean as known before each block (..., blocks). `starts`: blocks at which a part of
    the stake is bet afresh, so that harm that begins with a larger share of traffic is not hidden by a good record.
    Returns (..., blocks).
    """
    alternatives = shift_odds(_line(boundary, mean), odds)
    increments = _increments(challenger, champion, values, boundary, alternatives, mean[..., None], bool(odds[0] > 1))
    return _mixed(increments, weights, starts)


def log_safe(challenger: Array, champion: Array, values: Array, boundary: Boundary, mean: Array) -> Array:
    """Log e-process against "the challenger is worse by the margin (`boundary`) or more", after each block.

    As `log_evidence`, with the stake on what a sound challenger looks like: about equal to the champion.
    """
    line = _line(boundary, mean)
    equal = np.minimum(mean[..., None], line)
    alternatives = np.clip(line + SAFE_PLACES * (equal - line), line * 0.1, 1 - 1e-5)
    increments = _increments(challenger, champion, values, boundary, alternatives, mean[..., None], False)
    return _mixed(increments, SAFE_WEIGHTS, (0,))


def _line(boundary: Boundary, mean: Array) -> Array:
    line: Array = np.clip(boundary.at(mean), 1e-5, 1 - 1e-5)[..., None]
    return line


def _increments(
    challenger: Array,
    champion: Array,
    values: Array,
    boundary: Boundary,
    alternatives: Array,
    mean: Array,
    worse: bool,
) -> Array:
    """Log e-values (..., blocks, alternatives). An alternative inside the null bets nothing."""
    n1, n0 = challenger.sum(-1)[..., None], champion.sum(-1)[..., None]
    per_alternative = Boundary(_last(boundary.ratio), _last(boundary.slack))
    alternatives, mean = np.broadcast_arrays(alternatives, mean)
    p1, p0 = project(alternatives, mean, n1, n0, per_alternative)
    on_line = per_alternative.at(mean)
    outside = alternatives > on_line if worse else alternatives < on_line
    gained = np.zeros(alternatives.shape)
    for index, value in enumerate(values):
        for counts, a, p in ((challenger, alternatives, p1), (champion, mean, p0)):
            ratio = value * a / p + (1 - value) * (1 - a) / (1 - p)
            gained += counts[..., index, None] * np.log(np.maximum(ratio, 1e-300))
    return np.where(outside, gained, 0.0)


def _last(value: float | Array) -> Any:
    return value if np.ndim(value) == 0 else np.asarray(value)[..., None]


def _mixed(increments: Array, weights: Array, starts: Sequence[int]) -> Array:
    """Mix over alternatives and starting blocks; (..., blocks, alternatives) → (..., blocks)."""
    blocks = increments.shape[-2]
    total = np.cumsum(increments, axis=-2)
    late = [start for start in sorted(set(starts)) if 0 < start < blocks]
    stakes = [(0, _FIRST_STAKE if late else 1.0)] + [(start, (1 - _FIRST_STAKE) / len(late)) for start in late]
    parts = []
    for start, stake in stakes:
        since = total - (total[..., start - 1 : start, :] if start else 0.0)
        mixed = _log_mean(since, weights)
        # Before its start a stake is kept, not bet.
        mixed[..., :start] = 0.0
        parts.append(np.log(stake) + mixed)
    return _log_sum(parts)


def _log_mean(logs: Array, weights: Array) -> Array:
    top = logs.max(axis=-1)
    return np.asarray(top + np.log((np.exp(logs - top[..., None]) * weights).sum(-1)), dtype=np.float64)


def _log_sum(parts: Sequence[Array]) -> Array:
    stacked = np.stack(parts)
    top = stacked.max(axis=0)
    return np.asarray(top + np.log(np.exp(stacked - top).sum(axis=0)), dtype=np.float64)
