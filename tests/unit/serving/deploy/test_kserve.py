"""`KServeDeployer` against a server that fails as the Kubernetes API does."""

import contextlib
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from kubernetes.client import ApiClient, Configuration

from models.errors import UserError
from serving.control.canary.leader import KubernetesLease
from serving.deploy import kserve
from serving.deploy.kserve import KServeDeployer

AWAY = 'Internal error occurred: failed calling webhook "inferenceservice.kserve-webhook-server.x": refused'
DENIED = 'admission webhook "inferenceservice.kserve-webhook-server.validator" denied the request: no predictor'


@contextmanager
def api(*answers: tuple[int, str]) -> Iterator[tuple[KServeDeployer, list[str]]]:
    """A server that says these in turn (status, message), the last for ever; gives the requests too."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_PATCH(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            status, message = answers[min(len(asked), len(answers) - 1)]
            asked.append(self.path)
            body = json.dumps({"message": message}).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        client = ApiClient(Configuration(host=f"http://127.0.0.1:{server.server_port}"))
        yield KServeDeployer("space", client=client), asked
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kserve.time, "sleep", lambda _: None)


def write(deployer: KServeDeployer) -> Any:
    return deployer._apply({"metadata": {"name": "hscode"}})


def test_a_write_outlasts_a_webhook_that_restarts() -> None:
    with api(*[(500, AWAY)] * (3 * kserve.API_RETRIES), (200, "taken")) as (deployer, asked):
        assert write(deployer) == {"message": "taken"}
    assert len(asked) == 3 * kserve.API_RETRIES + 1


def test_a_webhook_that_stays_away_ends_in_what_was_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kserve, "WEBHOOK_SECONDS", 0.2)
    with api((500, AWAY)) as (deployer, asked), pytest.raises(UserError, match="failed calling webhook"):
        write(deployer)
    assert asked


@pytest.mark.parametrize(("status", "message", "tries"), [(500, "etcd is away", kserve.API_RETRIES), (403, DENIED, 1)])
def test_other_refusals_are_not_tried_for_long(status: int, message: str, tries: int) -> None:
    with api((status, message)) as (deployer, asked), pytest.raises(UserError, match=message[:10]):
        write(deployer)
    assert len(asked) == tries


@pytest.fixture
def silent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[socket.socket]]:
    """An API server that takes connections and says nothing, in the kubeconfig; gives the connections made."""
    taken: list[socket.socket] = []

    def take() -> None:
        with contextlib.suppress(OSError):
            while True:
                taken.append(server.accept()[0])

    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=take, daemon=True).start()
        file = tmp_path / "kubeconfig"
        cluster = {"name": "c", "cluster": {"server": f"http://127.0.0.1:{server.getsockname()[1]}"}}
        context = {"name": "c", "context": {"cluster": "c", "user": "u"}}
        users = [{"name": "u", "user": {}}]
        file.write_text(
            json.dumps({"clusters": [cluster], "contexts": [context], "users": users, "current-context": "c"})
        )
        monkeypatch.setattr("kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(file))
        yield taken
        server.shutdown(socket.SHUT_RDWR)
    for connection in taken:
        connection.close()


def test_a_server_that_says_nothing_is_given_up_at_the_deadline_of_the_whole_call(
    silent: list[socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kserve, "ANSWER_SECONDS", 1)
    monkeypatch.setattr(kserve, "CALL_SECONDS", 1.5)
    with pytest.raises(UserError, match="the Kubernetes API does not answer"):
        KServeDeployer("space").status("hscode")
    assert len(silent) == 2


def test_a_lease_is_not_waited_for_longer_than_it_lasts(silent: list[socket.socket]) -> None:
    with pytest.raises(UserError, match="the Kubernetes API does not answer"):
        KubernetesLease("space", "hscode-canary", seconds=4.5).hold()
    assert len(silent) == 1
