"""What an outcome costs, whether it keeps the promise, and which number of standing replicas to take. Pure."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from serving.capacity.simulation import Outcome

HOURS_PER_MONTH = 730.0
QUANTILES = (0.5, 0.9, 0.95, 0.99)
ALIKE = 0.01
"""Share of the money by which two settings cost the same: less than a trace is like the next one."""


class Prices(Protocol):
    """The `cost` section of the settings, as far as it is read here."""

    @property
    def cpu_hour(self) -> float: ...
    @property
    def gb_hour(self) -> float: ...
    @property
    def cpus_per_pod(self) -> float: ...


@dataclass(frozen=True)
class Priced:
    """One setting's outcome in figures."""

    min_replicas: int
    requests: int
    latency_ms: dict[str, float]
    """p50, p90, p95, p99 and max of the answered ones, milliseconds."""
    met: float
    """Share of all requests answered within the objective; refused ones miss it."""
    cold: float
    """Share that found no pod ready."""
    refused: int
    starts: int
    """Pods started meanwhile."""
    most: int
    """Most pods at once."""
    replica_hours: float
    money: float
    """For the trace's length, in the currency of the price table."""
    month: float
    """The same for a month of such traffic."""

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def quantiles_ms(latency: npt.NDArray[np.float64]) -> dict[str, float]:
    """Quantiles of the finite values, seconds in, milliseconds out; empty where there is none."""
    answered = latency[np.isfinite(latency)] * 1000
    if not len(answered):
        return {}
    values = np.quantile(answered, QUANTILES)
    found = {f"p{100 * q:g}": round(float(v), 2) for q, v in zip(QUANTILES, values, strict=True)}
    return {**found, "max": round(float(answered.max()), 2)}


def price(outcome: Outcome, min_replicas: int, objective_ms: float, prices: Prices, memory_gb: float) -> Priced:
    """Put `outcome` into figures: a pod costs its CPUs and memory from creation to end, busy or not."""
    hours = outcome.replica_seconds / 3600
    money = hours * (prices.cpus_per_pod * prices.cpu_hour + memory_gb * prices.gb_hour)
    return Priced(
        min_replicas=min_replicas,
        requests=len(outcome.latency),
        latency_ms=quantiles_ms(outcome.latency),
        met=float((outcome.latency * 1000 <= objective_ms).mean()),
        cold=float(outcome.cold.mean()),
        refused=int(np.isnan(outcome.latency).sum()),
        starts=outcome.starts,
        most=outcome.most,
        replica_hours=hours,
        money=money,
        month=money * HOURS_PER_MONTH * 3600 / outcome.seconds,
    )


def cheapest(priced: Sequence[Priced], share: float) -> Priced | None:
    """The cheapest that answers `share` of the requests in time; None: none does. Of those within ALIKE of the least
    money the one that does so most often."""
    good = [p for p in priced if p.met >= share]
    if not good:
        return None
    least = min(p.money for p in good)
    return max((p for p in good if p.money <= least * (1 + ALIKE)), key=lambda p: (p.met, -p.money))


def sentence(priced: Sequence[Priced], objective_ms: float, share: float, currency: str) -> str:
    """What to take and why, for a person."""
    promise = f"{percent(share)} of requests within {objective_ms:g} ms"
    best = cheapest(priced, share)
    if best is None:
        nearest = max(priced, key=lambda p: (p.met, -p.money))
        todo = "raise maxReplicas, give pods more CPU, lower the concurrency target, or promise less"
        if nearest.cold > (1 - nearest.met) / 2:
            todo = "most of the late ones found no pod ready: try more minReplicas"
        numbers = _listed([str(p.min_replicas) for p in priced])
        return (
            f"No setting tried (minReplicas {numbers}) keeps {promise}; {nearest.min_replicas} comes nearest with "
            + (f"{percent(nearest.met)}: {todo}.")
        )
    said = (
        f"Take minReplicas {best.min_replicas}: it answers {percent(best.met)} within {objective_ms:g} ms "
        f"(promised: {percent(share)}) for {best.month:,.2f} {currency} a month of such traffic"
    )
    others = [p for p in priced if p is not best]
    failed = [p for p in others if p.met < share]
    dearer = [p for p in others if p.met >= share]
    if failed:
        said += "; " + _listed([f"{p.min_replicas} reaches only {percent(p.met)}" for p in failed])
    if dearer:
        said += "; " + _listed([f"{p.min_replicas} costs {p.month:,.2f}" for p in dearer])
    return said + "."


def compare(
    simulated: npt.NDArray[np.float64], observed: npt.NDArray[np.float64], objective_ms: float
) -> dict[str, Any]:
    """How near the paper came to what was observed with the same trace. Latencies in seconds, NaN: failed.

    Gives both sides' quantiles and share in time, the quantiles' ratios (simulated / observed), and the
    Kolmogorov-Smirnov distance of the two distributions (0: the same, 1: apart).
    """
    ours, theirs = quantiles_ms(simulated), quantiles_ms(observed)
    first, second = (np.sort(x[np.isfinite(x)]) for x in (simulated, observed))
    distance = 1.0
    if len(first) and len(second):
        points = np.concatenate((first, second))
        below = [np.searchsorted(x, points, side="right") / len(x) for x in (first, second)]
        distance = float(np.abs(below[0] - below[1]).max())
    return {
        "simulated": {"latency_ms": ours, "met": float((simulated * 1000 <= objective_ms).mean())},
        "observed": {"latency_ms": theirs, "met": float((observed * 1000 <= objective_ms).mean())},
        "ratio": {name: round(ours[name] / theirs[name], 3) for name in ours if theirs.get(name)},
        "distance": round(distance, 4),
    }


def percent(share: float) -> str:
    """Rounded down to hundredths, so that 99.999 does not read as 100."""
    return f"{math.floor(share * 1e4 + 1e-6) / 100:g} %"


def _listed(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else ", ".join(parts[:-1]) + " and " + parts[-1]
