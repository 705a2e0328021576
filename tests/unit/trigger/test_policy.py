"""The retrain policy: its rules as tables, and what must hold for any facts."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from config.settings import Trigger
from serving.control.trigger.policy import ACTIVE, Event, Facts, PastRun, Source, policy

NOW = datetime(2026, 1, 15, 12, 0, tzinfo=UTC)
SETTINGS = Trigger(cooldown_seconds=3600, runs_a_day=3, patience_seconds=7200)


def ago(minutes: float) -> datetime:
    return NOW - timedelta(minutes=minutes)


def run(minutes: float, status: str = "succeeded", took: float = 10) -> PastRun:
    ended = None if status in ACTIVE else ago(minutes - took)
    return PastRun(f"r{minutes:g}", status, ago(minutes), ended)


def decided(source: Source, facts: Facts, received: float = 0, dry_run: bool = False) -> tuple[str, str]:
    found = policy(Event("k", source, ago(received), dry_run), facts, SETTINGS)
    return found.kind, found.reason


@pytest.mark.parametrize(
    ("source", "facts", "received", "kind", "reason"),
    [
        ("alertmanager", Facts(NOW), 0, "run", "an alert fired"),
        ("data", Facts(NOW), 0, "run", "new data arrived"),
        ("object_store", Facts(NOW), 0, "run", "new data was stored"),
        ("person", Facts(NOW), 0, "run", "a person asked for it"),
        ("schedule", Facts(NOW), 0, "run", "it was due by the schedule"),
        ("alertmanager", Facts(NOW, started="r"), 0, "refuse", "joins run r"),
        ("person", Facts(NOW, started="r"), 0, "refuse", "joins run r"),
        *[("alertmanager", Facts(NOW, (run(5, s),)), 0, "wait", "run r5 is active") for s in ACTIVE],
        ("person", Facts(NOW, (run(5, "running"),)), 0, "wait", "run r5 is active"),
        ("schedule", Facts(NOW, (run(5, "running"),)), 0, "refuse", "run r5 is active; the schedule does not catch up"),
        ("data", Facts(NOW, canary="7"), 0, "wait", "the canary of version 7 is undecided"),
        ("person", Facts(NOW, (run(10.5),)), 0, "wait", "run r10.5 has just ended"),
        ("person", Facts(NOW, (replace(run(10.5), tried=True),)), 0, "run", "a person asked for it"),
        ("person", Facts(NOW, (run(10.5, "failed"),)), 0, "run", "a person asked for it"),
        ("person", Facts(NOW, canary="7"), 0, "wait", "the canary of version 7 is undecided"),
        ("data", Facts(NOW, canary="7"), 121, "refuse", "waited longer than 7200 s: the canary of version 7 is"),
        ("alertmanager", Facts(NOW, (run(69),)), 0, "wait", "cooldown until 2026-01-15T12:01:00+00:00"),
        ("alertmanager", Facts(NOW, (run(71),)), 0, "run", "an alert fired"),
        ("alertmanager", Facts(NOW, (run(69, "failed"),)), 0, "wait", "cooldown until"),
        ("person", Facts(NOW, (run(69),)), 0, "run", "a person asked for it"),
        ("schedule", Facts(NOW, (run(69),)), 0, "refuse", "cooldown until"),
        (
            "alertmanager",
            Facts(NOW, (run(69),), promoted_at=ago(1)),
            2,
            "refuse",
            "a model was promoted",
        ),
        ("alertmanager", Facts(NOW, promoted_at=ago(3)), 2, "run", "an alert fired"),
        ("data", Facts(NOW, promoted_at=ago(1)), 2, "run", "new data arrived"),
        ("alertmanager", Facts(NOW, canary="8", promoted_at=ago(1)), 2, "wait", "the canary of version 8"),
        ("data", Facts(NOW, (run(300), run(200), run(100))), 0, "refuse", "3 runs within a day, 3 are allowed"),
        ("data", Facts(NOW, (run(1500), run(200), run(100))), 0, "run", "new data arrived"),
        ("person", Facts(NOW, (run(300), run(200), run(100))), 0, "run", "a person asked for it"),
    ],
)
def test_rules(source: Source, facts: Facts, received: float, kind: str, reason: str) -> None:
    found, said = decided(source, facts, received)
    assert (found, said[: len(reason)]) == (kind, reason)


def test_a_dry_run_says_what_would_be_and_joins_nothing() -> None:
    assert decided("person", Facts(NOW), dry_run=True) == ("dry_run", "would run: a person asked for it")
    waiting = Facts(NOW, (run(5, "running"),))
    assert decided("person", waiting, dry_run=True) == ("dry_run", "would wait: run r5 is active")
    assert decided("person", Facts(NOW, started="r"), dry_run=True)[0] == "dry_run"
    found = policy(Event("k", "data", NOW), Facts(NOW), SETTINGS.model_copy(update={"dry_run": True}))
    assert (found.kind, found.reason) == ("dry_run", "would run: new data arrived")


MOMENTS = st.integers(0, 5000).map(ago)
RUNS = st.builds(
    lambda created, took, status: PastRun(
        f"r{created}", status, ago(created), None if status in ACTIVE else ago(max(0, created - took))
    ),
    st.integers(0, 5000),
    st.integers(0, 200),
    st.sampled_from([*ACTIVE, "succeeded", "failed"]),
)
FACTS = st.builds(
    Facts,
    now=st.just(NOW),
    runs=st.lists(RUNS, max_size=6).map(tuple),
    canary=st.sampled_from([None, "9"]),
    promoted_at=st.none() | MOMENTS,
    started=st.sampled_from([None, "now"]),
)
EVENTS = st.builds(
    Event,
    key=st.just("k"),
    source=st.sampled_from(get_args(Source)),
    received_at=MOMENTS,
    dry_run=st.booleans(),
)


@given(EVENTS, FACTS, st.booleans())
def test_what_always_holds(event: Event, facts: Facts, dry_run: bool) -> None:
    settings = SETTINGS.model_copy(update={"dry_run": dry_run})
    found = policy(event, facts, settings)
    assert found == policy(event, facts, settings)
    assert found.reason
    assert "\n" not in found.reason
    busy = any(each.status in ACTIVE for each in facts.runs) or facts.canary is not None
    if found.kind == "run":
        assert not busy
        assert facts.started is None
        assert not event.dry_run
        assert not dry_run
        if event.source != "person":
            assert sum(NOW - each.created_at < timedelta(days=1) for each in facts.runs) < settings.runs_a_day
            cooldown = timedelta(seconds=settings.cooldown_seconds)
            assert all(NOW - (each.finished_at or each.created_at) >= cooldown for each in facts.runs)
    if found.kind == "wait":
        assert event.source != "schedule"
        assert NOW - event.received_at <= timedelta(seconds=settings.patience_seconds)
    assert (found.run_name is not None) == found.reason.startswith("joins run")


@given(EVENTS, FACTS)
def test_nothing_waits_for_ever(event: Event, facts: Facts) -> None:
    later = Facts(NOW + timedelta(days=3), facts.runs, facts.canary, facts.promoted_at, facts.started)
    assert policy(event, later, SETTINGS).kind != "wait"
