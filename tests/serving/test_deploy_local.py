"""The local host with real predictors: equal answers on every way, and nothing lost whatever is killed."""

import asyncio
import errno
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from models.errors import UserError
from serving.deploy import Status
from serving.deploy.host import LocalHost
from serving.deploy.local import LocalDeployer
from serving.deploy.manifest import inference_service
from tests.e2e.cluster import until
from tests.serving.places import STUB, LocalPlace, Receiver, receiver, write_stub_bundle
from tests.serving.running import running_predictor
from tests.serving.s3 import running_s3
from tests.serving.tiny_bundle import write_tiny_bundle

pytestmark = pytest.mark.slow

STUBS = {"hscode": [sys.executable, str(STUB)]}
TEXTS = ["Ladies' cotton T-shirts, knitted", "wireless headphones", "gift items", "naïve café 中文", "zzz qqq"]


def deployed(home: Path, bundle: Path, version: str = "3", **predictor: Any) -> LocalDeployer:
    """A home in which a bundle is recorded."""
    deployer = LocalDeployer(home)
    manifest = inference_service("hscode", bundle.as_uri(), version, logger_url="")
    manifest["spec"]["predictor"].update(predictor)
    deployer.apply(manifest, 60)
    return deployer


@contextmanager
def host_process(
    home: Path, *options: str, environment: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[str]]:
    """``hscode serve`` as a process of its own, entered once its service is settled."""
    command = [
        sys.executable,
        "-m",
        "cli.main",
        "serve",
        "--home",
        str(home),
        "--port",
        "0",
        "--grpc-port",
        "-1",
        *options,
    ]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env={**os.environ, **(environment or {})}
    ) as process:
        assert process.stdout is not None
        said = []
        for line in process.stdout:
            said.append(line)
            if line.startswith("Ask:"):
                break
        else:
            pytest.fail("".join(said))
        drain = threading.Thread(target=process.stdout.read, daemon=True)
        drain.start()
        try:
            yield process
        finally:
            if process.poll() is None:
                process.terminate()
            process.wait(60)
            drain.join()


def process_of(deployer: LocalDeployer, revision: str) -> int | None:
    record = deployer.store.status("hscode") or {"revisions": {}}
    pid = record["revisions"].get(revision, {}).get("pid")
    return None if pid is None else int(pid)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    except FileNotFoundError:
        return False


# -- answers ------------------------------------------------------------------------------------------------------


def test_answers_are_the_predictors_own_bytes(tmp_path: Path) -> None:
    """v1, explain, v2, metadata, CloudEvents and gRPC through the host, against a predictor asked directly."""
    import grpc
    from kserve.protocol.grpc import grpc_predict_v2_pb2 as pb
    from kserve.protocol.grpc import grpc_predict_v2_pb2_grpc as pb_grpc

    bundle = write_tiny_bundle(tmp_path / "bundle")
    deployed(tmp_path / "home", bundle)
    inputs = [{"name": "description", "datatype": "BYTES", "shape": [len(TEXTS)], "data": TEXTS}]
    event = {"specversion": "1.0", "id": "1", "source": "/shop", "type": "hs.ask", "data": {"instances": TEXTS[:1]}}
    binary = {"ce-specversion": "1.0", "ce-id": "2", "ce-source": "/shop", "ce-type": "hs.ask"}
    asked: list[tuple[str, str, Any, dict[str, str]]] = [
        ("POST", "/v1/models/hscode:predict", {"instances": TEXTS}, {}),
        (
            "POST",
            "/v1/models/hscode:predict",
            {"instances": TEXTS},
            {"content-type": "application/x-www-form-urlencoded"},
        ),
        ("POST", "/v1/models/hscode:explain", {"instances": TEXTS[:2]}, {}),
        ("POST", "/v2/models/hscode/infer", {"id": "x", "inputs": inputs}, {}),
        ("GET", "/v2/models/hscode", None, {}),
        ("GET", "/v2/models/hscode/ready", None, {}),
        ("GET", "/v1/models/hscode", None, {}),
        ("POST", "/v1/models/hscode:predict", {"instances": 5}, {}),
        ("GET", "/no/such%20path?a=%2F", None, {}),
    ]
    with (
        running_predictor(bundle) as direct,
        LocalHost(tmp_path / "home", grpc_port=0) as host,
        httpx.Client(timeout=60) as client,
    ):
        for method, path, body, headers in asked:
            content = None if body is None else json.dumps(body).encode()
            sent = {"content-type": "application/json", **headers}
            ours = client.request(method, host.url + path, content=content, headers=sent)
            theirs = client.request(method, direct.url + path, content=content, headers=sent)
            assert (ours.status_code, ours.content) == (theirs.status_code, theirs.content), path
            for name in ("content-type", "hs-model-version", "hs-model-edition"):
                assert ours.headers.get(name) == theirs.headers.get(name), path

        def as_event(url: str, body: Any, headers: dict[str, str]) -> Any:
            return client.post(f"{url}/v1/models/hscode:predict", json=body, headers=headers).json()

        structured = {"content-type": "application/cloudevents+json"}
        assert as_event(host.url, event, structured)["data"] == as_event(direct.url, event, structured)["data"]
        plain = {"instances": TEXTS[:1]}
        assert as_event(host.url, plain, binary) == as_event(direct.url, plain, binary)

        request = pb.ModelInferRequest(model_name="hscode", id="x")
        tensor = request.inputs.add(name="description", datatype="BYTES", shape=[len(TEXTS)])
        tensor.contents.bytes_contents.extend(text.encode() for text in TEXTS)
        answers = []
        for target in (f"127.0.0.1:{host.grpc_port}", f"127.0.0.1:{direct.grpc_port}"):
            with grpc.insecure_channel(target) as channel:
                stub = pb_grpc.GRPCInferenceServiceStub(channel)
                answers.append(stub.ModelInfer(request, timeout=30).SerializeToString(deterministic=True))
                assert stub.ServerLive(pb.ServerLiveRequest(), timeout=30).live
                with pytest.raises(grpc.RpcError) as unknown:
                    stub.ModelInfer(pb.ModelInferRequest(model_name="other"), timeout=30)
                answers.append(str(unknown.value.code()).encode())
        assert answers[:2] == answers[2:]


