"""KServe's traffic rule, by tables (states seen on KServe 0.20) and by properties."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.deploy.rollout import Rollout, advance


def shares(rollout: Rollout) -> dict[str, int]:
    found: dict[str, int] = {}
    for entry in rollout.traffic:
        found[entry.revision] = found.get(entry.revision, 0) + entry.percent
    return found


@pytest.mark.parametrize(
    ("created", "ready", "rolledout", "previous", "percent", "after", "rolledout_after", "previous_after"),
    [
        ("", "", "", "", None, {}, "", ""),
        ("1", "", "", "", 10, {}, "", ""),
        ("1", "1", "", "", None, {"1": 100}, "1", ""),
        ("1", "1", "", "", 10, {"1": 100}, "1", ""),
        ("2", "1", "1", "", 20, {"1": 100}, "1", ""),
        ("2", "2", "1", "", 20, {"2": 20, "1": 80}, "1", ""),
        ("2", "2", "1", "", 0, {"2": 0, "1": 100}, "1", ""),
        ("2", "2", "1", "", 100, {"2": 100}, "2", "1"),
        ("2", "2", "1", "", None, {"2": 100}, "2", "1"),
        ("2", "2", "2", "1", 0, {"2": 0, "1": 100}, "1", "1"),
        ("2", "2", "1", "1", None, {"2": 100}, "2", "1"),
        ("3", "2", "2", "1", None, {"2": 100}, "2", "1"),
        ("3", "2", "2", "1", 0, {"2": 100}, "2", "1"),
    ],
    ids=[
        "nothing yet",
        "first is starting",
        "first is ready",
        "first gets all whatever is set",
        "challenger is starting",
        "challenger is ready",
        "challenger without traffic",
        "a share of 100 is a full rollout",
        "promotion",
        "roll back after the full rollout",
        "forward again",
        "a broken challenger gets nothing",
        "a broken challenger gets nothing, with a share of 0",
    ],
)
def test_who_gets_how_much(
    created: str,
    ready: str,
    rolledout: str,
    previous: str,
    percent: int | None,
    after: dict[str, int],
    rolledout_after: str,
    previous_after: str,
) -> None:
    got = advance(Rollout(created, ready, rolledout, previous), percent)
    assert shares(got) == after
    assert (got.latest_rolledout, got.previous_rolledout) == (rolledout_after, previous_after)


steps = st.lists(st.one_of(st.none(), st.integers(0, 100), st.sampled_from(["new", "ready"])), max_size=12)


@given(steps)
def test_whatever_is_asked_all_traffic_goes_somewhere_ready(asked: list[int | str | None]) -> None:
    rollout, percent, made = Rollout("1", "1"), None, 1
    ready = {"1"}
    for ask in asked:
        if ask == "new":
            made += 1
            rollout = replace(rollout, latest_created=str(made))
        elif ask == "ready":
            ready.add(rollout.latest_created)
            rollout = replace(rollout, latest_ready=rollout.latest_created)
        else:
            percent = ask
        rollout = advance(rollout, percent if not isinstance(percent, str) else None)
        assert sum(entry.percent for entry in rollout.traffic) == 100
        assert {entry.revision for entry in rollout.traffic} <= ready
        assert advance(rollout, percent if not isinstance(percent, str) else None) == rollout
