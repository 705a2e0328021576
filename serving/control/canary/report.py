"""A canary told in full: its decisions, both versions side by side, intervals valid at any time, and the classic view.

The classic view (two-proportion z-test, Newcombe's interval, analysis of variance) takes the sample as if its size had
been fixed before; it is shown beside the sequential one, and decides nothing.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from config.settings import Canary as Policy
from serving.control.canary.evidence import SHARES, Arm, Counts, Evidence, counts_of, latency_edge
from serving.control.canary.sequential import BINARY, HARM_ODDS, Array, Boundary, log_evidence, running_mean
from serving.control.canary.verdict import (
    Measure,
    latency_sides,
    outcomes,
    quantile_of,
    verdict,
)
from serving.state.tables import Canary, CanaryStep

LEVEL = 0.95
"""Of all intervals."""
_GRID = 121


@dataclass(frozen=True)
class Interval:
    """An estimate with its ends; None where there is nothing to say."""

    estimate: float | None
    low: float | None
    high: float | None
    p: float | None = None
    """p-value, for the classic view; two-sided."""

    def to_json(self) -> dict[str, float | None]:
        """To six significant digits."""
        return {key: None if value is None else float(f"{value:.6g}") for key, value in vars(self).items()}


def explain(canary: Canary, steps: list[CanaryStep], evidence: Evidence) -> dict[str, Any]:
    """Everything about one canary, as plain values. Recomputed from its blocks: the stored verdicts can be checked."""
    policy = Policy.model_validate(canary.policy)
    found = verdict(evidence, policy)
    champion, challenger = evidence.total("champion"), evidence.total("challenger")
    return {
        "canary": canary.id,
        "service": f"{canary.namespace}/{canary.service}",
        "model": canary.model,
        "champion": canary.champion_version,
        "challenger": canary.challenger_version,
        "run": canary.run_name,
        "state": canary.state,
        "percent": canary.percent,
        "reason": canary.reason,
        "started_at": canary.started_at.isoformat(),
        "deadline_at": canary.deadline_at.isoformat(),
        "finished_at": canary.finished_at.isoformat() if canary.finished_at else None,
        "started_by": canary.started_by,
        "decisions": [told_step(step) for step in steps],
        "blocks": len(evidence.blocks),
        "verdict_now": found.kind.value,
        "rule": {
            "rollback_from": round(1 / policy.false_rollback, 3),
            "promotion_from": round(1 / policy.false_promotion, 3),
            "evidence_of_harm": _e(found.log_harm),
        },
        "measures": [_told_measure(measure, evidence, policy) for measure in found.measures],
        "requests": {"champion": _requests(champion), "challenger": _requests(challenger)},
        "analysis_of_variance": {
            "log_latency": anova(*(_logs(arm.latency) for arm in (champion, challenger))),
            "confidence": anova(*(_shares(arm.confidence) for arm in (champion, challenger))),
        },
    }


def told_step(step: CanaryStep) -> dict[str, Any]:
    """One decision as plain values."""
    return {
        "sequence": step.sequence,
        "action": step.action,
        "percent": [step.percent_before, step.percent_after],
        "verdict": step.verdict,
        "reason": step.reason,
        "actor": step.actor,
        "intent_at": step.intent_at.isoformat(),
        "done_at": step.done_at.isoformat() if step.done_at else None,
    }


def _told_measure(measure: Measure, evidence: Evidence, policy: Policy) -> dict[str, Any]:
    counts = counts_of(evidence) if evidence.blocks else None
    nothing = Interval(None, None, None)
    anytime = nothing if counts is None else anytime_interval(measure.name, counts, policy)
    return {
        "name": measure.name,
        "champion": {"value": measure.champion, "n": measure.champion_n},
        "challenger": {"value": measure.challenger, "n": measure.challenger_n},
        "evidence_of_harm": _e(measure.log_harm),
        "evidence_of_safety": _e(measure.log_safe),
        "required_for_promotion": measure.required,
        "shown_safe": measure.log_safe >= math.log(1 / policy.false_promotion),
        "compared_as": "ratio" if measure.name == "latency" else "difference",
        "anytime_valid": anytime.to_json(),
        "fixed_sample": classic_interval(measure.name, evidence, policy).to_json(),
    }


def _e(log: float) -> float:
    return float(f"{math.exp(max(-700.0, min(log, 700.0))):.4g}")


def _requests(arm: Arm) -> dict[str, Any]:
    return {
        "requests": arm.requests,
        "errors": arm.errors,
        "client_errors": arm.client_errors,
        "cold_starts": arm.cold,
        "statuses": dict(sorted(arm.statuses.items())),
        "right": arm.right,
        "wrong": arm.wrong,
        "latency_seconds": {f"p{q}": quantile_of(arm.latency, q / 100) for q in (50, 95, 99)},
    }


# -- intervals that hold whenever one looks ---------------------------------------------------------------------------


def anytime_interval(name: str, counts: Counts, policy: Policy) -> Interval:
    """Confidence sequence at LEVEL of challenger minus champion (of latency: challenger's quantile as a ratio).

    All values that the e-processes have not refuted at any block so far, at half the error on each side. Of accuracy
    and confidence a fall is negative. None where there is no champion to compare with (latency_budget) or nothing seen.
    """
    if name == "latency_budget":
        return Interval(None, None, None)
    if name == "latency":
        return _latency_interval(counts, policy)
    (challenger, champion), values, guess = outcomes(counts, name)
    n1, n0 = challenger.sum(), champion.sum()
    if not n1 or not n0:
        return Interval(None, None, None)
    t1, t0 = float((challenger @ values).sum() / n1), float((champion @ values).sum() / n0)
    before = counts.before[name]
    mean = running_mean(champion @ values, champion.sum(-1), guess, (float(before @ values), float(before.sum())))
    spread = math.sqrt(max(t1 * (1 - t1), 1 / n1) / n1 + max(t0 * (1 - t0), 1 / n0) / n0)
    slacks = np.clip(np.linspace(t1 - t0 - 10 * spread, t1 - t0 + 10 * spread, _GRID), -0.999, 0.999)

    def refuted(odds: Array) -> Array:
        line = Boundary(1.0, slacks[:, None])
        logs = log_evidence(challenger[None], champion[None], values, line, mean[None], odds=odds)
        return np.asarray(logs.max(axis=-1) >= math.log(2 / (1 - LEVEL)))

    low, high = _ends(slacks, refuted(HARM_ODDS), refuted(1 / HARM_ODDS))
    if name in ("accuracy", "confidence"):
        # Counted as loss inside, told as gain.
        return Interval(t0 - t1, None if high is None else -high, None if low is None else -low)
    return Interval(t1 - t0, low, high)


def _latency_interval(counts: Counts, policy: Policy) -> Interval:
    shifts = np.arange(-64, 65)
    refuted: dict[bool, list[bool]] = {True: [], False: []}
    for shift in shifts:
        for harm in (True, False):
            challenger, champion, mean = latency_sides(counts, policy, int(shift), upper=harm)
            odds = HARM_ODDS if harm else 1 / HARM_ODDS
            logs = log_evidence(challenger, champion, BINARY, Boundary(1.0, 0.0), mean, odds=odds)
            refuted[harm].append(bool(logs.max() >= math.log(2 / (1 - LEVEL))))
    low, high = _ends(shifts.astype(float), np.array(refuted[True]), np.array(refuted[False]))
    quantiles = []
    for side in counts.latency:
        total = side.sum(0)
        held = {int(index): float(total[index]) for index in np.flatnonzero(total)}
        quantiles.append(quantile_of(held, policy.latency.quantile))
    if quantiles[0] is None or quantiles[1] is None:
        return Interval(None, None, None)
    factor: Callable[[float | None], float | None] = lambda bins: None if bins is None else 2 ** (bins / 16)  # noqa: E731
    return Interval(quantiles[0] / quantiles[1], factor(low), factor(high))


def _ends(grid: Array, too_low: Array, too_high: Array) -> tuple[float | None, float | None]:
    """Largest value refuted as too low, smallest refuted as too high; None where the grid is not left."""
    low = float(grid[np.flatnonzero(too_low)[-1]]) if too_low.any() else None
    high = float(grid[np.flatnonzero(too_high)[0]]) if too_high.any() else None
    return low, high


# -- the classic view -------------------------------------------------------------------------------------------------


def classic_interval(name: str, evidence: Evidence, policy: Policy) -> Interval:
    """Fixed-sample interval and p-value of the same comparison: z-test and Newcombe for shares, Welch for means.

    Of latency, the share of the challenger's requests beyond the champion's quantile less the champion's share.
    """
    from scipy import stats
    from statsmodels.stats.proportion import confint_proportions_2indep, proportions_ztest

    champion, challenger = evidence.total("champion"), evidence.total("challenger")
    if name in ("status", "confidence"):
        sides = [
            _moments(_shares(arm.status_loss if name == "status" else arm.confidence)) for arm in (challenger, champion)
        ]
        (mean1, var1, n1), (mean0, var0, n0) = sides
        if min(n1, n0) < 2 or var1 + var0 == 0:
            return Interval(None, None, None)
        error = math.sqrt(var1 / n1 + var0 / n0)
        freedom = error**4 / ((var1 / n1) ** 2 / (n1 - 1) + (var0 / n0) ** 2 / (n0 - 1))
        half = float(stats.t.ppf((1 + LEVEL) / 2, freedom)) * error
        p_value = 2 * float(stats.t.sf(abs(mean1 - mean0) / error, freedom))
        return Interval(mean1 - mean0, mean1 - mean0 - half, mean1 - mean0 + half, p_value)
    hits = [_hits(name, arm, champion, policy) for arm in (challenger, champion)]
    if name == "latency_budget" or not all(n for _, n in hits):
        return Interval(None, None, None)
    (k1, n1), (k0, n0) = hits
    low, high = confint_proportions_2indep(k1, n1, k0, n0, compare="diff", method="newcomb", alpha=1 - LEVEL)
    varied = 0 < k1 + k0 < n1 + n0
    p = float(proportions_ztest([k1, k0], [n1, n0])[1]) if varied else None
    return Interval(k1 / n1 - k0 / n0, float(low), float(high), p)


def _hits(name: str, arm: Arm, champion: Arm, policy: Policy) -> tuple[float, float]:
    if name == "errors":
        return arm.errors, arm.requests - arm.client_errors
    if name == "accuracy":
        return arm.right, arm.right + arm.wrong
    bar = quantile_of(champion.latency, policy.latency.quantile) or 0.0
    total = sum(arm.latency.values())
    return sum(count for index, count in arm.latency.items() if latency_edge(index) > bar * 1.0001), total


def anova(*groups: tuple[Array, Array]) -> dict[str, float] | None:
    """One-way analysis of variance of weighted values: F, p and the share of variance explained; None if too few."""
    from scipy import stats

    moments = [_moments(group) for group in groups]
    n = sum(count for _, _, count in moments)
    if any(count < 2 for _, _, count in moments):
        return None
    grand = sum(mean * count for mean, _, count in moments) / n
    between = sum(count * (mean - grand) ** 2 for mean, _, count in moments)
    within = sum(variance * (count - 1) for _, variance, count in moments)
    if within <= 0:
        return None
    freedom = len(moments) - 1, n - len(moments)
    f = (between / freedom[0]) / (within / freedom[1])
    return {
        "F": round(f, 4),
        "p": float(f"{stats.f.sf(f, *freedom):.6g}"),
        "eta_squared": round(between / (between + within), 6),
    }


def _moments(group: tuple[Array, Array]) -> tuple[float, float, float]:
    """Mean, sample variance and number of weighted values."""
    values, counts = group
    n = float(counts.sum())
    if n < 2:
        return 0.0, 0.0, n
    mean = float((values * counts).sum() / n)
    return mean, float((counts * (values - mean) ** 2).sum() / (n - 1)), n


def _logs(histogram: Mapping[int, float]) -> tuple[Array, Array]:
    """Logarithms of latencies in seconds (middle of the bin), and counts."""
    indices = sorted(histogram)
    return (
        np.array([math.log(latency_edge(index)) - math.log(2) / 32 for index in indices]),
        np.array([float(histogram[index]) for index in indices]),
    )


def _shares(histogram: Mapping[int, float]) -> tuple[Array, Array]:
    indices = sorted(histogram)
    return np.array([SHARES[index] for index in indices]), np.array([float(histogram[index]) for index in indices])


# -- for people -------------------------------------------------------------------------------------------------------


def told(report: Mapping[str, Any]) -> str:
    """The report as text."""
    lines = [
        f"Canary {report['canary']} of {report['service']}: version {report['challenger']} "
        f"against {report['champion']}",
        f"  {report['state']} at {report['percent']} %: {report['reason']}",
        f"  started {report['started_at']} by {report['started_by']}, "
        + (f"finished {report['finished_at']}" if report["finished_at"] else f"deadline {report['deadline_at']}"),
        "",
        "Decisions",
    ]
    for step in report["decisions"]:
        done = step["done_at"][11:19] if step["done_at"] else "not yet seen to be done"
        lines.append(
            f"  {step['intent_at'][:19]}  {step['action']:9} {step['percent'][0]:3d} -> {step['percent'][1]:3d} %  "
            f"(done {done})  {step['reason']}"
        )
    lines += [
        "",
        f"Evidence, {report['blocks']} blocks; rollback from {report['rule']['rollback_from']:g} : 1 for harm",
    ]
    lines.append(f"  all measures together: {report['rule']['evidence_of_harm']:g} : 1 for harm")
    for measure in report["measures"]:
        lines += _told_lines(measure, report["rule"]["promotion_from"])
    lines += ["", "Requests"]
    for version in ("champion", "challenger"):
        seen = report["requests"][version]
        times = ", ".join(f"{k} {v * 1000:.0f} ms" for k, v in seen["latency_seconds"].items() if v is not None)
        statuses = ", ".join(f"{count} {status}" for status, count in seen["statuses"].items())
        lines.append(
            f"  {version:10} {seen['requests']} requests, {seen['errors']} errors, {seen['client_errors']} by clients, "
            f"{seen['cold_starts']} cold starts; {times or 'no latencies'}; {statuses or 'no answers'}; corrections: "
            f"{seen['right']} right, {seen['wrong']} wrong"
        )
    lines += ["", "Analysis of variance between versions (classic, decides nothing)"]
    for name, found in report["analysis_of_variance"].items():
        words = (
            "too few values" if found is None else f"F {found['F']:g}, p {found['p']:g}, eta² {found['eta_squared']:g}"
        )
        lines.append(f"  {name.replace('_', ' '):12} {words}")
    return "\n".join(lines)


def _told_lines(measure: Mapping[str, Any], limit: float) -> list[str]:
    quick = measure["name"].startswith("latency")

    def value(side: Mapping[str, Any]) -> str:
        if side["value"] is None:
            return "nothing seen"
        shown = f"{side['value'] * 1000:.0f} ms" if quick else f"{side['value']:.2%}"
        return f"{shown} of {side['n']:,}"

    def interval(found: Mapping[str, Any], share: bool) -> str:
        if found["estimate"] is None:
            return "-"

        def form(v: float | None) -> str:
            if v is None:
                return "?"
            return f"{100 * v:+.2f} points" if share else f"{v:.2f}x"

        p = "" if found.get("p") is None else f", p {found['p']:.3g}"
        return f"{form(found['estimate'])} [{form(found['low'])}, {form(found['high'])}]{p}"

    need = "shown" if measure["shown_safe"] else "not shown"
    if not measure["required_for_promotion"]:
        need += ", not required"
    return [
        f"  {measure['name']}: challenger {value(measure['challenger'])}, champion {value(measure['champion'])}",
        f"      harm {measure['evidence_of_harm']:g} : 1; within the margin {measure['evidence_of_safety']:g} : 1 of "
        f"{limit:g} ({need})",
        f"      {measure['compared_as']} {interval(measure['anytime_valid'], measure['compared_as'] == 'difference')} "
        f"valid at any time; classic {interval(measure['fixed_sample'], True)}",
    ]
