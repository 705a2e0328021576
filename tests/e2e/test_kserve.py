"""The project's own image and manifests on real KServe: Ready, the local host's bytes, zero and back, nothing lost."""

import json
import os
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from serving.deploy import DeployFailed, Status
from serving.deploy.host import LocalHost
from serving.deploy.kserve import KServeDeployer
from serving.deploy.local import LocalDeployer
from serving.deploy.manifest import inference_service
from tests.e2e.cluster import GRACE_SECONDS, HOST_IP, ROOT, Cluster, started_cluster, until
from tests.serving.places import Receiver, receiver
from tests.serving.s3 import S3, running_s3
from tests.serving.tiny_bundle import write_tiny_bundle

pytestmark = [pytest.mark.slow, pytest.mark.cluster]

IMAGE = "hscode/serving:test"
TEXTS = ["Ladies' cotton T-shirts, knitted", "wireless headphones", "gift items", "naïve café 中文", "zzz qqq", ""]
PATIENCE = 240


@dataclass
class Installed:
    """manifests/base/serving in a namespace, with a first model."""

    cluster: Cluster
    namespace: str
    s3: S3
    logger: Receiver
    folder: Path
    deployer: KServeDeployer
    client: httpx.Client

    def bundle(self, version: str) -> Path:
        """A whole bundle, real graph and encoder; its small weights differ by version."""
        return write_tiny_bundle(self.folder / f"bundle-{version}", version=version, seed=int(version))

    def ask(self, path: str, body: Any = None) -> httpx.Response:
        """One request through the gateway."""
        host = {"Host": f"hscode-predictor.{self.namespace}.hs.test", "content-type": "application/json"}
        content = None if body is None else json.dumps(body)
        method = "GET" if body is None else "POST"
        return self.client.request(method, self.cluster.gateway + path, content=content, headers=host)

    def overlay(self, name: str, model: str | None) -> Path:
        """What a user writes: namespace, image, size, and at first the model."""
        folder = self.folder / name
        folder.mkdir()
        patch: dict[str, Any] = {
            "apiVersion": "serving.kserve.io/v1beta1",
            "kind": "InferenceService",
            "metadata": {"name": "hscode", "annotations": {"autoscaling.knative.dev/window": "6s"}},
            "spec": {
                "predictor": {
                    "maxReplicas": 1,
                    "logger": {"url": self.logger.url},
                    "model": {"resources": {"requests": {"cpu": "50m", "memory": "128Mi"}}},
                }
            },
        }
        if model is not None:
            patch["metadata"]["annotations"]["hscode/version"] = model
            patch["spec"]["predictor"]["model"]["storageUri"] = self.s3.put(self.bundle(model), f"versions/{model}")
        (folder / "model.yaml").write_text(json.dumps(patch))
        kustomization = {
            "apiVersion": "kustomize.config.k8s.io/v1beta1",
            "kind": "Kustomization",
            "namespace": self.namespace,
            "resources": [os.path.relpath(ROOT / "manifests" / "base" / "serving", folder)],
            "images": [{"name": "hscode/serving", "newTag": "test"}],
            "patches": [{"path": "model.yaml"}],
        }
        (folder / "kustomization.yaml").write_text(json.dumps(kustomization))
        return folder

    def asleep(self) -> bool:
        """No pod of the model that serves runs. (One that never starts is kept by Knative for ten minutes.)"""
        revision = self.deployer.status("hscode").latest_ready
        pods = self.cluster.get("-n", self.namespace, "pods", "-l", f"serving.knative.dev/revision={revision}")
        return not [pod for pod in pods["items"] if "deletionTimestamp" not in pod["metadata"]]


@pytest.fixture(scope="module")
def installed(shared_cluster: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installed]:
    cluster = started_cluster(shared_cluster)
    cluster.build_image(IMAGE, ROOT, "-f", str(ROOT / "serving" / "Dockerfile"))
    with (
        receiver(HOST_IP) as logger,
        running_s3(HOST_IP) as s3,
        cluster.namespace("kserve", s3) as namespace,
        httpx.Client(timeout=120) as client,
    ):
        folder = tmp_path_factory.mktemp("kserve")
        # All deploying here is done with no more rights than the manifests' own Role gives.
        cluster.kubectl("create", "serviceaccount", "deploying", "-n", namespace)
        rights = ("--role=hscode-deployer", f"--serviceaccount={namespace}:deploying")
        cluster.kubectl("create", "rolebinding", "deploying", "-n", namespace, *rights)
        deployer = KServeDeployer(namespace, client=cluster.client(f"{namespace}:deploying"), patience_s=5)
        place = Installed(cluster, namespace, s3, logger, folder, deployer, client)
        cluster.kubectl("apply", "--server-side", "-k", str(place.overlay("first", "1")))
        try:
            deployer.wait("hscode", PATIENCE)
        except Exception:
            print(cluster.kubectl("get", "events", "-n", namespace))
            raise
        yield place


