"""`hscode trigger` and `hscode schedule`: what is asked lies in the database, and what is wrong is one line."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from cli import schedule, trigger
from models.errors import UserError


@pytest.fixture
def hscode(tmp_path: Path) -> Callable[..., str]:
    app = typer.Typer()
    trigger.register(app)
    schedule.register(app)

    def run(*arguments: str) -> str:
        done = CliRunner().invoke(app, [*arguments, "--home", str(tmp_path)])
        if done.exception and not isinstance(done.exception, SystemExit):
            raise done.exception
        assert done.exit_code == 0, done.output
        return done.stdout

    return run


def test_fire_and_list(hscode: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HSCODE_WHO", "duty")
    assert hscode("trigger", "list") == "Nothing happened yet.\n"
    first = json.loads(hscode("trigger", "fire", "--why", "new tariff", "--id", "t1", "--json"))
    assert first == {"key": "person:t1", "new": True}
    assert "known already" in hscode("trigger", "fire", "--why", "new tariff", "--id", "t1")
    (found,) = json.loads(hscode("trigger", "list", "--json"))
    assert (found["decision"], found["deliveries"], found["run"]) == ("waiting", 2, None)
    assert (found["payload"]["who"], found["payload"]["why"]) == ("duty", "new tariff")
    assert "person:t1 (2 times)" in hscode("trigger", "list")
    with pytest.raises(UserError, match="why is not a text"):
        hscode("trigger", "fire", "--why", " ")
    with pytest.raises(UserError, match="the trigger does not answer"):
        hscode("trigger", "fire", "--why", "w", "--url", "http://127.0.0.1:9")


def test_schedule(hscode: Callable[..., str]) -> None:
    assert hscode("schedule", "show") == "There is no schedule.\n"
    assert hscode("schedule", "set", "0 0 3 * * 1").startswith("0 0 3 * * 1 UTC (enabled); next at ")
    assert json.loads(hscode("schedule", "show", "--json"))["cron"] == "0 0 3 * * 1"
    hscode("schedule", "set", "0 30 4 * * *")
    assert json.loads(hscode("schedule", "show", "--json"))["cron"] == "0 30 4 * * *"
    with pytest.raises(UserError, match=r"five fields.*write: 0 0 3 \* \* 1"):
        hscode("schedule", "set", "0 3 * * 1")
    assert json.loads(hscode("schedule", "show", "--json"))["cron"] == "0 30 4 * * *"
    assert hscode("schedule", "remove") == "The schedule is removed.\n"
    assert hscode("schedule", "remove") == "There was no schedule.\n"
