"""The decision on a canary: a pure function of evidence and policy.

Two families of tests per measure (`sequential`): *harm*, against "the challenger is not worse than tolerated", and
*safety*, against "the challenger is worse by the margin". The harm e-processes are averaged over the measures: the
average is an e-process too (whatever the dependence), so it passes 1/false_rollback with at most that probability for a
challenger that is as good. Promotion needs every measure's safety test beyond 1/false_promotion (intersection-union:
no correction needed). What is neither goes on to the deadline, and then back.
"""

import enum
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from config.settings import Canary as Policy
from serving.control.canary.evidence import (
    LATENCY_BINS,
    SHARES,
    Counts,
    Evidence,
    counts_of,
    latency_bin,
    latency_edge,
    ratio_bins,
)
from serving.control.canary.sequential import BINARY, Array, Boundary, log_evidence, log_safe, running_mean

Flags = NDArray[np.bool_]

_FEW = 20
"""Requests of the champion from which its quantile is taken."""


class Kind(enum.Enum):
    """What is to be done."""

    PROMOTE = "PROMOTE"
    CONTINUE = "CONTINUE"
    ROLLBACK = "ROLLBACK"


@dataclass(frozen=True)
class Measure:
    """One measure's state after the last block."""

    name: str
    champion: float | None
    """Observed mean (errors, accuracy: share; latency: quantile, s), over all blocks; None without observations."""
    challenger: float | None
    champion_n: int
    challenger_n: int
    log_harm: float
    log_safe: float
    required: bool
    """Whether promotion needs its safety test."""

    @property
    def told(self) -> str:
        """The figures as words."""
        sides = ((self.challenger, self.challenger_n), (self.champion, self.champion_n))
        shown = ["none" if value is None else f"{self.worded(value)} of {n:,}" for value, n in sides]
        return f"challenger {shown[0]}, champion {shown[1]}"

    def worded(self, value: float) -> str:
        """A value in its unit."""
        return f"{value * 1000:.0f} ms" if self.name.startswith("latency") else f"{value:.2%}"


@dataclass(frozen=True)
class Verdict:
    """What is to be done, and why."""

    kind: Kind
    percent: int
    """Share of traffic that the challenger should have next."""
    reason: str
    measures: tuple[Measure, ...] = ()
    log_harm: float = 0.0
    """Average over the measures; rollback from log(1/false_rollback)."""

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "verdict": self.kind.value,
            "percent": self.percent,
            "reason": self.reason,
            "log_harm": round(self.log_harm, 4),
            "measures": [
                {key: round(v, 6) if isinstance(v, float) else v for key, v in vars(measure).items()}
                for measure in self.measures
            ],
        }


def verdict(evidence: Evidence, policy: Policy) -> Verdict:
    """Decide on all the evidence up to now."""
    measures = judge(evidence, policy)
    log_harm = float(average_harm({measure.name: np.array(measure.log_harm) for measure in measures}))
    return Verdict(*_decide(evidence, policy, measures, log_harm), measures=measures, log_harm=log_harm)


