"""The Dockerfiles hold to the rules that every cluster counts on, and their package lists follow pyproject."""

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[2]
DOCKERFILES = sorted(
    path.relative_to(ROOT).as_posix() for path in ROOT.glob("*/**/Dockerfile") if ".venv" not in path.parts
)


def listed(file: str) -> set[str]:
    lines = (ROOT / file).read_text(encoding="utf-8").splitlines()
    return {str(Requirement(line).name) for line in lines if line and not line.startswith("#")}


def extras(*names: str) -> set[str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    found = project["dependencies"] + [one for name in names for one in project["optional-dependencies"][name]]
    return {Requirement(one).name for one in found}


def test_all_images_are_here() -> None:
    assert DOCKERFILES == [
        "components/Dockerfile",
        "manifests/images/mlflow/Dockerfile",
        "serving/Dockerfile",
        "serving/control/Dockerfile",
    ]


@pytest.mark.parametrize("file", DOCKERFILES)
def test_an_image_is_pinned_labelled_and_not_root(file: str) -> None:
    text = (ROOT / file).read_text(encoding="utf-8")
    stages = re.findall(r"^FROM (\S+)(?: AS (\S+))?", text, re.M)
    own = {name for _, name in stages if name}
    assert {base for base, _ in stages} - own == {"${BASE_IMAGE}"}
    assert re.search(r"^ARG BASE_IMAGE=\S+:(?!latest)\S+$", text, re.M)
    assert "ARG INDEX_URL=" in text
    assert "--constraint" in text
    assert 'org.opencontainers.image.revision="${COMMIT}"' in text
    final = text[text.rindex("\nFROM ") :]
    assert re.search(r"^USER \d{4,}:\d{4,}$", final, re.M)
    assert "pip install" not in final, "what builds does not ship"


def test_the_control_image_holds_what_its_extras_say() -> None:
    assert listed("serving/control/requirements.txt") - {"mlflow-skinny"} == extras("control", "pipelines") - {"mlflow"}


def test_the_training_image_holds_what_its_extras_say() -> None:
    database = {"sqlalchemy", "alembic", "psycopg"}
    assert listed("components/requirements.txt") - {"mlflow-skinny"} == (extras("training", "encoder") | database) - {
        "mlflow"
    }
