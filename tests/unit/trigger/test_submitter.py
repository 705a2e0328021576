"""The submitter against a state and a backend in memory: order, fencing, lost answers, schedule, lineage."""

from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal

import pytest
from sqlalchemy import select, update

from config.settings import Trigger
from models.errors import UserError
from serving.control.trigger import inputs, journal
from serving.control.trigger.backend import BackendRefused, BackendUnavailable, RunState, Value
from serving.control.trigger.inputs import Occasion
from serving.control.trigger.metrics import Collector
from serving.control.trigger.schedule import StateSchedules
from serving.control.trigger.submitter import LeaseLost, Submitter
from serving.state import SqlLease, State, open_state
from serving.state.arrivals import arrived
from serving.state.tables import Canary, LeaseRow, Run, TriggerDecision

SETTINGS = Trigger(cooldown_seconds=600, settle_seconds=60, runs_a_day=3)
START = datetime(2026, 1, 15, 12, 0, tzinfo=UTC)


class Memory:
    """A backend that does as it is told: `before` is called at the start of each submit, `after` once it has run."""

    name: Literal["local"] = "local"

    def __init__(self) -> None:
        self.runs: list[RunState] = []
        self.asked: list[Mapping[str, Value]] = []
        self.down = False
        self.before: Callable[[], None] = lambda: None
        self.after: Callable[[], None] = lambda: None

    def find(self, name: str) -> RunState | None:
        if self.down:
            raise BackendUnavailable("no answer")
        return next((run for run in self.runs if run.name == name), None)

    def submit(self, name: str, parameters: Mapping[str, Value], tags: Mapping[str, str]) -> str:
        self.before()
        self.runs.append(RunState(f"b{len(self.runs)}", name, "running"))
        self.asked.append(parameters)
        self.after()
        return self.runs[-1].backend_id

    def status(self, backend_id: str) -> RunState:
        if self.down:
            raise BackendUnavailable("no answer")
        found = next((run for run in self.runs if run.backend_id == backend_id), None)
        if found is None:
            raise BackendRefused("unknown")
        return found

    def end(self, status: Literal["succeeded", "failed"], error: str = "") -> None:
        self.runs = [RunState(run.backend_id, run.name, status, error) for run in self.runs]


class Here:
    """A state, a backend, a clock, and submitters."""

    def __init__(self, state: State) -> None:
        self.state, self.backend, self.moment = state, Memory(), START

    def submitter(self, settings: Trigger = SETTINGS) -> Submitter:
        return Submitter(
            self.state,
            self.backend,
            SqlLease(self.state, "trigger", settings.lease_seconds),
            settings,
            now=lambda: self.moment,
            clock=self.moment_seconds,
        )

    def moment_seconds(self) -> float:
        return self.moment.timestamp()

    def later(self, seconds: float) -> None:
        self.moment += timedelta(seconds=seconds)

    def happened(self, *occasions: Occasion) -> int:
        return journal.accept(self.state, occasions, self.moment)

    def decisions(self) -> list[tuple[str, str | None]]:
        with self.state.read() as session:
            rows = session.scalars(select(TriggerDecision).order_by(TriggerDecision.id))
            return [(row.key, row.decision) for row in rows]

    def row(self, key: str) -> TriggerDecision:
        with self.state.read() as session:
            return session.scalars(select(TriggerDecision).where(TriggerDecision.key == key)).one()

    def runs(self) -> list[Run]:
        with self.state.read() as session:
            return list(session.scalars(select(Run).order_by(Run.id)))


@pytest.fixture
def here(tmp_path: Path) -> Iterator[Here]:
    state = open_state(f"sqlite:///{tmp_path}/state.db")
    yield Here(state)
    state.close()


def alarm(key: str) -> Occasion:
    return Occasion(f"alert:{key}", "alertmanager", {"alert": "Drift"})


def data(address: str) -> Occasion:
    return Occasion(f"data:{address}", "data", {"addresses": [address]})


def canary(**changes: Any) -> Canary:
    values: dict[str, Any] = {
        "service": "hscode", "service_uid": "u", "model": "hscode", "champion_version": "1", "challenger_version": "2",
        "champion_uri": "", "challenger_uri": "", "policy": {}, "state": "stepping", "percent": 5,
        "started_at": START, "deadline_at": START + timedelta(days=1),
    }  # fmt: skip
    return Canary(**values | changes)


def test_what_comes_together_joins_one_run_with_all_that_is_new(here: Here) -> None:
    here.happened(alarm("a"), alarm("b"), data("s3://x/1"))
    submitter = here.submitter()
    submitter.look()
    assert [decision for _, decision in here.decisions()] == ["run", "refuse", "refuse"]
    (run,) = here.runs()
    assert here.row("alert:b").reason == f"joins run {run.name}"
    assert {here.row(key).run_name for key in ("alert:a", "alert:b", "data:s3://x/1")} == {run.name}
    assert run.status == "running"
    until = here.row("data:s3://x/1").id
    expected = {"run_key": run.name, "triggered_by": "alert:a", "since": "", "data_until": str(until)}
    assert here.backend.asked == [expected]
    assert arrived(here.state, until, ("s3://x/",)) == ["s3://x/1"]
    assert run.tags == {"trigger": "alert:a", "source": "alertmanager", "alert": "Drift", "reason": "an alert fired"}


