"""What the predictor has in its process: no training library, and of KServe only what answers."""

import importlib.metadata
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from tests.serving.running import running_predictor
from tests.serving.tiny_bundle import write_tiny_bundle

ROOT = Path(__file__).resolve().parents[2]
NEVER = ("torch", "sklearn", "mlflow", "polars", "scipy", "kfp", "transformers", "matplotlib", "sqlalchemy", "pyarrow")
NOT_FOR_AN_ANSWER = ("kubernetes", "boto3", "google.auth", "typer", "rich")
STANDING_IN = ("pandas", "fastapi", "pydantic", "httpx")

WHERE_INSTALLED = {"setuptools", "grpcio-tools"}
"""Loaded where they are installed, and not needed."""

PROGRAM = """
import json, sys
from serving.predictor import start
start.import_all()
import serving.predictor.batch
print(json.dumps({name: getattr(module, "__file__", None) for name, module in sys.modules.items()}))
"""


def imported() -> dict[str, str | None]:
    environment = {k: v for k, v in os.environ.items() if k != "HSCODE_FULL_IMPORTS"}
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True, env=environment)
    modules: dict[str, str | None] = json.loads(done.stdout)
    return modules


def test_nothing_of_training_and_nothing_unneeded_is_imported() -> None:
    modules = imported()
    assert [name for name in (*NEVER, *NOT_FOR_AN_ANSWER) if name in modules] == []
    assert [name for name in STANDING_IN if modules.get(name)] == [], "these are stand-ins, without a file"
    assert "kserve.model_server" in modules


def test_the_image_holds_what_is_loaded_and_nothing_else() -> None:
    listed = (ROOT / "serving" / "requirements.txt").read_text().splitlines()
    required = {line.strip() for line in listed if line.strip() and not line.startswith("#")}
    of_module = importlib.metadata.packages_distributions()
    needed: set[str] = set()
    for name, file in imported().items():
        if file is None or "site-packages" not in file:
            continue
        root = name.partition(".")[0]
        holders = {re.sub(r"[-_.]+", "-", d).lower() for d in of_module.get(root, ())} - WHERE_INSTALLED
        if root == "google":
            holders = {"protobuf"}
        if holders:
            assert holders & required, f"{name} is loaded and not in serving/requirements.txt"
            needed |= holders
    assert required - needed == set(), "in serving/requirements.txt and not loaded"


def test_a_stand_in_says_what_is_missing_when_it_is_used() -> None:
    program = "from serving.predictor import lean; lean.install(); import pandas; pandas.DataFrame([1]).shape"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert "HSCODE_FULL_IMPORTS=1" in done.stderr.splitlines()[-1]


@pytest.mark.slow
def test_with_everything_imported_the_answers_are_the_same(tmp_path: Path) -> None:
    bundle = write_tiny_bundle(tmp_path / "bundle")
    answers = []
    for environment in ({}, {"HSCODE_FULL_IMPORTS": "1"}):
        with running_predictor(bundle, environment=environment) as predictor:
            url = f"{predictor.url}/v1/models/hscode:predict"
            answers.append(httpx.post(url, json={"instances": ["horse", "headphones"]}).content)
    assert answers[0] == answers[1]
