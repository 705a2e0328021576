"""What is read of a cluster's installation, with a kubectl that answers as the real one does."""

import base64
import json
import os
from pathlib import Path

import pytest

from models.errors import UserError
from serving.installation import opened

KUBECTL = """#!/bin/sh
case "$*" in
  "port-forward "*"service/hscode-monitor :8333 "*) echo "Forwarding from 127.0.0.1:4001 -> 8080"; exec sleep 60;;
  "port-forward "*hscode-mlflow*) echo "Forwarding from 127.0.0.1:4002 -> 5000"; exec sleep 60;;
  "port-forward "*"service/hscode-postgres :5432 "*) echo "Forwarding from 127.0.0.1:4003 -> 5432"; exec sleep 60;;
  "port-forward "*) echo "error: timed out waiting for the condition" >&2; exit 1;;
  "get service "*" -n kubeflow"*|"get service hscode-nowhere "*) echo 'Error (NotFound): no such service' >&2; exit 1;;
  "get service "*) echo '{"spec": {"ports": [{"port": 8333}]}}';;
  "get deployment "*) cat "$FOLDER/deployment.json";;
  "get configmap "*) cat "$FOLDER/configmap.json";;
  "get secret "*) cat "$FOLDER/secret.json";;
esac
"""


@pytest.fixture(autouse=True)
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    database = {"valueFrom": {"secretKeyRef": {"name": "hscode-database", "key": "url"}}}
    environment = [
        {"name": "NAMESPACE", "valueFrom": {"fieldRef": {"fieldPath": "metadata.namespace"}}},
        {"name": "HSCODE__DEPLOY__TARGET", "value": "kserve:$(NAMESPACE)"},
        {"name": "HSCODE__STATE__URL", **database},
    ]
    container = {"envFrom": [{"configMapRef": {"name": "hscode-settings-abc"}}], "env": environment}
    told = {
        "HSCODE__REGISTRY__URI": "http://hscode-mlflow.shop",
        "HSCODE__KFP__ENDPOINT": "http://ml-pipeline.kubeflow:8888",
    }
    url = base64.b64encode(b"postgresql+psycopg://hscode:secret@hscode-postgres.shop:5432/hscode").decode()
    files = {
        "deployment": {"spec": {"template": {"spec": {"containers": [container]}}}},
        "configmap": {"data": told},
        "secret": {"data": {"url": url}},
    }
    for name, content in files.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    program = tmp_path / "kubectl"
    program.write_text(KUBECTL)
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("FOLDER", str(tmp_path))


def test_the_pods_settings_with_addresses_that_hold_from_here() -> None:
    with opened("shop", ["hscode-monitor", "hscode-trigger", "hscode-nowhere"], ["kfp.experiment=mine"]) as inside:
        settings = inside.settings
    assert settings.deploy.target == "kserve:shop"
    assert settings.registry.uri == "http://localhost:4002"
    assert settings.state.url == "postgresql+psycopg://hscode:secret@localhost:4003/hscode"
    # No Service of that name: it may be a name of another network.
    assert settings.kfp.endpoint == "http://ml-pipeline.kubeflow:8888"
    assert settings.kfp.experiment == "mine"
    assert inside.ways == {"hscode-monitor": "http://localhost:4001"}
    assert "timed out" in inside.closed["hscode-trigger"]
    assert "no such service" in inside.closed["hscode-nowhere"]
    assert inside.absent == {"hscode-nowhere"}


def test_no_kubectl_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(UserError, match="kubectl is not installed"), opened("shop"):
        pass
