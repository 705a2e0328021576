"""`KServeDeployer` against a server that fails as the Kubernetes API does."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest
from kubernetes.client import ApiClient, Configuration

from models.errors import UserError
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
