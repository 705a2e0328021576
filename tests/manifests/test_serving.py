"""manifests/base/serving: what it says, and that real API servers and the local host take it."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from serving.deploy.manifest import inference_service, read_manifest
from tests.e2e.cluster import Cluster, started_cluster

BASE = Path(__file__).resolve().parents[2] / "manifests" / "base" / "serving"


def objects() -> list[dict[str, Any]]:
    listed = yaml.safe_load((BASE / "kustomization.yaml").read_text())["resources"]
    return [each for name in listed for each in yaml.safe_load_all((BASE / name).read_text())]


def one(kind: str) -> dict[str, Any]:
    (found,) = [each for each in objects() if each["kind"] == kind]
    return found


def test_every_file_is_part_of_it() -> None:
    listed = set(yaml.safe_load((BASE / "kustomization.yaml").read_text())["resources"])
    assert {path.name for path in BASE.glob("*.yaml")} - {"kustomization.yaml"} == listed


def test_the_local_host_takes_the_same_manifest() -> None:
    read = read_manifest(inference_service("hscode", "s3://models/3", "3"))
    assert read.predictor.min_replicas == 0
    assert read.predictor.logger is not None
    assert read.predictor.logger.metadata_annotations == ("hscode/version",)


def test_it_names_no_model_so_that_applying_it_again_brings_no_old_one_back() -> None:
    service = one("InferenceService")
    assert "storageUri" not in service["spec"]["predictor"]["model"]
    assert "hscode/version" not in service["metadata"]["annotations"]
    assert "canaryTrafficPercent" not in service["spec"]["predictor"]


def test_what_knative_mode_needs_is_said() -> None:
    predictor = one("InferenceService")["spec"]["predictor"]
    assert (predictor["minReplicas"], predictor["scaleMetric"]) == (0, "concurrency")
    assert predictor["scaleTarget"] >= 1
    for resources in (predictor["model"]["resources"], one("ServingRuntime")["spec"]["containers"][0]["resources"]):
        assert set(resources) == {"requests", "limits"}
        assert resources["requests"]["cpu"].endswith("m")  # a whole CPU would leave no room for a challenger


def test_pods_are_restricted_and_have_no_token() -> None:
    predictor, (container,) = one("InferenceService")["spec"]["predictor"], one("ServingRuntime")["spec"]["containers"]
    assert predictor["automountServiceAccountToken"] is False
    assert one("ServiceAccount")["automountServiceAccountToken"] is False
    assert predictor["securityContext"]["runAsNonRoot"] is True
    assert predictor["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert container["securityContext"]["allowPrivilegeEscalation"] is False
    assert container["securityContext"]["readOnlyRootFilesystem"] is True


def test_no_secret_is_in_it_and_no_right_is_wide() -> None:
    assert "Secret" not in {each["kind"] for each in objects()}
    assert one("ServiceAccount")["secrets"] == [{"name": "hscode-s3"}]
    for rule in one("Role")["rules"]:
        assert "*" not in [*rule["apiGroups"], *rule["resources"], *rule["verbs"]]
        assert not {"secrets", "pods/exec", "rolebindings"} & set(rule["resources"])


@pytest.mark.slow
@pytest.mark.cluster
def test_an_api_server_takes_it_twice_and_refuses_a_wrong_one(shared_cluster: Path) -> None:
    cluster: Cluster = started_cluster(shared_cluster, "--api")
    with cluster.namespace("manifests") as namespace:
        apply = ("apply", "--server-side", "-n", namespace)
        first = cluster.kubectl(*apply, "-k", str(BASE), "-o", "json")
        second = cluster.kubectl(*apply, "-k", str(BASE), "-o", "json")

        def generations(text: str) -> list[tuple[str, str]]:
            return [(o["kind"], str(o["metadata"].get("generation"))) for o in json.loads(text)["items"]]

        assert generations(first) == generations(second)
        wrong = json.loads(json.dumps(one("InferenceService")))
        wrong["spec"]["predictor"]["minReplicas"] = "none"
        with pytest.raises(AssertionError, match="minReplicas"):
            cluster.kubectl(*apply, "-f", "-", given=wrong)
