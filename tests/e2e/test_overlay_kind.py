"""The kind overlay whole, on a real cluster under `restricted`: from the first prediction to the promoted challenger.

All of it as rendered, from the project's own images; other makers' servers are Debian's and PyPI's packages under the
names that the manifests use. Only times are short, as in `hscode loop`. Kubeflow Pipelines is a server of the test that
answers as its published API does.
"""

import base64
import json
import os
import random
import re
import shutil
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from config.settings import Settings, load_settings
from models.bundle import Bundle
from models.reference import reference_of
from pipelines.loop.parts import sooner_routes, sooner_rules
from serving.handover import hand_over, register_candidate
from serving.installation import Installation, opened
from serving.registry import CHALLENGER, CHAMPION, Registry
from tests.e2e.cluster import HOST_IP, ROOT, Cluster, build_project_image, started_cluster, until
from tests.pipeline.kfp_server import KfpServer, running
from tests.serving.tiny_bundle import GOODS, write_tiny_bundle

pytestmark = [pytest.mark.slow, pytest.mark.cluster, pytest.mark.long]

MANIFESTS = ROOT / "manifests"
IMAGES = Path(__file__).with_name("images")
NAMESPACES = ("hscode", "kubeflow")
SERVICES = ("hscode-monitor", "hscode-trigger", "hscode-prometheus", "hscode-alertmanager", "hscode-s3")
RATE = 10
"""Requests a second."""
PATIENCE = 900
SHIFTED = [
    "подшипник",
    "шариковый",
    "стальной",
    "насос",
    "центробежный",
    "клапан",
    "латунный",
    "труба",
    "медная",
    "лист",
    "алюминиевый",
    "провод",
]


def texts(seed: int, count: int, shifted: bool) -> list[str]:
    """Descriptions of the tiny bundle's goods, or, after the shift, of others in another language."""
    draw = random.Random(seed)
    known = [words.split() for words in GOODS.values()]
    chosen = (SHIFTED if shifted else draw.choice(known) for _ in range(count))
    return [" ".join(draw.sample(words, min(len(words), draw.randint(2, 4)))) for words in chosen]


@dataclass
class Traffic:
    """A client of the gateway that asks all the time."""

    cluster: Cluster
    shifted: bool = False
    versions: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)

    @contextmanager
    def asking(self) -> Iterator["Traffic"]:
        address = f"{self.cluster.gateway}/v1/models/hscode:predict"
        stop = threading.Event()

        def ask(client: httpx.Client, number: int) -> None:
            for seed in range(number, sys.maxsize, RATE):
                if stop.wait(1):
                    return
                body = {"instances": texts(seed, 1, self.shifted)}
                try:
                    got = client.post(address, json=body, headers={"Host": "hscode-predictor.hscode.hs.test"})
                    self.versions[got.raise_for_status().json()["model"]["version"]] += 1
                except httpx.HTTPError as error:
                    self.failures.append(str(error))

        with httpx.Client(timeout=60) as client:
            threads = [threading.Thread(target=ask, args=(client, number)) for number in range(RATE)]
            for thread in threads:
                thread.start()
            try:
                yield self
            finally:
                stop.set()
                for thread in threads:
                    thread.join()


@dataclass
class World:
    """The installed overlay and ways to its parts."""

    cluster: Cluster
    kfp: KfpServer
    folder: Path
    inside: Installation
    settings: Settings
    """Of a step of a run: the pods' own, with addresses as they are from here."""

    def prometheus(self, query: str) -> dict[str, float]:
        """Values of a query by version."""
        got = httpx.get(f"{self.inside.ways['hscode-prometheus']}/api/v1/query", params={"query": query}, timeout=30)
        found = got.raise_for_status().json()["data"]["result"]
        return {one["metric"].get("version", ""): float(one["value"][1]) for one in found}

    def register(self, name: str, seed: int, shifted: bool) -> str:
        """What the register and deploy steps of a run do, with a bundle whose training texts were such."""
        bundle = write_tiny_bundle(self.folder / name, seed=seed)
        model, seen = Bundle.load(bundle), texts(seed, 2000, shifted)
        reference = reference_of(seen, model.probabilities(seen), model.levels, model.encoder)
        (bundle / "reference.json").write_text(json.dumps(reference))
        report = self.folder / f"{name}.html"
        report.write_text("<html></html>")
        version = register_candidate(self.settings, bundle, report, f"run-{name}", name, "test")
        hand_over(self.settings, version.number, "canary")
        return version.number