def test_a_run_is_taken_to_its_end_and_the_next_waits_for_it_the_canary_and_the_cooldown(here: Here) -> None:
    submitter = here.submitter()
    here.happened(alarm("a"))
    submitter.look()
    here.later(1)
    here.happened(data("s3://x/1"), alarm("b"))
    submitter.look()
    assert here.row("data:s3://x/1").reason.endswith("is active")
    here.backend.end("succeeded")
    submitter.look()
    assert here.runs()[0].status == "succeeded"
    submitter.look()
    assert here.row("data:s3://x/1").reason.endswith("has just ended, its canary may be about to start")
    with here.state.write() as session:
        session.add(canary(run_name=here.runs()[0].name))
    submitter.look()
    assert here.row("data:s3://x/1").reason == "the canary of version 2 is undecided"
    with here.state.write() as session:
        row = session.scalars(select(Canary)).one()
        row.state, row.finished_at = "promoted", here.moment + timedelta(seconds=1)
    here.later(2)
    submitter.look()
    assert here.row("alert:b").decision == "refuse"
    assert here.row("alert:b").reason.startswith("a model was promoted after it fired")
    assert here.row("data:s3://x/1").reason.startswith("cooldown until")
    here.later(601)
    submitter.look()
    assert here.row("data:s3://x/1").decision == "run"
    assert len(here.backend.runs) == 2


def test_the_same_delivered_again_is_counted_and_changes_nothing(here: Here) -> None:
    assert here.happened(alarm("a"), alarm("a")) == 1
    submitter = here.submitter()
    submitter.look()
    here.backend.end("succeeded")
    submitter.look()
    here.later(100_000)
    assert here.happened(alarm("a")) == 0
    submitter.look()
    assert here.row("alert:a").deliveries == 2
    assert len(here.backend.runs) == 1


def test_a_backend_that_is_down_gets_it_later_once(here: Here) -> None:
    here.backend.down = True
    here.happened(alarm("a"))
    submitter = here.submitter()
    for _ in range(3):
        submitter.look()
        here.later(1000)
    assert [run.status for run in here.runs()] == ["intended"]
    here.backend.down = False
    submitter.look()
    submitter.look()
    assert [run.status for run in here.runs()] == ["running"]
    assert len(here.backend.runs) == 1


