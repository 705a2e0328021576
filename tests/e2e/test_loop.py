"""The whole loop with real Prometheus, Alertmanager, MLflow server, PostgreSQL and S3, all as processes."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from models.errors import UserError
from pipelines.loop.parts import free_port, program
from serving.registry import Registry
from serving.state import open_state
from tests.conftest import missing
from tests.serving.s3 import S3, running_s3

pytestmark = [pytest.mark.slow, pytest.mark.long]

SHORT = ("loop.base_rows=2000", "loop.judged_rows=600", "loop.steady_seconds=45", "loop.after_seconds=5")
ORDER = ("training", "champion", "stream", "shift", "drift", "alert", "run", "canary", "promoted", "end")


@pytest.fixture(scope="module", autouse=True)
def installed() -> None:
    try:
        program("prometheus")
        program("prometheus-alertmanager", "alertmanager")
    except UserError as error:
        missing(str(error))


@pytest.fixture(scope="module")
def s3() -> Iterator[S3]:
    with running_s3() as server:
        yield server


@pytest.fixture(scope="module")
def mlflow(s3: S3, postgres: Callable[[], str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of an MLflow server on PostgreSQL whose artifacts lie on S3."""
    folder, port = tmp_path_factory.mktemp("mlflow"), free_port()
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", postgres(), "--no-serve-artifacts"]
    command += ["--default-artifact-root", f"s3://{s3.bucket}/mlflow"]
    environment = {**os.environ, **s3.environment, "MLFLOW_DISABLE_TELEMETRY": "true"}
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log, env=environment, start_new_session=True)
    ends = time.monotonic() + 300
    try:
        while True:
            try:
                if httpx.get(f"http://127.0.0.1:{port}/health").status_code == 200:
                    break
            except httpx.TransportError:
                assert server.poll() is None, (folder / "log").read_text()[-2000:]
                assert time.monotonic() < ends, (folder / "log").read_text()[-2000:]
            time.sleep(0.1)
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def command(home: Path, *assignments: str) -> list[str]:
    given = [part for one in (*SHORT, *assignments) for part in ("--set", one)]
    return [sys.executable, "-m", "cli.main", "loop", "--home", str(home), "--json", *given]


def left_behind(home: Path) -> list[str]:
    """Processes that say the home's name."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        words = " ".join(process.info["cmdline"] or ())
        found += [words] if str(home) in words else []
    return found


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("loop")


@pytest.fixture(scope="module")
def told(home: Path, s3: S3, mlflow: str, postgres: Callable[[], str]) -> Any:
    state = postgres()
    open_state(state, upgrade=True).close()
    arguments = command(home, f"registry.uri={mlflow}", f"state.url={state}")
    _users_model(mlflow).client.create_registered_model("hscode")
    done = subprocess.run(arguments, capture_output=True, text=True, env={**os.environ, **s3.environment})
    assert done.returncode == 0, f"{done.stderr[-3000:]}\n{done.stdout[-6000:]}"
    return json.loads(done.stdout)


def test_one_retraining_takes_over_and_wins_back_half_of_the_loss(told: Any) -> None:
    assert told["runs_started"] == 1
    assert told["promoted"] is True
    right = {name: each["value"] for name, each in told["accuracies"].items()}
    assert right["after_shift"] < right["before_shift"] - 0.1
    assert told["loss_recovered_ratio"] >= 0.5, right
    assert told["unanswered"] == 0, told["troubles"]
    assert [each["decision"] for each in told["decisions"]].count("run") == 1


def test_drift_rises_beyond_the_rules_threshold_with_the_shift_alone(told: Any) -> None:
    assert told["drift"]["before_shift"] < 0.05 < told["drift"]["after_shift"]


def test_all_happens_in_its_order(told: Any) -> None:
    first = {}
    for each in told["events"]:
        first.setdefault(each["event"], each["at"])
    assert sorted(ORDER, key=lambda name: first[name]) == list(ORDER)
    # The run makes the challenger in its last step, so its canary may begin before the run has ended.
    assert first["run"] < first["run_ended"] < first["promoted"]


def test_lineage_reads_alert_run_version_canary_verdict(told: Any, s3: S3) -> None:
    lineage = told["lineage"]
    (trigger,) = [each for each in lineage["triggers"] if each["decision"] == "run"]
    assert trigger["source"] == "alertmanager"
    assert trigger["alert"].startswith("Hscode")
    assert lineage["triggered_by"] == trigger["key"]
    assert lineage["run"]["name"] == lineage["run_key"]
    assert lineage["run"]["status"] == "succeeded"
    assert lineage["aliases"] == ["champion"]
    assert lineage["parent"]["version"] != lineage["version"]
    assert lineage["canary"]["state"] == "promoted"
    assert lineage["canary"]["reason"]
    assert lineage["bundle"].startswith(f"s3://{s3.bucket}/mlflow/")


def _users_model(mlflow: str) -> Registry:
    return Registry(mlflow, "hscode")


def test_on_a_shared_server_it_has_a_model_of_its_own(told: Any, mlflow: str) -> None:
    client = _users_model(mlflow).client
    mine = f"hscode-loop-{Path(told['home']).name}"
    assert {model.name for model in client.search_registered_models()} == {"hscode", mine}
    assert client.search_model_versions("name = 'hscode'") == []
    assert len(client.search_model_versions(f"name = '{mine}'")) == 2


def test_figures_say_what_they_are_of(told: Any) -> None:
    assert told["synthetic"] is True
    for each in told["accuracies"].values():
        assert each["digits"] == 6
        assert each["rows"] > 400
        assert 50 < each["classes"] <= each["classes_known"]
        assert each["source"][0].startswith("synthetic")


def test_the_timeline_is_one_page(told: Any) -> None:
    page = Path(told["timeline"]).read_text()
    assert "<svg" in page
    assert "synthetic" in page
    assert 'src="' not in page


def test_nothing_is_left_running(told: Any, home: Path) -> None:
    assert left_behind(home) == []


def test_stopped_in_the_middle_it_leaves_nothing(tmp_path: Path) -> None:
    run = subprocess.Popen(
        command(tmp_path), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        # What a shell starts in the background inherits that Ctrl-C is not for it.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    while not list(tmp_path.glob("loops/*/runs/*/progress.jsonl")):
        assert run.poll() is None, run.communicate()[1][-2000:]
        time.sleep(0.05)
    run.send_signal(signal.SIGINT)
    _, said = run.communicate()
    assert run.returncode == 130
    assert said.startswith("hscode: stopped")
    assert left_behind(tmp_path) == []
