"""What to do next to bring a service to where its canary should be: a pure function of what is wanted and what is.

It looks only at the object, so a controller that was killed anywhere goes on from what it finds. The way back goes
through a share of 0 twice over: the field must not be removed while the challenger is still the newest ready revision.
"""

from dataclasses import dataclass
from typing import Literal

from serving.deploy import Status

Goal = Literal["step", "promote", "rollback"]


@dataclass(frozen=True)
class Model:
    """A model as the spec names it."""

    storage_uri: str
    version: str


@dataclass(frozen=True)
class Wanted:
    """Where a service should be."""

    goal: Goal
    champion: Model
    challenger: Model
    percent: int
    """The challenger's share, for the goal `step`."""
    seen: bool
    """Whether the challenger has been in the spec before: then its absence is somebody's doing."""


@dataclass(frozen=True)
class Change:
    """Write this to the spec. `canary_percent` None removes the field."""

    model: Model
    canary_percent: int | None


@dataclass(frozen=True)
class Wait:
    """What was asked for is not there yet."""

    why: str


@dataclass(frozen=True)
class Reached:
    """All that is wanted is so."""


@dataclass(frozen=True)
class Foreign:
    """Somebody put another model into the spec: the canary is over, and theirs stays."""

    found: Model


Action = Change | Wait | Reached | Foreign


def next_action(wanted: Wanted, status: Status) -> Action:
    """The next thing to do; doing it again after a crash does no harm."""
    found = Model(status.storage_uri, status.version)
    if found not in (wanted.champion, wanted.challenger):
        return Foreign(found)
    if wanted.goal == "rollback":
        return _back(wanted, status, found)
    if found == wanted.champion and wanted.seen:
        return Foreign(found)
    percent = wanted.percent if wanted.goal == "step" else None
    if found != wanted.challenger or status.canary_percent != percent:
        return Change(wanted.challenger, percent)
    return Reached() if status.settled else Wait(_why(status))


def _back(wanted: Wanted, status: Status, found: Model) -> Action:
    if found == wanted.challenger:
        if status.canary_percent != 0:
            return Change(wanted.challenger, 0)
        left = challenger_share(wanted, status)
        if left or status.observed_generation < status.generation:
            return Wait(f"challenger still has {left} % of the traffic")
        return Change(wanted.champion, 0)
    if status.canary_percent is not None:
        # The old model is a new revision: it must be ready before all traffic follows the newest.
        if not status.rolled_out:
            return Wait(_why(status))
        return Change(wanted.champion, None)
    return Reached() if status.settled else Wait(_why(status))


def challenger_share(wanted: Wanted, status: Status) -> int:
    """Share of traffic of the revisions that carry the challenger, percent."""
    names = {r.name for r in status.revisions if r.version == wanted.challenger.version}
    return sum(entry.percent for entry in status.traffic if entry.revision in names)


def _why(status: Status) -> str:
    newest = status.revision(status.latest_created)
    if newest is not None and newest.ready is not True and newest.reason:
        return f"revision {newest.name}: {newest.reason}"
    return "; ".join(status.reasons) or "the service is not settled yet"
