"""The manifest: the template, what is filled in, and what the local host refuses by name."""

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml

from models.errors import UserError
from serving.deploy.manifest import inference_service, read_manifest, storage_uri, template

ROOT = Path(__file__).resolve().parents[4]


def service(**predictor: Any) -> dict[str, Any]:
    made = inference_service("hscode", "file:///bundle", "3", logger_url="")
    made["spec"]["predictor"].update(predictor)
    return made


def test_the_template_is_the_manifest_that_kubectl_applies() -> None:
    assert template() == yaml.safe_load((ROOT / "manifests/base/serving/inferenceservice.yaml").read_text())


def test_a_model_is_an_address_and_a_version_and_nothing_else() -> None:
    filled = inference_service("hscode", "s3://models/3", "3")
    assert filled["spec"]["predictor"]["model"].pop("storageUri") == "s3://models/3"
    assert filled["metadata"]["annotations"].pop("hscode/version") == "3"
    assert filled == template()


def test_what_is_not_the_model_stays_as_the_base_has_it() -> None:
    base = service(minReplicas=2, canaryTrafficPercent=10)
    before = copy.deepcopy(base)
    filled = inference_service("hscode", "s3://models/4", "4", base=base, namespace="brokers")
    assert base == before
    assert filled["spec"]["predictor"]["minReplicas"] == 2
    assert "canaryTrafficPercent" not in filled["spec"]["predictor"]
    assert filled["metadata"]["namespace"] == "brokers"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"nodeSelector": {}}, "spec.predictor.nodeSelector"),
        ({"batcher": {}}, "spec.predictor.batcher"),
        ({"containers": []}, "spec.predictor.containers"),
        ({"logger": {"mode": "all", "storage": {}}}, "spec.predictor.logger.storage"),
        ({"canaryTrafficPercent": 101}, "canaryTrafficPercent"),
        ({"minReplicas": -1}, "minReplicas"),
    ],
    ids=["nodeSelector", "batcher", "containers", "logger storage", "101 percent", "negative replicas"],
)
def test_what_it_does_not_know_is_refused_by_name(change: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        read_manifest(service(**change))


def test_other_parts_of_a_manifest_are_refused_by_name() -> None:
    with_transformer = service()
    with_transformer["spec"]["transformer"] = {}
    raw = service()
    raw["metadata"]["annotations"]["serving.kserve.io/deploymentMode"] = "Standard"
    scaled = service()
    scaled["metadata"]["annotations"]["autoscaling.knative.dev/initial-scale"] = "0"
    other_format = service()
    other_format["spec"]["predictor"]["model"]["modelFormat"]["name"] = "sklearn"
    gcs = service()
    gcs["spec"]["predictor"]["model"]["storageUri"] = "gs://bucket/model"
    named = service()
    named["metadata"]["name"] = "Not_A_Name"
    for manifest, said in (
        (with_transformer, "spec.transformer"),
        (raw, "Standard"),
        (scaled, "autoscaling.knative.dev/initial-scale"),
        (other_format, "sklearn"),
        (gcs, "gs://bucket/model"),
        (named, "metadata.name"),
    ):
        with pytest.raises(UserError, match=said):
            read_manifest(manifest)


def test_a_share_of_traffic_cuts_no_revision_and_everything_else_does() -> None:
    digest = read_manifest(service()).template_digest()
    assert read_manifest(service(canaryTrafficPercent=10)).template_digest() == digest
    others = [service(minReplicas=1), service(timeout=5)]
    others += [inference_service("hscode", "file:///other", "3"), inference_service("hscode", "file:///bundle", "4")]
    assert digest not in {read_manifest(other).template_digest() for other in others}


@pytest.mark.parametrize(
    ("text", "seconds"), [("60s", 60), ("2m", 120), ("1h", 3600), ("500ms", 0.5), ("1.5s", 1.5)], ids=str
)
def test_knatives_window_is_read(text: str, seconds: float) -> None:
    manifest = service()
    manifest["metadata"]["annotations"]["autoscaling.knative.dev/window"] = text
    assert read_manifest(manifest).idle_seconds == seconds
    manifest["metadata"]["annotations"]["autoscaling.knative.dev/window"] = "soon"
    with pytest.raises(UserError, match="soon"):
        read_manifest(manifest)


def test_addresses_that_kserve_can_load(tmp_path: Path) -> None:
    assert storage_uri(str(tmp_path)) == tmp_path.as_uri()
    assert storage_uri(tmp_path.as_uri()) == tmp_path.as_uri()
    assert storage_uri("s3://models/run/bundle") == "s3://models/run/bundle"
    with pytest.raises(UserError, match="s3://"):
        storage_uri("mlflow-artifacts:/1/abc/artifacts/bundle")
