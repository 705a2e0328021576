"""The real Kubernetes of ../shared/cluster for tests: started where it is not, a namespace and an S3 server at hand."""

import functools
import hashlib
import json
import os
import subprocess
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from tests.serving.s3 import KEY, S3, SECRET

ROOT = Path(__file__).resolve().parents[2]
HOST_IP = "10.99.0.1"
"""This machine, as pods reach it."""
WEBHOOK_SECONDS = 60
"""How long kubectl is called again while an admission webhook cannot be asked: its pod restarts."""
GRACE_SECONDS = 6
"""Knative's scale-to-zero-grace-period here, and the least it takes (its default is 30): tests wait for zero often."""
T = TypeVar("T")


@dataclass(frozen=True)
class Cluster:
    """A running cluster and how to speak to it."""

    kit: Path
    environment: Mapping[str, str]

    def kubectl(self, *arguments: str, given: Any = None) -> str:
        """Run kubectl; `given` (YAML text or an object) goes to its standard input. Raises with what it said.

        Called again where an admission webhook could not be asked, and on nothing else.
        """
        text = given if given is None or isinstance(given, str) else json.dumps(given)
        ends = time.monotonic() + WEBHOOK_SECONDS
        while True:
            done = subprocess.run(
                ["kubectl", *arguments], input=text, text=True, capture_output=True, env=self.environment
            )
            if "failed calling webhook" not in done.stderr or time.monotonic() > ends:
                break
            time.sleep(1)
        if done.returncode:
            raise AssertionError(f"kubectl {' '.join(arguments)}: {done.stderr.strip()}")
        return done.stdout

    def get(self, *arguments: str) -> dict[str, Any]:
        """An object as JSON."""
        found: dict[str, Any] = json.loads(self.kubectl("get", *arguments, "-o", "json"))
        return found

    def build_image(self, tag: str, context: Path, *options: str) -> None:
        """Build a Dockerfile and hand the image to the cluster."""
        command = [str(self.kit / "image"), "build", "-q", "-t", tag, *options, str(context)]
        done = subprocess.run(command, text=True, capture_output=True, env=self.environment)
        assert done.returncode == 0, f"{' '.join(command)}:\n{done.stdout[-3000:]}{done.stderr[-3000:]}"

    def client(self, account: str | None = None) -> Any:
        """A client of the API for `KServeDeployer`; with `account` (NAMESPACE:NAME) it has that account's rights."""
        from kubernetes import config

        client = config.new_client_from_config(self.environment["KUBECONFIG"])
        if account is not None:
            client.set_default_header("Impersonate-User", f"system:serviceaccount:{account}")
        return client

    @property
    def gateway(self) -> str:
        """Base address of Kourier; a request says its service in the Host header."""
        return "http://" + self.get("-n", "kourier-system", "service", "kourier")["spec"]["clusterIP"]

    @contextmanager
    def namespace(self, prefix: str, s3: S3 | None = None) -> Iterator[str]:
        """A namespace under Pod Security `restricted`, with the Secret `hscode-s3` for `s3`; removed at the end."""
        name = f"{prefix}-{uuid.uuid4().hex[:6]}"
        labels = {"pod-security.kubernetes.io/enforce": "restricted"}
        self.kubectl(
            "create",
            "-f",
            "-",
            given={"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}},
        )
        try:
            if s3 is not None:
                self.kubectl("apply", "-n", name, "-f", "-", given=s3_secret(s3))
            yield name
        finally:
            self.kubectl("delete", "namespace", name, "--wait=false")


def s3_secret(s3: S3) -> dict[str, Any]:
    """The Secret by which KServe's storage initializer reaches an S3 server without TLS."""
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {
            "name": "hscode-s3",
            "annotations": {
                "serving.kserve.io/s3-endpoint": s3.address,
                "serving.kserve.io/s3-usehttps": "0",
                "serving.kserve.io/s3-region": "us-east-1",
                "serving.kserve.io/s3-verifyssl": "0",
            },
        },
        "stringData": {"AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": SECRET},
    }


DOCKERFILES = {
    "control": "serving/control/Dockerfile",
    "serving": "serving/Dockerfile",
    "mlflow": "manifests/images/mlflow/Dockerfile",
}


def build_project_image(cluster: Cluster, name: str) -> str:
    """One of the project's own images; the tag is of its content, since a node keeps an image that it has by name."""
    parts = ("cli", "components", "config", "models", "pipelines", "serving")
    files = sorted(file for part in parts for file in (ROOT / part).rglob("*.*") if "__pycache__" not in file.parts)
    digest = hashlib.sha256()
    for file in (*files, ROOT / "pyproject.toml", ROOT / "constraints.txt", ROOT / DOCKERFILES[name]):
        digest.update(file.read_bytes())
    tag = f"hscode/{name}:{digest.hexdigest()[:12]}"
    cluster.build_image(tag, ROOT, "-f", str(ROOT / DOCKERFILES[name]))
    return tag


@functools.cache
def started_cluster(kit: Path, mode: str = "--serving") -> Cluster:
    """Start the cluster where it does not run already (it may be run at will), and read its environment."""
    # One `up` at a time: two that start the same part meet.
    command = ["flock", "-o", f"{tempfile.gettempdir()}/hscode-cluster.lock", str(kit / "up"), mode]
    for _ in range(3):  # its kubelet ends where containerd was not ready for it: the next call starts it
        done = subprocess.run(command, text=True, capture_output=True)
        if done.returncode == 0:
            break
    assert done.returncode == 0, f"{kit}/up {mode}:\n{done.stdout[-3000:]}{done.stderr[-3000:]}"
    said = subprocess.run([str(kit / "env")], text=True, capture_output=True, check=True).stdout
    environment = dict(os.environ)
    for line in said.splitlines():
        name, _, value = line.removeprefix("export ").partition("=")
        environment[name] = value.replace("$PATH", environment["PATH"])
    cluster = Cluster(kit, environment)
    if mode == "--serving":
        patch = ROOT / "manifests" / "platform" / "kserve" / "storage-initializer.yaml"
        cluster.kubectl("apply", "--server-side", "--field-manager=hscode-platform", "-f", str(patch))
        grace = json.dumps({"data": {"scale-to-zero-grace-period": f"{GRACE_SECONDS}s"}})
        cluster.kubectl("patch", "-n", "knative-serving", "configmap", "config-autoscaler", "--type=merge", "-p", grace)
    return cluster


def until(what: str, read: Callable[[], T], seconds: float, every: float = 0.5) -> T:
    """Read until it is truthy; fails with `what` after `seconds`."""
    ends = time.monotonic() + seconds
    while True:
        value = read()
        if value:
            return value
        assert time.monotonic() < ends, f"waited {seconds:g} s for {what}; last: {value!r}"
        time.sleep(every)
