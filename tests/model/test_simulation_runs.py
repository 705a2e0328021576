"""A simulation of real trainings: goes on from finished runs, gives the same runs again, and feeds `select`."""

import json
from pathlib import Path

import pytest

from config.settings import load_settings
from models.errors import UserError
from models.selection import select
from models.simulation import simulate
from tests.model.conftest import SMALL

pytestmark = pytest.mark.slow

KINDS = ("svc", "dnn")
SETTINGS = load_settings(
    assignments=[*SMALL, "train.epochs=1", "simulate.seeds=1", "simulate.resamples=2", "simulate.rows=1500"]
)


@pytest.fixture(scope="module")
def simulated(sample_parts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("simulation")
    simulate(KINDS, sample_parts, sample_parts.parent / "embedding", SETTINGS, out)
    return out


def test_every_kind_has_every_run_and_the_same_test_rows(simulated: Path) -> None:
    result = json.loads((simulated / "simulation.json").read_text())
    assert [(run["resample"], run["kind"]) for run in result["runs"]] == [
        (0, "dnn"), (0, "svc"), (1, "dnn"), (1, "svc"),
    ]  # fmt: skip
    assert all(run["train_rows"] == 1500 and 0 < run["score"] < 1 for run in result["runs"])
    by_draw = {run["resample"]: set() for run in result["runs"]}
    for run in result["runs"]:
        by_draw[run["resample"]].add(run["test_rows"])
    assert all(len(sizes) == 1 for sizes in by_draw.values())
    assert not (simulated / "runs" / "work").exists(), "bundles of runs are not kept"
    scores = {m["model"]: m["scores"] for m in result["models"]}
    assert select(scores, {"svc": 1.0, "dnn": 2.0}, overlap=result["overlap"]).kind in KINDS


def test_finished_runs_are_not_trained_again_and_a_lost_one_comes_back_the_same(
    simulated: Path, sample_parts: Path
) -> None:
    files = sorted((simulated / "runs").glob("*.json"))
    lost, before = files[0], {file: file.stat().st_mtime_ns for file in files}
    said = json.loads(lost.read_text())
    lost.unlink()
    simulate(KINDS, sample_parts, sample_parts.parent / "embedding", SETTINGS, simulated)
    again = json.loads(lost.read_text())
    assert {k: v for k, v in again.items() if k != "seconds"} == {k: v for k, v in said.items() if k != "seconds"}
    assert all(file.stat().st_mtime_ns == before[file] for file in files[1:])


def test_one_kind_or_one_run_is_no_simulation(sample_parts: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="at least two kinds"):
        simulate(("svc",), sample_parts, None, SETTINGS, tmp_path)