def test_the_gateways_answers_are_the_local_hosts_bytes(installed: Installed, tmp_path: Path) -> None:
    uri = installed.bundle("1").as_uri()
    LocalDeployer(tmp_path).apply(inference_service("hscode", uri, "1", logger_url=""), 60)
    inputs = [{"name": "description", "datatype": "BYTES", "shape": [len(TEXTS)], "data": TEXTS}]
    asked: list[tuple[str, Any]] = [
        ("/v1/models/hscode:predict", {"instances": TEXTS}),
        ("/v1/models/hscode:explain", {"instances": TEXTS[:2]}),
        ("/v2/models/hscode/infer", {"id": "x", "inputs": inputs}),
        ("/v2/models/hscode", None),
        ("/v1/models/hscode:predict", {"instances": 5}),
    ]
    with LocalHost(tmp_path) as host, httpx.Client(base_url=host.url, timeout=60) as local:
        for path, body in asked:
            ours = installed.ask(path, body)
            headers = {"content-type": "application/json"}
            method, content = ("GET", None) if body is None else ("POST", json.dumps(body))
            theirs = local.request(method, path, content=content, headers=headers)
            assert (ours.status_code, ours.content) == (theirs.status_code, theirs.content), path
            assert ours.headers.get("hs-model-version") == theirs.headers.get("hs-model-version"), path


def test_pods_pass_pod_security_restricted(installed: Installed) -> None:
    namespace = installed.cluster.get("namespace", installed.namespace)
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    assert installed.ask("/v1/models/hscode:predict", {"instances": ["horse"]}).status_code == 200
    pods = installed.cluster.get("-n", installed.namespace, "pods")["items"]
    (pod, *_) = [p for p in pods if p["status"]["phase"] == "Running"]
    (container,) = [c for c in pod["spec"]["containers"] if c["name"] == "kserve-container"]
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    assert pod["spec"].get("automountServiceAccountToken") is False


def test_a_new_model_replaces_the_old_and_sleeps_and_wakes_without_a_failed_request(installed: Installed) -> None:
    """Steady client through canary, promotion, zero and wake; the logger's pairs say which version answered."""
    deployer = installed.deployer
    asked, failures, stop = 0, [], threading.Event()
    versions: Counter[str] = Counter()

    def steady() -> None:
        nonlocal asked
        while not stop.wait(0.1):
            asked += 1
            answer = installed.ask("/v1/models/hscode:predict", {"instances": [f"cotton t shirt {asked}"]})
            if answer.status_code == 200:
                versions[answer.json()["model"]["version"]] += 1
            else:
                failures.append(f"{answer.status_code} {answer.text}")

    client = threading.Thread(target=steady)
    client.start()
    try:
        uri = installed.s3.put(installed.bundle("2"), "versions/2")
        deployer.change("hscode", storage_uri=uri, version="2", canary_percent=50)
        deployer.wait("hscode", PATIENCE)
        until("answers of both", lambda: versions["1"] > 5 and versions["2"] > 5, PATIENCE)
        deployer.change("hscode", canary_percent=None)
        promoted: Status = deployer.wait("hscode", PATIENCE)
        assert promoted.percent(promoted.latest_ready) == 100
        before = versions["2"]
        until("answers of the new one", lambda: versions["2"] > before + 5, PATIENCE)
    finally:
        stop.set()
        client.join()
    assert failures == []
    assert sum(versions.values()) == asked

    for _ in range(2):
        until("zero", installed.asleep, PATIENCE)
        woken = installed.ask("/v1/models/hscode:predict", {"instances": ["cotton t shirt awake"]})
        assert (woken.status_code, woken.json()["model"]["version"]) == (200, "2")

    def pairs() -> dict[str, dict[str, Any]]:
        found: dict[str, dict[str, Any]] = {}
        for event in list(installed.logger.events):
            if b"cotton t shirt" in event.body or b"predictions" in event.body:
                found.setdefault(event.headers["ce-id"], {})[event.headers["ce-type"].rsplit(".", 1)[1]] = event
        return {event_id: pair for event_id, pair in found.items() if len(pair) == 2}

    until("the logger's pairs", lambda: len(pairs()) >= asked + 2, PATIENCE)
    for pair in pairs().values():
        answered = json.loads(pair["response"].body)["model"]["version"]
        for event in pair.values():
            assert json.loads(event.headers["ce-annotations"])["hscode/version"] == answered


