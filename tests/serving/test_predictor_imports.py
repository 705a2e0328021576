"""What the predictor has in its process: no training library, and of KServe only what answers."""

import json
import os
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from tests.serving.running import running_predictor
from tests.serving.tiny_bundle import write_tiny_bundle

NEVER = ("torch", "sklearn", "mlflow", "polars", "scipy", "kfp", "transformers", "matplotlib", "sqlalchemy", "pyarrow")
NOT_FOR_AN_ANSWER = ("kubernetes", "boto3", "google.auth", "typer", "rich")
STANDING_IN = ("pandas", "fastapi", "pydantic", "httpx")

PROGRAM = """
import json, sys
from serving.predictor import lean
lean.install()
import models.bundle, onnxruntime
import serving.predictor.server, serving.predictor.start, serving.predictor.batch, serving.predictor.openapi
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