def _decide(
    evidence: Evidence, policy: Policy, measures: tuple[Measure, ...], log_harm: float
) -> tuple[Kind, int, str]:
    percent = evidence.percent
    if log_harm >= math.log(1 / policy.false_rollback):
        worst = max(measures, key=lambda measure: measure.log_harm)
        odds = f"{math.exp(min(log_harm, 700)):.3g}"
        return Kind.ROLLBACK, 0, f"{worst.name} worse: {worst.told} (evidence {odds} to 1)"
    here = evidence.total("challenger", percent)
    answered, shared = here.requests - here.client_errors, last_shared(policy)
    unshown = [m for m in measures if m.required and m.log_safe < math.log(1 / policy.false_promotion)]
    missing = []
    if answered < policy.step_requests:
        missing.append(f"{answered} of {policy.step_requests} requests at {percent} %")
    if evidence.step_seconds < policy.step_seconds:
        missing.append(f"{evidence.step_seconds:.0f} of {policy.step_seconds:.0f} s at {percent} %")
    if percent == shared and unshown:
        missing += [f"{m.name} not yet shown to be within its margin ({m.told})" for m in unshown]
    if not missing:
        higher = [step for step in policy.steps if step > percent]
        if not higher:
            return Kind.PROMOTE, 100, "; ".join(f"{m.name}: {m.told}" for m in measures if m.required) or "all shown"
        why = "within all margins" if percent == shared else f"{answered} requests at {percent} % without harm"
        return Kind.CONTINUE, higher[0], why
    if evidence.seconds >= policy.deadline_seconds:
        late = f"not decided in {policy.deadline_seconds:.0f} s"
        if answered < policy.step_requests:
            late = f"too little traffic: {late}"
        return Kind.ROLLBACK, 0, f"{late}: {'; '.join(missing)}"
    return Kind.CONTINUE, percent, f"waiting for: {'; '.join(missing)}"


def last_shared(policy: Policy) -> int:
    """The largest share at which the champion still serves: where safety is shown."""
    return max(step for step in policy.steps if step < 100)


STAKES: Mapping[str, float] = {
    "errors": 0.30, "accuracy": 0.30, "latency": 0.20, "latency_budget": 0.04, "status": 0.08, "confidence": 0.08,
}  # fmt: skip
"""How the average weighs the harm tests: more where small differences matter; a broken model moves status and
confidence so far that a small stake notices it at once."""


def average_harm(logs: Mapping[str, Array]) -> Array:
    """Log of the weighted mean of the measures' harm e-processes."""
    total = sum(STAKES[name] for name in logs)
    parts = np.stack([log + math.log(STAKES[name] / total) for name, log in logs.items()])
    top = parts.max(axis=0)
    return np.asarray(top + np.log(np.exp(parts - top).sum(axis=0)), dtype=np.float64)


def judge(evidence: Evidence, policy: Policy) -> tuple[Measure, ...]:
    """All measures after the last block."""
    names = measure_names(policy)
    if not evidence.blocks:
        return tuple(Measure(name, None, None, 0, 0, 0.0, 0.0, name in required(policy)) for name in names)
    logs = evaluate(counts_of(evidence), policy)
    champion, challenger = evidence.total("champion"), evidence.total("challenger")
    measures = []
    for name in names:
        (seen0, n0), (seen1, n1) = _observed(name, champion, policy), _observed(name, challenger, policy)
        harm, safe = (float(side[-1]) for side in logs[name])
        measures.append(Measure(name, seen0, seen1, n0, n1, harm, safe, name in required(policy)))
    return tuple(measures)


def measure_names(policy: Policy) -> tuple[str, ...]:
    """The measures that a policy judges; fixed before any data, so that their number costs what it must."""
    names = ["errors", "latency"]
    if policy.latency.budget_seconds is not None:
        names.append("latency_budget")
    names.append("accuracy")
    if policy.quality.proxies:
        names += ["status", "confidence"]
    return tuple(names)


def required(policy: Policy) -> tuple[str, ...]:
    """The measures whose safety must be shown for promotion."""
    return tuple(n for n in measure_names(policy) if n != "accuracy" or policy.quality.require_corrections)


