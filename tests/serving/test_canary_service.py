"""The controller's process: what it tells Prometheus and the kubelet, and how it starts and ends."""

import socket
import struct
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from config.settings import Canary as Policy
from serving.control.canary.controller import Controller
from serving.control.canary.metrics import serve_metrics
from serving.state import SqlLease
from tests.serving.canary_world import World


def controller(world: World, holder: str) -> Controller:
    lease = SqlLease(world.state, "canary", 30, holder)
    return Controller(world.state, world.deployer, world.versions, lease, Policy(automatic=False))


def test_every_replica_tells_the_state_and_who_leads(tmp_path: Path) -> None:
    world = World(tmp_path, f"sqlite:///{tmp_path}/state.db")
    world.start()
    first, second = controller(world, "first"), controller(world, "second")
    for one in (first, second):
        one.look()
    told = []
    for one in (first, second):
        url = f"http://127.0.0.1:{serve_metrics(one, '127.0.0.1', 0)}"
        assert httpx.get(f"{url}/healthz").text == "ok\n"
        assert httpx.get(f"{url}/other").status_code == 404
        told.append(httpx.get(f"{url}/metrics").text)
    for text in told:
        assert 'hs_canary_percent{service="hscode",version="2"} 10.0' in text
        assert 'hs_canary_harm_evidence_log{service="hscode",version="2"} 0.0' in text
    assert ["hs_canary_leader 1.0" in text for text in told] == [True, False]
    first.looked_at -= 1000
    assert httpx.get(f"http://127.0.0.1:{serve_metrics(first, '127.0.0.1', 0)}/healthz").status_code == 503


def test_a_scraper_that_goes_away_is_no_error(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    world = World(tmp_path, f"sqlite:///{tmp_path}/state.db")
    one = controller(world, "first")
    asked, gone = threading.Event(), threading.Event()

    def read() -> Any:
        asked.set()
        gone.wait()
        return world.state.read()

    one.state = SimpleNamespace(read=read)  # type: ignore[assignment]
    port = serve_metrics(one, "127.0.0.1", 0)
    with socket.create_connection(("127.0.0.1", port)) as scraper:
        scraper.sendall(b"GET /metrics HTTP/1.1\r\n\r\n")
        asked.wait()
        scraper.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    answering = [each for each in threading.enumerate() if "process_request_thread" in each.name]
    gone.set()
    for each in answering:
        each.join()
    assert capfd.readouterr().err == ""
    assert answering
    assert "hs_canary_leader" in httpx.get(f"http://127.0.0.1:{port}/metrics").text


def test_looks_go_through_a_whole_canary_without_another_process(tmp_path: Path) -> None:
    """The same as the forked controllers do, step by step: start, first share, abort, the way back."""
    from serving.control.canary import journal

    world = World(tmp_path, f"sqlite:///{tmp_path}/state.db")
    world.start()
    one = controller(world, "first")
    for _ in range(2):
        one.look()
    assert (world.canary().state, world.canary().percent) == ("stepping", 10)
    journal.ask(world.state, None, "abort", "a person", "enough")
    for _ in range(6):
        one.look()
    assert world.canary().state == "rolled_back"
    assert world.writes()[-3:] == [("2", 0), ("1", 0), ("1", None)]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "setting state.url is missing"),
        (["--home", "HOME", "--set", "deploy.target=nowhere"], "unknown target 'nowhere'"),
        (["--home", "HOME", "--set", "canary.steps=[50, 10]"], "rising percentages"),
    ],
)
def test_wrong_settings_end_it_with_one_line(tmp_path: Path, arguments: list[str], says: str) -> None:
    command = [sys.executable, "-m", "serving.control.canary", *(a.replace("HOME", str(tmp_path)) for a in arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    assert says in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_it_ends_on_sigterm_and_gives_the_lease_back(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "serving.control.canary", "--home", str(tmp_path), "--port", "-1"]
    command += ["--set", "canary.look_seconds=0.05", "--set", "canary.lease_seconds=600"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if " leads" in line:
                break
        process.terminate()
        rest = process.stderr.read()
        assert process.wait(60) == 0, rest
    world = World(tmp_path, f"sqlite:///{tmp_path}/state.db")
    assert SqlLease(world.state, "canary", 1).hold()
