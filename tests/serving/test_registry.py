"""The registry on MLflow's SQLite store and on MLflow's own server: one version for one run, aliases, lineage."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from models.errors import UserError
from serving.registry import CHALLENGER, CHAMPION, Registry
from tests.serving.mlflow_server import running_mlflow

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", params=["sqlite", "server"])
def address(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("mlflow")
    if request.param == "sqlite":
        yield f"sqlite:///{folder}/mlflow.db"
        return
    with running_mlflow(folder) as server:
        yield server


@pytest.fixture
def registry(address: str, request: pytest.FixtureRequest) -> Registry:
    return Registry(address, request.node.name.replace("[", "-").replace("]", ""))


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    folder = tmp_path / "made"
    folder.mkdir()
    (folder / "card.json").write_text(json.dumps({"kind": "svc"}))
    (folder / "model.onnx").write_bytes(b"weights")
    return folder


def test_one_run_key_gives_one_version(registry: Registry, bundle: Path) -> None:
    first = registry.register(bundle, "run-1", {"kind": "svc"}, {"top1": 0.5})
    again = registry.register(bundle, "run-1", {"kind": "svc"}, {"top1": 0.5})
    other = registry.register(bundle, "run-2", {"kind": "svc"})
    assert (first.number, again.number, other.number) == ("1", "1", "2")
    assert [v.number for v in registry.versions()] == ["2", "1"]


def test_the_bundle_comes_back_with_its_version_in_the_card(registry: Registry, bundle: Path, tmp_path: Path) -> None:
    number = registry.register(bundle, "run-1", {"kind": "svc"}).number
    folder = registry.folder(number, tmp_path / "cache")
    assert json.loads((folder / "card.json").read_text())["version"] == number
    assert (folder / "model.onnx").read_bytes() == b"weights"


@pytest.mark.parametrize("killed_in", ["create_model_version", "log_artifacts", "set_terminated"])
def test_killed_in_between_the_next_attempt_finishes_the_same_version(
    registry: Registry, bundle: Path, killed_in: str
) -> None:
    code = (
        "import os, sys\nfrom pathlib import Path\nfrom mlflow import MlflowClient\n"
        "from serving.registry import Registry\n"
        f"done = MlflowClient.{killed_in}\n"
        "def dying(*a, **k):\n    done(*a, **k)\n    os.kill(os.getpid(), 9)\n"
        f"MlflowClient.{killed_in} = dying\n"
        "Registry(sys.argv[1], sys.argv[2]).register(Path(sys.argv[3]), 'run-1', {'kind': 'svc'})\n"
    )
    killed = subprocess.run([sys.executable, "-c", code, registry.uri, registry.model, str(bundle)])
    assert killed.returncode == -signal.SIGKILL
    if killed_in != "set_terminated":
        assert registry.versions() == []
    version = registry.register(bundle, "run-1", {"kind": "svc"})
    assert [v.number for v in registry.versions()] == ["1"] == [version.number]
    assert registry.client.search_model_versions(f"name = '{registry.model}'")[0].tags["ready"] == "true"


def test_aliases_move_and_come_back(registry: Registry, bundle: Path) -> None:
    for key in ("run-1", "run-2"):
        registry.register(bundle, key, {"kind": "svc"})
    registry.promote("1")
    registry.set_alias(CHALLENGER, "2")
    assert registry.promote(CHALLENGER).aliases == (CHAMPION,)
    assert registry.find(CHALLENGER) is None
    assert registry.replaced_by_champion().number == "1"
    assert registry.promote("2").tags["replaced"] == "1"


def test_lineage_reads_back_to_data_and_code(registry: Registry, bundle: Path) -> None:
    tags = {"kind": "svc", "data_hash": "d1", "settings_hash": "s1", "commit": "c1", "pipeline_run": "p1"}
    registry.register(bundle, "run-1", tags)
    registry.register(bundle, "run-2", {**tags, "data_hash": "d2", "parent_version": "1", "triggered_by": "alert"})
    found = registry.lineage("2")
    assert (found["data_hash"], found["commit"], found["triggered_by"]) == ("d2", "c1", "alert")
    assert found["parent"]["version"] == "1"
    assert found["parent"]["data_hash"] == "d1"


def test_what_is_not_there_is_one_line(registry: Registry, bundle: Path) -> None:
    assert registry.versions() == []
    with pytest.raises(UserError, match="no version has the alias champion"):
        registry.resolve(CHAMPION)
    registry.register(bundle, "run-1", {"kind": "svc"})
    with pytest.raises(UserError, match="no version 7; existing: 1"):
        registry.resolve("7")
    registry.promote("1")
    with pytest.raises(UserError, match="replaced no other"):
        registry.replaced_by_champion()


def test_a_server_that_says_nothing_is_not_waited_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow.exceptions import MlflowException

    monkeypatch.delenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", raising=False)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        registry = Registry(f"http://127.0.0.1:{silent.getsockname()[1]}")
        assert registry.client is not None
        assert os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] == "2"
        monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
        with pytest.raises(MlflowException, match="timed out"):
            registry.find(CHAMPION)
        again = Registry(registry.uri)
        assert again.client is not None
        assert os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] == "0", "what the environment says is kept"