def test_requests_of_the_first_seconds_wait(tmp_path: Path) -> None:
    deployer = deployed(tmp_path / "home", write_tiny_bundle(tmp_path / "bundle"))
    host = LocalHost(tmp_path / "home")
    thread = threading.Thread(target=lambda: asyncio.run(host.serve()))
    thread.start()
    try:
        url = until("the host", lambda: deployer.url, 30, every=0.01)
        answer = httpx.post(f"{url}/v1/models/hscode:predict", json={"instances": ["horse"]}, timeout=60)
        assert answer.status_code == 200
    finally:
        host.stop()
        thread.join()


def test_a_model_on_s3_is_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with running_s3() as s3:
        for name, value in s3.environment.items():
            monkeypatch.setenv(name, value)
        uri = s3.put(write_tiny_bundle(tmp_path / "bundle"), "versions/3")
        LocalDeployer(tmp_path / "home").apply(inference_service("hscode", uri, "3", logger_url=""), 60)
        with LocalHost(tmp_path / "home") as host:
            answer = httpx.post(f"{host.url}/v1/models/hscode:predict", json={"instances": ["horse"]}, timeout=60)
            assert answer.json()["model"]["version"] == "3"
            with pytest.raises(UserError, match="no model bundle here"):
                LocalDeployer(tmp_path / "home").apply(inference_service("hscode", f"{uri}x", "4", logger_url=""), 60)


# -- kills --------------------------------------------------------------------------------------------------------


def test_a_killed_revision_loses_no_accepted_request(tmp_path: Path) -> None:
    """kill -9 of each revision in turn, under load: every request is answered, the revisions are back."""
    place_logger = Receiver("")
    place = LocalPlace(tmp_path, place_logger)
    with place.host:
        deployer = place.local
        deployer.apply(place.manifest("hscode", "1"), 60)
        deployer.change("hscode", storage_uri=place.bundle("2"), version="2", canary_percent=50)
        status = deployer.wait("hscode", 60)
        pids = {r.name: process_of(deployer, r.name) for r in status.revisions}
        assert None not in pids.values()
        done = threading.Event()
        counts = {"asked": 0, "answered": 0}
        failures: list[str] = []

        def ask() -> None:
            with httpx.Client(timeout=60) as client:
                while not done.is_set():
                    counts["asked"] += 1
                    answer = client.post(
                        f"{place.host.url}/v1/models/hscode:predict", json={"instances": ["sleep 0.02"]}
                    )
                    counts["answered"] += answer.status_code == 200
                    if answer.status_code != 200:
                        failures.append(answer.text)

        with ThreadPoolExecutor(8) as askers:
            for _ in range(8):
                askers.submit(ask)
            try:
                for name in (*pids, *pids):
                    before = counts["answered"]
                    until("requests under way", lambda before=before: counts["answered"] > before + 20, 60, every=0.01)
                    pid = until("the process", lambda name=name: process_of(deployer, name), 60, every=0.01)
                    os.kill(pid, signal.SIGKILL)
                    until(
                        "another process", lambda name=name, pid=pid: process_of(deployer, name) not in (None, pid), 60
                    )
            finally:
                done.set()
        assert failures == []
        assert counts["asked"] == counts["answered"]
        assert deployer.status("hscode").settled


