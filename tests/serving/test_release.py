"""From the registry into service and back: make_champion on a home, `hscode serve` and `hscode deployments`."""

import json
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from config.settings import load_settings
from serving.deploy import DeployFailed
from serving.deploy.host import LocalHost
from serving.deploy.local import LocalDeployer
from serving.handover import make_champion
from serving.home import with_home
from serving.registry import CHAMPION, Registry
from tests.serving.test_deploy_local import host_process
from tests.serving.tiny_bundle import write_tiny_bundle

pytestmark = pytest.mark.slow


def test_a_version_serves_before_it_is_champion_and_a_broken_one_never_is(tmp_path: Path) -> None:
    home = tmp_path / "home"
    settings = with_home(load_settings(assignments=["deploy.timeout_seconds=60"]), home)
    registry = Registry(settings.registry.uri or "")
    for run in ("one", "two", "three"):
        registry.register(write_tiny_bundle(tmp_path / run), run, {"kind": "tiny"})
    deployer = LocalDeployer(home)

    def answering() -> str:
        url = f"{deployer.url}/v1/models/hscode:predict"
        return str(httpx.post(url, json={"instances": ["horse"]}, timeout=60).json()["model"]["version"])

    # With no host running the deployment is recorded, and the next host takes it up.
    make_champion(settings, "1")
    assert registry.resolve(CHAMPION).number == "1"
    with host_process(home):
        assert answering() == "1"
        make_champion(settings, "2")
        assert (answering(), registry.resolve(CHAMPION).number) == ("2", "2")
        # The third's graph is damaged: nothing changes, and the reason is said.
        (Path(registry.folder("3", tmp_path)) / "model.onnx").write_bytes(b"no graph")
        with pytest.raises(DeployFailed, match="revision hscode-predictor-0000"):
            make_champion(settings, "3")
        restored = deployer.wait("hscode", 60)
        assert (restored.version, answering(), registry.resolve(CHAMPION).number) == ("2", "2", "2")
        shown = subprocess.run(
            [sys.executable, "-m", "cli.main", "deployments", "--home", str(home), "--json"],
            text=True,
            capture_output=True,
            check=True,
        )
        assert json.loads(shown.stdout)["version"] == "2"


def test_serve_starts_with_the_champion_of_a_home_that_recorded_nothing(tmp_path: Path) -> None:
    """As after a run on another machine: a registry with a champion, no deployment."""
    home = tmp_path / "home"
    settings = with_home(load_settings(), home)
    registry = Registry(settings.registry.uri or "")
    registry.register(write_tiny_bundle(tmp_path / "one"), "one", {"kind": "tiny"})
    registry.set_alias(CHAMPION, "1")
    with host_process(home):
        status = LocalDeployer(home).status("hscode")
        assert (status.version, status.settled) == ("1", True)
    # Recorded now: started again without the registry, it is the same.
    with LocalHost(home):
        assert LocalDeployer(home).status("hscode").settled
