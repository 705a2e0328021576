"""`hscode canary` and `hscode state` on a state that is written here."""

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from cli import canary as canary_verbs
from cli import state as state_verbs
from config.settings import Canary as Policy
from models.errors import UserError
from serving.control.canary import journal
from serving.control.canary.evidence import Arm
from serving.control.canary.plan import Model
from serving.deploy import Status
from serving.state import State, open_state
from serving.state.database import MIGRATIONS
from serving.state.tables import CanaryBlock

NOW = datetime.now(UTC)


def status() -> Status:
    return Status(
        name="hscode", namespace="default", uid="u", resource_version="1", generation=1, observed_generation=1,
        storage_uri="s3://b/1", version="1", canary_percent=None, ready=True, reasons=(), url="", latest_created="r1",
        latest_ready="r1", latest_rolledout="r1", previous_rolledout="", traffic=(), revisions=(),
    )  # fmt: skip


@pytest.fixture
def home(tmp_path: Path) -> Path:
    state = open_state(f"sqlite:///{tmp_path}/state.db")
    started(state)
    state.close()
    return tmp_path


def started(state: State) -> int:
    """A canary at 10 % with two closed blocks."""
    number = journal.start(
        state, status(), Model("s3://b/2", "2"), Policy(steps=(10, 50, 100)), model="hscode", who="the test",
        now=NOW - timedelta(minutes=5),
    )  # fmt: skip
    arm = Arm(requests=60, errors=3, latency={90: 57}, status_loss={0: 57.0}, confidence={9: 57.0})
    with state.write() as session:
        journal.confirm(session, journal.find(session, number), NOW - timedelta(minutes=4))
        for block in range(2):
            session.add(
                CanaryBlock(
                    canary_id=number,
                    number=block,
                    percent=10,
                    opened_at=NOW - timedelta(minutes=4 - block),
                    closed_at=NOW - timedelta(minutes=3 - block),
                    counts={"champion": arm.to_json(), "challenger": arm.to_json()},
                )
            )
    return number


@pytest.fixture
def hscode() -> Callable[..., str]:
    app = typer.Typer()
    canary_verbs.register(app)
    state_verbs.register(app)

    def run(*arguments: str) -> str:
        done = CliRunner().invoke(app, list(arguments), catch_exceptions=True)
        if done.exception and not isinstance(done.exception, SystemExit):
            raise done.exception
        assert done.exit_code == 0, done.output
        return done.output

    return run


def test_status_history_and_explain(hscode: Callable[..., str], home: Path) -> None:
    at = ("--home", str(home))
    assert "version 2 against 1, stepping at 10 %" in hscode("canary", "status", *at)
    assert json.loads(hscode("canary", "history", *at, "--json"))[0]["challenger"] == "2"
    told = hscode("canary", "explain", *at)
    assert "errors: challenger 5.00% of 120, champion 5.00% of 120" in told
    found = json.loads(hscode("canary", "explain", "1", *at, "--json"))
    assert (found["blocks"], found["verdict_now"], found["decisions"][0]["action"]) == (2, "CONTINUE", "start")


def test_a_wish_is_kept_for_the_controller(
    hscode: Callable[..., str], home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HSCODE_WHO", "an engineer")
    found = json.loads(hscode("canary", "abort", "--why", "wrong data", "--home", str(home), "--json"))
    assert found["command"] == {"verb": "abort", "who": "an engineer", "why": "wrong data"}


def test_what_cannot_be_is_said(hscode: Callable[..., str], home: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no canary 9"):
        hscode("canary", "explain", "9", "--home", str(home))
    with pytest.raises(UserError, match="there was no canary yet"):
        hscode("canary", "status", "--home", str(tmp_path / "empty"))
    assert "no canary yet" in hscode("canary", "history", "--home", str(tmp_path / "empty"))
    state = open_state(f"sqlite:///{home}/state.db")
    with pytest.raises(UserError, match="undecided already"):
        journal.start(state, status(), Model("s3://b/3", "3"), Policy(), model="m", who="w", now=NOW)
    with state.write() as session:
        row = journal.find(session)
        journal.finish(session, row, journal.GONE, "deleted", actor="test", now=NOW)
    with pytest.raises(UserError, match="serves already"):
        journal.start(state, status(), Model("s3://b/other", "1"), Policy(), model="m", who="w", now=NOW)
    shared = replace(status(), canary_percent=20)
    with pytest.raises(UserError, match="canaryTrafficPercent is 20 already"):
        journal.start(state, shared, Model("s3://b/3", "3"), Policy(), model="m", who="w", now=NOW)
    with pytest.raises(UserError, match="canary 1 is gone already"):
        journal.ask(state, None, "promote", "w", "")
    state.close()


def test_migrate(hscode: Callable[..., str], tmp_path: Path) -> None:
    found = json.loads(hscode("state", "migrate", "--home", str(tmp_path), "--json"))
    newest = max(file.name[:4] for file in (MIGRATIONS / "versions").glob("[0-9]*.py"))
    assert found["revision"] == newest
    assert newest in hscode("state", "migrate", "--check", "--home", str(tmp_path))
    with pytest.raises(UserError, match="schema is missing"):
        hscode("state", "migrate", "--check", "--set", f"state.url=sqlite:///{tmp_path}/other.db")