@pytest.mark.parametrize("trouble", [BackendRefused("404 no such namespace"), UserError("the token cannot be read")])
def test_a_backend_that_cannot_be_asked_is_told_once_and_stops_no_other_run(
    here: Here, trouble: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    here.backend.runs = [RunState("b0", "other", "succeeded")]
    with here.state.write() as session:
        values: dict[str, Any] = {"backend": "local", "parameters": {}, "tags": {}, "created_at": START}
        session.add(Run(name="first", status="intended", **values))
        session.add(Run(name="other", status="running", backend_id="b0", **values))
    find = here.backend.find

    def refused(name: str) -> RunState | None:
        raise trouble

    here.backend.find = refused  # type: ignore[method-assign]
    submitter = here.submitter()
    for _ in range(3):
        submitter.look()
    assert [run.status for run in here.runs()] == ["intended", "succeeded"]
    assert [record.getMessage() for record in caplog.records if "waits" in record.getMessage()] == [
        f"run first waits: {trouble}"
    ]
    here.backend.find = find  # type: ignore[method-assign]
    submitter.look()
    assert [run.status for run in here.runs()] == ["running", "succeeded"]


def test_an_unanswered_submission_is_looked_for_then_given_time_then_made_again(here: Here) -> None:
    def lost() -> None:
        here.backend.runs.pop()
        raise BackendUnavailable("connection closed")

    here.backend.after = lost
    here.happened(alarm("a"))
    submitter = here.submitter()
    submitter.look()
    here.backend.after = lambda: None
    here.later(59)
    submitter.look()
    assert [(run.status, run.attempts) for run in here.runs()] == [("submitting", 1)]
    here.later(2)
    submitter.look()
    assert [(run.status, run.attempts) for run in here.runs()] == [("running", 2)]
    assert len(here.backend.runs) == 1


def test_another_gives_an_unanswered_submission_its_own_time(here: Here) -> None:
    """It cannot know when the one before it sent: clocks differ, and the request may be under way still."""
    here.backend.before = lambda: (_ for _ in ()).throw(BackendUnavailable("timeout"))
    here.happened(alarm("a"))
    first = here.submitter()
    first.look()
    first.lease.release()
    here.later(1000)
    here.backend.before = lambda: None
    second = here.submitter()
    second.look()
    assert here.backend.runs == []
    here.later(61)
    second.look()
    assert len(here.backend.runs) == 1


def test_a_submitter_that_lost_its_turn_between_mark_and_submission_sends_nothing(here: Here) -> None:
    """It slept; another took over, submitted and left; the lease is free again, but it is no longer the same turn."""
    first, second = here.submitter(), here.submitter(SETTINGS.model_copy(update={"settle_seconds": 0}))
    here.happened(alarm("a"))
    hold = first.lease.hold

    def overslept() -> bool:
        first.lease.hold = hold  # type: ignore[method-assign]
        with here.state.write() as session:
            session.execute(update(LeaseRow).values(expires_at=0.0))
        second.look()
        second.lease.release()
        return hold()

    assert first.lease.hold()
    first._decide()
    (run,) = here.runs()
    first.lease.hold = overslept  # type: ignore[method-assign]
    with pytest.raises(LeaseLost):
        first._submit(run)
    assert len(here.backend.runs) == 1


def test_without_the_lease_nothing_is_written(here: Here) -> None:
    first, second = here.submitter(), here.submitter()
    assert first.lease.hold()
    here.happened(alarm("a"))
    second.look()
    assert here.decisions() == [("alert:a", None)]
    second.lease.token = 1
    with pytest.raises(LeaseLost), second._write() as session:
        session.add(canary())


def test_what_is_refused_and_what_vanished_are_failed_runs(here: Here) -> None:
    here.backend.before = lambda: (_ for _ in ()).throw(BackendRefused("unknown parameter"))
    here.happened(alarm("a"))
    submitter = here.submitter()
    submitter.look()
    assert [(run.status, run.error) for run in here.runs()] == [("failed", "refused by local: unknown parameter")]
    here.backend.before = lambda: None
    here.happened(Occasion("person:1", "person", {"who": "w", "why": "y"}))
    submitter.look()
    here.backend.runs.clear()
    submitter.look()
    assert here.runs()[1].status == "failed"
    assert "does not know it any more" in here.runs()[1].error


def test_the_schedule_fires_once_for_each_time_and_never_late(here: Here) -> None:
    schedules = StateSchedules(here.state, now=lambda: here.moment)
    assert schedules.show() is None
    schedules.set_schedule("0 0 * * * *")
    submitters = [here.submitter(), here.submitter()]
    for submitter in submitters:
        submitter.look()
    assert here.decisions() == [], "set at the full hour itself: the next is meant"
    here.later(3601)
    for _ in range(3):
        for submitter in submitters:
            submitter.look()
    assert here.decisions() == [("schedule:2026-01-15T13:00:00+00:00", "run")]
    here.backend.end("succeeded")
    submitters[0].look()
    here.later(3 * 3600 + 1800)
    submitters[0].look()
    assert len(here.decisions()) == 1, "what was due while nobody looked is not run late"
    assert schedules.remove()
    assert not schedules.remove()
    here.later(1801)
    submitters[0].look()
    assert len(here.decisions()) == 1


def test_a_dry_run_starts_nothing(here: Here) -> None:
    here.happened(alarm("a"))
    here.submitter(SETTINGS.model_copy(update={"dry_run": True})).look()
    assert here.decisions() == [("alert:a", "dry_run")]
    assert here.runs() == []


def test_lineage_reads_alert_run_canary_verdict(here: Here) -> None:
    here.happened(alarm("a"), alarm("b"))
    submitter = here.submitter()
    submitter.look()
    here.backend.end("succeeded")
    submitter.look()
    (run,) = here.runs()
    with here.state.write() as session:
        session.add(canary(run_name=run.name, state="promoted", reason="no worse", finished_at=here.moment))
    found = journal.lineage(here.state, run.name, "2", "hscode")
    assert [(each["key"], each["alert"]) for each in found["triggers"]] == [("alert:a", "Drift"), ("alert:b", "Drift")]
    assert (found["run"]["name"], found["run"]["status"]) == (run.name, "succeeded")
    assert (found["canary"]["state"], found["canary"]["reason"]) == ("promoted", "no worse")
    assert journal.lineage(here.state, None, "1", "hscode") == {"triggers": [], "run": None, "canary": None}


def test_metrics(here: Here) -> None:
    here.happened(alarm("a"), data("s3://x/1"))
    submitter = here.submitter()
    submitter.look()
    here.happened(alarm("a"), alarm("c"))
    here.later(7)
    found = {
        (sample.name, *sample.labels.values()): sample.value
        for metric in Collector(submitter, lambda: here.moment).collect()
        for sample in metric.samples
    }
    assert found["hs_trigger_decisions_total", "alertmanager", "run"] == 1
    assert found["hs_trigger_decisions_total", "data", "refuse"] == 1
    assert found["hs_trigger_deliveries_total", "alertmanager"] == 3
    assert found["hs_trigger_waiting", "alertmanager"] == 1
    assert (found["hs_runs", "running"], found["hs_runs", "failed"]) == (1, 0)
    assert found["hs_run_age_seconds",] == 7
    assert found["hs_trigger_leader",] == 1


def test_run_names_are_good_for_kubernetes_and_differ(here: Here) -> None:
    names = {journal.run_name(f"alert:{n}", START) for n in range(100)}
    assert len(names) == 100
    assert all(len(name) <= 63 and name.replace("-", "").isalnum() and name.islower() for name in names)
    assert inputs.by_schedule("0 0 3 * * *", START).key == "schedule:2026-01-15T12:00:00+00:00"
