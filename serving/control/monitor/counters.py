"""What this process counts; each replica counts what it stored itself, so sums over replicas are right."""

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector

LATENCY_BUCKETS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60)
OTHER = "other"
UNKNOWN = "unknown"


class Counters:
    """Counters and the latency histogram; at most `versions` different versions become labels, the rest `other`."""

    def __init__(self, versions: int) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self._versions, self._most = set[str](), versions
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

    def label(self, version: str) -> str:
        """The version as a label."""
        if not version:
            return UNKNOWN
        if version not in self._versions:
            if len(self._versions) >= self._most:
                return OTHER
            self._versions.add(version)
        return version
