"""What a model costs in money: a training, a million answers, a month at a given load. Pure, on measured usage.

Prices and load come from the settings (section `cost`); usage is what training and export measured (the bundle's card).
"""

from dataclasses import dataclass
from typing import Any, Protocol


@dataclass(frozen=True)
class Usage:
    """What was measured."""

    train_seconds: float
    """Wall-clock seconds of the training step."""
    train_cpus: float
    """CPUs held meanwhile."""
    train_gb: float
    """Peak resident memory of training, GB (1e9 bytes)."""
    predict_seconds: float
    """CPU seconds of one answer, one text a request, one thread."""
    serve_gb: float
    """Resident memory of a serving process with the model loaded, GB."""
    bundle_bytes: int
    """Size of the bundle's folder."""


class Prices(Protocol):
    """The `cost` section of the settings, as far as it is read here."""

    @property
    def cpu_hour(self) -> float: ...
    @property
    def gb_hour(self) -> float: ...
    @property
    def gb_month(self) -> float: ...
    @property
    def answers_per_second(self) -> float: ...
    @property
    def utilisation(self) -> float: ...
    @property
    def cpus_per_pod(self) -> float: ...
    @property
    def least_pods(self) -> float: ...
    @property
    def trainings_per_month(self) -> float: ...
    @property
    def kept_versions(self) -> int: ...


HOURS_PER_MONTH = 730.0


@dataclass(frozen=True)
class Cost:
    """Money in the currency of the price table."""

    training: float
    """One training step."""
    million_answers: float
    """CPU and memory of a million answers on busy pods."""
    serving_month: float
    """Pods for the load of the settings, all month."""
    month: float
    """Serving, trainings and storage of a month: what `select` weighs."""
    pods: float
    """Pods that the load keeps up, as a mean."""

    def as_dict(self) -> dict[str, Any]:
        """For the card and the report."""
        return vars(self)


def price(usage: Usage, prices: Prices) -> Cost:
    """Price `usage`.

    A pod has `cpus_per_pod` CPUs and the memory of the process; it answers cpus x utilisation / predict_seconds texts a
    second. The load keeps `load / that` pods up on average (an autoscaler moves between whole numbers), `least_pods` at
    least: under a small load a faster model saves nothing, and then memory and training decide.
    """
    training = usage.train_seconds / 3600 * (usage.train_cpus * prices.cpu_hour + usage.train_gb * prices.gb_hour)
    pod_hour = prices.cpus_per_pod * prices.cpu_hour + usage.serve_gb * prices.gb_hour
    answers_per_pod_second = prices.cpus_per_pod * prices.utilisation / max(usage.predict_seconds, 1e-9)
    pods = max(prices.least_pods, prices.answers_per_second / answers_per_pod_second)
    serving = pods * pod_hour * HOURS_PER_MONTH
    storage = usage.bundle_bytes / 1e9 * prices.gb_month * prices.kept_versions
    return Cost(
        training=training,
        million_answers=1e6 / answers_per_pod_second / 3600 * pod_hour,
        serving_month=serving,
        month=serving + prices.trainings_per_month * training + storage,
        pods=pods,
    )
