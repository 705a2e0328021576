"""KServe's and Knative's rule of who gets how much traffic, as a pure function.

Follows KServe 0.20 in Knative mode (``createKnativeService`` and ``PropagateStatus``); the scenarios in
``tests/serving/scenarios.py`` hold it against the real one.
"""

from dataclasses import dataclass, replace

from serving.deploy.base import Traffic


@dataclass(frozen=True)
class Rollout:
    """The four revision names that KServe keeps in ``status.components.predictor``, and the split that follows."""

    latest_created: str = ""
    latest_ready: str = ""
    latest_rolledout: str = ""
    previous_rolledout: str = ""
    traffic: tuple[Traffic, ...] = ()


def advance(rollout: Rollout, canary_percent: int | None) -> Rollout:
    """The state after KServe has seen `canary_percent` and the revisions named in `rollout`; a fixed point.

    >>> first = advance(Rollout("r1", "r1"), None)
    >>> first.traffic, first.latest_rolledout
    ((Traffic(revision='r1', percent=100, latest=True),), 'r1')
    >>> [(t.revision, t.percent) for t in advance(replace(first, latest_created="r2", latest_ready="r2"), 10).traffic]
    [('r2', 10), ('r1', 90)]
    """
    for _ in range(3):
        after = _track(replace(rollout, traffic=_split(rollout, canary_percent)))
        if after == rollout:
            break
        rollout = after
    return rollout


def _split(rollout: Rollout, canary_percent: int | None) -> tuple[Traffic, ...]:
    if not rollout.latest_ready:
        return ()
    if canary_percent is None or not rollout.latest_rolledout:
        return (Traffic(rollout.latest_ready, 100, True),)
    newest = Traffic(rollout.latest_ready, canary_percent, True)
    if canary_percent == 100:
        return (newest,)
    return (newest, Traffic(rollout.latest_rolledout, 100 - canary_percent, False))


def _track(rollout: Rollout) -> Rollout:
    newest = next((t for t in rollout.traffic if t.latest), None)
    if newest is None:
        return rollout
    if rollout.latest_rolledout != rollout.latest_ready:
        if newest.percent == 100:
            return replace(rollout, latest_rolledout=rollout.latest_ready, previous_rolledout=rollout.latest_rolledout)
        return rollout
    # Rolled out, then a share set below 100 with no newer revision: KServe goes back to the one before.
    rolled_back = newest.percent < 100 and rollout.latest_ready == rollout.latest_created
    if rolled_back and rollout.previous_rolledout:
        return replace(rollout, latest_rolledout=rollout.previous_rolledout)
    return rollout
