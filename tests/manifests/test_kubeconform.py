"""kubeconform, strictly, over all that `make manifests` and `hscode compile` write.

Schemas of Kubernetes' own kinds are those that an API server publishes, the others are the custom resource
definitions of ../shared/cluster.
"""

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from config.settings import Settings
from pipelines.compile import compile_all
from tests.e2e.cluster import ROOT, Cluster, started_cluster

pytestmark = [pytest.mark.slow, pytest.mark.cluster]

FILE = "{{.ResourceKind}}-{{.Group}}-{{.ResourceAPIVersion}}.json"
ANY_OBJECT = {"type": "object"}


@pytest.fixture(scope="module")
def cluster(shared_cluster: Path) -> Cluster:
    return started_cluster(shared_cluster, "--api")


@pytest.fixture(scope="module")
def schemas(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one JSON schema a kind."""
    folder = tmp_path_factory.mktemp("schemas")
    for (group, version, kind), schema in (*published(cluster), *defined(cluster.kit / "crds")):
        (folder / f"{kind.lower()}-{group}-{version}.json").write_text(json.dumps(schema))
    return folder


def published(cluster: Cluster) -> Iterator[tuple[tuple[str, str, str], Any]]:
    """What the API server says of its own kinds."""
    text = cluster.kubectl("get", "--raw", "/openapi/v2")
    definitions = {name: strict(schema) for name, schema in json.loads(text)["definitions"].items()}
    # A quantity and a port may be written with and without quotes.
    definitions["io.k8s.apimachinery.pkg.api.resource.Quantity"] = {"type": ["string", "number"]}
    definitions["io.k8s.apimachinery.pkg.util.intstr.IntOrString"] = {"type": ["string", "integer"]}
    for name, definition in definitions.items():
        for which in definition.get("x-kubernetes-group-version-kind", ()):
            if name.startswith("io.k8s.") and not which["kind"].endswith("List"):
                schema = {"$ref": f"#/definitions/{name}", "definitions": needed(definitions, name)}
                yield (which["group"] or which["version"], which["version"], which["kind"]), schema


def needed(definitions: dict[str, Any], name: str) -> dict[str, Any]:
    """A definition with all that it refers to."""
    found: dict[str, Any] = {}
    left = [name]
    while left:
        one = left.pop()
        if one not in found:
            found[one] = definitions[one]
            left += re.findall(r'"#/definitions/([^"]+)"', json.dumps(definitions[one]))
    return found


def defined(folder: Path) -> Iterator[tuple[tuple[str, str, str], Any]]:
    """What custom resource definitions say."""
    for file in sorted(folder.glob("*.yaml")):
        for crd in filter(None, yaml.safe_load_all(file.read_text())):
            spec = crd["spec"]
            for version in spec["versions"]:
                schema = strict(version["schema"]["openAPIV3Schema"])
                schema.setdefault("properties", {})["metadata"] = ANY_OBJECT
                yield (spec["group"], version["name"], spec["names"]["kind"]), schema


def strict(schema: Any) -> Any:
    """As JSON schema in which an object has the properties that it names and no others."""
    if isinstance(schema, list):
        return [strict(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    made = {key: strict(value) for key, value in schema.items() if key not in ("format", "nullable", "properties")}
    if "properties" in schema:
        made["properties"] = {name: strict(value) for name, value in schema["properties"].items()}
        if not (schema.get("x-kubernetes-preserve-unknown-fields") or "additionalProperties" in schema):
            made["additionalProperties"] = False
    if schema.get("x-kubernetes-int-or-string"):
        made["type"] = ["string", "integer"]
    return made


def conform(cluster: Cluster, schemas: Path, *files: Path) -> tuple[int, dict[str, Any]]:
    """kubeconform's exit code and report."""
    command = ["kubeconform", "-strict", "-verbose", "-output", "json", "-schema-location", str(schemas / FILE)]
    done = subprocess.run([*command, *map(str, files)], capture_output=True, text=True, env=cluster.environment)
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout)


def test_all_rendered_objects_conform(cluster: Cluster, schemas: Path) -> None:
    subprocess.run(["make", "manifests"], cwd=ROOT, check=True, capture_output=True, env=cluster.environment)
    files = sorted((ROOT / "dist" / "manifests").glob("*.yaml"))
    assert [file.name for file in files] == ["cloud.yaml", "kind-kubeflow.yaml", "kind.yaml", "kubeflow.yaml"]
    code, told = conform(cluster, schemas, *files)
    assert [one for one in told["resources"] if one["status"] != "statusValid"] == []
    assert code == 0
    rendered = [each for file in files for each in yaml.safe_load_all(file.read_text())]
    assert len(told["resources"]) == len(rendered) > 100


def test_compiled_pipelines_conform(cluster: Cluster, schemas: Path, tmp_path: Path) -> None:
    files = list(compile_all(Settings(), tmp_path, "registry.example/hscode/training:1"))
    objects = [file for file in files if "kind: PipelineVersion" in file.read_text()]
    assert objects
    code, told = conform(cluster, schemas, *objects)
    assert [one for one in told["resources"] if one["status"] != "statusValid"] == []
    assert code == 0
    assert {one["kind"] for one in told["resources"]} == {"Pipeline", "PipelineVersion"}


@pytest.mark.parametrize(
    ("kind", "path", "value"),
    [
        ("Deployment", ("spec", "template", "spec", "containers", 0, "imagePullPolice"), "Always"),
        ("Deployment", ("spec", "replicas"), "two"),
        ("InferenceService", ("spec", "predictor", "minReplicas"), "none"),
        ("InferenceService", ("spec", "predictor", "minReplica"), 1),
        ("PodMonitor", ("spec", "podMetricsEndpoints"), "http"),
        ("NetworkPolicy", ("spec", "podSelectors"), {}),
    ],
)
def test_a_broken_object_does_not(
    cluster: Cluster, schemas: Path, tmp_path: Path, kind: str, path: tuple[str | int, ...], value: Any
) -> None:
    text = cluster.kubectl("kustomize", str(ROOT / "manifests" / "overlays" / "cloud"))
    broken: Any = next(each for each in yaml.safe_load_all(text) if each["kind"] == kind)
    at = broken
    for part in path[:-1]:
        at = at[part]
    at[path[-1]] = value
    file = tmp_path / "broken.yaml"
    file.write_text(yaml.safe_dump(broken))
    code, told = conform(cluster, schemas, file)
    assert code == 1
    assert [one["status"] for one in told["resources"]] == ["statusInvalid"]
