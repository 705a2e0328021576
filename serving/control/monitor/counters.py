"""What this process counts; each replica counts what it stored itself, so sums over replicas are right."""

import threading
from collections import OrderedDict
from typing import TypeVar

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector

LATENCY_BUCKETS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60)
UNKNOWN = "unknown"

Metric = TypeVar("Metric", Counter, Histogram)


class Counters:
    """Counters and the latency histogram; at most `versions` versions are labels: those that were counted last."""

    def __init__(self, versions: int) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self._most, self._lock = versions, threading.Lock()
        self._versions: OrderedDict[str, set[tuple[Counter | Histogram, tuple[str, ...]]]] = OrderedDict()
        """By version, counted longest ago first: its children. Whoever sends events may name versions, so one that is
        new takes the place of the oldest instead of finding all places taken."""
        self.events = Counter("hs_events", "Logged events by what became of them.", ["outcome"], registry=self.registry)
        self.events.labels("stored")
        self.requests = Counter(
            "hs_requests",
            "Requests by version: ok, client_error, error.",
            ["version", "status"],
            registry=self.registry,
        )
        self.answers = Counter(
            "hs_answers", "Answered descriptions by version and status.", ["version", "status"], registry=self.registry
        )
        self.latency = Histogram(
            "hs_request_latency_seconds",
            "From a request's event to its response's.",
            ["version"],
            buckets=LATENCY_BUCKETS,
            registry=self.registry,
        )
        self.corrections = Counter(
            "hs_corrections",
            "Corrections by what became of them: right, wrong, unmatched, duplicate, refused, withdrawn.",
            ["version", "outcome"],
            registry=self.registry,
        )

    def of(self, metric: Metric, version: str, *values: str) -> Metric:
        """The child of a version (empty: unknown) with its further label values; count by it at once."""
        if not version:
            return metric.labels(UNKNOWN, *values)
        with self._lock:
            children = self._versions.setdefault(version, set())
            self._versions.move_to_end(version)
            if len(self._versions) > self._most:
                _, gone = self._versions.popitem(last=False)
                for one, labels in gone:
                    one.remove(*labels)
            children.add((metric, (version, *values)))
            return metric.labels(version, *values)
