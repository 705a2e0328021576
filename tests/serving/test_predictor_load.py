"""Under load: a full line answers 503, SIGTERM loses nothing that was accepted, a second signal is not needed."""

import asyncio
import signal
import socket
import subprocess
import sys
from collections import Counter
from pathlib import Path

import httpx
import pytest

from tests.e2e.cluster import until
from tests.serving.running import Predictor, running_predictor
from tests.serving.s3 import free_ports
from tests.serving.tiny_bundle import write_tiny_bundle

pytestmark = pytest.mark.slow

PREDICT = "/v1/models/hscode:predict"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_bundle(tmp_path_factory.mktemp("bundle"))


def test_past_the_line_it_says_when_to_come_again_and_loses_none_it_took(bundle: Path) -> None:
    async def ask(predictor: Predictor) -> list[httpx.Response]:
        body = {"instances": ["headphones of steel and cotton"] * 100}
        async with httpx.AsyncClient(base_url=predictor.url, timeout=60) as client:
            return await asyncio.gather(*(client.post(PREDICT, json=body) for _ in range(60)))

    with running_predictor(bundle, "--max-waiting", "150") as predictor:
        responses = asyncio.run(ask(predictor))
        statuses = Counter(r.status_code for r in responses)
        assert set(statuses) == {200, 503}, statuses
        for response in responses:
            if response.status_code == 503:
                assert response.headers["retry-after"] == "1"
                assert "the limit is 150" in response.json()["error"]
            else:
                assert len(response.json()["predictions"]) == 100
        assert httpx.post(predictor.url + PREDICT, json={"instances": ["after"]}).status_code == 200


def test_a_full_line_is_unavailable_by_grpc(bundle: Path) -> None:
    import grpc
    from kserve import InferenceGRPCClient, InferInput, InferRequest

    async def ask(predictor: Predictor) -> Counter[str]:
        client = InferenceGRPCClient(
            f"127.0.0.1:{predictor.grpc_port}", channel_args=[("grpc.enable_retries", 0)], timeout=60
        )

        async def one() -> str:
            tensor = InferInput("description", [100], "BYTES", data=[b"headphones of steel and cotton"] * 100)
            try:
                await client.infer(InferRequest("hscode", [tensor]))
            except grpc.RpcError as error:
                return f"{error.code().name}: the limit is{str(error.details()).partition('the limit is')[2]}"
            return "OK"

        async with client:
            return Counter(await asyncio.gather(*(one() for _ in range(60))))

    with running_predictor(bundle, "--max-waiting", "150") as predictor:
        assert set(asyncio.run(ask(predictor))) == {"OK", "UNAVAILABLE: the limit is 150"}


def test_sigterm_under_load_answers_all_that_was_accepted(bundle: Path) -> None:
    """Clients with and without kept connections; what was sent before the port closed must be answered."""
    lost: list[str] = []
    refused, answered, told_to_close = 0, 0, 0

    async def client(predictor: Predictor, keep: bool, begun: asyncio.Event) -> None:
        nonlocal refused, answered, told_to_close
        limits = httpx.Limits(max_keepalive_connections=1 if keep else 0)
        async with httpx.AsyncClient(base_url=predictor.url, timeout=30, limits=limits) as http:
            while True:
                try:
                    response = await http.post(PREDICT, json={"instances": ["headphones", "cotton t-shirt"]})
                except httpx.ConnectError:
                    refused += 1
                    return
                except httpx.HTTPError as error:
                    lost.append(repr(error))
                    return
                if response.status_code != 200:
                    lost.append(f"{response.status_code} {response.text}")
                answered += 1
                told_to_close += response.headers.get("connection") == "close"
                if answered > 50:
                    begun.set()

    async def main(predictor: Predictor) -> None:
        begun = asyncio.Event()
        clients = [asyncio.create_task(client(predictor, n % 2 == 0, begun)) for n in range(8)]
        await asyncio.wait_for(begun.wait(), 60)
        predictor.process.send_signal(signal.SIGTERM)
        await asyncio.wait_for(asyncio.gather(*clients), 60)

    with running_predictor(bundle, "--drain-seconds", "1") as predictor:
        asyncio.run(main(predictor))
        assert predictor.process.wait(20) == 0
        log = predictor.log.read_text()
    assert lost == []
    assert refused == 8
    assert told_to_close > 0
    assert "drained" in log


def test_while_draining_it_is_not_ready(bundle: Path) -> None:
    with (
        running_predictor(bundle, "--drain-seconds", "30") as predictor,
        httpx.Client(base_url=predictor.url) as kept,
    ):
        assert kept.get("/v2/health/ready").status_code == 200
        predictor.process.send_signal(signal.SIGTERM)
        codes = []
        while not codes or codes[-1] == 200:  # until the signal has arrived
            codes.append(httpx.get(predictor.url + "/v2/health/ready").status_code)
        assert codes[-1] == 503
        assert kept.get("/v1/models/hscode").status_code == 503
        assert httpx.post(predictor.url + PREDICT, json={"instances": ["horse"]}).status_code == 200
        predictor.process.send_signal(signal.SIGTERM)
        assert predictor.process.wait(20) == 0


def test_behind_kserves_agent_it_is_ready_once_that_listens(bundle: Path) -> None:
    def ready(predictor: Predictor) -> set[int]:
        paths = ("/v2/health/ready", "/v1/models/hscode", "/v2/models/hscode/ready")
        return {httpx.get(predictor.url + path).status_code for path in paths}

    (port,) = free_ports("127.0.0.1", 1)
    with running_predictor(bundle, "--agent-port", str(port)) as predictor:
        assert ready(predictor) == {503}
        assert httpx.get(predictor.url + "/v2/health/live").status_code == 200
        with socket.create_server(("127.0.0.1", port)):
            until("ready", lambda: ready(predictor) == {200}, 20)


def test_without_the_agent_it_gets_ready_too_and_says_so(bundle: Path) -> None:
    (port,) = free_ports("127.0.0.1", 1)
    with running_predictor(bundle, "--agent-port", str(port)) as predictor:
        until("ready", lambda: httpx.get(predictor.url + "/v2/health/ready").status_code == 200, 60)
        assert f"nothing listens on --agent-port {port}" in predictor.log.read_text()


def test_idle_it_ends_well_at_once(bundle: Path) -> None:
    with running_predictor(bundle, "--drain-seconds", "600") as predictor:
        predictor.process.send_signal(signal.SIGTERM)
        assert predictor.process.wait(20) == 0


def test_a_port_in_use_and_a_folder_that_is_no_bundle_are_one_line(bundle: Path, tmp_path: Path) -> None:
    def run(*flags: str) -> tuple[int, str]:
        command = [sys.executable, "-m", "serving.predictor", "--host", "127.0.0.1", "--grpc-port", "-1", *flags]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        return done.returncode, [line for line in done.stderr.splitlines() if line.startswith("predictor:")][-1]

    with running_predictor(bundle) as predictor:
        code, line = run("--model-dir", str(bundle), "--http-port", str(predictor.http_port))
        assert code == 2
        assert "Address already in use" in line
    code, line = run("--model-dir", str(tmp_path))
    assert code == 2
    assert "not a model bundle" in line
