"""`hscode submit`, `runs` and `schedule` against a server that answers as KFP does, as a person would use them."""

import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from serving.registry import Registry
from tests.pipeline.kfp_server import KfpServer, running, until
from tests.serving.tiny_bundle import write_tiny_bundle

pytestmark = pytest.mark.slow


@pytest.fixture
def server() -> Iterator[KfpServer]:
    with running() as server:
        yield server
        assert server.violations == []


class Person:
    """Somebody with a shell."""

    def __init__(self, server: KfpServer, home: Path) -> None:
        self.home = home
        self.environment = {
            **os.environ,
            "HSCODE__KFP__ENDPOINT": server.address,
            "HSCODE__KFP__REQUEST_SECONDS": "20",
            "HSCODE__KFP__POLL_SECONDS": "0.05",
            "HSCODE__REGISTRY__URI": "http://mlflow:5000",
            "HSCODE__DEPLOY__TARGET": "kserve:hscode",
            "HSCODE_WHO": "broker",
        }

    def says(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "cli.main", *arguments, "--home", str(self.home)]
        return subprocess.run(
            command, capture_output=True, text=True, env={**self.environment, **environment}, timeout=900
        )


@pytest.fixture
def person(server: KfpServer, tmp_path: Path) -> Person:
    return Person(server, tmp_path / "home")


def ends(server: KfpServer, failed: str | None = None, log: str | None = None) -> threading.Thread:
    """Let the run that comes go through its steps, each seen once by who waits."""

    def follow() -> None:
        until("a run", lambda: server.runs, 600)
        (run_id,) = server.runs
        server.go_on(run_id, ("ingest", "RUNNING"))
        asked = server.count("run_service_get_run")
        until("a look", lambda: server.count("run_service_get_run") >= asked + 2, 600)
        server.finish(run_id, failed, log)

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    return thread


def test_submit_and_wait_for_a_good_end(server: KfpServer, person: Person) -> None:
    ends(server)
    done = person.says("submit", "--wait", "--name", "monday", "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert (told["run"], told["status"], told["backend"]) == ("monday", "succeeded", "kfp")
    assert "ingest: running" in done.stderr
    (run,) = server.runs.values()
    assert run["runtime_config"]["parameters"]["triggered_by"] == "person:broker"
    again = person.says("submit", "--name", "monday", "--json")
    assert json.loads(again.stdout)["id"] == told["id"]
    assert server.workflows == ["monday"]


def test_a_failed_run_ends_with_its_steps_log_and_exit_code_1(server: KfpServer, person: Person) -> None:
    ends(server, "train-2", "epoch 1\nhscode: rows.csv: no rows\n")
    done = person.says("submit", "--pipeline", "retrain", "--wait", "--name", "r")
    assert done.returncode == 1
    assert done.stdout == "r: failed: step train-2: rows.csv: no rows\n"
    assert "train-2 | epoch 1" in done.stderr
    shown = person.says("runs", "show", "r", "--log")
    assert "train-2: failed" in shown.stdout
    assert "train-2 | hscode: rows.csv: no rows" in shown.stdout
    assert "r  " in person.says("runs", "list").stdout


def test_a_server_that_is_away_while_waiting_is_asked_on(server: KfpServer, person: Person) -> None:
    server.fail("run_service_get_run", "status", 503, times=2)
    ends(server)
    done = person.says("submit", "--wait")
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("asking on") == 1
    assert len(server.workflows) == 1


def test_not_done_in_time_is_exit_code_3(server: KfpServer, person: Person) -> None:
    done = person.says("submit", "--wait", "--timeout", "1")
    assert done.returncode == 3, done.stderr
    assert "running" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "environment", "said"),
    [
        (["submit", "--pipeline", "x"], {}, "no pipeline x; choose training"),
        (["submit", "-p", "x"], {}, "has no '='"),
        (["submit", "-p", "colour=red"], {}, "no parameter colour"),
        (["submit", "--pipeline", "batch"], {}, "400 .*parameter source is missing"),
        (["submit", "--data", "rows.csv"], {}, "cannot read the local file rows.csv"),
        (["submit"], {"HSCODE__KFP__ENDPOINT": "http://127.0.0.1:9"}, "no answer"),
        (["submit"], {"HSCODE__KFP__ENDPOINT": "null"}, "run: hscode run"),
        (["runs", "show", "nope"], {}, "404 .*Run nope not found"),
        (["schedule", "set", "30 4 * * *"], {}, "field"),
    ],
)
def test_a_mistake_is_one_line(
    server: KfpServer, person: Person, arguments: list[str], environment: dict[str, str], said: str
) -> None:
    done = person.says(*arguments, **environment)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert re.search(said, done.stderr), done.stderr
    assert server.workflows == []


@pytest.mark.parametrize("status", [401, 403, 404, 409, 500])
def test_each_refusal_is_one_line_and_no_run(server: KfpServer, person: Person, status: int) -> None:
    server.fail("run_service_create_run", "status", status)
    done = person.says("submit")
    assert done.returncode == 2
    assert done.stderr.startswith(f"hscode: {server.address}: {status} made to fail")
    assert len(done.stderr.splitlines()) == 1
    assert server.workflows == []


def test_a_batch_run_takes_its_parameters(server: KfpServer, person: Person) -> None:
    done = person.says("submit", "--pipeline", "batch", "-p", "source=s3://in/rows.csv", "-p", "to=s3://out/rows.csv")
    assert done.returncode == 0, done.stderr
    (run,) = server.runs.values()
    assert run["runtime_config"]["parameters"]["to"] == "s3://out/rows.csv"


def test_artifacts_are_what_the_registry_has_of_the_run(server: KfpServer, person: Person, tmp_path: Path) -> None:
    assert person.says("submit", "--name", "monday").returncode == 0
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    registry = Registry(uri)
    made = registry.register(write_tiny_bundle(tmp_path / "bundle"), "monday", {"kind": "tiny"})
    (tmp_path / "report").write_text("<p>")
    registry.client.log_artifact(made.run_id, str(tmp_path / "report"))
    done = person.says("runs", "artifacts", "monday", "--json", HSCODE__REGISTRY__URI=uri)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["version"] == "1"
    assert found["bundle"].endswith("/bundle")
    assert found["report"] == found["bundle"].removesuffix("bundle") + "report"
    assert found["id"] in found["steps"]


def test_the_schedule_is_kept_by_kfp(server: KfpServer, person: Person) -> None:
    assert person.says("schedule", "set", "0 0 3 * * 1").returncode == 0
    (one,) = server.recurring.values()
    assert one["no_catchup"] is True
    assert "0 0 3 * * 1" in person.says("schedule", "show").stdout
    server.go_on(server.tick(one["recurring_run_id"]), ("ingest", "RUNNING"))
    busy = person.says("schedule", "remove")
    assert busy.returncode == 2
    assert "still active" in busy.stderr
    server.finish(next(iter(server.runs)))
    assert "removed" in person.says("schedule", "remove").stdout
    assert server.recurring == {}