def third_party(cluster: Cluster) -> None:
    """Other makers' images, under the names that the overlay asks for."""
    rendered = cluster.kubectl("kustomize", str(MANIFESTS / "overlays/kind"))
    for name in sorted({name for name in re.findall(r"image: (\S+)", rendered) if "hscode/" not in name}):
        last, _, tag = name.rpartition("/")[2].partition(":")
        file = IMAGES / f"{last}.Dockerfile"
        cluster.build_image(name, IMAGES, "-f", str(file), "--build-arg", f"VERSION={tag}")


def overlay(folder: Path, kfp: str, images: list[str]) -> Path:
    """The kind overlay with these images, this pipeline server and the short times of config/loop.yaml."""
    short = load_settings(ROOT / "config" / "loop.yaml")
    told = yaml.safe_load((ROOT / "config" / "loop.yaml").read_text())
    literals = [f"HSCODE__KFP__ENDPOINT={kfp}", "HSCODE__KFP__REQUEST_SECONDS=30"]
    literals += [one for section in ("monitor", "canary", "trigger") for one in variables(section, told[section])]
    scrape = yaml.safe_load((MANIFESTS / "components/prometheus/scrape.yml").read_text())
    scrape["global"] = dict.fromkeys(("scrape_interval", "evaluation_interval"), f"{short.loop.scrape_seconds}s")
    files = {
        "rules.yaml": sooner_rules(short.loop),
        "alertmanager.yaml": sooner_routes(short.loop),
        "scrape.yml": scrape,
    }
    for name, content in files.items():
        (folder / name).write_text(yaml.safe_dump(content))
    generated: list[dict[str, Any]] = [
        {"name": "hscode-settings", "literals": literals},
        {"name": "hscode-rules", "files": ["rules.yaml"]},
        {"name": "hscode-alertmanager", "files": ["alertmanager.yaml"]},
        {"name": "hscode-prometheus", "files": ["prometheus.yml=scrape.yml"]},
    ]
    kustomization = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "namespace": "hscode",
        "resources": [os.path.relpath(MANIFESTS / "overlays/kind", folder)],
        "images": [
            {"name": f"localhost:5001/{name}", "newName": name, "newTag": tag}
            for name, tag in (image.split(":") for image in images)
        ],
        "configMapGenerator": [{"namespace": "hscode", "behavior": "merge", **one} for one in generated],
    }
    (folder / "kustomization.yaml").write_text(json.dumps(kustomization))
    return folder


def variables(prefix: str, tree: dict[str, Any]) -> Iterator[str]:
    """A branch of the settings as environment variables."""
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from variables(f"{prefix}__{key}", value)
        else:
            yield f"HSCODE__{prefix}__{key}".upper() + f"={json.dumps(value)}"


def cleared(cluster: Cluster) -> None:
    """Without what an earlier run left: its namespaces, and its data on the cluster's volumes."""
    for namespace in NAMESPACES:
        cluster.kubectl("delete", "namespace", namespace, "--ignore-not-found", "--timeout=300s")
    for volume in cluster.get("persistentvolumes")["items"]:
        if volume["spec"].get("claimRef", {}).get("namespace") in NAMESPACES:
            for left in Path(volume["spec"]["hostPath"]["path"]).iterdir():
                shutil.rmtree(left) if left.is_dir() else left.unlink()
            cluster.kubectl(
                "patch", "pv", volume["metadata"]["name"], "--type=merge", "-p", '{"spec":{"claimRef":null}}'
            )


