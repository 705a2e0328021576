"""The install scripts as far as a dry run goes: what they would run, in which order, with which versions."""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.conftest import missing

PLATFORM = Path(__file__).resolve().parents[2] / "manifests" / "platform"
SCRIPTS = ("up", "down", "secrets")


def dry(script: str, **settings: str) -> list[str]:
    done = subprocess.run(
        [PLATFORM / script],
        capture_output=True, text=True, env={"PATH": os.environ["PATH"], "DRY_RUN": "1", **settings},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def versions() -> dict[str, str]:
    lines = (PLATFORM / "versions.env").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


def test_shellcheck_finds_nothing() -> None:
    shellcheck = shutil.which("shellcheck")
    if shellcheck is None:
        missing("shellcheck is not installed")
    tests = ("../../tests/e2e/kind.sh", "../../tests/e2e/images/postgres-entrypoint", "../../.ci/run")
    command = [shellcheck or "", "-x", *SCRIPTS, "lib.sh", *tests]
    done = subprocess.run(command, capture_output=True, text=True, cwd=PLATFORM)
    assert done.returncode == 0, done.stdout


def test_each_part_is_installed_at_its_version_and_waited_for() -> None:
    said = dry("up")
    text = "\n".join(said)
    for name, version in versions().items():
        if name not in ("KIND_VERSION",):
            assert version in text, name
    for namespace in ("cert-manager", "knative-serving", "kourier-system", "kserve", "kubeflow"):
        wait = f"kubectl wait --for=condition=Available deployment --all -n {namespace} "
        assert any(line.startswith(wait) and "--timeout=" in line for line in said), namespace
    assert not re.search(r"latest|/main/|/master/", text.replace(str(PLATFORM), ""))


def test_knative_and_kserve_are_told_of_kourier_and_of_the_local_registry() -> None:
    text = "\n".join(dry("up", REGISTRY_PORT="5555"))
    assert '"registries-skipping-tag-resolving":"kind.local,ko.local,dev.local,localhost:5555"' in text
    assert f"--patch-file {PLATFORM / 'kserve' / 'inferenceservice-config.yaml'}" in text
    data = yaml.safe_load((PLATFORM / "kserve" / "inferenceservice-config.yaml").read_text())["data"]
    ingress = json.loads(data["ingress"])
    assert (ingress["disableIstioVirtualHost"], ingress["ingressClassName"]) == (True, "kourier")
    assert f'{{"data":{{"{ingress["ingressDomain"]}":""}}}}' in text
    assert json.loads(data["deploy"]) == {"defaultDeploymentMode": "Knative"}


def test_runs_keep_their_artifacts_where_their_account_may() -> None:
    """Pipelines' launcher is told of the kind overlay's store and of the Secret that the account of runs may read."""
    (patch,) = [line for line in dry("up") if "patch configmap kfp-launcher" in line]
    assert patch.endswith(f"--patch-file {PLATFORM / 'kfp-launcher.yaml'}")
    data = yaml.safe_load((PLATFORM / "kfp-launcher.yaml").read_text())["data"]
    secret = yaml.safe_load(data["providers"])["s3"]["default"]["credentials"]["secretRef"]
    base = PLATFORM.parent / "base"
    rules = next(yaml.safe_load_all((base / "pipelines" / "role.yaml").read_text()))["rules"]
    assert [rule["resourceNames"] for rule in rules if rule["resources"] == ["secrets"]] == [[secret["secretName"]]]
    assert "s3://hscode/mlflow" in (base / "kustomization.yaml").read_text()
    assert data["defaultPipelineRoot"] == "s3://hscode/kfp"


def test_what_others_need_comes_first() -> None:
    text = "\n".join(dry("up"))
    order = ["kind create cluster", "cert-manager.yaml", "serving-crds", "serving-core", "kourier.yaml", "kserve.yaml"]
    order += ["storage-initializer.yaml", "cluster-scoped-resources", "platform-agnostic"]
    found = [text.index(part) for part in order]
    assert found == sorted(found)


def test_a_part_that_is_stuck_says_why(tmp_path: Path) -> None:
    """With programs that take everything but never get Knative ready: the warnings of its namespace, and exit 1."""
    waits = '*"wait"*"-n knative-serving"*) exit 1;;'
    events = '"get events -n knative-serving"*) echo "0s Warning FailedScheduling Insufficient cpu";;'
    kubectl = f'case "$*" in {waits} {events} esac; exit 0'
    for name, text in {"docker": "exit 0", "kind": "exit 0", "kubectl": kubectl}.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / name).chmod(0o755)
    done = subprocess.run(
        [PLATFORM / "up"], capture_output=True, text=True, env={"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    )
    assert done.returncode == 1
    assert "Insufficient cpu" in done.stderr
    assert "error: knative-serving did not get ready" in done.stderr
    assert "KServe" not in done.stderr


@pytest.mark.parametrize("name", ["docker", "kind", "kubectl"])
def test_a_missing_program_is_one_line(tmp_path: Path, name: str) -> None:
    for other in {"docker", "kind", "kubectl"} - {name}:
        (tmp_path / other).write_text("#!/bin/sh\nexit 0\n")
        (tmp_path / other).chmod(0o755)
    for tool in ("bash", "dirname", "env"):
        (tmp_path / tool).symlink_to(shutil.which(tool) or "")
    done = subprocess.run([PLATFORM / "up"], capture_output=True, text=True, env={"PATH": str(tmp_path)})
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: {name} is not installed: ")
    assert done.stderr.count("\n") == 1


def test_secrets_are_made_once_with_what_the_manifests_ask_for() -> None:
    text = "\n".join(dry("secrets"))
    for name in ("hscode-monitor", "hscode-trigger", "hscode-postgres", "hscode-s3", "hscode-database"):
        assert f"create secret generic {name} -n hscode " in text
    readme = (PLATFORM.parent / "README.md").read_text()
    for key in re.findall(r"--from-literal=([A-Za-z0-9_-]+)=", text):
        assert f"`{key}`" in readme, key


def test_secrets_that_exist_stay_as_they_are(tmp_path: Path) -> None:
    """A token is rotated where database and object store are somebody else's: only the Secret that is gone is made."""
    kubectl = tmp_path / "kubectl"
    kubectl.write_text(
        f'#!/bin/sh\necho "$*" >>{tmp_path}/said\ncase "$*" in "get secret hscode-monitor "*) exit 1;; esac\n'
    )
    kubectl.chmod(0o755)
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    subprocess.run([PLATFORM / "secrets"], check=True, env=environment)
    said = [line for line in (tmp_path / "said").read_text().splitlines() if not line.startswith(("get ", "apply "))]
    assert [line.split(" --from")[0] for line in said] == ["create secret generic hscode-monitor -n hscode"]


def test_down_removes_what_up_made() -> None:
    assert dry("down", CLUSTER="other") == ["kind delete cluster --name other", "docker rm --force other-registry"]
