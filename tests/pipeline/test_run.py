"""`hscode run` as a user runs it: kfp.local, MLflow, real processes; killed anywhere, it ends with one version."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow

QUICK = {
    "HSCODE__DATA__SAMPLE_ROWS": "2500",
    "HSCODE__TRAIN__EPOCHS": "2",
    "HSCODE__TEXT__DIMENSIONS": "32",
    "HSCODE__TRAIN__UPSAMPLE": "0",
    "OMP_NUM_THREADS": "2",
}


def command(*arguments: str | Path) -> list[str]:
    return [sys.executable, "-m", "cli.main", *map(str, arguments)]


def hscode(*arguments: str | Path) -> Any:
    done = subprocess.run(command(*arguments), capture_output=True, text=True, env={**os.environ, **QUICK})
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("run") / "home"


@pytest.fixture(scope="module")
def killed(home: Path) -> list[str]:
    """Steps at whose start the run was killed, one after the other, in the same home."""
    points = ["ingest", "embed", "train-svc", "gate", "register", "deploy"]
    for point in points:
        run = subprocess.Popen(
            command("run", "--home", home), env={**os.environ, **QUICK}, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        while not any(f'"{point}"' in file.read_text() for file in home.glob("runs/*/progress.jsonl")):
            assert run.poll() is None, f"ended before {point}: {run.communicate()[1][-2000:]!r}"
            time.sleep(0.02)
        run.send_signal(signal.SIGKILL)
        run.wait()
        for file in home.glob("runs/*/progress.jsonl"):
            file.write_text("")
    return points


@pytest.fixture(scope="module")
def result(home: Path, killed: list[str]) -> Any:
    return hscode("run", "--home", home, "--ask", "--json")


def test_killed_at_six_points_it_ends_well_with_one_version(result: Any, home: Path, killed: list[str]) -> None:
    assert len(killed) == 6
    assert result["gate"] == "pass"
    versions = hscode("models", "list", "--home", home, "--json")
    assert [v["version"] for v in versions] == ["1"]
    assert versions[0]["aliases"] == ["champion"]


def test_finished_steps_are_not_done_again(result: Any, home: Path) -> None:
    log = re.sub(r"\x1b\[\d+m", "", Path(result["log"]).read_text())
    # Each kill falls into one step; what was finished before it is not done again.
    started = Counter(re.findall(r"Executing task '([\w-]+)'", log))
    assert started["ingest"] <= 2
    assert started["embed"] <= 2
    assert started["train"] + started["train-2"] <= 4
    assert started["gate"] >= 3


def test_three_questions_are_answered_over_rest(result: Any) -> None:
    assert len(result["answers"]) == 3
    for answer in result["answers"]:
        prediction = answer["prediction"]
        assert prediction["status"] in ("answered", "shortened", "vague", "unsure")
        assert len(prediction["candidates"]) == 5
        assert len(prediction["code"]) == prediction["digits"]


def test_the_report_is_one_page_that_calls_itself_synthetic(result: Any) -> None:
    page = Path(result["report"]).read_text()
    assert "<html" in page
    assert "synthetic" in page
    assert not re.search(r"""(src|href)=["']?(https?:)?//""", page)


def test_the_version_leads_back_to_data_settings_and_code(result: Any, home: Path) -> None:
    found = hscode("models", "lineage", "champion", "--home", home, "--json")
    assert found["pipeline_run"] == result["run"]
    assert len(found["data_hash"]) >= 16
    assert found["settings_hash"]
    assert found["commit"]


def test_the_same_input_again_registers_nothing_new(result: Any, home: Path) -> None:
    assert hscode("run", "--home", home, "--json")["version"]["version"] == "1"
    assert len(hscode("models", "list", "--home", home, "--json")) == 1


def test_other_settings_make_a_version_with_a_parent(result: Any, home: Path) -> None:
    again = hscode("run", "--home", home, "--set", "answer.candidates=4", "--json")
    assert again["gate"] == "pass"
    assert again["version"]["version"] == "2"
    assert again["version"]["aliases"] == ["champion"]
    assert hscode("models", "lineage", "2", "--home", home, "--json")["parent"]["version"] == "1"


def test_two_runs_in_one_home_do_not_meet(result: Any, home: Path) -> None:
    import fcntl

    with (home / "run.lock").open("a+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = subprocess.run(command("run", "--home", home), capture_output=True, text=True)
    assert done.returncode == 2
    assert "another run is active" in done.stderr


def test_nothing_is_written_outside_the_home(tmp_path: Path) -> None:
    before = set(tmp_path.iterdir())
    done = subprocess.run(
        command("run", "--home", tmp_path / "home", "--set", "models.kinds=[svc]"),
        cwd=tmp_path,
        env={**os.environ, **QUICK},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert set(tmp_path.iterdir()) - before == {tmp_path / "home"}
