"""kill -9 of the controller at every point of its work, two controllers at once, and other hands on the object."""

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from config.settings import Canary as Policy
from serving.control.canary import journal
from serving.control.canary.controller import POINTS, Controller
from serving.registry import CHALLENGER, CHAMPION, Registry, home_uri
from serving.state import SqlLease
from tests.serving.canary_world import BACK_WRITES, PROMOTED_STEPS, PROMOTED_WRITES, QUICK, World
from tests.serving.places import write_stub_bundle

pytestmark = pytest.mark.slow

KILLED = signal.SIGKILL
MOST_PASSES = 4
"""A point is passed again at each step or look; the first passes reach every step of this canary."""


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "postgresql":
        make: Callable[[], str] = request.getfixturevalue("postgres")
        return make()
    return f"sqlite:///{tmp_path}/state.db"


def assert_promoted(world: World) -> None:
    assert world.canary().state == "promoted", world.told()
    assert world.steps() == PROMOTED_STEPS, world.told()
    assert world.writes() == PROMOTED_WRITES, world.told()
    assert world.versions.aliases() == {"champion": "2"}
    assert world.gaps() == 0


def assert_rolled_back(world: World) -> None:
    steps, writes = world.steps(), world.writes()
    assert world.canary().state == "rolled_back", world.told()
    assert [step for step in steps if step[0] == "rollback"] == [("rollback", 0, True)] == steps[-1:], world.told()
    assert writes[-3:] == BACK_WRITES, world.told()
    assert writes[:-3] == PROMOTED_WRITES[: len(writes) - 3], world.told()
    assert world.versions.aliases() == {"champion": "1"}
    status = world.deployer.status("hscode")
    assert (status.version, status.storage_uri, status.canary_percent) == ("1", "file:///bundles/1", None)
    assert [(t.revision, t.percent) for t in status.traffic] == [(status.latest_ready, 100)]
    assert world.gaps() == 0


@pytest.mark.parametrize("errors", [0.0, 0.9], ids=["good", "bad"])
def test_killed_at_every_point_no_step_is_lost_or_doubled(
    tmp_path: Path, errors: float, capsys: pytest.CaptureFixture[str]
) -> None:
    table: list[str] = []
    for point in POINTS:
        for passed in range(1, MOST_PASSES + 1):
            folder = tmp_path / f"{point}-{passed}"
            folder.mkdir()
            world = World(folder, f"sqlite:///{folder}/state.db", errors)
            world.start()
            status = world.serve_until_exit(world.fork_controller(f"{point}:{passed}"))
            if not os.WIFSIGNALED(status):
                assert os.WEXITSTATUS(status) == 0
                world.state.close()
                break
            assert os.WTERMSIG(status) == KILLED
            at = world.canary()
            status = world.serve_until_exit(world.fork_controller())
            assert status == 0
            (assert_rolled_back if errors else assert_promoted)(world)
            table.append(
                f"{point:15} pass {passed}  killed while {at.state:12} {at.percent:3d} %  ->  {world.canary().state}, "
                f"{len(world.steps())} decisions, {len(world.writes()) - 1} writes"
            )
            world.state.close()
    reached = {line.split()[0] for line in table}
    missing = set(POINTS) - reached - {"decided"}
    with capsys.disabled():
        print(f"\n{'a bad' if errors else 'a good'} challenger: {len(table)} kills\n" + "\n".join(table))
    assert missing == set()


def test_killed_where_a_person_or_a_timeout_decides(tmp_path: Path) -> None:
    for passed, uri in enumerate(("file:///bundles/2", "file:///bundles/broken")):
        folder = tmp_path / str(passed)
        folder.mkdir()
        world = World(folder, f"sqlite:///{folder}/state.db", challenger_uri=uri)
        world.start()
        if passed == 0:
            journal.ask(world.state, None, "abort", "the duty engineer", "wrong data")
        status = world.serve_until_exit(world.fork_controller("decided"))
        assert os.WIFSIGNALED(status)
        assert world.serve_until_exit(world.fork_controller()) == 0
        assert world.canary().state == "rolled_back"
        assert world.versions.aliases() == {"champion": "1"}
        world.state.close()