def test_a_killed_revision_loses_no_grpc_call(tmp_path: Path) -> None:
    import grpc
    from kserve.protocol.grpc import grpc_predict_v2_pb2 as pb
    from kserve.protocol.grpc import grpc_predict_v2_pb2_grpc as pb_grpc

    deployer = deployed(tmp_path / "home", write_tiny_bundle(tmp_path / "bundle"))
    request = pb.ModelInferRequest(model_name="hscode")
    request.inputs.add(name="description", datatype="BYTES", shape=[1]).contents.bytes_contents.append(b"horse")
    counts, failures, done = {"asked": 0, "answered": 0}, [], threading.Event()
    with LocalHost(tmp_path / "home", grpc_port=0) as host, ThreadPoolExecutor(4) as askers:

        def ask() -> None:
            with grpc.insecure_channel(f"127.0.0.1:{host.grpc_port}") as channel:
                stub = pb_grpc.GRPCInferenceServiceStub(channel)
                while not done.is_set():
                    counts["asked"] += 1
                    try:
                        stub.ModelInfer(request, timeout=60)
                        counts["answered"] += 1
                    except grpc.RpcError as error:
                        failures.append(str(error))

        for _ in range(4):
            askers.submit(ask)
        revision = deployer.status("hscode").latest_ready
        try:
            for _ in range(2):
                before = counts["answered"]
                until("calls under way", lambda before=before: counts["answered"] > before + 20, 60, every=0.01)
                pid = until("the process", lambda: process_of(deployer, revision), 60, every=0.01)
                os.kill(pid, signal.SIGKILL)
                until("another process", lambda pid=pid: process_of(deployer, revision) not in (None, pid), 60)
        finally:
            done.set()
    assert failures == []
    assert counts["asked"] == counts["answered"]


def test_a_killed_host_loses_what_it_held_and_nothing_after(tmp_path: Path) -> None:
    """kill -9 of the host under load: what it held is lost, no more; the next host answers the rest.

    A client can lose two: one in the host's hands and, as the kernel closes the listening socket last, one in the
    queue before it.
    """
    home = tmp_path / "home"
    deployed(home, write_tiny_bundle(tmp_path / "bundle"))
    clients = 6
    counts, done = {"answered": 0, "lost": 0, "wrong": 0}, threading.Event()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    def ask() -> None:
        with httpx.Client(timeout=60) as client:
            while not done.is_set():
                try:
                    url = f"http://127.0.0.1:{port}/v1/models/hscode:predict"
                    status = client.post(url, json={"instances": ["horse"]}).status_code
                    counts["answered" if status == 200 else "wrong"] += 1
                except httpx.ConnectError:
                    done.wait(0.05)  # nobody accepted it
                except httpx.HTTPError:
                    counts["lost"] += 1

    with ThreadPoolExecutor(clients) as askers:
        try:
            with host_process(home, "--port", str(port)) as host:
                for _ in range(clients):
                    askers.submit(ask)
                until("requests under way", lambda: counts["answered"] > 50, 60, every=0.01)
                host.kill()
                host.wait()
            before = counts["answered"]
            with host_process(home, "--port", str(port)):
                until("answers of the next host", lambda: counts["answered"] > before + 50, 60, every=0.01)
                done.set()
        finally:
            done.set()
    assert counts["wrong"] == 0
    assert counts["lost"] <= 2 * clients


