"""The home's files: generations, writers that meet, and who runs."""

import subprocess
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from models.errors import UserError
from serving.deploy import Conflict, NotDeployed, deploy_version
from serving.deploy.local import LocalDeployer
from serving.deploy.manifest import inference_service
from serving.deploy.store import Desired, Store


def manifest(version: str = "1", **more: Any) -> dict[str, Any]:
    return inference_service("hscode", f"file:///bundle/{version}", version, logger_url="", **more)


def test_with_no_host_a_deployment_is_recorded(tmp_path: Path) -> None:
    deployer = LocalDeployer(tmp_path / "home")
    status = deployer.apply(manifest(), 1)
    assert (status.ready, status.settled, status.version) == (False, False, "1")
    assert "no local host runs" in status.reasons[0]
    assert deployer.wait("hscode", 1) == status
    assert LocalDeployer(tmp_path / "home").status("hscode") == status


def test_generation_counts_specs_and_nothing_is_written_twice(tmp_path: Path) -> None:
    deployer = LocalDeployer(tmp_path)
    first = deployer.apply(manifest(), 1)
    same = deployer.change("hscode", version="1")
    renamed = deployer.change("hscode", version="1a")
    moved = deployer.change("hscode", canary_percent=5)
    assert [s.generation for s in (first, same, renamed, moved)] == [1, 1, 1, 2]
    assert [s.resource_version for s in (first, same, renamed, moved)] == ["1", "1", "2", "3"]
    assert moved.canary_percent == 5
    assert deployer.change("hscode", canary_percent=None).canary_percent is None


def test_a_lost_update_is_refused(tmp_path: Path) -> None:
    deployer = LocalDeployer(tmp_path)
    seen = deployer.apply(manifest(), 1)
    deployer.change("hscode", canary_percent=5, expected=seen)
    with pytest.raises(Conflict):
        deployer.change("hscode", canary_percent=10, expected=seen)
    assert deployer.status("hscode").canary_percent == 5


def test_writers_take_turns(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.edit("hscode", lambda _: {"metadata": {}, "spec": {"count": 0}})

    def add(_: int) -> None:
        def more(now: Desired | None) -> dict[str, Any]:
            assert now is not None
            return {"metadata": {}, "spec": {"count": now.manifest["spec"]["count"] + 1}}

        store.edit("hscode", more)

    with ThreadPoolExecutor(8) as writers:
        list(writers.map(add, range(40)))
    final = store.desired("hscode")
    assert final is not None
    assert (final.manifest["spec"]["count"], final.generation) == (40, 41)


def test_what_is_not_there(tmp_path: Path) -> None:
    deployer = LocalDeployer(tmp_path / "none")
    with pytest.raises(NotDeployed):
        deployer.status("hscode")
    with pytest.raises(NotDeployed):
        deployer.change("hscode", canary_percent=1)
    deployer.delete("hscode")
    deployer.event("hscode", "Normal", "Nothing", "no object")
    assert deployer.store.events("hscode") == []


def test_a_refused_manifest_changes_nothing(tmp_path: Path) -> None:
    deployer = LocalDeployer(tmp_path)
    before = deployer.apply(manifest(), 1)
    wrong = manifest("2")
    wrong["spec"]["predictor"]["tolerations"] = []
    with pytest.raises(UserError, match="tolerations"):
        deployer.apply(wrong, 1)
    with pytest.raises(UserError, match="canaryTrafficPercent"):
        deployer.change("hscode", canary_percent=300)
    assert deployer.status("hscode") == before


def test_one_host_a_home_and_a_dead_one_counts_as_none(tmp_path: Path) -> None:
    store = Store(tmp_path)
    code = f"""
        import sys, time
        from pathlib import Path
        from serving.deploy.store import Store
        store = Store(Path({str(tmp_path)!r}))
        with store.take():
            store.announce({{"url": "http://127.0.0.1:1", "pid": 1}})
            print("held", flush=True)
            time.sleep(60)
    """
    other = subprocess.Popen([sys.executable, "-c", textwrap.dedent(code)], stdout=subprocess.PIPE, text=True)
    assert other.stdout is not None
    assert other.stdout.readline() == "held\n"
    assert (store.host() or {})["url"] == "http://127.0.0.1:1"
    with pytest.raises(UserError, match="runs already"):
        store.take()
    other.kill()
    other.wait()
    assert store.host() is None
    store.take().close()


def test_events_are_kept_for_people(tmp_path: Path) -> None:
    deployer = LocalDeployer(tmp_path)
    deployer.apply(manifest(), 1)
    deployer.event("hscode", "Warning", "RolledBack", "too many errors")
    (event,) = deployer.store.events("hscode")
    assert (event["type"], event["reason"], event["message"]) == ("Warning", "RolledBack", "too many errors")


def test_targets_are_named_or_refused() -> None:
    from serving.deploy import open_deployer

    for wrong in (None, "", "local:", "docker:x", "kserve"):
        with pytest.raises(UserError, match=r"deploy\.target"):
            open_deployer(wrong)
    assert deploy_version.__module__ == "serving.deploy.release"