@pytest.mark.parametrize("errors", [0.0, 0.9], ids=["good", "bad"])
def test_two_controllers_at_once_do_not_fight(tmp_path: Path, url: str, errors: float) -> None:
    world = World(tmp_path, url, errors)
    world.start()
    pids = [world.fork_controller() for _ in range(2)]
    assert [world.serve_until_exit(pid) for pid in pids] == [0, 0]
    (assert_rolled_back if errors else assert_promoted)(world)


def test_the_leader_is_killed_between_two_steps_and_the_other_goes_on(tmp_path: Path, url: str) -> None:
    world = World(tmp_path, url)
    world.start()
    first = world.fork_controller()
    world.serve_until(lambda: world.canary().percent == 50)
    second = world.fork_controller()
    os.kill(first, signal.SIGKILL)
    os.waitpid(first, 0)
    assert world.serve_until_exit(second) == 0
    assert_promoted(world)


def test_a_stopped_leader_that_wakes_later_changes_nothing(tmp_path: Path, url: str) -> None:
    """SIGSTOP past the end of its lease: the other takes over; the sleeper finds that it no longer leads."""
    world = World(tmp_path, url)
    world.start()
    first = world.fork_controller()
    world.serve_until(lambda: world.canary().first_seen_at is not None)
    world.stop_outside_a_write(first)
    second = world.fork_controller()
    world.serve_until(lambda: world.canary().percent == 100)
    os.kill(first, signal.SIGCONT)
    assert sorted((world.serve_until_exit(second), world.serve_until_exit(first))) == [0, 0]
    assert_promoted(world)


def test_a_promotion_that_outlasts_its_lease_cannot_undo_what_comes_after(tmp_path: Path, url: str) -> None:
    """The first controller's alias write hangs while the second leads: no end before it, no write after the end."""
    world = World(tmp_path, url)
    world.versions.hold_up()
    world.start()
    first = world.fork_controller()
    world.serve_until(lambda: world.canary().state == "promoting")
    assert world.reached(lambda: world.versions.held, 60)
    second = world.fork_controller()
    # SQLite has one writer at a time, so there the second cannot even lead.
    rivals = world.state.dialect == "postgresql"
    reached = world.reached(lambda: world.canary().finished_at is not None, 2)
    assert not reached, "the second wrote the end while the first still wrote the alias"
    assert not rivals or f"-{second}-" in world.leader()
    world.versions.let_go()
    world.serve_until(lambda: world.canary().finished_at is not None)
    assert world.versions.aliases() == {"champion": "2"}
    world.versions.promote("1")
    assert [world.serve_until_exit(pid) for pid in (first, second)] == [0, 0]
    assert world.versions.aliases() == {"champion": "1"}
    assert world.steps() == PROMOTED_STEPS


class LeftBehind(SqlLease):
    """Its holder is told that it leads, and sleeps over what `meanwhile` has for that time before it goes on."""

    meanwhile: tuple[Callable[[], None], ...] = ()

    def hold(self) -> bool:
        held = super().hold()
        if self.meanwhile:
            now, self.meanwhile = self.meanwhile[0], self.meanwhile[1:]
            now()
        return held


def test_a_controller_that_comes_late_to_the_end_leaves_the_registry_alone(tmp_path: Path, url: str) -> None:
    """MLflow's own registry on SQLite: the end was written by another, and a person has put the old model back."""
    world = World(tmp_path, url)
    registry = Registry(home_uri(tmp_path))
    for number in ("1", "2"):
        registry.register(write_stub_bundle(tmp_path / number, number), number, {})
    registry.set_alias(CHAMPION, "1")
    registry.set_alias(CHALLENGER, "2")
    world.start()
    journal.ask(world.state, None, "promote", "the test", "known good")
    asleep = LeftBehind(world.state, "canary", 60)
    late, other = (
        Controller(world.state, world.deployer, registry, lease, QUICK)
        for lease in (asleep, SqlLease(world.state, "canary", 60))
    )
    while world.writes() != [("1", None), ("2", None)]:
        late.look()
    assert world.canary().state == "promoting"

    def others_end_it() -> None:
        asleep.release()
        other.look()
        assert world.canary().state == "promoted"
        registry.promote("1")
        registry.set_alias(CHALLENGER, "2")

    # It renews the lease at the start of a look, and once more before it writes the end.
    asleep.meanwhile = (lambda: None, others_end_it)
    late.look()
    assert asleep.meanwhile == ()
    assert [version.number for version in (registry.resolve(CHAMPION), registry.resolve(CHALLENGER))] == ["1", "2"]


