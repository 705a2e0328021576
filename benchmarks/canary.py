"""Error rates and power of the canary verdict by simulation, beside two peers on the same traffic.

    python -m benchmarks.canary [--canaries 2000] [--json]

Each canary is a stream of requests split at random by the steps 5, 10, 25, 50 %; the verdict is the product's own code
(`serving.control.canary.verdict.evaluate`), looked at after each block of 200 requests. The peers see the same traffic:

- *fixed rule*: each interval of 600 requests the challenger's own figures against fixed limits, as Flagger's documented
  example has it: success rate at least 99 %, latency quantile at most 500 ms, rollback at the 5th failed check,
  promotion after 5 passed weights of one interval each and as many failures as it may still have. Accuracy, for which
  neither Flagger nor Argo Rollouts has a limit of its own: the champion's known accuracy less the margin.
- *peeked z-test*: a two-proportion z-test at 5 %, looked at after each request (from 100 of each version on): rollback
  once "worse" is significant, promotion once "worse by the margin" is refuted. Only on the measure that differs.

A canary that is undecided after the last request is neither; the controller then rolls back at its deadline.
"""

import argparse
import json
import math
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from config.settings import Canary as Policy
from config.settings import CanaryQuality
from serving.control.canary.evidence import LATENCY_BINS, SHARE_BINS, Counts
from serving.control.canary.verdict import average_harm, evaluate, last_shared, measure_names

BLOCK = 200
"""Requests (or reviewed answers) of a block."""
RAMP = ((5, 13), (10, 7), (25, 3))
"""Blocks at each step before the last: enough for 100 requests of the challenger."""
LAST_BLOCKS = 377
"""Blocks at 50 %; 400 blocks or 80,000 requests in all."""
INTERVAL = 600
CHUNK = 20
SEED = 20_240_601
THRESHOLD_FAILURES = 5
FIXED_CHECKS = 5 + THRESHOLD_FAILURES - 1

ERROR_RATE = 0.005
WRONG_RATE = 0.20
MEDIAN_SECONDS, SPREAD = 0.05, 0.5
STATUS_SHARES = (0.70, 0.20, 0.10)
CONFIDENCE, CONFIDENCE_SPREAD = 0.75, 0.2
LATENCY_MARGIN = float(stats.norm.sf(stats.norm.ppf(0.95) - math.log(1.25) / SPREAD)) - 0.05
"""How much more often latencies 1.25 times as long pass the champion's 95 % quantile."""

Floats = NDArray[np.float64]
Draw = Callable[[np.random.Generator, NDArray[np.bool_], "Effect"], Floats]


@dataclass(frozen=True)
class Effect:
    """What is wrong with the challenger; the defaults are nothing."""

    name: str
    measure: str = ""
    errors: float = 1.0
    """Factor on the error rate."""
    slower: float = 1.0
    """Factor on latency."""
    wrong: float = 0.0
    """Drop of accuracy."""
    status: float = 0.0
    """Rise of the share of vague or unsure answers, at the cost of answered ones."""
    confidence: float = 0.0
    """Fall of the mean confidence."""
    drift: float = 1.0
    """Factor on the error rate of both versions from request 4,000 on: an hour in which everything fails more."""
    episodes: float = 0.0
    """Share of the time (in stretches of 50 requests) in which a version's pod, each by itself, takes 3 times as
    long: outcomes that are not independent."""


def percents() -> Floats:
    """Wanted share of each block."""
    return np.array([float(p) for p, blocks in (*RAMP, (50, LAST_BLOCKS)) for _ in range(blocks)])


def draw_errors(random: np.random.Generator, challenger: NDArray[np.bool_], effect: Effect) -> Floats:
    """1 where a request failed."""
    later = np.where(np.arange(challenger.shape[1]) >= 4000, effect.drift, 1.0)
    rate = np.where(challenger, np.float32(effect.errors * ERROR_RATE), np.float32(ERROR_RATE)) * later
    return np.asarray(random.random(challenger.shape, dtype=np.float32) < rate, dtype=np.float64)


def draw_wrong(random: np.random.Generator, challenger: NDArray[np.bool_], effect: Effect) -> Floats:
    """1 where a reviewed answer was wrong."""
    return (random.random(challenger.shape) < WRONG_RATE + np.where(challenger, effect.wrong, 0.0)).astype(float)


