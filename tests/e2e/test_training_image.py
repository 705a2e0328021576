"""The training image on a real cluster: every step of the compiled pipeline by its own entry point, as KFP runs it."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from config.settings import Settings, load_settings
from pipelines.compile import compiled
from serving.registry import Registry
from tests.e2e.cluster import HOST_IP, ROOT, Cluster, started_cluster
from tests.e2e.kfp_pods import PodRunner
from tests.serving.mlflow_server import running_mlflow
from tests.serving.s3 import S3, running_s3

pytestmark = [pytest.mark.slow, pytest.mark.cluster, pytest.mark.long]
IMAGE = "hscode/training:test"
SMALL = (
    "data.sample_rows=1500", "text.dimensions=32", "train.epochs=1", "train.epoch_rows=1000",
    "train.threads=1", "models.kinds=[dnn]", "models.dnn.width=32",
)  # fmt: skip


@pytest.fixture(scope="module")
def cluster(shared_cluster: Path) -> Cluster:
    return started_cluster(shared_cluster, "node")


@pytest.fixture(scope="module")
def image(cluster: Cluster) -> str:
    """HSCODE_TRAINING_IMAGE, where one that the cluster has is to be taken; else built from the Dockerfile."""
    if os.environ.get("HSCODE_TRAINING_IMAGE"):
        return os.environ["HSCODE_TRAINING_IMAGE"]
    cluster.build_image(IMAGE, ROOT, "-f", str(ROOT / "components/Dockerfile"), "--build-arg", "COMMIT=test")
    return IMAGE


@pytest.fixture(scope="module")
def s3() -> Iterator[S3]:
    with running_s3(HOST_IP) as server:
        yield server


@pytest.fixture(scope="module")
def mlflow(s3: S3, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """MLflow's server on this machine, with its artifacts on S3 as on a cluster."""
    with running_mlflow(tmp_path_factory.mktemp("mlflow"), HOST_IP, s3) as address:
        yield address


@pytest.fixture
def namespace(cluster: Cluster, s3: S3) -> Iterator[str]:
    with cluster.namespace("hs-steps", s3) as name:
        addresses = {"AWS_ENDPOINT_URL": f"http://{s3.address}", "AWS_DEFAULT_REGION": "us-east-1"}
        steps = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "hscode-steps"}, "data": addresses}
        cluster.kubectl("apply", "-n", name, "-f", "-", given=steps)
        yield name


def test_every_step_runs_as_a_restricted_pod_and_a_version_comes_of_it(
    cluster: Cluster, namespace: str, image: str, s3: S3, mlflow: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    settings: Settings = load_settings(None, {}, [*SMALL, f"registry.uri={mlflow}", "deploy.target=kserve:x"])
    pipeline = compiled(settings, "hscode-training", image)
    given = {"settings": settings.without_secrets().to_json(), "run_key": "monday", "triggered_by": "test"}
    runner = PodRunner(cluster, namespace, s3, pipeline.text, image, given)
    # The last step needs KServe: tests/e2e/test_kserve.py deploys there.
    ran = runner.run(leave_out=frozenset({"deploy"}))
    assert ran == ["ingest", "split", "embed", "train", "evaluate", "select", "gate", "register"]
    for name, value in s3.environment.items():
        monkeypatch.setenv(name, value)
    (version,) = Registry(mlflow).versions()
    assert (version.tags["run_key"], version.tags["pipeline_run"]) == ("monday", "run-1")
    assert version.source.startswith(f"s3://{s3.bucket}/mlflow")
    assert runner.outputs["register"]["parameters"]["Output"] == version.number
    card = json.loads((Registry(mlflow).folder(version.number, tmp_path) / "card.json").read_text())
    assert (card["kind"], card["version"]) == ("dnn", version.number)
