"""Two canary controllers for a test: processes of this machine, or manifests/base/canary as pods of a real cluster."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from config.settings import Canary as Policy
from tests.e2e.cluster import ROOT, Cluster, until


class Controllers(Protocol):
    """Two of them, one leading."""

    environment: Mapping[str, str]
    """With it `hscode canary` asks the same state."""
    arguments: tuple[str, ...]
    """And with these."""

    def kill(self, actor: str) -> None:
        """``kill -9`` of the one that calls itself `actor`; another is started where nothing else does so."""
        ...

    def end(self) -> None:
        """SIGTERM for all; shows what they said."""
        ...


class ProcessControllers(Controllers):
    """Processes on a home folder."""

    def __init__(self, home: Path, policy: Policy) -> None:
        self.home, self.policy = home, policy
        self.environment, self.arguments = {}, ("--home", str(home))
        self.processes: list[subprocess.Popen[bytes]] = []
        for _ in range(2):
            self._start()

    def _start(self) -> None:
        log = (self.home / f"controller-{len(self.processes)}.log").open("wb")
        command = [sys.executable, "-m", "serving.control.canary", "--home", str(self.home), "--port", "-1"]
        for key, value in _settings(self.policy).items():
            command += ["--set", f"{key}={value}"]
        self.processes.append(subprocess.Popen(command, stdout=log, stderr=log))

    def kill(self, actor: str) -> None:
        leader = next(process for process in self.processes if f"-{process.pid}-" in actor)
        leader.send_signal(signal.SIGKILL)
        leader.wait()
        self._start()

    def end(self) -> None:
        for process in self.processes:
            if process.poll() is None:
                process.terminate()
        for process in self.processes:
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        for log in self.home.glob("controller-*.log"):
            print(f"--- {log.name}\n{log.read_text()[-6000:]}")


class PodControllers(Controllers):
    """The Deployment of manifests/base/canary, with the project's own image, on a database and a registry of this
    machine."""

    def __init__(
        self, cluster: Cluster, namespace: str, folder: Path, image: str, policy: Policy, database: str, registry: str
    ) -> None:
        self.cluster, self.namespace = cluster, namespace
        self.arguments = ("--home", str(folder / "nothing"))
        self.environment = {
            "KUBECONFIG": cluster.environment["KUBECONFIG"],
            "HSCODE__STATE__URL": database,
            "HSCODE__REGISTRY__URI": registry,
            "HSCODE__DEPLOY__TARGET": f"kserve:{namespace}",
        }
        secret = {"metadata": {"name": "hscode-database"}, "stringData": {"url": database}}
        self.cluster.kubectl(
            "apply", "-n", namespace, "-f", "-", given={"apiVersion": "v1", "kind": "Secret", **secret}
        )
        settings = {f"HSCODE__{key.upper().replace('.', '__')}": value for key, value in _settings(policy).items()}
        literals = [f"{key}={value}" for key, value in {**settings, "HSCODE__REGISTRY__URI": registry}.items()]
        name, _, tag = image.rpartition(":")
        base = [os.path.relpath(ROOT / "manifests" / "base" / part, folder) for part in ("settings", "canary")]
        kustomization: dict[str, Any] = {
            "apiVersion": "kustomize.config.k8s.io/v1beta1",
            "kind": "Kustomization",
            "namespace": namespace,
            "resources": base,
            "images": [{"name": "hscode/control", "newName": name, "newTag": tag}],
            "configMapGenerator": [{"name": "hscode-settings", "behavior": "merge", "literals": literals}],
        }
        (folder / "kustomization.yaml").write_text(json.dumps(kustomization))
        cluster.kubectl("apply", "--server-side", "-k", str(folder))
        try:
            cluster.kubectl("rollout", "status", "-n", namespace, "deployment/hscode-canary", "--timeout=180s")
        except AssertionError:
            print(cluster.kubectl("describe", "-n", namespace, "pods"))
            raise

    def kill(self, actor: str) -> None:
        pods = self.cluster.get("-n", self.namespace, "pods", "-l", "app.kubernetes.io/name=hscode-canary")["items"]
        (pod,) = [pod for pod in pods if actor.startswith(pod["metadata"]["name"])]
        os.kill(_process_of(pod["metadata"]["uid"]), signal.SIGKILL)
        until("the restart", lambda: self._restarts(pod["metadata"]["name"]), 180)

    def _restarts(self, name: str) -> int:
        status = self.cluster.get("-n", self.namespace, "pod", name)["status"]
        return sum(container["restartCount"] for container in status["containerStatuses"])

    def end(self) -> None:
        logs = ("logs", "-n", self.namespace, "-l", "app.kubernetes.io/name=hscode-canary", "--tail=60", "--prefix")
        print(self.cluster.kubectl(*logs))
        self.cluster.kubectl("delete", "-n", self.namespace, "deployment", "hscode-canary", "--wait=false")


def _settings(policy: Policy) -> dict[str, str]:
    """The settings that make `policy`: the controllers' own pace, and all of it for canaries they start themselves."""
    return {f"canary.{key}": json.dumps(value) for key, value in policy.model_dump(mode="json").items()}


def _process_of(uid: str) -> int:
    """Process id, on this machine, of a pod's controller."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            of_pod = uid in (folder / "cgroup").read_text() or uid.replace("-", "_") in (folder / "cgroup").read_text()
            if of_pod and b"serving.control.canary" in (folder / "cmdline").read_bytes():
                return int(folder.name)
        except OSError:
            continue
    raise AssertionError(f"no process of pod {uid}")