def test_a_challenger_that_never_gets_ready_gets_no_traffic_and_is_reported(tmp_path: Path) -> None:
    world = World(tmp_path, f"sqlite:///{tmp_path}/state.db", challenger_uri="file:///bundles/broken")
    world.start()
    assert world.serve_until_exit(world.fork_controller()) == 0
    canary = world.canary()
    assert canary.state == "rolled_back"
    assert "ErrImagePull" in canary.reason
    assert canary.first_seen_at is None
    assert world.deployer.status("hscode").version == "1"


def test_too_little_traffic_by_the_deadline_goes_back_with_that_reason(tmp_path: Path) -> None:
    policy = QUICK.model_copy(update={"deadline_seconds": 0.8})
    world = World(tmp_path, f"sqlite:///{tmp_path}/state.db", policy=policy)
    world.start()
    pid = world.fork_controller()
    assert os.waitpid(pid, 0)[1] == 0
    assert world.canary().state == "rolled_back"
    assert "too little traffic" in world.canary().reason


def test_a_share_that_somebody_changed_is_put_back(tmp_path: Path) -> None:
    policy = QUICK.model_copy(update={"step_requests": 10_000})
    world = World(tmp_path, f"sqlite:///{tmp_path}/state.db", policy=policy)
    world.start()
    pid = world.fork_controller()
    world.serve_until(lambda: world.canary().first_seen_at is not None)
    world.deployer.edit("hscode", canary_percent=70)
    world.serve_until(lambda: world.deployer.status("hscode").canary_percent == 10)
    assert any(event[2] == "CanaryShareChanged" for event in world.deployer.tree()["events"])
    journal.ask(world.state, None, "abort", "the test", "")
    assert world.serve_until_exit(pid) == 0
    assert world.canary().state == "rolled_back"


def hands_off(change: Callable[[World], None], tmp_path: Path) -> World:
    policy: Policy = QUICK.model_copy(update={"step_requests": 10_000})
    world = World(tmp_path, f"sqlite:///{tmp_path}/state.db", policy=policy)
    world.start()
    pid = world.fork_controller()
    world.serve_until(lambda: world.canary().first_seen_at is not None)
    change(world)
    assert world.serve_until_exit(pid) == 0
    return world


@pytest.mark.parametrize("version", ["1", "3"])
def test_a_model_that_somebody_put_in_ends_the_canary_and_stays(tmp_path: Path, version: str) -> None:
    def put(world: World) -> None:
        world.deployer.edit("hscode", storage_uri=f"file:///bundles/{version}", version=version, canary_percent=None)

    world = hands_off(put, tmp_path)
    assert world.canary().state == "superseded"
    assert f"version {version}" in world.canary().reason
    assert world.deployer.status("hscode").version == version


def test_a_deleted_service_ends_the_canary(tmp_path: Path) -> None:
    world = hands_off(lambda world: world.deployer.delete("hscode"), tmp_path)
    assert world.canary().state == "gone"


def test_a_service_made_anew_is_another_service(tmp_path: Path) -> None:
    def again(world: World) -> None:
        world.deployer.delete("hscode")
        world.deployer.make("hscode", "file:///bundles/2", "2")

    world = hands_off(again, tmp_path)
    assert world.canary().state == "gone"
    assert world.deployer.status("hscode").version == "2"


def test_a_person_may_promote_before_the_evidence_does(tmp_path: Path) -> None:
    world = hands_off(
        lambda world: journal.ask(world.state, None, "promote", "the test", "known good") and None, tmp_path
    )
    assert world.canary().state == "promoted"
    assert world.canary().reason == "promoted by the test: known good"
    assert world.versions.aliases() == {"champion": "2"}


def test_a_new_challenger_in_the_registry_gets_its_canary_once(tmp_path: Path) -> None:
    world = World(tmp_path, f"sqlite:///{tmp_path}/state.db", errors=0.9)
    pid = world.fork_controller(until_finished=False)

    def back() -> bool:
        with world.state.read() as session:
            return not journal.undecided(session) and "challenger" not in world.versions.aliases()

    world.serve_until(back)
    assert world.canary().state == "rolled_back"
    world.versions._write({"champion": "1", "challenger": "2"})
    for _ in range(20):
        world.serve()
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    assert world.canary().id == 1
