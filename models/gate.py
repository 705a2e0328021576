"""Candidate against champion on the same rows, before any traffic. Pure: evidence in, verdict and reason out."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from models.answer import DIGITS, Levels
from models.calibration import calibration_counts, miscalibration
from models.evaluation import Bools, Outcomes

CALIBRATION = "calibration error"
"""What the checks on it are called."""


class Limits(Protocol):
    """The `gate` section of the settings."""

    @property
    def allowed_loss(self) -> tuple[float, float, float]: ...
    @property
    def confidence(self) -> float: ...
    @property
    def allowed_calibration(self) -> float: ...
    @property
    def latency_ms(self) -> float: ...
    @property
    def resamples(self) -> int: ...
    @property
    def listed(self) -> int: ...
    @property
    def seed(self) -> int: ...


@dataclass(frozen=True)
class Side:
    """A model and what it said of the rows of a set."""

    levels: Levels
    outcomes: Outcomes

    def best(self, row: int, digits: int) -> str:
        """The model's best code for a row at a level."""
        return self.levels.codes[digits][int(self.outcomes.best[digits][row])]


@dataclass(frozen=True)
class Evidence:
    """Both models on the same n labelled rows: `codes` the true ones, `groups` (n,) near-duplicate groups (None: every
    row its own). `calibrated`: calibration is judged on this set (the test part; a reference set may be anything)."""

    name: str
    descriptions: Sequence[str]
    codes: Sequence[str | None]
    candidate: Side
    champion: Side
    groups: Sequence[int] | None = None
    calibrated: bool = True


@dataclass(frozen=True)
class Check:
    """One question of the gate; shares are 0..1, latency milliseconds."""

    set: str
    what: str
    candidate: float
    champion: float | None
    delta: float
    low: float | None
    high: float | None
    """95 % interval of `delta`, by paired bootstrap over near-duplicate groups: of top-1 its quantiles; of calibration,
    whose bootstrap has chance twice over, `delta` and 1.96 of its deviations on either side."""
    allowed: float
    passed: bool


@dataclass(frozen=True)
class Verdict:
    """Whether the candidate may go on, why, and all that was compared.

    `changes`: for each set the rows that the candidate alone gets right (`gained`) or wrong (`lost`) at the longest
    level that the label has, as description, code, champion's and candidate's code; and how many there are in all.
    """

    passed: bool
    reason: str
    checks: tuple[Check, ...]
    changes: dict[str, dict[str, Any]]

    def as_dict(self) -> dict[str, Any]:
        """For gate.json and the report."""
        return {
            "passed": self.passed,
            "reason": self.reason,
            "checks": [vars(c) for c in self.checks],
            "changes": self.changes,
        }


def gate(evidence: Sequence[Evidence], latency_ms: float | None, limits: Limits) -> Verdict:
    """Judge a candidate.

    A set fails at a level where the candidate's top-1 share is under the champion's by more than is allowed, and the
    loss is more than chance (its one-sided bound at `limits.confidence` excludes zero). So does calibration, where the
    expected error (less what chance gives a perfect model: `models.calibration.miscalibration`) grows. Latency (95th
    percentile, one text) fails where it is over the budget. Without evidence (no champion yet) only the latency is
    judged. `latency_ms` None: not measured, not judged.
    """
    checks: list[Check] = []
    for one in evidence:
        checks += _accuracy(one, limits)
        if one.calibrated:
            checks += _calibration(one, limits)
    if latency_ms is not None:
        budget = limits.latency_ms
        checks.append(
            Check("", "latency", latency_ms, None, latency_ms - budget, None, None, budget, latency_ms <= budget)
        )
    failed = [c for c in checks if not c.passed]
    changes = {one.name: _changes(one, limits.listed) for one in evidence}
    return Verdict(not failed, _reason(evidence, checks, failed), tuple(checks), changes)


def paired_bootstrap(
    differences: npt.NDArray[np.float64], groups: Sequence[int] | None, resamples: int, seed: int
) -> npt.NDArray[np.float64]:
    """(resamples,) means of (n,) paired `differences` under resampling of whole groups; rows without groups are their
    own."""
    unit = _units(groups, len(differences))
    sums = _resampled(np.stack([np.bincount(unit, weights=differences), np.bincount(unit)], axis=1), resamples, seed)
    means: npt.NDArray[np.float64] = sums[:, 0] / sums[:, 1]
    return means


def _units(groups: Sequence[int] | None, rows: int) -> npt.NDArray[np.intp]:
    """(rows,): number of the unit that each row is drawn with; rows without groups are their own."""
    return np.arange(rows) if groups is None else np.unique(np.asarray(groups), return_inverse=True)[1]


