"""A real Alertmanager: one alert, sent on and on and by two of them, is one run."""

import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest
import yaml

from tests.conftest import ROOT, missing
from tests.serving.trigger_world import TOKEN, World

pytestmark = pytest.mark.slow


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path, f"sqlite:///{tmp_path}/state.db")
    yield made
    made.close()


def alertmanager(folder: Path, url: str) -> tuple[subprocess.Popen[bytes], str]:
    program = shutil.which("prometheus-alertmanager") or shutil.which("alertmanager")
    if program is None:
        missing("Alertmanager is not installed (Debian: prometheus-alertmanager)")
    folder.mkdir()
    (folder / "token").write_text(TOKEN)
    # The configuration as it is shipped; only address, token and the times are others.
    config = yaml.safe_load((ROOT / "manifests/monitoring/alertmanager.yaml").read_text(encoding="utf-8"))
    config["route"] |= {"group_wait": "0s", "group_interval": "1s", "repeat_interval": "1s"}
    (webhook,) = next(each for each in config["receivers"] if each["name"] == "trigger")["webhook_configs"]
    webhook["url"] = f"{url}/alerts"
    webhook["http_config"]["authorization"]["credentials_file"] = str(folder / "token")
    webhook["send_resolved"] = True
    (folder / "config.yml").write_text(yaml.safe_dump(config))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        program, f"--config.file={folder}/config.yml", f"--storage.path={folder}/data",
        f"--web.listen-address=127.0.0.1:{port}", "--cluster.listen-address=",
    ]  # fmt: skip
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([str(part) for part in command], stdout=log, stderr=log)
    return process, f"http://127.0.0.1:{port}"


def test_an_alert_that_two_alertmanagers_repeat_is_one_run(world: World, tmp_path: Path) -> None:
    world.until(lambda: len(world.addresses()) == 2)
    servers = [alertmanager(tmp_path / f"alertmanager-{n}", url) for n, url in enumerate(world.addresses())]
    try:
        now = datetime.now(UTC).isoformat()
        labels = {"alertname": "Drift", "version": "3", "action": "retrain"}
        one = {"labels": labels, "annotations": {"summary": "s"}, "startsAt": now}
        for process, url in servers:
            while True:
                assert process.poll() is None
                try:
                    if httpx.post(f"{url}/api/v2/alerts", json=[one], timeout=5).is_success:
                        break
                except httpx.HTTPError:
                    time.sleep(0.05)
        world.until(lambda: world.ended() and world.decisions()[0].deliveries >= 4)
        (decision,), (run,) = world.decisions(), world.runs()
        assert (decision.source, decision.decision, decision.payload["alert"]) == ("alertmanager", "run", "Drift")
        assert run.status == "succeeded"
        assert len(world.count()["runs"]) == 1
        assert run.tags["alert"] == "Drift"
        seen = decision.deliveries
        for _, url in servers:
            httpx.post(f"{url}/api/v2/alerts", json=[one | {"endsAt": now}], timeout=5).raise_for_status()
        again = {**one, "startsAt": datetime.now(UTC).isoformat(), "labels": labels | {"version": "4"}}
        httpx.post(f"{servers[0][1]}/api/v2/alerts", json=[again], timeout=5).raise_for_status()
        world.until(lambda: len(world.runs()) == 2 and world.ended())
        assert world.decisions()[0].deliveries >= seen
        assert len(world.count()["runs"]) == 2, "another version's alert is another"
    finally:
        for process, _ in servers:
            process.kill()
            process.wait()