def unready(cluster: Cluster) -> list[str]:
    """Workloads that are not yet as they should be; but for the predictor's, which has no model yet."""
    found = []
    for kind in ("deployments", "statefulsets"):
        for one in cluster.get("-n", "hscode", kind, "-l", "!serving.knative.dev/revision")["items"]:
            if one["status"].get("readyReplicas", 0) < one["spec"]["replicas"]:
                found.append(one["metadata"]["name"])
    if not cluster.get("-n", "hscode", "job", "hscode-migrations")["status"].get("succeeded"):
        found.append("hscode-migrations")
    return found


def account_config(cluster: Cluster, folder: Path, namespace: str, account: str) -> Path:
    """A kubeconfig with the token of a ServiceAccount."""
    config = yaml.safe_load(Path(cluster.environment["KUBECONFIG"]).read_text())
    token = cluster.kubectl("create", "token", account, "-n", namespace, "--duration=2h").strip()
    config["users"] = [{"name": one["name"], "user": {"token": token}} for one in config["users"]]
    file = folder / f"{account}.kubeconfig"
    file.write_text(yaml.safe_dump(config))
    return file


@pytest.fixture(scope="module")
def world(shared_cluster: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    cluster, folder = started_cluster(shared_cluster), tmp_path_factory.mktemp("overlay")
    third_party(cluster)
    images = [build_project_image(cluster, name) for name in ("control", "serving", "mlflow")]
    cleared(cluster)
    with pytest.MonkeyPatch.context() as patched, running(host=HOST_IP) as kfp:
        for name in ("PATH", "KUBECONFIG"):
            patched.setenv(name, cluster.environment[name])
        cluster.kubectl("create", "namespace", "kubeflow")
        subprocess.run([MANIFESTS / "platform" / "secrets"], check=True, capture_output=True)
        try:
            for given in (overlay(folder, kfp.address, images), MANIFESTS / "overlays/kind-kubeflow"):
                cluster.kubectl("apply", "--server-side", "-k", str(given))
            until("all to be ready", lambda: not unready(cluster), PATIENCE, 2)
            with opened("hscode", SERVICES) as inside:
                assert dict(inside.closed) == {}
                keys = cluster.get("-n", "hscode", "secret", "hscode-s3")["data"]
                for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
                    patched.setenv(name, base64.b64decode(keys[name]).decode())
                patched.setenv("AWS_ENDPOINT_URL", inside.ways["hscode-s3"])
                patched.setenv("AWS_DEFAULT_REGION", "us-east-1")
                # What the steps may do on the cluster, they do here.
                steps = account_config(cluster, folder, "kubeflow", "hscode-pipeline")
                patched.setenv("KUBECONFIG", str(steps))
                yield World(cluster, kfp, folder, inside, inside.settings)
        except BaseException:
            print(cluster.kubectl("get", "pods,events", "-n", "hscode", "-o", "wide"))
            for name in ("monitor", "trigger", "canary", "mlflow"):
                print(cluster.kubectl("logs", "-n", "hscode", f"deployment/hscode-{name}", "--tail=30"))
            raise
        finally:
            cleared(cluster)


@pytest.fixture(scope="module")
def traffic(world: World) -> Iterator[Traffic]:
    world.register("first", 1, shifted=False)
    with Traffic(world.cluster).asking() as traffic:
        yield traffic


def test_all_pods_run_under_restricted_from_the_projects_images(world: World) -> None:
    namespace = world.cluster.get("namespace", "hscode")
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    pods = world.cluster.get("-n", "hscode", "pods")["items"]
    names = {pod["metadata"]["labels"].get("app.kubernetes.io/name", "").removeprefix("hscode-") for pod in pods} - {""}
    own = {"migrations", "mlflow", "postgres", "s3", "monitor", "trigger", "canary", "prometheus", "alertmanager"}
    assert names == own


def test_predictions_through_the_gateway_are_in_prometheus_by_version(world: World, traffic: Traffic) -> None:
    until("answers", lambda: traffic.versions["1"] > 20, PATIENCE)
    until(
        "them in Prometheus",
        lambda: world.prometheus("sum by (version) (hs_requests_total)").get("1", 0) > 20,
        PATIENCE,
    )
    assert world.prometheus('sum by (version) (hs_requests_total{status!="ok"})').get("1", 0) == 0
    until("the drift's figures", lambda: world.prometheus("max by (version) (hs_drift_ratio)").get("1"), PATIENCE)
    assert world.kfp.runs == {}
    assert traffic.failures == []


def test_shifted_traffic_becomes_one_run(world: World, traffic: Traffic) -> None:
    assert world.prometheus('ALERTS{alertstate="firing",action="retrain"}') == {}
    traffic.shifted = True
    until("the alert", lambda: world.prometheus('ALERTS{alertstate="firing",action="retrain"}').get("1"), PATIENCE)
    until("the run", lambda: world.kfp.runs, PATIENCE)
    (run,) = world.kfp.runs.values()
    parameters = run["runtime_config"]["parameters"]
    assert parameters["run_key"] == run["display_name"]
    assert json.loads(parameters["settings"])["registry"]["uri"] == "http://hscode-mlflow.hscode"
    world.kfp.finish(run["run_id"])


def test_the_challenger_gets_its_canary_and_is_promoted(world: World, traffic: Traffic) -> None:
    registry = Registry(world.settings.registry.uri or "")
    number = world.register("second", 2, shifted=True)
    challenger = registry.find(CHALLENGER)
    assert challenger is not None
    assert challenger.number == number
    until("answers of both", lambda: traffic.versions[number] > 5, PATIENCE)
    until("the promotion", lambda: registry.resolve(CHAMPION).number == number, PATIENCE, 2)
    before = traffic.versions["1"]
    until("answers of the new one", lambda: traffic.versions[number] > 200, PATIENCE)
    assert traffic.versions["1"] == before
    until(
        "it in Prometheus", lambda: world.prometheus("sum by (version) (hs_requests_total)").get(number, 0) > 200, 120
    )
    assert traffic.failures == []
    assert len(world.kfp.workflows) == 1
    assert world.kfp.violations == []


def test_doctor_says_that_all_is_well_and_names_what_is_broken(world: World, traffic: Traffic) -> None:
    def doctor() -> tuple[int, dict[str, dict[str, Any]]]:
        command = [sys.executable, "-m", "cli.main", "doctor", "--cluster", "hscode", "--json"]
        done = subprocess.run(
            command, capture_output=True, text=True, cwd=ROOT, env={**os.environ, **world.cluster.environment}
        )
        assert done.stdout, done.stderr
        return done.returncode, {finding["arrow"]: finding for finding in json.loads(done.stdout)}

    def well() -> bool:
        code, found = doctor()
        left[:] = [finding for finding in found.values() if finding["works"] is not True]
        return code == 0 and not left

    left: list[dict[str, Any]] = []
    try:
        # KServe takes its time to say again that it is ready after the promotion.
        until("all to be well", well, PATIENCE)
    except AssertionError:
        print(left)
        raise
    world.cluster.kubectl("scale", "-n", "hscode", "deployment/hscode-trigger", "--replicas=0")
    until("no trigger", lambda: "hscode-trigger" in unready_or_gone(world.cluster), PATIENCE)
    code, found = doctor()
    assert code == 1
    broken = {arrow for arrow, finding in found.items() if finding["works"] is False}
    assert {"→ trigger", "Prometheus → monitor, trigger, canary"} <= broken
    assert not {"→ monitor", "all → database", "all → registry", "deploy → service"} & broken
    assert all(found[arrow]["todo"] for arrow in broken)


def unready_or_gone(cluster: Cluster) -> set[str]:
    """Deployments none of whose pods is there."""
    pods = cluster.get("-n", "hscode", "pods")["items"]
    there = {pod["metadata"]["labels"].get("app.kubernetes.io/name") for pod in pods}
    return {one["metadata"]["name"] for one in cluster.get("-n", "hscode", "deployments")["items"]} - there
