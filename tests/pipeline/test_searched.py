"""The pipeline with all that is off by default: a search, a simulation, a kind trained without up-sampling."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from config.settings import load_settings
from models.bundle import Bundle
from pipelines.local import opened_home, run_local
from pipelines.training import build
from serving.home import with_home
from serving.registry import Registry

pytestmark = pytest.mark.slow

ASKED = (
    "data.sample_rows=1200", "train.epochs=1", "text.dimensions=24", "models.kinds=[dnn,svc]",
    "tune.kinds=[dnn]", "tune.trials=2", "tune.random_trials=1",
    "simulate.seeds=1", "simulate.resamples=2", "simulate.rows=600", "evaluate.without_upsampling=dnn",
)  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Any:
    from cli.run import with_sample

    home = tmp_path_factory.mktemp("searched") / "home"
    with pytest.MonkeyPatch.context() as patch, opened_home(home):
        for name in ("HSCODE_PROGRESS", "HSCODE_RUN_PID", "HSCODE_RUN_ID", "HSCODE_COMMIT", "HSCODE_WORK"):
            patch.setenv(name, os.environ.get(name, ""))
        settings = with_home(with_sample(load_settings(assignments=ASKED), home), home)
        return settings, run_local(settings, home, lambda line: None), home


def test_the_report_shows_search_simulation_and_what_upsampling_does(run: Any) -> None:
    page = Path(run[1].report).read_text()
    assert "Welch" in page
    assert "With and without up-sampling" in page
    assert "dnn: 2 trials, best" in page


def test_the_choice_rests_on_the_simulation_and_the_bundle_keeps_the_search(run: Any, tmp_path: Path) -> None:
    settings, _, _ = run
    version = Registry(settings.registry.uri or "").resolve("champion")
    folder = Registry(settings.registry.uri or "").folder("champion", tmp_path)
    selection = json.loads((folder / "selection.json").read_text())
    assert selection["evidence"] == "runs of the simulation"
    assert selection["kind"] == version.kind
    if version.kind == "dnn":
        found = json.loads((folder / "tuning" / "tuning.json").read_text())
        assert len(found["trials"]) == 2
    assert Bundle.load(folder).answer(["cotton shirt"])[0]["candidates"]


def test_each_part_is_a_task_of_its_own() -> None:
    tasks = build(load_settings(assignments=ASKED)).pipeline_spec.root.dag.tasks
    assert {"tune", "simulate", "train", "train-2", "train-3"} <= set(tasks)
    tuned = next(t for t in tasks.values() if "search" in t.inputs.artifacts)
    assert tuned.inputs.parameters["kind"].runtime_value.constant.string_value == "dnn"
    assert "simulation" in tasks["select"].inputs.artifacts
    assert "plain" in tasks["evaluate"].inputs.artifacts