def draw_seconds(random: np.random.Generator, challenger: NDArray[np.bool_], effect: Effect) -> Floats:
    """Latencies, log-normal."""
    seconds: Floats = np.exp(SPREAD * random.standard_normal(challenger.shape, dtype=np.float32)) * MEDIAN_SECONDS
    seconds = seconds * np.where(challenger, effect.slower, 1.0)
    if effect.episodes:
        stretches = (2, challenger.shape[0], challenger.shape[1] // 50)
        slow = np.repeat(random.random(stretches) < effect.episodes, 50, axis=2)
        seconds = seconds * np.where(np.where(challenger, slow[1], slow[0]), 3.0, 1.0)
    return seconds


def draw_status(random: np.random.Generator, challenger: NDArray[np.bool_], effect: Effect) -> Floats:
    """Loss by status: 0, 0.5 or 1."""
    none = STATUS_SHARES[2] + np.where(challenger, effect.status, 0.0)
    u = random.random(challenger.shape)
    return np.where(u < none, 1.0, np.where(u < none + STATUS_SHARES[1], 0.5, 0.0))


def draw_confidence(random: np.random.Generator, challenger: NDArray[np.bool_], effect: Effect) -> Floats:
    """1 - confidence."""
    noise = CONFIDENCE_SPREAD * random.standard_normal(challenger.shape, dtype=np.float32)
    return np.clip(1 - CONFIDENCE + np.where(challenger, effect.confidence, 0.0) + noise, 0.0, 1.0)


DRAWS: dict[str, Draw] = {
    "errors": draw_errors,
    "latency": draw_seconds,
    "accuracy": draw_wrong,
    "status": draw_status,
    "confidence": draw_confidence,
}


def histograms(values: Floats, mask: NDArray[np.bool_], bins: int) -> Floats:
    """Counts (canaries, blocks, bins) of integer `values` (canaries, requests) where `mask`."""
    canaries, requests = values.shape
    blocks = requests // BLOCK
    place = np.arange(canaries)[:, None] * blocks + np.arange(requests)[None, :] // BLOCK
    flat = (place * bins + values.astype(np.int64))[mask]
    counted = np.bincount(flat, minlength=canaries * blocks * bins)
    return counted.reshape(canaries, blocks, bins).astype(np.float64)


def pair(name: str, values: Floats, challenger: NDArray[np.bool_]) -> tuple[Floats, Floats]:
    """(challenger's, champion's) counts of a measure, as `evidence.counts_of` makes them."""
    sides = []
    for mask in (challenger, ~challenger):
        if name in ("errors", "accuracy"):
            sides.append(histograms(values, mask, 2))
        elif name == "latency":
            bins = np.clip(np.ceil(16 * np.log2(values * 1000)), 0, LATENCY_BINS - 1)
            sides.append(histograms(bins, mask, LATENCY_BINS))
        else:
            lower = np.minimum(np.floor(values * (SHARE_BINS - 1)), SHARE_BINS - 2)
            part = values * (SHARE_BINS - 1) - lower
            sides.append(_split_over_two(lower, part, mask))
    return sides[0], sides[1]


def _split_over_two(lower: Floats, part: Floats, mask: NDArray[np.bool_]) -> Floats:
    canaries, requests = lower.shape
    blocks = requests // BLOCK
    place = (np.arange(canaries)[:, None] * blocks + np.arange(requests)[None, :] // BLOCK) * SHARE_BINS
    total = np.zeros(canaries * blocks * SHARE_BINS)
    for offset, weight in ((0, 1 - part), (1, part)):
        total += np.bincount(
            (place + lower.astype(np.int64) + offset)[mask], weights=weight[mask], minlength=len(total)
        )
    return total.reshape(canaries, blocks, SHARE_BINS)


def counts(name: str, sides: tuple[Floats, Floats]) -> Counts:
    """Counts with one measure filled."""
    empty = {"errors": 2, "accuracy": 2, "latency": LATENCY_BINS, "status": SHARE_BINS, "confidence": SHARE_BINS}
    none = {key: (np.zeros((1, 1, size)), np.zeros((1, 1, size))) for key, size in empty.items()}
    before = {key: np.zeros(size) for key, size in empty.items()}
    return Counts(percent=percents(), before=before, **{**none, name: sides})


@dataclass
class Simulated:
    """One measure of all canaries under one effect."""

    logs: dict[str, tuple[Floats, Floats]]
    """(log harm, log safety), (canaries, blocks), of the measures that it decides."""
    fixed: NDArray[np.int64]
    """Request at which the fixed rule rolled back; 0 never."""
    peeked_harm: NDArray[np.int64]
    peeked_safe: NDArray[np.int64]
    """Request at which the peeked test found harm, or safety; 0 never."""


def simulate(name: str, effect: Effect, policy: Policy, canaries: int) -> Simulated:
    """Draw the traffic of `canaries` canaries and run all three rules on it. Same seed, same traffic split."""
    share = np.repeat(percents() / 100, BLOCK)
    parts: list[Simulated] = []
    for chunk in range(0, canaries, CHUNK):
        size = min(CHUNK, canaries - chunk)
        random = np.random.default_rng((SEED, list(DRAWS).index(name), chunk))
        challenger = random.random((size, len(share))) < share
        values = DRAWS[name](random, challenger, effect)
        names = [n for n in measure_names(policy) if n == name or (name == "latency" and n == "latency_budget")]
        logs = evaluate(counts(name, pair(name, values, challenger)), policy, names)
        bad = beyond(name, values)
        parts.append(
            Simulated(
                {n: (harm.astype(np.float32), safe.astype(np.float32)) for n, (harm, safe) in logs.items()},
                fixed_rule(name, values, challenger, policy),
                *peeked(name, bad, challenger, policy),
            )
        )
    return Simulated(
        {n: tuple(np.concatenate([p.logs[n][side] for p in parts]) for side in (0, 1)) for n in parts[0].logs},  # type: ignore[misc]
        np.concatenate([p.fixed for p in parts]),
        np.concatenate([p.peeked_harm for p in parts]),
        np.concatenate([p.peeked_safe for p in parts]),
    )


def beyond(name: str, values: Floats) -> Floats:
    """Outcomes as 0 or 1 (or a mean in [0, 1]) for the z-test; latency against the champion's known quantile."""
    if name != "latency":
        return values
    return (values > MEDIAN_SECONDS * math.exp(SPREAD * stats.norm.ppf(0.95))).astype(float)


def fixed_rule(name: str, values: Floats, challenger: NDArray[np.bool_], policy: Policy) -> NDArray[np.int64]:
    """Request at which the fifth check failed; 0 never. Measures the tools know no limit for never fail."""
    canaries, requests = values.shape
    checks = requests // INTERVAL
    seen = challenger[:, : checks * INTERVAL].reshape(canaries, checks, INTERVAL)
    cut = values[:, : checks * INTERVAL].reshape(canaries, checks, INTERVAL)
    n = np.maximum(seen.sum(-1), 1)
    if name == "errors":
        failed = (cut * seen).sum(-1) / n > 0.01
    elif name == "accuracy":
        failed = (cut * seen).sum(-1) / n > WRONG_RATE + policy.quality.accuracy_margin
    elif name == "latency":
        failed = (cut * seen > 0.5).sum(-1) / n > 1 - policy.latency.quantile
    else:
        return np.zeros(canaries, dtype=np.int64)
    fifth = np.cumsum(failed, axis=1) >= THRESHOLD_FAILURES
    return np.where(fifth.any(1), (fifth.argmax(1) + 1) * INTERVAL, 0)


def peeked(
    name: str, bad: Floats, challenger: NDArray[np.bool_], policy: Policy
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """First request at which the z-test finds harm, and safety; 0 never. Looks on only at what is undecided."""
    canaries, requests = bad.shape
    harm, safe = np.zeros(canaries, dtype=np.int64), np.zeros(canaries, dtype=np.int64)
    upto = requests // 10
    while True:
        open_ = (harm == 0) & (safe == 0)
        if open_.any():
            harm[open_], safe[open_] = _peek(name, bad[open_, :upto], challenger[open_, :upto], policy)
        if upto >= requests:
            return harm, safe
        upto = min(requests, upto * 3)


def _peek(
    name: str, bad: Floats, challenger: NDArray[np.bool_], policy: Policy
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    n1 = np.cumsum(challenger, 1)
    n0 = np.arange(1, bad.shape[1] + 1) - n1
    t1 = np.cumsum(bad * challenger, 1) / np.maximum(n1, 1)
    t0 = np.cumsum(bad * ~challenger, 1) / np.maximum(n0, 1)
    ready = (n1 >= 100) & (n0 >= 100)
    both = (t1 * n1 + t0 * n0) / (n1 + n0)
    ratio = policy.errors.margin_ratio if name == "errors" else 1.0
    margin = {
        "errors": policy.errors.margin, "accuracy": policy.quality.accuracy_margin, "latency": LATENCY_MARGIN,
        "status": policy.quality.status_margin, "confidence": policy.quality.confidence_margin,
    }[name]  # fmt: skip
    with np.errstate(divide="ignore", invalid="ignore"):
        z = (t1 - t0) / np.sqrt(both * (1 - both) * (1 / n1 + 1 / n0))
        z_safe = (ratio * t0 + margin - t1) / np.sqrt(t1 * (1 - t1) / n1 + ratio**2 * t0 * (1 - t0) / n0)
    limit = stats.norm.ppf(0.95)
    return _first(ready & (z > limit)), _first(ready & (z_safe > limit))


def _first(hit: NDArray[np.bool_]) -> NDArray[np.int64]:
    return np.where(hit.any(1), hit.argmax(1) + 1, 0).astype(np.int64)


@dataclass
class Outcome:
    """How canaries ended under one rule: arrays of canaries."""

    rolled_back: NDArray[np.bool_]
    promoted: NDArray[np.bool_]
    at: NDArray[np.int64]
    """Request of the decision; 0 undecided."""


def ours(logs: dict[str, tuple[Floats, Floats]], policy: Policy) -> Outcome:
    """The product's rule over whole trajectories: the first block at which `verdict` would end the canary."""
    needed = [n for n in logs if n != "accuracy" or policy.quality.require_corrections]
    harm = average_harm({n: pair_[0].astype(float) for n, pair_ in logs.items()}) >= math.log(1 / policy.false_rollback)
    safe = np.all([logs[n][1] >= math.log(1 / policy.false_promotion) for n in needed], axis=0)
    safe &= percents() == last_shared(policy)
    back, forth = _first(harm), _first(safe)
    return _race(back, forth, BLOCK)


def _race(back: NDArray[np.int64], forth: NDArray[np.int64], unit: int) -> Outcome:
    """Whichever came first; harm wins a tie."""
    far = np.iinfo(np.int64).max
    b, f = np.where(back > 0, back, far), np.where(forth > 0, forth, far)
    at = np.minimum(b, f)
    return Outcome((b <= f) & (b < far), f < b, np.where(at < far, at * unit, 0))


def row(effect: Effect, rule: str, outcome: Outcome) -> dict[str, Any]:
    """One line of the table; shares with 95 % Clopper-Pearson intervals."""
    total = len(outcome.at)
    decided = outcome.at[outcome.at > 0]
    return {
        "challenger": effect.name,
        "rule": rule,
        "rolled_back": share(int(outcome.rolled_back.sum()), total),
        "promoted": share(int(outcome.promoted.sum()), total),
        "undecided": round(float((outcome.at == 0).mean()), 4),
        "requests": {f"p{q}": int(np.quantile(decided, q / 100)) for q in (50, 90)} if len(decided) else None,
    }


def share(hits: int, total: int) -> dict[str, float]:
    """Share with its exact 95 % interval."""
    low = stats.beta.ppf(0.025, hits, total - hits + 1) if hits else 0.0
    high = stats.beta.ppf(0.975, hits + 1, total - hits) if hits < total else 1.0
    return {"share": round(hits / total, 4), "low": round(float(low), 4), "high": round(float(high), 4)}


def single_look(effect: Effect) -> int | None:
    """Requests at 50 % after which a z-test at 5 %, looked at once, finds the effect in 80 of 100 canaries."""
    rates = {
        "errors": (effect.errors * ERROR_RATE, ERROR_RATE),
        "accuracy": (WRONG_RATE + effect.wrong, WRONG_RATE),
    }.get(effect.measure)
    if rates is None or rates[0] == rates[1]:
        return None
    spread = sum(rate * (1 - rate) for rate in rates)
    far = float(stats.norm.ppf(0.95) + stats.norm.ppf(0.8))
    return 2 * math.ceil(far**2 * spread / (rates[0] - rates[1]) ** 2)


EFFECTS = (
    Effect("as good (A/A)"),
    Effect("as good; both fail 10x later on", "errors", drift=10.0),
    Effect("as good; pods slow in turn, 2 %", "latency", episodes=0.02),
    Effect("errors at the margin", "errors", errors=1.25 + 0.002 / ERROR_RATE),
    Effect("errors 1.5x", "errors", errors=1.5),
    Effect("errors 2x", "errors", errors=2.0),
    Effect("errors 5x", "errors", errors=5.0),
    Effect("latency at the margin", "latency", slower=1.25),
    Effect("latency 1.5x", "latency", slower=1.5),
    Effect("latency 2x", "latency", slower=2.0),
    Effect("accuracy at the margin", "accuracy", wrong=0.02),
    Effect("accuracy -1 point", "accuracy", wrong=0.01),
    Effect("accuracy -5 points", "accuracy", wrong=0.05),
    Effect("no code 5 points more often", "status", status=0.05),
    Effect("no code 10 points more often", "status", status=0.10),
    Effect("confidence at the margin", "confidence", confidence=0.05),
    Effect("confidence -0.10", "confidence", confidence=0.10),
)


def run(canaries: int) -> Iterator[dict[str, Any]]:
    """All rows. Measures are independent in the simulation, so an effect redraws only its own."""
    policy = Policy(quality=CanaryQuality(require_corrections=True))
    sound = {name: simulate(name, EFFECTS[0], policy, canaries) for name in DRAWS}
    for effect in EFFECTS:
        found = dict(sound)
        if effect.measure:
            found[effect.measure] = simulate(effect.measure, effect, policy, canaries)
        logs = {n: pair_ for one in found.values() for n, pair_ in one.logs.items()}
        yield row(effect, "sequential", ours(logs, policy))
        if effect.measure not in ("status", "confidence"):
            judged = [found[n] for n in ("errors", "latency", "accuracy")]
            back = _earliest([one.fixed for one in judged])
            yield row(effect, "fixed rule", _race(back, np.full(canaries, FIXED_CHECKS * INTERVAL), 1))
        # The z-test on the one measure that differs (errors for A/A): with more measures it is worse still.
        one = found[effect.measure or "errors"]
        yield row(effect, "peeked z-test", _race(one.peeked_harm, one.peeked_safe, 1))
        needed = single_look(effect)
        if needed:
            yield {"challenger": effect.name, "rule": "looked at once", "requests_for_80_percent": needed}


def _earliest(firsts: list[NDArray[np.int64]]) -> NDArray[np.int64]:
    far = np.iinfo(np.int64).max
    least = np.min([np.where(f > 0, f, far) for f in firsts], axis=0)
    return np.where(least < far, least, 0)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--canaries", type=int, default=2000, help="canaries a setting")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    started = time.time()
    if not options.json:
        print(f"{'challenger':32} {'rule':14} {'rolled back [95 %]':24} {'promoted [95 %]':24} undecided  requests")
    rows = []
    for found in run(options.canaries):
        rows.append(found)
        if not options.json:
            print(told(found), flush=True)
    if options.json:
        print(json.dumps({"canaries": options.canaries, "rows": rows, "seconds": round(time.time() - started, 1)}))
    else:
        sys.stderr.write(f"{options.canaries} canaries a setting, {time.time() - started:.0f} s\n")


def told(found: dict[str, Any]) -> str:
    """A row for people."""
    if "requests_for_80_percent" in found:
        return (
            f"{found['challenger']:32} {found['rule']:14} {found['requests_for_80_percent']:,} requests for power 80 %"
        )
    shares = [
        f"{found[key]['share']:7.2%} [{found[key]['low']:.1%}, {found[key]['high']:.1%}]"
        for key in ("rolled_back", "promoted")
    ]
    needed = "median {p50:,}, 90 % {p90:,}".format(**found["requests"]) if found["requests"] else "-"
    who = f"{found['challenger']:32} {found['rule']:14}"
    return f"{who} {shares[0]:24} {shares[1]:24} {found['undecided']:8.1%}  {needed}"


if __name__ == "__main__":
    main()
