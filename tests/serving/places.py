"""The two places an InferenceService runs in, with one face, so that the same scenarios can be held against both."""

import hashlib
import json
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Protocol

import httpx
import yaml

from serving.deploy import Deployer
from serving.deploy.manifest import inference_service

ROOT = Path(__file__).resolve().parents[2]
STUB = Path(__file__).with_name("stub_predictor.py")


@dataclass(frozen=True)
class Event:
    """One CloudEvent as the logger sent it; header names in lower case."""

    headers: dict[str, str]
    body: bytes


@dataclass
class Receiver:
    """What stands where the monitor would: keeps all events."""

    url: str
    events: list[Event] = field(default_factory=list)


@contextmanager
def receiver(ip: str = "127.0.0.1") -> Iterator[Receiver]:
    """Take events on a free port of `ip`."""

    class Handler(BaseHTTPRequestHandler):
        disable_nagle_algorithm = True
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            taken.events.append(Event({key.lower(): value for key, value in self.headers.items()}, body))
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer((ip, 0), Handler)
    taken = Receiver(f"http://{ip}:{server.server_port}/events")
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield taken
    finally:
        server.shutdown()
        server.server_close()


def write_stub_bundle(folder: Path, version: str, fault: str = "none") -> Path:
    """A bundle for `stub_predictor`."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "card.json").write_text(json.dumps({"version": version, "fault": fault}))
    return folder


class Place(Protocol):
    """A backend with stub predictors, and what a scenario needs around it."""

    deployer: Deployer
    logger: Receiver
    window: str
    """Shortest time after which an idle revision goes to zero here."""
    patience: float
    """Seconds within which a change is done here."""

    def bundle(self, version: str, fault: str = "none") -> str:
        """Address of a stub bundle."""
        ...

    def ask(self, name: str, *texts: str, headers: dict[str, str] | None = None) -> httpx.Response:
        """Send one v1 predict request."""
        ...

    def asleep(self, name: str) -> bool:
        """Whether no process of the service runs."""
        ...

    def manifest(self, name: str, version: str, fault: str = "none", **more: Any) -> dict[str, Any]:
        """The project's InferenceService for a stub bundle."""
        made = inference_service(name, self.bundle(version, fault), version, logger_url=self.logger.url, **more)
        made["metadata"]["annotations"]["autoscaling.knative.dev/window"] = self.window
        made["spec"]["predictor"]["model"]["resources"] = {
            "requests": {"cpu": "20m", "memory": "32Mi"},
            "limits": {"cpu": "1", "memory": "128Mi"},
        }
        return made


class LocalPlace(Place):
    """The local host, on a home of its own."""

    window, patience = "1s", 60.0

    def __init__(self, folder: Path, logger: Receiver) -> None:
        from serving.deploy.host import LocalHost
        from serving.deploy.local import LocalDeployer

        self.folder, self.logger = folder, logger
        self.host = LocalHost(folder / "home", runtimes={"hscode": [sys.executable, str(STUB)]}, seed=1)
        self.local = LocalDeployer(folder / "home")
        self.deployer = self.local
        self.client = httpx.Client(timeout=60)

    def bundle(self, version: str, fault: str = "none") -> str:
        if fault == "missing":
            return (self.folder / "no-such-bundle").as_uri()
        return write_stub_bundle(self.folder / f"bundle-{version}-{fault}", version, fault).as_uri()

    def ask(self, name: str, *texts: str, headers: dict[str, str] | None = None) -> httpx.Response:
        host = {"Host": f"{name}-predictor.default.localhost"}
        body = {"instances": list(texts)}
        return self.client.post(f"{self.host.url}/v1/models/{name}:predict", json=body, headers=host | (headers or {}))

    def asleep(self, name: str) -> bool:
        record = self.local.store.status(name) or {"revisions": {}}
        return not any(revision["replicas"] for revision in record["revisions"].values())


class KServePlace(Place):
    """Real KServe in a namespace under Pod Security `restricted`, models on a real S3 server."""

    window, patience = "6s", 180.0

    def __init__(self, cluster: Any, namespace: str, s3: Any, folder: Path, logger: Receiver) -> None:
        from serving.deploy.kserve import KServeDeployer

        self.cluster, self.namespace, self.s3, self.folder, self.logger = cluster, namespace, s3, folder, logger
        self.deployer = KServeDeployer(namespace, client=cluster.client(), patience_s=3)
        base = ROOT / "manifests" / "base" / "serving"
        cluster.kubectl("apply", "-n", namespace, "-f", str(base / "serviceaccount.yaml"))
        runtime = yaml.safe_load((base / "servingruntime.yaml").read_text())
        runtime["spec"]["containers"][0]["image"] = stub_image()
        cluster.kubectl("apply", "-n", namespace, "-f", "-", given=runtime)
        self.client = httpx.Client(timeout=60)
        self.gateway = cluster.gateway

    def bundle(self, version: str, fault: str = "none") -> str:
        if fault == "missing":
            return f"s3://{self.s3.bucket}/no-such-bundle"
        name = f"bundle-{version}-{fault}"
        return str(self.s3.put(write_stub_bundle(self.folder / name, version, fault), name))

    def ask(self, name: str, *texts: str, headers: dict[str, str] | None = None) -> httpx.Response:
        host = {"Host": f"{name}-predictor.{self.namespace}.hs.test"}
        body = {"instances": list(texts)}
        return self.client.post(f"{self.gateway}/v1/models/{name}:predict", json=body, headers=host | (headers or {}))

    def asleep(self, name: str) -> bool:
        pods = self.cluster.get("-n", self.namespace, "pods", "-l", f"serving.kserve.io/inferenceservice={name}")
        return not [pod for pod in pods["items"] if "deletionTimestamp" not in pod["metadata"]]


def stub_image() -> str:
    """Name of the stub's image; the tag is of its content, since a node keeps an image that it has by name."""
    return "hscode/stub:" + hashlib.sha256(STUB.read_bytes()).hexdigest()[:12]


def build_stub_image(cluster: Any, folder: Path) -> None:
    """The stub predictor as an image: the standard library's Python and one file."""
    (folder / STUB.name).write_text(STUB.read_text())
    (folder / "Dockerfile").write_text(
        f'FROM python:3.11-slim\nCOPY {STUB.name} /app/\nUSER 65532:65532\nENTRYPOINT ["python", "/app/{STUB.name}"]\n'
    )
    cluster.build_image(stub_image(), folder)
