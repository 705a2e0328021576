"""What was seen of two versions: counts by closed block of time, nothing else. Pure; `blocks` fills it from the state.

Outcomes are one a request, also where a request holds many descriptions: answers of one request are not independent.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from datetime import datetime
from typing import Any, Self

import numpy as np

from serving.control.canary.sequential import Array

LATENCY_BINS = 257
"""Bin k holds latencies up to 2^(k/16) ms (4.4 % apart; 1 ms to 65 s), the last one all beyond."""
_BINS_PER_OCTAVE = 16
SHARE_BINS = 11
"""Support 0, 0.1 … 1 for means in [0, 1]. A value between two is split over both, so the mean is kept exactly; the test
stays valid (the logarithm of a sum is at least the mean of the logarithms)."""
SHARES = np.linspace(0.0, 1.0, SHARE_BINS)
STATUS_LOSS: Mapping[str, float] = {"answered": 0.0, "shortened": 0.5, "vague": 1.0, "unsure": 1.0}
"""What an answer's status takes away from its use."""


def latency_bin(seconds: float) -> int:
    """Bin of a latency."""
    if seconds <= 0.001:
        return 0
    return min(LATENCY_BINS - 1, math.ceil(_BINS_PER_OCTAVE * math.log2(seconds * 1000) - 1e-9))


def latency_edge(index: int) -> float:
    """Upper edge of a bin, seconds."""
    return float(2 ** (index / _BINS_PER_OCTAVE) / 1000)


def ratio_bins(ratio: float) -> float:
    """How many bins a factor on the latency is."""
    return _BINS_PER_OCTAVE * math.log2(ratio)


Histogram = dict[int, float]


def add_share(histogram: Histogram, share: float) -> None:
    """Count one value of [0, 1] on the two nearest points of the support."""
    place = min(1.0, max(0.0, share)) * (SHARE_BINS - 1)
    lower = int(place)
    for index, weight in ((lower, 1 - (place - lower)), (lower + 1, place - lower)):
        if weight > 1e-9:
            histogram[index] = histogram.get(index, 0) + weight


@dataclass
class Arm:
    """What was seen of one version in one stretch of time."""

    requests: int = 0
    """All, with errors, client errors and cold starts."""
    errors: int = 0
    """5xx or no answer in time, not by the client's fault."""
    client_errors: int = 0
    cold: int = 0
    """Answered requests that waited for a start; not in `latency`."""
    latency: Histogram = field(default_factory=dict)
    """Answered warm requests by `latency_bin`."""
    status_loss: Histogram = field(default_factory=dict)
    """Answered requests by the mean STATUS_LOSS of their answers (`add_share`)."""
    confidence: Histogram = field(default_factory=dict)
    """Answered requests by the mean confidence of their answers (`add_share`)."""
    statuses: dict[str, int] = field(default_factory=dict)
    """Answers by status."""
    right: int = 0
    """Answers that a correction or confirmation proved right (each text once)."""
    wrong: int = 0

    @property
    def answered(self) -> int:
        """Requests that got an answer."""
        return self.requests - self.errors - self.client_errors

    def add_answered(
        self, seconds: float | None, cold: bool, statuses: Iterable[str], confidences: Iterable[float]
    ) -> None:
        """Count one answered request; `seconds` None where its time is not known."""
        self.requests += 1
        if cold:
            self.cold += 1
        elif seconds is not None:
            place = latency_bin(seconds)
            self.latency[place] = self.latency.get(place, 0) + 1
        said, sure = list(statuses), list(confidences)
        for status in said:
            self.statuses[status] = self.statuses.get(status, 0) + 1
        if said:
            add_share(self.status_loss, sum(STATUS_LOSS.get(status, 1.0) for status in said) / len(said))
        if sure:
            add_share(self.confidence, sum(sure) / len(sure))

    def __add__(self, other: "Arm") -> "Arm":
        """Both stretches together."""
        total = Arm()
        for part in (self, other):
            for entry in fields(Arm):
                value, sum_ = getattr(part, entry.name), getattr(total, entry.name)
                if isinstance(value, dict):
                    for key, count in value.items():
                        sum_[key] = sum_.get(key, 0) + count
                else:
                    setattr(total, entry.name, sum_ + value)
        return total

    def to_json(self) -> dict[str, Any]:
        """Plain values; histogram keys become text."""
        return {
            name: {str(key): round(value[key], 4) for key in sorted(value)} if isinstance(value, dict) else value
            for name, value in asdict(self).items()
        }

    @classmethod
    def from_json(cls, tree: Mapping[str, Any]) -> Self:
        """Read what `to_json` wrote."""
        known = {entry.name for entry in fields(cls)}
        values: dict[str, Any] = {}
        for name, value in tree.items():
            if name in known:
                counted = isinstance(value, Mapping) and name != "statuses"
                values[name] = {int(key): count for key, count in value.items()} if counted else value
        return cls(**values)