def evaluate(counts: Counts, policy: Policy, names: Iterable[str] | None = None) -> dict[str, tuple[Array, Array]]:
    """(log harm, log safety) of each measure (or those of `names`) after each block; shapes (..., blocks).

    Safety counts only what was seen at the last shared step. At 100 % there is no champion left to compare with: there
    the challenger is held against the champion's earlier record and the margin, which can only tell harm.
    """
    alone = counts.percent >= 100
    judged = (counts.percent == last_shared(policy))[:, None]
    first = np.flatnonzero(np.diff(counts.percent, prepend=counts.percent[:1]))
    starts = (0, *(int(index) for index in first))
    quality, errors = policy.quality, policy.errors

    line_of = {
        "errors": (Boundary(errors.tolerance_ratio, errors.tolerance), Boundary(errors.margin_ratio, errors.margin)),
        "accuracy": (Boundary(1.0, quality.accuracy_tolerance), Boundary(1.0, quality.accuracy_margin)),
        "status": (Boundary(1.0, quality.status_tolerance), Boundary(1.0, quality.status_margin)),
        "confidence": (Boundary(1.0, quality.confidence_tolerance), Boundary(1.0, quality.confidence_margin)),
    }
    found = {}
    for name in measure_names(policy) if names is None else names:
        if name == "latency":
            found[name] = _latency(counts, policy, alone, judged, starts)
        elif name == "latency_budget":
            found[name] = _budget(counts, policy, judged, starts)
        else:
            (challenger, champion), values, guess = outcomes(counts, name)
            before = counts.before[name]
            past = float(before @ values), float(before.sum())
            mean = running_mean(champion @ values, champion.sum(-1), guess, past)
            tolerated, margin = line_of[name]
            ratio = np.where(alone, 0.0, tolerated.ratio)
            slack = np.where(alone, np.minimum(margin.at(mean), 1.0), tolerated.slack)
            harm = log_evidence(challenger, champion, values, Boundary(ratio, slack), mean, starts=starts)
            found[name] = harm, log_safe(challenger * judged, champion * judged, values, margin, mean)
    return found


def outcomes(counts: Counts, name: str) -> tuple[tuple[Array, Array], Array, float]:
    """Counts, support, and a guess at the champion's mean before anything is known."""
    if name == "errors":
        return counts.errors, BINARY, 0.01
    if name == "accuracy":
        return counts.accuracy, BINARY, 0.2
    return (counts.status if name == "status" else counts.confidence), SHARES, 0.3


def _latency(
    counts: Counts, policy: Policy, alone: Flags, judged: Flags, starts: tuple[int, ...]
) -> tuple[Array, Array]:
    """Quantile against quantile, as shares beyond a bar (`latency_sides`)."""
    tolerated = math.ceil(ratio_bins(policy.latency.tolerance_ratio) - 1e-9)
    margin = math.floor(ratio_bins(policy.latency.margin_ratio) + 1e-9)
    slow, champion, mean = latency_sides(counts, policy, np.where(alone, margin, tolerated), upper=True)
    line = Boundary(np.where(alone, 0.0, 1.0), np.where(alone, mean, 0.0))
    harm = log_evidence(slow, champion, BINARY, line, mean, starts=starts)
    slow, champion, mean = latency_sides(counts, policy, margin, upper=False)
    # A sound challenger passes the raised bar more seldom; how seldom depends on the tail.
    even = Boundary(1.0, 0.0)
    odds, weights = SAFE_ODDS, SAFE_ODDS_WEIGHTS
    return harm, log_evidence(slow * judged, champion * judged, BINARY, even, mean, odds, weights)


def latency_sides(counts: Counts, policy: Policy, shift: int | Array, upper: bool) -> tuple[Array, Array, Array]:
    """(challenger's, champion's) counts (within, beyond the bar), and the champion's mean share beyond it before.

    The bar t of a block is the champion's quantile up to then; the challenger's bar is t raised by `shift` bins. A
    challenger whose latencies are that much longer passes its bar exactly as often as the champion passes its own, at
    any load; so "slower by the factor" is "its share beyond its bar is at least the champion's beyond the champion's".
    Any t will do. `upper` takes the upper edge of the quantile's bin (for harm), else the lower one (for safety): so
    the tests tell something even where all latencies are alike.
    """
    used = slice(*_used(counts))
    slow, quick = (side[..., used] for side in counts.latency)
    before = counts.before["latency"][used]
    past = np.cumsum(quick, axis=-2) - quick + before
    total = past.sum(-1)
    rank = policy.latency.quantile * total
    bar = np.argmax(np.cumsum(past, axis=-1) >= rank[..., None], axis=-1) - (0 if upper else 1)
    known = total >= _FEW
    guess = 1 - policy.latency.quantile
    mean = running_mean(*_beyond(quick, bar, known), guess, (guess * before.sum(), float(before.sum())))
    return _split(slow, bar + shift, known), _split(quick, bar, known), mean