def _resampled(counts: npt.NDArray[np.float64], resamples: int, seed: int) -> npt.NDArray[np.float64]:
    """(resamples, ...): sums of (units, ...) counts over as many units drawn with replacement."""
    rng = np.random.default_rng(seed)
    units = len(counts)
    flat = counts.reshape(units, -1)
    sums = np.empty((resamples, flat.shape[1]))
    step = max(1, min(200, 4_000_000 // units))
    for start in range(0, resamples, step):
        count = min(step, resamples - start)
        drawn = rng.integers(0, units, (count, units)) + units * np.arange(count)[:, None]
        sums[start : start + count] = np.bincount(drawn.ravel(), minlength=count * units).reshape(count, units) @ flat
    return sums.reshape(resamples, *counts.shape[1:])


def _accuracy(one: Evidence, limits: Limits) -> list[Check]:
    checks = []
    for digits, allowed in zip(DIGITS, limits.allowed_loss, strict=True):
        judged = one.candidate.outcomes.judged[digits]
        if not judged.any():
            continue
        new, old = (side.outcomes.right(digits)[judged].astype(np.float64) for side in (one.candidate, one.champion))
        groups = None if one.groups is None else list(np.asarray(one.groups)[judged])
        drawn = paired_bootstrap(new - old, groups, limits.resamples, limits.seed)
        delta = float((new - old).mean())
        by_chance = delta + NormalDist().inv_cdf(limits.confidence) * float(drawn.std()) >= 0
        low, high = (float(q) for q in np.quantile(drawn, (0.025, 0.975)))
        passed = delta >= -allowed - 1e-12 or by_chance
        checks.append(
            Check(
                one.name, f"HS{digits} top-1", float(new.mean()), float(old.mean()), delta, low, high, allowed, passed
            )
        )
    return checks


def _calibration(one: Evidence, limits: Limits) -> list[Check]:
    checks = []
    for digits in DIGITS:
        judged = one.candidate.outcomes.judged[digits]
        if not judged.any():
            continue
        unit = _units(None if one.groups is None else list(np.asarray(one.groups)[judged]), int(judged.sum()))
        sides = (one.candidate.outcomes, one.champion.outcomes)
        counts = np.stack(
            [calibration_counts(side.sure[digits][judged], side.right(digits)[judged], unit) for side in sides], axis=1
        )
        new, old = miscalibration(counts.sum(axis=0)).tolist()
        drawn = miscalibration(_resampled(counts, limits.resamples, limits.seed))
        delta, error = new - old, float((drawn[:, 0] - drawn[:, 1]).std())
        by_chance = delta - NormalDist().inv_cdf(limits.confidence) * error <= 0
        allowed = limits.allowed_calibration
        low, high = delta - 1.96 * error, delta + 1.96 * error
        name = f"HS{digits} {CALIBRATION}"
        checks.append(Check(one.name, name, new, old, delta, low, high, allowed, delta <= allowed or by_chance))
    return checks


def _changes(one: Evidence, listed: int) -> dict[str, Any]:
    judged = one.candidate.outcomes.judged
    new, old = (_right_at_longest(side.outcomes) for side in (one.candidate, one.champion))
    out: dict[str, Any] = {}
    for name, rows in (("gained", np.flatnonzero(new & ~old)), ("lost", np.flatnonzero(old & ~new))):
        lines = []
        for row in rows[:listed]:
            digits = max(d for d in DIGITS if judged[d][row])
            lines.append(
                {
                    "description": one.descriptions[row],
                    "code": one.codes[row],
                    "champion": one.champion.best(int(row), digits),
                    "candidate": one.candidate.best(int(row), digits),
                }
            )
        out[name] = {"rows": len(rows), "listed": lines}
    return out


def _right_at_longest(outcomes: Outcomes) -> Bools:
    right = np.zeros_like(outcomes.judged[2])
    for digits in DIGITS:
        right = np.where(outcomes.judged[digits], outcomes.right(digits), right)
    return right


def _reason(evidence: Sequence[Evidence], checks: Sequence[Check], failed: Sequence[Check]) -> str:
    if failed:
        return "The candidate is stopped: " + "; ".join(_said(c) for c in failed) + "."
    latency = next((c for c in checks if c.what == "latency"), None)
    within = f"an answer takes {latency.candidate:.1f} ms of {latency.allowed:.0f}" if latency else ""
    if not evidence:
        return f"There is no champion to compare with{'; ' + within if within else ''}."
    worst = min((c for c in checks if c.what.endswith("top-1")), key=lambda c: c.delta + c.allowed)
    return (
        f"The candidate loses no more than is allowed on {', '.join(e.name for e in evidence)}: nearest to the limit "
        f"is {worst.what} on {worst.set}, {worst.delta * 100:+.1f} points ({(worst.low or 0) * 100:+.1f} to "
        f"{(worst.high or 0) * 100:+.1f}) with {worst.allowed * 100:.1f} allowed{'; ' + within if within else ''}."
    )


def _said(check: Check) -> str:
    if check.what == "latency":
        return f"an answer takes {check.candidate:.1f} ms, {check.allowed:.0f} are allowed"
    old = check.champion or 0.0
    if check.what.endswith(CALIBRATION):
        return (
            f"{check.what} on {check.set} grows from {old:.3f} to {check.candidate:.3f} ({check.low:+.3f} to "
            f"{check.high:+.3f}), {check.allowed:.3f} allowed"
        )
    return (
        f"{check.what} on {check.set} falls from {old:.1%} to {check.candidate:.1%} ({(check.low or 0) * 100:+.1f} to "
        f"{(check.high or 0) * 100:+.1f} points), {check.allowed * 100:.1f} allowed"
    )
