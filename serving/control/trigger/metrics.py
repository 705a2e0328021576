"""What the trigger tells Prometheus."""

from collections.abc import Callable, Iterable
from datetime import datetime
from typing import TYPE_CHECKING

from sqlalchemy import func, select

from serving.control.trigger import journal
from serving.control.trigger.submitter import Submitter, utc_now
from serving.state.tables import Run, TriggerDecision

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric


class Collector:
    """Reads the state at each scrape, so that every replica tells the same."""

    def __init__(self, submitter: Submitter, now: Callable[[], datetime] = utc_now) -> None:
        self._submitter, self._now = submitter, now

    def collect(self) -> "Iterable[Metric]":
        """hs_trigger_decisions_total, hs_trigger_deliveries_total, hs_trigger_waiting, hs_runs, hs_run_age_seconds,
        hs_trigger_leader."""
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        decisions = CounterMetricFamily(
            "hs_trigger_decisions", "What was decided on what happened", labels=("source", "decision")
        )
        deliveries = CounterMetricFamily(
            "hs_trigger_deliveries", "How often it was delivered, repeats included", labels=("source",)
        )
        waiting = GaugeMetricFamily("hs_trigger_waiting", "Accepted and not yet decided", labels=("source",))
        runs = GaugeMetricFamily("hs_runs", "Runs that were decided on, by status", labels=("status",))
        age = GaugeMetricFamily("hs_run_age_seconds", "Age of the oldest run that has not ended; 0: there is none")
        leader = GaugeMetricFamily("hs_trigger_leader", "Whether this replica decides and submits")
        leader.add_metric((), float(self._submitter.leading))
        with self._submitter.state.read() as session:
            table = TriggerDecision
            counted = select(table.source, table.decision, func.count(), func.sum(table.deliveries))
            delivered: dict[str, int] = {}
            for source, decision, count, sent in session.execute(counted.group_by(table.source, table.decision)):
                delivered[source] = delivered.get(source, 0) + int(sent)
                if decision is None:
                    waiting.add_metric((source,), count)
                else:
                    decisions.add_metric((source, decision), count)
            for source, sent in delivered.items():
                deliveries.add_metric((source,), sent)
            by_status = dict(session.execute(select(Run.status, func.count()).group_by(Run.status)).tuples().all())
            for status in ("intended", "submitting", "running", "succeeded", "failed"):
                runs.add_metric((status,), by_status.get(status, 0))
            oldest = next(iter(journal.unfinished(session)), None)
        age.add_metric((), (self._now() - oldest.created_at).total_seconds() if oldest else 0.0)
        return (decisions, deliveries, waiting, runs, age, leader)
