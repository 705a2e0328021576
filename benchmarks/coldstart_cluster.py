"""From a request to a service at zero to its answer, on real KServe: ours beside KServe's empty model.

    python -m benchmarks.coldstart_cluster --kit ../shared/cluster [--repeats 7]

Ours is manifests/base/serving with this project's image and a bundle of the full edition's size, in three places: in an
S3 server (KServe's storage initializer fetches it at each start), on a volume (storageUri pvc://, mounted, nothing is
fetched), and in the image. The empty model is the smallest KServe model in an image with `pip install kserve` and warm
bytecode; it fetches nothing. Same resources for all. They are asked in turn, each when it is at zero; ratios are
medians of the ratios within a turn.
"""

import argparse
import json
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx

from benchmarks.peers.full_size import write_full_size
from tests.e2e.cluster import HOST_IP, ROOT, Cluster, started_cluster, until
from tests.serving.s3 import running_s3

OURS, VOLUME, BAKED, EMPTY = "hscode", "hscode-volume", "hscode-baked", "empty"
LABELS = {
    OURS: "hscode, bundle from S3",
    VOLUME: "hscode, bundle on a volume",
    BAKED: "hscode, bundle in the image",
    EMPTY: "empty KServe model",
}
RESOURCES = {"requests": {"cpu": "100m", "memory": "256Mi"}, "limits": {"cpu": "1", "memory": "1Gi"}}
WITHOUT_LOGGER = ["--agent-port=0"]
"""The empty model has no logger, so ours has none here, and no agent to wait for."""
IMAGES = {
    OURS: "hscode/serving:bench",
    BAKED: "hscode/bench-baked:bench",
    EMPTY: "hscode/bench-empty:bench",
}
DOCKERFILES = {
    BAKED: f"FROM {IMAGES[OURS]}\nCOPY bundle /bundle\n",
    EMPTY: """FROM python:3.11-slim
RUN pip install --no-cache-dir kserve==0.21.*
RUN python -m compileall -q -x lib2to3/tests /usr/local/lib/python3.11 || true
COPY kserve_echo.py /app/kserve_echo.py
USER 65532:65532
ENTRYPOINT ["python", "/app/kserve_echo.py", "8080"]
""",
}


def service(name: str, predictor: Mapping[str, Any]) -> dict[str, Any]:
    """An InferenceService that goes to zero soon."""
    return {
        "apiVersion": "serving.kserve.io/v1beta1",
        "kind": "InferenceService",
        "metadata": {
            "name": name,
            "annotations": {
                "serving.kserve.io/deploymentMode": "Knative",
                "autoscaling.knative.dev/window": "6s",
            },
        },
        "spec": {"predictor": {"minReplicas": 0, "maxReplicas": 1, **predictor}},
    }


def container(name: str, *arguments: str) -> dict[str, Any]:
    """A predictor that is just a container."""
    return {
        "containers": [
            {"name": "kserve-container", "image": IMAGES[name], "args": list(arguments), "resources": RESOURCES}
        ]
    }


def build(cluster: Cluster, bundle: Path, work: Path) -> None:
    """Images of all three."""
    cluster.build_image(IMAGES[OURS], ROOT, "-f", str(ROOT / "serving" / "Dockerfile"))
    for name, text in DOCKERFILES.items():
        context = work / name
        context.mkdir()
        (context / "Dockerfile").write_text(text)
        shutil.copy(ROOT / "benchmarks" / "peers" / "kserve_echo.py", context)
        if name == BAKED:
            shutil.copytree(bundle, context / "bundle", ignore=shutil.ignore_patterns("embedding", "net.pt"))
        cluster.build_image(IMAGES[name], context, "-f", str(context / "Dockerfile"))


def asleep(cluster: Cluster, namespace: str, name: str) -> bool:
    """No pod of the service is left, ended ones included."""
    label = f"serving.kserve.io/inferenceservice={name}"
    return not cluster.get("-n", namespace, "pods", "-l", label)["items"]


def wake(client: httpx.Client, gateway: str, namespace: str, name: str) -> float:
    """Seconds from a request to its answer."""
    host = {"Host": f"{name}-predictor.{namespace}.hs.test", "content-type": "application/json"}
    before = time.perf_counter()
    path = f"{gateway}/v1/models/{VOLUME if name == VOLUME else 'hscode'}:predict"
    answer = client.post(path, content=json.dumps({"instances": ["ladies cotton t-shirt"]}), headers=host)
    took = time.perf_counter() - before
    if answer.status_code != 200:
        raise SystemExit(f"{name} answered {answer.status_code}: {answer.text[:300]}")
    return took


