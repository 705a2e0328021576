"""What the controller does next, by tables over what it can find on the object."""

import pytest

from serving.control.canary.plan import (
    Action,
    Change,
    Foreign,
    Goal,
    Model,
    Reached,
    Wait,
    Wanted,
    challenger_share,
    next_action,
)
from serving.deploy import Revision, Status, Traffic

OLD, NEW, OTHER = Model("s3://b/1", "1"), Model("s3://b/2", "2"), Model("s3://b/3", "3")


def wanted(goal: Goal, percent: int = 10, seen: bool = True) -> Wanted:
    return Wanted(goal, OLD, NEW, percent, seen)


def status(
    spec: Model, canary: int | None, traffic: dict[str, int], newest: str = "r2", ready: bool = True, why: str = ""
) -> Status:
    """`traffic` by revision; r1 and r3 carry the old model, r2 the new one."""
    models = {"r1": OLD, "r2": NEW, "r3": OLD}
    latest_ready = newest if ready else "r1"
    rolledout = next((name for name, percent in traffic.items() if percent == 100), "r1")
    return Status(
        name="hscode", namespace="default", uid="u", resource_version="5", generation=5, observed_generation=5,
        storage_uri=spec.storage_uri, version=spec.version, canary_percent=canary, ready=ready, reasons=(), url="",
        latest_created=newest, latest_ready=latest_ready, latest_rolledout=rolledout, previous_rolledout="r1",
        traffic=tuple(Traffic(name, percent, name == latest_ready) for name, percent in traffic.items()),
        revisions=tuple(
            Revision(name, model.storage_uri, model.version, ready if name == newest else True,
                     why if name == newest and not ready else "")
            for name, model in models.items()
        ),
    )  # fmt: skip


OF_OLD = status(OLD, None, {"r1": 100}, "r1")
AT_10 = status(NEW, 10, {"r2": 10, "r1": 90})
AT_100 = status(NEW, 100, {"r2": 100})


@pytest.mark.parametrize(
    ("goal", "found", "action"),
    [
        # A step
        (wanted("step", seen=False), OF_OLD, Change(NEW, 10)),
        (wanted("step"), AT_10, Reached()),
        (wanted("step", 25), AT_10, Change(NEW, 25)),
        (wanted("step"), status(NEW, 10, {"r1": 100}), Wait("the service is not settled yet")),
        (wanted("step"), status(NEW, 10, {"r1": 100}, ready=False, why="pull"), Wait("revision r2: pull")),
        (wanted("step", 100), AT_100, Reached()),
        (wanted("step"), status(NEW, None, {"r2": 100}), Change(NEW, 10)),
        # Promotion
        (wanted("promote"), AT_100, Change(NEW, None)),
        (wanted("promote"), AT_10, Change(NEW, None)),
        (wanted("promote", seen=False), OF_OLD, Change(NEW, None)),
        (wanted("promote"), status(NEW, None, {"r2": 100}), Reached()),
        (wanted("promote"), status(NEW, None, {"r2": 10, "r1": 90}), Wait("the service is not settled yet")),
        # The way back: 0, then the old model at 0, then without the field
        (wanted("rollback"), AT_10, Change(NEW, 0)),
        (wanted("rollback"), AT_100, Change(NEW, 0)),
        (wanted("rollback"), status(NEW, None, {"r2": 100}), Change(NEW, 0)),
        (wanted("rollback"), status(NEW, 0, {"r2": 10, "r1": 90}), Wait("challenger still has 10 % of the traffic")),
        (wanted("rollback"), status(NEW, 0, {"r2": 0, "r1": 100}), Change(OLD, 0)),
        (wanted("rollback"), status(OLD, 0, {"r2": 0, "r1": 100}), Wait("the service is not settled yet")),
        (wanted("rollback"), status(OLD, 0, {"r3": 0, "r1": 100}, "r3"), Change(OLD, None)),
        (wanted("rollback"), status(OLD, None, {"r3": 100}, "r3"), Reached()),
        (wanted("rollback", seen=False), OF_OLD, Reached()),
        (wanted("rollback"), status(NEW, 10, {"r1": 100}, ready=False), Change(NEW, 0)),
        (wanted("rollback"), status(NEW, 0, {"r1": 100}, ready=False), Change(OLD, 0)),
        # Other hands
        (wanted("step"), OF_OLD, Foreign(OLD)),
        (wanted("promote"), OF_OLD, Foreign(OLD)),
        (wanted("step", seen=False), status(OTHER, None, {"r1": 100}), Foreign(OTHER)),
        (wanted("rollback"), status(OTHER, 0, {"r1": 100}), Foreign(OTHER)),
    ],
)
def test_next_action(goal: Wanted, found: Status, action: Action) -> None:
    assert next_action(goal, found) == action


def test_the_challenger_never_gets_all_traffic_on_the_way_back() -> None:
    """Removing the field while the challenger is the newest ready revision would give it everything."""
    for found in (AT_10, AT_100, status(NEW, 0, {"r2": 0, "r1": 100}), status(OLD, 0, {"r2": 0, "r1": 100})):
        action = next_action(wanted("rollback"), found)
        assert not (isinstance(action, Change) and action.canary_percent is None), found


def test_share_of_the_challenger() -> None:
    assert challenger_share(wanted("step"), AT_10) == 10
    assert challenger_share(wanted("step"), OF_OLD) == 0
