"""What a finished run leaves in the home folder, and that what is gone is made again."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from kfp import dsl

from components.step import IMAGE
from pipelines.local import GONE, code_digest, execute, make_room


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def made(count: str, out: dsl.Output[dsl.Dataset]) -> None:
    """Append a line to a file each time it runs, and leave an artifact."""
    with open(count, "a") as file:
        file.write("ran\n")
    with open(out.path, "w") as file:
        file.write("rows")


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def read(rows: dsl.Input[dsl.Dataset]) -> str:
    """What the artifact holds."""
    with open(rows.path) as file:
        return file.read()


@dsl.pipeline(name="two-steps")
def two_steps(count: str) -> str:
    """One cached step, and one that is never."""
    return read(rows=made(count=count).output).set_caching_options(False).output


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    with pytest.MonkeyPatch.context() as patch:
        for name in ("HSCODE_PROGRESS", "HSCODE_RUN_PID", "HSCODE_RUN_ID", "HSCODE_COMMIT", "HSCODE_WORK"):
            patch.setenv(name, os.environ.get(name, ""))
        yield tmp_path / "home"


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.glob("*")}


def test_a_step_whose_artifacts_are_gone_runs_again(home: Path, tmp_path: Path) -> None:
    count = tmp_path / "count"

    def run(key: str) -> Any:
        return execute(two_steps, {"count": str(count)}, home, key, lambda line: None)["Output"]

    assert [run("a"), run("b")] == ["rows", "rows"]
    assert count.read_text() == "ran\n"
    make_room(home, 1)
    assert len(names(home / "kfp")) == 1
    assert run("c") == "rows"
    assert count.read_text() == "ran\nran\n"


def test_the_newest_runs_and_this_codes_cache_stay(home: Path) -> None:
    make_room(home, 2)
    folders = [home / "kfp" / f"hscode-{kind}-{n}" for n, kind in enumerate(("retrain", "training", "retrain"))]
    for age, folder in enumerate(folders):
        (folder / "ingest" / "rows").mkdir(parents=True)
        os.utime(folder, (1000 - age, 1000 - age))
    half = home / "kfp" / f"{GONE}hscode-training-9"
    half.mkdir()
    caches = [home / "cache" / name for name in (code_digest(), "0123456789abcdef", "hscode")]
    for folder in (*caches, home / "runs" / "key"):
        folder.mkdir(parents=True)
    make_room(home, 2)
    assert names(home / "kfp") == {folders[0].name, folders[1].name}
    assert names(home / "cache") == {code_digest(), "hscode"}, "what the registry downloaded stays"
    assert names(home / "runs") == {"key"}
    make_room(home, 1)
    assert names(home / "kfp") == {folders[0].name}