def main() -> None:
    """Set up, wake in turn, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kit", type=Path, required=True, help="folder whose `up` starts the cluster")
    parser.add_argument("--repeats", type=int, default=7)
    given = parser.parse_args()
    cluster = started_cluster(given.kit)
    with (
        tempfile.TemporaryDirectory(prefix="hs-cold-") as folder,
        running_s3(HOST_IP) as s3,
        cluster.namespace("coldstart", s3) as namespace,
        httpx.Client(timeout=300) as client,
    ):
        work = Path(folder)
        bundle = write_full_size(work / "bundle")
        build(cluster, bundle, work)
        whole = work / "upload"
        shutil.copytree(bundle, whole, ignore=shutil.ignore_patterns("embedding", "net.pt"))
        # The peers' images say nothing of security contexts; ours passes `restricted` all the same.
        cluster.kubectl("label", "namespace", namespace, "pod-security.kubernetes.io/enforce=baseline", "--overwrite")
        whole.chmod(0o755)
        work.chmod(0o755)
        try:
            apply(cluster, namespace, work, s3.put(whole, "full"))
            took = woken(cluster, client, namespace, given.repeats)
        finally:
            cluster.kubectl("delete", "inferenceservice", "--all", "-n", namespace)
            cluster.kubectl("delete", "pvc", "--all", "-n", namespace, "--wait=false")
            cluster.kubectl("delete", "pv", namespace, "--wait=false", "--ignore-not-found")
    show(took)


def woken(cluster: Cluster, client: httpx.Client, namespace: str, repeats: int) -> dict[str, list[float]]:
    """Seconds of each wake, by service."""
    gateway = cluster.gateway
    for name in LABELS:
        until(f"{name} ready", lambda name=name: ready(cluster, namespace, name), 600)
    took: dict[str, list[float]] = {name: [] for name in LABELS}
    for _ in range(repeats):
        for name in LABELS:
            until(f"{name} at zero", lambda name=name: asleep(cluster, namespace, name), 600)
            took[name].append(wake(client, gateway, namespace, name))
    return took


def apply(cluster: Cluster, namespace: str, work: Path, storage: str) -> None:
    """Our manifests with an overlay, and the two others."""
    overlay = work / "overlay"
    overlay.mkdir()
    predictor = {
        "logger": None,
        "maxReplicas": 1,
        "model": {"storageUri": storage, "resources": RESOURCES, "args": WITHOUT_LOGGER},
    }
    annotations = {"autoscaling.knative.dev/window": "6s", "hscode/version": "1"}
    kustomization = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "namespace": namespace,
        "resources": [os.path.relpath(ROOT / "manifests" / "base" / "serving", overlay)],
        "images": [{"name": "hscode/serving", "newTag": "bench"}],
        "patches": [
            {
                "patch": json.dumps(
                    {
                        "apiVersion": "serving.kserve.io/v1beta1",
                        "kind": "InferenceService",
                        "metadata": {"name": OURS, "annotations": annotations},
                        "spec": {"predictor": predictor},
                    }
                )
            }
        ],
    }
    (overlay / "kustomization.yaml").write_text(json.dumps(kustomization))
    cluster.kubectl("apply", "--server-side", "-k", str(overlay))
    for claim in volume(namespace, work):
        cluster.kubectl("apply", "-n", namespace, "-f", "-", given=claim)
    mounted = {"modelFormat": {"name": "hscode-bundle"}, "runtime": "hscode", "storageUri": "pvc://models/upload"}
    on_volume = {
        "model": {**mounted, "resources": RESOURCES, "args": WITHOUT_LOGGER},
        "automountServiceAccountToken": False,
    }
    cluster.kubectl("apply", "-n", namespace, "-f", "-", given=service(VOLUME, on_volume))
    baked = container(BAKED, "--model-dir=/bundle", "--model-name=hscode", "--grpc-port=-1")
    for name, spec in ((BAKED, baked), (EMPTY, container(EMPTY))):
        cluster.kubectl("apply", "-n", namespace, "-f", "-", given=service(name, spec))


def volume(namespace: str, folder: Path) -> list[dict[str, Any]]:
    """A volume that is a folder of this machine, which the node is on, and a claim of it."""
    size = {"storage": "1Gi"}
    modes = ["ReadOnlyMany"]
    spec = {"capacity": size, "accessModes": modes, "hostPath": {"path": str(folder)}, "storageClassName": "by-hand"}
    claim = {
        "accessModes": modes,
        "resources": {"requests": size},
        "storageClassName": "by-hand",
        "volumeName": namespace,
    }
    return [
        {"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": namespace}, "spec": spec},
        {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "models"}, "spec": claim},
    ]


def ready(cluster: Cluster, namespace: str, name: str) -> bool:
    """Whether the service says so."""
    conditions = cluster.get("-n", namespace, "inferenceservice", name).get("status", {}).get("conditions", [])
    return any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)


def show(took: Mapping[str, list[float]]) -> None:
    """Seconds and ratios."""
    print(f"{'request at zero to answer':<28}{'median s':>9}{'min':>8}{'max':>8}")
    for name, many in took.items():
        print(f"{LABELS[name]:<28}{statistics.median(many):9.2f}{min(many):8.2f}{max(many):8.2f}")
    for name in (OURS, VOLUME, BAKED):
        each = sorted(a / b for a, b in zip(took[name], took[EMPTY], strict=True))
        middle = statistics.median(each)
        print(f"{LABELS[name]} / empty: {middle:.2f} ({each[0]:.2f} to {each[-1]:.2f}; aim at most 1)")


if __name__ == "__main__":
    main()
