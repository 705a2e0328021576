"""An installation on a cluster as a person with kubectl sees it: its settings, and ways from here to its Services."""

import base64
import binascii
import json
import re
import select
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from config.settings import Settings, load_settings
from models.errors import UserError

DEPLOYMENT = "hscode-trigger"
"""Its pods have every setting that the others have."""
FORWARD_SECONDS = 20
"""Until kubectl has a way to a Service; a pod that does not run by then is none."""


@dataclass(frozen=True)
class Installation:
    """Settings whose addresses hold from here, for as long as the block of `opened` lasts."""

    settings: Settings
    ways: Mapping[str, str] = field(default_factory=dict)
    """http address by Service, of those that were asked for and have a way."""
    closed: Mapping[str, str] = field(default_factory=dict)
    """Why there is no way, by Service or by name in the settings."""
    absent: frozenset[str] = frozenset()
    """Those of `closed` that were asked for and are not Services of the namespace at all."""


class NoService(UserError):
    """The namespace has no Service of that name."""


@contextmanager
def opened(namespace: str, services: Iterable[str] = (), assignments: Iterable[str] = ()) -> Iterator[Installation]:
    """The settings of namespace's pods (`assignments` over them), and kubectl's port-forwards to all that lies inside.

    Raises UserError where kubectl, the cluster or the installation is not there.
    """
    settings = load_settings(None, _environment(namespace), assignments)
    ways, closed, absent = dict[str, str](), dict[str, str](), set[str]()
    with _Forwards(namespace) as forwards:
        for name in services:
            try:
                ways[name] = forwards.way(f"http://{name}")
            except UserError as error:
                closed[name] = str(error)
                if isinstance(error, NoService):
                    absent.add(name)
        inside = {}
        for section, key in (("registry", "uri"), ("state", "url"), ("kfp", "endpoint")):
            branch = getattr(settings, section)
            if (address := getattr(branch, key)) is None:
                continue
            try:
                inside[section] = branch.model_copy(update={key: forwards.way(address)})
            except UserError as error:
                closed[urlsplit(address).hostname or address] = str(error)
        yield Installation(settings.model_copy(update=inside), ways, closed, frozenset(absent))


class _Forwards:
    """kubectl's port-forwards, ended with the block."""

    def __init__(self, namespace: str) -> None:
        self._namespace = namespace
        self._running: list[subprocess.Popen[str]] = []

    def __enter__(self) -> "_Forwards":
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._running:
            process.terminate()
            process.wait()

    def way(self, address: str) -> str:
        """The address from here; as it is where it names no Service of the cluster.

        Raises UserError where one of this namespace is not there, or no pod stands behind it.
        """
        parts = urlsplit(address)
        service, _, rest = (parts.hostname or "").partition(".")
        inside = not rest or rest.split(".")[1:] in ([], ["svc"], ["svc", "cluster", "local"])
        if not service or not inside:
            return address
        namespace = rest.split(".")[0] or self._namespace
        try:
            spec = _kubectl_json("get", "service", service, "-n", namespace)["spec"]
        except UserError as error:
            if "NotFound" not in str(error):
                raise
            if rest:
                return address  # db.example: a name of another network
            raise NoService(str(error)) from None
        port = parts.port or spec["ports"][0]["port"]
        command = ["kubectl", "port-forward", "-n", namespace, f"service/{service}", f":{port}"]
        command += ["--pod-running-timeout", f"{FORWARD_SECONDS // 2}s"]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self._running.append(process)
        assert process.stdout is not None
        assert process.stderr is not None
        said = process.stdout.readline() if select.select([process.stdout], [], [], FORWARD_SECONDS)[0] else ""
        if match := re.match(r"Forwarding from [^ ]+:(\d+) ->", said):
            # MLflow answers to `localhost` and not to an address of numbers.
            return address.replace(parts.netloc.rpartition("@")[2], f"localhost:{match[1]}", 1)
        process.kill()
        why = process.stderr.read().strip().splitlines() or ["it took no connection"]
        raise UserError(why[-1], f"Service {service} in {namespace}", "kubectl get pods; their logs")


def _environment(namespace: str) -> dict[str, str]:
    """What `DEPLOYMENT`'s container is told, as far as it is settings."""
    pod = _kubectl_json("get", "deployment", DEPLOYMENT, "-n", namespace)["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    told: dict[str, str] = {}
    for source in container.get("envFrom", ()):
        if "configMapRef" in source:
            told |= _kubectl_json("get", "configmap", source["configMapRef"]["name"], "-n", namespace)["data"]
    for variable in container.get("env", ()):
        secret = variable.get("valueFrom", {}).get("secretKeyRef")
        if secret is not None:
            data = _kubectl_json("get", "secret", secret["name"], "-n", namespace)["data"]
            told[variable["name"]] = _decoded(data.get(secret["key"], ""), f"Secret {secret['name']}")
        elif "value" in variable:
            told[variable["name"]] = variable["value"].replace("$(NAMESPACE)", namespace)
    return told


def _decoded(text: str, where: str) -> str:
    try:
        return base64.b64decode(text, validate=True).decode()
    except (binascii.Error, UnicodeDecodeError):
        raise UserError("is not text", where) from None


def _kubectl_json(*arguments: str) -> dict[str, Any]:
    try:
        done = subprocess.run(["kubectl", *arguments, "-o", "json"], capture_output=True, text=True, timeout=60)
    except FileNotFoundError:
        raise UserError("kubectl is not installed", todo="install it, and choose the cluster with KUBECONFIG") from None
    except subprocess.TimeoutExpired:
        raise UserError("kubectl got no answer within 60 s", todo="look at KUBECONFIG and the cluster") from None
    if done.returncode:
        said = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise UserError(said, f"kubectl {' '.join(arguments)}")
    found: dict[str, Any] = json.loads(done.stdout)
    return found