SAFE_ODDS = np.array([0.75, 0.5, 0.25, 0.08])
"""Alternatives for a sound challenger's odds of passing the raised bar."""
SAFE_ODDS_WEIGHTS = np.full(4, 0.25)


def _used(counts: Counts) -> tuple[int, int]:
    """First and last + 1 of the latency bins that hold anything."""
    total = counts.before["latency"] + sum(side.reshape(-1, LATENCY_BINS).sum(0) for side in counts.latency)
    held = np.flatnonzero(total)
    return (int(held[0]), int(held[-1]) + 1) if len(held) else (0, 1)


def _budget(counts: Counts, policy: Policy, judged: Flags, starts: tuple[int, ...]) -> tuple[Array, Array]:
    """The challenger's quantile against the budget: the share beyond it against 1 - quantile. One-sample.

    A budget between two bin edges is taken as the upper one for harm and as the lower one for safety.
    """
    seconds = policy.latency.budget_seconds or math.inf
    slow = counts.latency[0]
    upper = latency_bin(seconds)
    lower = upper if math.isclose(latency_edge(upper), seconds, rel_tol=1e-9) else upper - 1
    line = Boundary(0.0, 1 - policy.latency.quantile)
    fixed = np.full(slow.shape[:-1], 1 - policy.latency.quantile)
    none = np.zeros((*slow.shape[:-1], 2))
    harm, safe = (
        np.stack([slow[..., : edge + 1].sum(-1), slow[..., edge + 1 :].sum(-1)], axis=-1) for edge in (upper, lower)
    )
    return (
        log_evidence(harm, none, BINARY, line, fixed, starts=starts),
        log_evidence(safe * judged, none, BINARY, line, fixed, odds=SAFE_ODDS, weights=SAFE_ODDS_WEIGHTS),
    )


def _split(histogram: Array, bar: Array, known: Flags) -> Array:
    """Counts (up to the bar, beyond it), zero where the bar is not known; `bar`: (..., blocks) bins."""
    beyond, total = _beyond(histogram, bar, known)
    return np.stack([total - beyond, beyond], axis=-1)


def _beyond(histogram: Array, bar: Array, known: Flags) -> tuple[Array, Array]:
    total = histogram.sum(-1)
    place = np.clip(bar, 0, histogram.shape[-1] - 1)[..., None].astype(int)
    upto = np.where(bar < 0, 0.0, np.take_along_axis(np.cumsum(histogram, axis=-1), place, axis=-1)[..., 0])
    return np.where(known, total - upto, 0.0), np.where(known, total, 0.0)


def quantile_of(histogram: Mapping[int, float], quantile: float) -> float | None:
    """Upper edge of the bin with a quantile, seconds; None where nothing was counted."""
    total, seen = sum(histogram.values()), 0.0
    for index in sorted(histogram):
        seen += histogram[index]
        if seen >= quantile * total:
            return latency_edge(index)
    return None


def _observed(name: str, arm: Any, policy: Policy) -> tuple[float | None, int]:
    if name == "errors":
        n = arm.requests - arm.client_errors
        return (arm.errors / n if n else None), n
    if name.startswith("latency"):
        return quantile_of(arm.latency, policy.latency.quantile), sum(arm.latency.values())
    if name == "accuracy":
        n = arm.right + arm.wrong
        return (arm.right / n if n else None), n
    histogram = arm.status_loss if name == "status" else arm.confidence
    n = round(sum(histogram.values()))
    return (sum(SHARES[index] * count for index, count in histogram.items()) / n if n else None), n
