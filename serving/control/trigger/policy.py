"""Whether something that happened starts a retraining: pure, with all it rests on as arguments.

The rules, in their order:

1. What is decided on in the same moment as a run joins that run: it sees the same data and the same corrections.
2. While a run is active, has just ended, or a canary is undecided: wait. The answer to what happened may be under way.
3. An alert from before the last promotion is about a model that no longer serves: refuse.
4. Within the cooldown after the last run: wait.
5. With as many runs in a day as allowed: refuse, and let people look.

A person who fires knows why: rules 4 and 5 do not hold for them. A schedule never waits (it does not catch up): where
others would, it is refused. Nothing waits longer than `patience_seconds`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from config.settings import Trigger

Source = Literal["alertmanager", "data", "object_store", "person", "schedule"]
Kind = Literal["run", "refuse", "wait", "dry_run"]
ACTIVE = ("intended", "submitting", "running")
DAY = timedelta(days=1)


@dataclass(frozen=True)
class Event:
    """What happened, as far as the decision needs it."""

    key: str
    source: Source
    received_at: datetime
    dry_run: bool = False
    """Whoever sent it wants to know, not to run."""


@dataclass(frozen=True)
class PastRun:
    """A run that was decided on."""

    name: str
    status: str
    created_at: datetime
    finished_at: datetime | None = None
    tried: bool = False
    """Its version has, or had, a canary."""


@dataclass(frozen=True)
class Facts:
    """How things stand."""

    now: datetime
    runs: Sequence[PastRun] = ()
    """All that are active or younger than the cooldown and a day."""
    canary: str | None = None
    """Version whose canary is undecided."""
    promoted_at: datetime | None = None
    """When a canary last ended in promotion."""
    started: str | None = None
    """Name of the run that was decided on in this same moment."""


@dataclass(frozen=True)
class Decision:
    """What to do and why. `run_name`: the run that it joins."""

    kind: Kind
    reason: str
    run_name: str | None = None


def policy(event: Event, facts: Facts, settings: Trigger) -> Decision:
    """Decide on one event. The same arguments give the same decision, and a wait the same reason until it ends."""
    found = _decide(event, facts, settings)
    if (event.dry_run or settings.dry_run) and found.kind == "run":
        return Decision("dry_run", f"would run: {found.reason}")
    if event.dry_run and found.kind == "wait":
        return Decision("dry_run", f"would wait: {found.reason}")
    return found


def _decide(event: Event, facts: Facts, settings: Trigger) -> Decision:
    if facts.started is not None and not event.dry_run:
        return Decision("refuse", f"joins run {facts.started}", facts.started)
    busy = _busy(facts, settings)
    if busy is None and event.source == "alertmanager" and (facts.promoted_at or event.received_at) > event.received_at:
        return Decision("refuse", f"a model was promoted after it fired, at {_moment(facts.promoted_at)}")
    blocked = busy or (None if event.source == "person" else _cooling(facts, settings))
    if blocked is not None:
        if event.source == "schedule":
            return Decision("refuse", f"{blocked}; the schedule does not catch up")
        if facts.now - event.received_at > timedelta(seconds=settings.patience_seconds):
            return Decision("refuse", f"waited longer than {settings.patience_seconds:g} s: {blocked}")
        return Decision("wait", blocked)
    today = [run for run in facts.runs if facts.now - run.created_at < DAY]
    if event.source != "person" and len(today) >= settings.runs_a_day:
        return Decision("refuse", f"{len(today)} runs within a day, {settings.runs_a_day} are allowed")
    return Decision("run", _REASONS[event.source])


_REASONS: dict[Source, str] = {
    "alertmanager": "an alert fired",
    "data": "new data arrived",
    "object_store": "new data was stored",
    "person": "a person asked for it",
    "schedule": "it was due by the schedule",
}


def _busy(facts: Facts, settings: Trigger) -> str | None:
    active = next((run for run in facts.runs if run.status in ACTIVE), None)
    if active is not None:
        return f"run {active.name} is active"
    if facts.canary is not None:
        return f"the canary of version {facts.canary} is undecided"
    # Between a run's end and the start of its version's canary a look of the canary controller goes by.
    ends = facts.now - timedelta(seconds=settings.settle_seconds)
    fresh = (run for run in facts.runs if run.status == "succeeded" and run.finished_at and not run.tried)
    name = next((run.name for run in fresh if run.finished_at and run.finished_at > ends), None)
    return None if name is None else f"run {name} has just ended, its canary may be about to start"


def _cooling(facts: Facts, settings: Trigger) -> str | None:
    if not facts.runs:
        return None
    ends = max(run.finished_at or run.created_at for run in facts.runs) + timedelta(seconds=settings.cooldown_seconds)
    return f"cooldown until {_moment(ends)}" if facts.now < ends else None


def _moment(moment: datetime | None) -> str:
    return "" if moment is None else moment.isoformat(timespec="seconds")