@dataclass(frozen=True)
class Block:
    """One closed stretch of time at one share of traffic."""

    opened_at: datetime
    closed_at: datetime
    percent: int
    """Share wanted for the challenger, percent."""
    champion: Arm
    challenger: Arm


@dataclass(frozen=True)
class Evidence:
    """All that a verdict may use."""

    percent: int
    """Share of traffic that the challenger has now."""
    step_seconds: float
    """How long it has had it."""
    seconds: float
    """How long the canary has run."""
    blocks: tuple[Block, ...] = ()
    before: Arm = field(default_factory=Arm)
    """The champion before the canary."""

    def total(self, version: str, percent: int | None = None) -> Arm:
        """Sum over blocks (of one share) of "champion" or "challenger"."""
        total = Arm()
        for block in self.blocks:
            if percent is None or block.percent == percent:
                total = total + getattr(block, version)
        return total


@dataclass(frozen=True)
class Counts:
    """The same as arrays, (..., blocks, kinds) for challenger and champion; leading dimensions are canaries."""

    percent: Array
    """(blocks,)"""
    errors: tuple[Array, Array]
    """Well, failed; client errors left out."""
    latency: tuple[Array, Array]
    """LATENCY_BINS"""
    status: tuple[Array, Array]
    """SHARE_BINS of the loss by status."""
    confidence: tuple[Array, Array]
    """SHARE_BINS of 1 - confidence, so that larger is worse."""
    accuracy: tuple[Array, Array]
    """Right, wrong."""
    before: Mapping[str, Array]
    """The champion before, by the names above: (kinds,)."""


def counts_of(evidence: Evidence) -> Counts:
    """The arrays of one canary, without leading dimensions."""
    blocks = evidence.blocks
    arms = ([block.challenger for block in blocks], [block.champion for block in blocks])
    before = {name: _row(name, evidence.before) for name in MEASURED}
    pairs = {
        name: tuple(np.array([_row(name, arm) for arm in side]).reshape(len(blocks), -1) for side in arms)
        for name in MEASURED
    }
    return Counts(percent=np.array([float(block.percent) for block in blocks]), before=before, **pairs)  # type: ignore[arg-type]


MEASURED = ("errors", "latency", "status", "confidence", "accuracy")


def _row(name: str, arm: Arm) -> Array:
    if name == "errors":
        return np.array([float(arm.requests - arm.client_errors - arm.errors), float(arm.errors)])
    if name == "accuracy":
        return np.array([float(arm.right), float(arm.wrong)])
    if name == "latency":
        return _dense(arm.latency, LATENCY_BINS)
    if name == "status":
        return _dense(arm.status_loss, SHARE_BINS)
    return _dense(arm.confidence, SHARE_BINS)[::-1].copy()


def _dense(histogram: Histogram, size: int) -> Array:
    row = np.zeros(size)
    for index, count in histogram.items():
        row[index] = count
    return row