def test_a_challenger_whose_image_does_not_exist_never_gets_traffic(installed: Installed) -> None:
    champion = installed.deployer.status("hscode")
    runtime = installed.cluster.get("-n", installed.namespace, "servingruntime", "hscode")
    nowhere = {"apiVersion": runtime["apiVersion"], "kind": "ServingRuntime", "metadata": {"name": "nowhere"}}
    spec = json.loads(json.dumps(runtime["spec"]))
    spec["containers"][0]["image"] = "hscode/serving:nowhere"
    spec["supportedModelFormats"][0].pop("autoSelect")
    installed.cluster.kubectl("apply", "-n", installed.namespace, "-f", "-", given={**nowhere, "spec": spec})
    manifest = inference_service("hscode", champion.storage_uri, "9", logger_url=installed.logger.url)
    manifest["spec"]["predictor"]["model"]["runtime"] = "nowhere"
    with pytest.raises(DeployFailed, match=r"ErrImagePull|ImagePullBackOff"):
        installed.deployer.apply(manifest, PATIENCE)
    restored = installed.deployer.wait("hscode", PATIENCE)
    assert (restored.storage_uri, restored.version) == (champion.storage_uri, champion.version)
    answer = installed.ask("/v1/models/hscode:predict", {"instances": ["horse"]})
    assert (answer.status_code, answer.json()["model"]["version"]) == (200, champion.version)


def test_applying_the_manifests_again_leaves_the_deployed_model(installed: Installed) -> None:
    """The deployer owns the model, kubectl the rest: an upgrade of the manifests does not bring an old model back."""
    uri = installed.s3.put(installed.bundle("2"), "versions/2")
    installed.deployer.change("hscode", storage_uri=uri, version="2", canary_percent=None)
    before = installed.deployer.wait("hscode", PATIENCE)
    with pytest.raises(AssertionError, match="hscode-deploy"):
        installed.cluster.kubectl("apply", "--server-side", "-k", str(installed.overlay("again", "1")))
    installed.cluster.kubectl("apply", "--server-side", "-k", str(installed.overlay("upgrade", None)))
    after = installed.deployer.status("hscode")
    assert (after.storage_uri, after.version, after.generation) == (
        before.storage_uri,
        before.version,
        before.generation,
    )
    installed.deployer.event("hscode", "Normal", "Tested", "seen by people")
    assert "seen by people" in installed.cluster.kubectl("describe", "isvc", "hscode", "-n", installed.namespace)


def test_what_simulate_says_of_a_trace_is_seen_on_the_cluster(installed: Installed, tmp_path: Path) -> None:
    """Two bursts with silence between, sent open loop at a service at zero, against `hscode simulate` on that trace.

    A burst lasts three starts, and late is what waits for half a start or more, so that a slow machine shows the same.
    """
    wakes = []
    for _ in range(3):
        until("zero", installed.asleep, PATIENCE)
        began = time.monotonic()
        assert installed.ask("/v1/models/hscode:predict", {"instances": ["horse"]}).status_code == 200
        wakes.append(time.monotonic() - began)
    until("zero", installed.asleep, PATIENCE)
    median, most = sorted(wakes)[1], max(wakes)
    objective_ms = median / 2 * 1000
    burst = [round(index * 3 * median / 40, 3) for index in range(40)]
    again = round(4 * median + 30, 3)
    planned = [*burst, *(round(again + at, 3) for at in burst)]
    taken: dict[float, float] = {}
    start = time.monotonic()

    def send(at: float) -> None:
        answer = installed.ask("/v1/models/hscode:predict", {"instances": ["horse"]})
        assert answer.status_code == 200, answer.text
        taken[at] = (time.monotonic() - start - at) * 1000

    with ThreadPoolExecutor(40) as senders:
        sent = []
        for at in planned:
            time.sleep(max(0.0, start + at - time.monotonic()))  # the trace itself, not a wait
            sent.append(senders.submit(send, at))
    for each in sent:
        each.result()
    trace = tmp_path / "trace.csv"
    trace.write_text("\n".join(["at,latency_ms", *(f"{at},{taken[at]:.1f}" for at in planned)]) + "\n")
    command = [
        sys.executable, "-m", "cli.main", "simulate", "--json", "--trace", str(trace), "--min-replicas", "0",
        "--objective-ms", f"{objective_ms}", "--measure", str(installed.bundle("1")),
        "--cold-start-s", f"{median},{most}", "--set", "capacity.knative.stable_window_s=6",
        "--set", f"capacity.knative.grace_s={GRACE_SECONDS}", "--set", "capacity.max_replicas=1",
    ]  # fmt: skip
    report = json.loads(subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT).stdout)
    compared = report["compared"]["0"]
    print(json.dumps({"wakes_s": wakes, "objective_ms": objective_ms, **compared}))
    assert min(taken[0.0], taken[again]) > objective_ms, "it was at zero before both bursts"
    assert 0 < compared["simulated"]["met"] < 1
    assert abs(compared["simulated"]["met"] - compared["observed"]["met"]) < 0.2
