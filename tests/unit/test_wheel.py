"""A wheel holds all that lies in the rooms: what works from a clone works installed."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.conftest import ROOT, missing

ROOMS = ("cli", "components", "config", "models", "pipelines", "serving")
NOT_INSTALLED = {"Dockerfile"}
BUILD = "import sys; from setuptools.build_meta import build_wheel; build_wheel(sys.argv[1])"
ASK = """
from cli.loop import SETTINGS
from config.settings import load_settings
from pipelines.loop import page, parts
from serving.deploy.manifest import template
load_settings(SETTINGS)
rules, alertmanager = parts._read("rules.yaml"), parts._read("alertmanager.yaml")
print(parts.__file__, len(rules["groups"]), template()["kind"], alertmanager["route"]["receiver"])
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with the unpacked wheel of the working tree's files."""
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        missing("not a git clone")
    folder = tmp_path_factory.mktemp("wheel")
    for name in tracked():
        (folder / "source" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, folder / "source" / name, follow_symlinks=False)
    subprocess.run(
        [sys.executable, "-c", BUILD, str(folder)], cwd=folder / "source", check=True, capture_output=True, text=True
    )
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as packed:
        packed.extractall(folder / "installed")
    return folder / "installed"


def tracked() -> list[str]:
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    return [
        name
        for name in subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout.splitlines()
        if os.path.lexists(ROOT / name)
    ]


def test_every_file_of_the_rooms_is_in_it(installed: Path) -> None:
    wanted = {name for name in tracked() if Path(name).parts[0] in ROOMS and Path(name).name not in NOT_INSTALLED}
    assert "pipelines/loop/rules.yaml" in wanted
    found = {file.relative_to(installed).as_posix() for file in installed.rglob("*") if file.is_file()}
    assert wanted - found == set()


def test_the_loop_finds_its_settings_rules_and_manifest(installed: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", ASK], cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(installed)},
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    where, groups, kind, receiver = done.stdout.split()
    assert Path(where).is_relative_to(installed)
    assert int(groups) > 2
    assert (kind, receiver) == ("InferenceService", "people")