def test_a_killed_host_is_restored_as_it_was(tmp_path: Path) -> None:
    """kill -9 of the host in the middle of a canary: its processes end with it, the next host goes on from there."""
    home, deployer = tmp_path / "home", LocalDeployer(tmp_path / "home")
    deployed(home, write_tiny_bundle(tmp_path / "one", version="1"), "1")
    with host_process(home) as host:
        two = write_tiny_bundle(tmp_path / "two", version="2")
        deployer.change("hscode", storage_uri=two.as_uri(), version="2", canary_percent=30)
        before = deployer.wait("hscode", 60)
        pids = [process_of(deployer, r.name) for r in before.revisions]
        host.kill()
        host.wait()
    until("the processes' end", lambda: not any(alive(pid) for pid in pids if pid), 30)
    down = deployer.status("hscode")
    assert (down.ready, down.traffic) == (False, before.traffic)
    assert "no local host runs" in "".join(down.reasons)
    # Meanwhile the controller goes on.
    deployer.change("hscode", canary_percent=60, expected=down)
    with host_process(home):
        after = deployer.wait("hscode", 60)
        assert after.latest_created == before.latest_created
        assert [(t.revision, t.percent) for t in after.traffic] == [
            (before.latest_ready, 60),
            (before.latest_rolledout, 40),
        ]
        url = deployer.url
        got = {
            httpx.post(f"{url}/v1/models/hscode:predict", json={"instances": ["horse"]}, timeout=60).json()["model"][
                "version"
            ]
            for _ in range(40)
        }
        assert got == {"1", "2"}


def test_a_stopped_host_answers_what_it_accepted(tmp_path: Path) -> None:
    home = tmp_path / "home"
    deployer = deployed(home, write_stub_bundle(tmp_path / "bundle", "1"))
    host = LocalHost(home, runtimes=STUBS)
    with host, ThreadPoolExecutor(4) as askers:
        slow = [
            askers.submit(
                httpx.post, f"{host.url}/v1/models/hscode:predict", json={"instances": ["sleep 1"]}, timeout=60
            )
            for _ in range(4)
        ]
        until("requests under way", lambda: host.under_way == 4, 30, every=0.01)
        host.stop()
        assert [answer.result().status_code for answer in slow] == [200] * 4
    assert deployer.url is None


# -- bounds and bad days ------------------------------------------------------------------------------------------


def test_a_logger_that_is_down_or_slow_holds_up_no_answer(tmp_path: Path) -> None:
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen(1)  # takes the connection, says nothing
        url = f"http://127.0.0.1:{deaf.getsockname()[1]}/events"
        place = LocalPlace(tmp_path, Receiver(url))
        with place.host:
            place.local.apply(place.manifest("hscode", "1"), 60)
            answers = [place.ask("hscode", "a").status_code for _ in range(50)]
        assert answers == [200] * 50


def test_a_full_disk_ends_neither_serving_nor_a_restart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    deployer = deployed(tmp_path / "home", write_stub_bundle(tmp_path / "bundle", "1"))
    with LocalHost(tmp_path / "home", runtimes=STUBS) as host, caplog.at_level(logging.INFO, "hscode.host"):
        pid = process_of(deployer, "hscode-predictor-00001")
        tried = []

        def full(name: str, status: Mapping[str, Any]) -> None:
            tried.append(name)
            raise OSError(errno.ENOSPC, "No space left on device", f"/home/.status.json.{len(tried)}")

        def answering() -> int:
            url = f"{host.url}/v1/models/hscode:predict"
            return httpx.post(url, json={"instances": ["a"]}, timeout=60).status_code

        monkeypatch.setattr(host.store, "write_status", full)
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        until("several looks at a full disk", lambda: len(tried) > 3, 30, every=0.01)
        assert answering() == 200
        monkeypatch.undo()
        deployer.change("hscode", storage_uri=write_stub_bundle(tmp_path / "next", "2").as_uri(), version="2")
        assert deployer.wait("hscode", 60).version == "2"
    said = [record.getMessage() for record in caplog.records if "service hscode: " in record.getMessage()]
    assert len(said) == 2, said
    assert "No space left on device" in said[0]
    assert "in order again" in said[1]


def test_concurrency_and_timeout_of_the_manifest_hold(tmp_path: Path) -> None:
    bundle = write_stub_bundle(tmp_path / "bundle", "1")
    deployed(tmp_path / "home", bundle, containerConcurrency=1, timeout=2)
    with LocalHost(tmp_path / "home", runtimes=STUBS) as host, ThreadPoolExecutor(4) as askers:

        def ask(text: str) -> httpx.Response:
            return httpx.post(f"{host.url}/v1/models/hscode:predict", json={"instances": [text]}, timeout=60)

        answers = list(askers.map(ask, ["sleep 0.3"] * 4))
        assert [answer.json()["at_once"] for answer in answers] == [1] * 4
        late = ask("sleep 5")
        assert (late.status_code, "2 s" in late.json()["error"]) == (504, True)


