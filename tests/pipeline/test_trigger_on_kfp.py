"""The trigger with Kubeflow Pipelines as its backend: one wish is one run there, whatever fails on the way."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from config.settings import Settings, Trigger, load_settings
from pipelines.backends import backend_of
from serving.control.trigger import inputs, journal
from serving.control.trigger.submitter import Submitter
from serving.state import SqlLease, State, open_state
from tests.pipeline.kfp_server import KfpServer, running

pytestmark = pytest.mark.slow
CREATE = "run_service_create_run"


@pytest.fixture
def server() -> Iterator[KfpServer]:
    with running() as server:
        yield server
        assert server.violations == []


@pytest.fixture
def state(tmp_path: Path) -> Iterator[State]:
    state = open_state(f"sqlite:///{tmp_path}/state.db")
    yield state
    state.close()


class World:
    """A submitter whose clock the test turns."""

    def __init__(self, server: KfpServer, state: State, home: Path) -> None:
        addresses = [f"kfp.endpoint={server.address}", "registry.uri=http://mlflow:5000", "deploy.target=kserve:hscode"]
        self.settings: Settings = load_settings(None, {}, [*addresses, "kfp.request_seconds=5"])
        self.server, self.state, self.home, self.seconds = server, state, home, 0.0
        self.submitter = self.anew()

    def anew(self) -> Submitter:
        """As after a restart of the process; the one before is gone and its lease with it."""
        lease = SqlLease(self.state, "trigger", 600)
        return Submitter(self.state, backend_of(self.settings, self.home), lease, Trigger(), clock=lambda: self.seconds)

    def wish(self, name: str) -> None:
        body = {"who": "broker", "why": "new tariff", "id": name, "dry_run": False}
        journal.accept(self.state, inputs.fired(json.dumps(body).encode()), datetime.now(UTC))

    def status(self) -> tuple[str, str]:
        with self.state.read() as session:
            ((_, run),) = journal.listing(session, 10)
            assert run is not None
            return run.status, run.error


@pytest.fixture
def world(server: KfpServer, state: State, tmp_path: Path) -> World:
    return World(server, state, tmp_path)


def test_a_wish_becomes_a_run_and_its_end_is_known(world: World, server: KfpServer) -> None:
    world.wish("monday")
    world.wish("monday")
    world.submitter.look()
    world.submitter.look()
    (run,) = server.runs.values()
    assert server.workflows == [run["display_name"]]
    parameters = run["runtime_config"]["parameters"]
    assert parameters["run_key"] == run["display_name"]
    assert json.loads(parameters["settings"])["state"]["url"] is None
    assert world.status() == ("running", "")
    server.finish(run["run_id"], "gate", "hscode: champion: no such version\n")
    world.submitter.look()
    assert world.status() == ("failed", "step gate: champion: no such version")


@pytest.mark.parametrize("how", ["status", "hang", "cut", "shortened", "page", "lost"])
def test_an_unclear_answer_never_makes_a_second_run(world: World, server: KfpServer, how: Any) -> None:
    server.fail(CREATE, how)
    world.wish("monday")
    for _ in range(4):
        world.submitter.look()
        world.seconds += 40
    assert len(server.workflows) == 1
    assert world.status()[0] == "running"


def test_a_token_that_ran_out_fails_no_run(world: World, server: KfpServer) -> None:
    world.wish("monday")
    world.submitter.look()
    server.token = "new"
    world.submitter.look()
    assert world.status() == ("running", "")
    server.token = None
    server.finish(next(iter(server.runs)))
    world.submitter.look()
    assert world.status() == ("succeeded", "")


def test_a_clear_no_ends_the_run_with_kfps_words(world: World, server: KfpServer) -> None:
    server.fail(CREATE, "status", 403)
    world.wish("monday")
    world.submitter.look()
    status, error = world.status()
    assert status == "failed"
    assert "403 made to fail" in error
    assert server.workflows == []
