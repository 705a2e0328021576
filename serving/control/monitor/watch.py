"""The thread that looks: figures by window, requests that waited in vain, what was served, what is past its days."""

import logging
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from sqlalchemy import func, select

from config.settings import Monitor
from serving.control.monitor.cleaning import clean
from serving.control.monitor.counters import Counters
from serving.control.monitor.drift import share_upper
from serving.control.monitor.served import Served
from serving.control.monitor.versions import Versions
from serving.control.monitor.windows import LEVELS, Seen, count_unanswered, read_windows
from serving.control.monitor.writer import GONE, Database, Unavailable
from serving.state.database import State
from serving.state.tables import Event

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric

log = logging.getLogger("hscode.monitor")


@dataclass(frozen=True)
class View:
    """What was seen at the last look."""

    versions: dict[str, Seen] = field(default_factory=dict)
    created: dict[str, datetime] = field(default_factory=dict)
    completeness: float | None = None


class Watch:
    """Looks every `refresh_seconds`; `collect` tells the last look to Prometheus."""

    def __init__(self, database: Database, settings: Monitor, counters: Counters, versions: Versions) -> None:
        self.database, self.settings, self.counters, self.versions = database, settings, counters, versions
        self.view = View()
        self._served = Served(settings.served_urls, settings.window_seconds)
        self._cleaned = 0.0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)
        counters.registry.register(self)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End after the look under way."""
        self._stop.set()
        self._thread.join()

    @property
    def alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread.is_alive()

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                self.look(datetime.now(UTC))
            except Unavailable:
                pass
            except GONE as error:
                self.database.failed(error)
            except Exception:
                log.exception("a look failed; the figures are those of the one before")
            self._stop.wait(self.settings.refresh_seconds)

    def look(self, now: datetime) -> None:
        """One look."""
        state = self.database.state()
        for version, count in count_unanswered(state, self.settings, now).items():
            self.counters.of(self.counters.requests, version, "error").inc(count)
        seen = read_windows(state, self.settings, now, self.versions.get)
        self._served.look(now)
        known = {version: self.versions.get(version) for version in seen}
        created = {
            version: found.created
            for version, found in known.items()
            if found is not None and seen[version].total.requests
        }
        self.view = View(seen, created or self.view.created, self._completeness(state))
        self.database.answered()
        if time.monotonic() - self._cleaned > self.settings.clean_seconds or not self._cleaned:
            done = clean(state, self.settings, now)
            self._cleaned = time.monotonic()
            if any(done.values()):
                log.info("past their days: texts of %d events, %d events", done["texts"], done["events"])

    def _completeness(self, state: State) -> float | None:
        since, served = self._served.since, self._served.total
        if since is None or not served:
            return None
        with state.read() as session:
            logged = session.scalar(select(func.count()).where(Event.at >= since, Event.response_at.is_not(None)))
        return min(1.0, (logged or 0) / served)

    def collect(self) -> "Iterable[Metric]":
        """The gauges of the last look."""
        from prometheus_client.core import GaugeMetricFamily

        def gauge(name: str, text: str, *labels: str) -> GaugeMetricFamily:
            return GaugeMetricFamily(name, text, labels=labels)

        confidence = gauge("hs_confidence_ratio", "Mean confidence of given answers in the window.", "version")
        unknown = gauge("hs_unknown_token_ratio", "Share of words that the vocabulary lacks.", "version")
        drift = gauge("hs_drift_ratio", "Jensen-Shannon divergence from the reference.", "version", "feature")
        lower = gauge("hs_drift_lower_ratio", "Its lower confidence bound.", "version", "feature")
        accuracy = gauge("hs_accuracy_ratio", "Share right of corrected answers at a level.", "version", "level")
        upper = gauge("hs_accuracy_upper_ratio", "Its upper confidence bound.", "version", "level")
        calibration = gauge("hs_calibration_error_ratio", "L2 calibration error of corrected answers.", "version")
        completeness = gauge("hs_completeness_ratio", "Answers logged of answers served.")
        age = gauge("hs_model_age_seconds", "Since a serving version was registered.", "version")
        view = self.view
        for version, seen in view.versions.items():
            label, total = version or "unknown", seen.total
            if total.given:
                confidence.add_metric((label,), total.confidence_sum / total.given)
            if total.judged:
                unknown.add_metric((label,), total.unknown / total.judged)
            for feature, found in seen.drift.items():
                drift.add_metric((label, feature), found.ratio)
                lower.add_metric((label, feature), found.lower)
            for level in LEVELS:
                right, judged = seen.accuracy(level)
                if judged:
                    accuracy.add_metric((label, str(level)), right / judged)
                    upper.add_metric((label, str(level)), share_upper(right, judged, self.settings.confidence))
            error = seen.calibration(self.settings.calibration_answers)
            if error is not None:
                calibration.add_metric((label,), error)
        if view.completeness is not None:
            completeness.add_metric((), view.completeness)
        for version, made in view.created.items():
            age.add_metric((version,), (datetime.now(UTC) - made).total_seconds())
        return (confidence, unknown, drift, lower, accuracy, upper, calibration, completeness, age)