def test_a_service_is_found_by_its_host(tmp_path: Path) -> None:
    with receiver() as logger:
        place = LocalPlace(tmp_path, logger)
        with place.host:
            # Alone it answers whatever it is called by: a laptop's curl says localhost.
            place.local.apply(place.manifest("one", "1"), 60)
            assert place.ask("other", "a").status_code == 200
            place.local.apply(place.manifest("two", "2"), 60)
            assert place.ask("two", "a").json()["model"] == {"name": "two", "version": "2", "edition": "HS2022"}
            unknown = place.ask("other", "a")
            assert (unknown.status_code, "one, two" in unknown.json()["error"]) == (404, True)
            place.local.delete("one")
            until("one service", lambda: place.ask("other", "a").json().get("model", {}).get("name") == "two", 30)


def test_a_scrape_keeps_nothing_awake_and_wakes_nothing(tmp_path: Path) -> None:
    with receiver() as logger:
        place = LocalPlace(tmp_path, logger)
        with place.host:
            place.local.apply(place.manifest("hscode", "1"), 60)
            assert place.ask("hscode", "a").status_code == 200

            def scraped() -> str:
                answer = httpx.get(f"{place.host.url}/metrics", timeout=60)
                assert answer.status_code == 200
                return answer.text

            assert "/metrics" in scraped()  # the stub says what it was asked for
            until("zero, scraped all the while", lambda: scraped() == "" and place.asleep("hscode"), 30)
            process = place.host.services["hscode"].newest.process  # type: ignore[union-attr]
            assert (scraped(), process.starts) == ("", 1)
            assert place.ask("hscode", "a").status_code == 200
            assert process.starts == 2


def test_min_replicas_keeps_it_awake(tmp_path: Path) -> None:
    deployer = deployed(tmp_path / "home", write_stub_bundle(tmp_path / "bundle", "1"), minReplicas=1)
    with LocalHost(tmp_path / "home", runtimes=STUBS, idle_seconds=0.2):
        first = process_of(deployer, deployer.status("hscode").latest_ready)
        assert first is not None
        deployer.change("hscode", version="1b")
        status: Status = deployer.wait("hscode", 60)
        until("the old one's end", lambda: not alive(first), 30)
        os.kill(process_of(deployer, status.latest_ready) or 0, signal.SIGKILL)
        until("a process without a request", lambda: process_of(deployer, status.latest_ready), 30)


def test_a_port_in_use_and_a_second_host_are_one_line(tmp_path: Path) -> None:
    bundle = write_stub_bundle(tmp_path / "bundle", "1")
    deployed(tmp_path / "home", bundle)
    deployed(tmp_path / "other", bundle)

    def serve(*options: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "cli.main", "serve", *options]
        return subprocess.run(command, text=True, capture_output=True, timeout=120)

    with LocalHost(tmp_path / "home", runtimes=STUBS, grpc_port=0) as host:
        taken = serve("--home", str(tmp_path / "other"), "--port", str(host.port), "--grpc-port", "-1")
        grpc_taken = serve("--home", str(tmp_path / "other"), "--port", "0", "--grpc-port", str(host.grpc_port))
        second = serve("--home", str(tmp_path / "home"), "--port", "0")
    empty = serve("--home", str(tmp_path / "empty"), "--port", "0")
    for run, said in (
        (taken, f"port {host.port} is in use"),
        (grpc_taken, f"gRPC port {host.grpc_port}: Address already in use"),
        (second, "a local host runs already"),
        (empty, "no version has the alias champion"),
    ):
        assert run.returncode == 2, run.stderr
        assert said in run.stderr
        assert len(run.stderr.strip().splitlines()) == 1
        assert run.stdout == ""


def test_a_manifest_it_does_not_know_leaves_what_serves(tmp_path: Path) -> None:
    """Someone writes the file by hand: the host says why it does not follow, and serves on."""
    deployer = deployed(tmp_path / "home", write_stub_bundle(tmp_path / "bundle", "1"))
    with LocalHost(tmp_path / "home", runtimes=STUBS) as host:
        before = deployer.store.desired("hscode")
        assert before is not None
        wrong = json.loads(json.dumps(before.manifest))
        wrong["spec"]["predictor"]["affinity"] = {}
        deployer.store.edit("hscode", lambda _: wrong)
        status = until("the refusal", lambda: (s := deployer.status("hscode")).reasons and s, 30)
        assert "spec.predictor.affinity" in "".join(status.reasons)
        answer = httpx.post(f"{host.url}/v1/models/hscode:predict", json={"instances": ["a"]}, timeout=60)
        assert answer.status_code == 200
        deployer.store.edit("hscode", lambda _: before.manifest)
        assert deployer.wait("hscode", 30).settled
