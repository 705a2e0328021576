"""One alert, exactly one run: 1,000 deliveries, two replicas, kill -9 at every point, a backend that loses answers."""

from collections.abc import Callable
from pathlib import Path

import pytest

from serving.control.trigger.submitter import POINTS
from tests.serving.trigger_world import World, alert

pytestmark = pytest.mark.slow

ACCEPT = ("before_accept", "in_accept", "after_accept")
UNANSWERED = ("late", "fails", "drops", "starts_late", "down")


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "postgresql":
        make: Callable[[], str] = request.getfixturevalue("postgres")
        return make()
    return f"sqlite:///{tmp_path}/state.db"


def assert_one_run(world: World) -> None:
    (decision,), (run,) = world.decisions(), world.runs()
    assert decision.decision == "run", world.told()
    assert run.status == "succeeded", world.told()
    found = world.count()["runs"]
    assert [each["name"] for each in found] == [run.name] == [decision.run_name], world.told()
    assert found[0]["parameters"] == run.parameters
    assert found[0]["tags"]["trigger"] == decision.key


def test_a_thousand_deliveries_and_a_kill_at_every_point_are_one_run(
    tmp_path: Path, url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    points = (*POINTS, *ACCEPT)
    world = World(tmp_path, url, points=points)
    try:
        clients = world.clients(125, alert())
        world.until(lambda: set(world.left) <= set(ACCEPT))
        clients.second_half.set()
        world.until(lambda: clients.done() and world.ended() and not world.left)
        assert clients.answered == 1000
        assert_one_run(world)
        (decision,) = world.decisions()
        assert 1000 <= decision.deliveries <= clients.sends
        with capsys.disabled():
            print(f"\n{url.partition(':')[0]}: 1000 deliveries answered in {clients.sends} sends; kills:")
            print("\n".join(world.kills))
            print(f"end            {world.told()}")
        assert {line.split()[0] for line in world.kills} == set(points)
    finally:
        world.close()


@pytest.mark.parametrize("behaviour", UNANSWERED)
def test_a_submission_without_an_answer_is_one_run(
    tmp_path: Path, behaviour: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """With and without a kill before the answer is missed, and one before and after the run is looked for again."""
    for point in ("", "after_mark", "before_find:2", "after_find:2"):
        folder = tmp_path / (point.replace(":", "-") or "none")
        folder.mkdir()
        # Killed after the mark, the first replica has sent nothing: so the next attempt meets the behaviour.
        world = World(folder, f"sqlite:///{folder}/state.db", (behaviour, "plain"), (point,) if point else ())
        try:
            clients = world.clients(2, alert())
            clients.second_half.set()
            world.until(lambda world=world, clients=clients: clients.done() and world.ended() and not world.left)
            assert clients.answered == 16
            assert_one_run(world)
            with capsys.disabled():
                posts = world.count()["posts"]
                print(f"\n{behaviour:12} killed at {point or 'no point':14} {world.told()}, POSTs {posts}")
        finally:
            world.close()
