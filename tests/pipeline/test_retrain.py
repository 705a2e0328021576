"""Retraining on this machine: from a wish at the trigger to a challenger with experts' corrections; and what fails."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import polars as pl
import pytest

from config.settings import Settings, load_settings
from pipelines.local_backend import LocalBackend
from serving.control.trigger.backend import BackendRefused, RunState
from serving.home import with_home
from serving.registry import CHALLENGER, CHAMPION, Registry
from serving.state import State, open_state
from serving.state.events import text_hash
from serving.state.tables import Correction
from tests.serving.tiny_bundle import write_tiny_bundle

pytestmark = pytest.mark.slow

SMALL = {
    "HSCODE__DATA__SAMPLE_ROWS": "3000", "HSCODE__TEXT__DIMENSIONS": "24", "HSCODE__MODELS__KINDS": "[svc]",
    "HSCODE__TRAIN__UPSAMPLE": "0", "HSCODE__RETRAIN__WARM_START": "true", "HSCODE__GATE__RESAMPLES": "200",
    "HSCODE__TRIGGER__LOOK_SECONDS": "0.2", "HSCODE__DEPLOY__ROLLOUT": "direct", "OMP_NUM_THREADS": "2",
}  # fmt: skip


def command(*arguments: str | Path) -> list[str]:
    return [sys.executable, "-m", "cli.main", *map(str, arguments)]


def hscode(*arguments: str | Path) -> Any:
    done = subprocess.run(command(*arguments, "--json"), capture_output=True, text=True, env={**os.environ, **SMALL})
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


def until(found: Callable[[], RunState | None], wanted: Callable[[RunState], bool], seconds: float = 120) -> RunState:
    ends = time.monotonic() + seconds
    while True:
        state = found()
        if state is not None and wanted(state):
            return state
        assert time.monotonic() < ends, f"not reached in time: {state}"
        time.sleep(0.05)


def correct(state: State, rows: list[tuple[str, str]]) -> None:
    """What experts said, as the monitor stores it."""
    now = datetime.now(UTC)
    with state.write() as session:
        for number, (text, code) in enumerate(rows):
            session.add(
                Correction(
                    ce_id=f"c{number}", description=text, text_hash=text_hash(text), code=code, edition="HS2022",
                    who="expert", why="", said_at=now, recorded_at=now,
                )
            )  # fmt: skip


def test_a_wish_at_the_trigger_becomes_a_challenger_that_knows_the_corrections(tmp_path: Path) -> None:
    home = tmp_path / "home"
    hscode("run", "--home", home)
    rows = pl.read_csv(next(home.glob("sample/synthetic-3000.csv")), schema_overrides={"code": pl.String})
    rows = rows.drop_nulls(["description", "code"]).filter(pl.col("code").str.len_chars() == 6)
    said = [(f"{text} (corrected)", code) for text, code in rows.select("description", "code").head(30).iter_rows()]
    state = open_state(f"sqlite:///{home.resolve()}/state.db")
    correct(state, said)
    state.close()
    log = (tmp_path / "log").open("wb")
    trigger = subprocess.Popen(
        command("trigger", "serve", "--port", "0", "--home", home), stdout=log, stderr=log, env={**os.environ, **SMALL}
    )
    try:
        hscode("trigger", "fire", "--why", "a test", "--id", "one", "--home", home)
        hscode("trigger", "fire", "--why", "a test", "--id", "one", "--home", home)
        ends = time.monotonic() + 200
        while (found := hscode("trigger", "list", "--home", home)[0])["status"] not in ("succeeded", "failed"):
            assert trigger.poll() is None, (tmp_path / "log").read_text()
            assert time.monotonic() < ends, found
    finally:
        trigger.terminate()
        trigger.wait()
        log.close()
    assert (found["status"], found["deliveries"], found["decision"]) == ("succeeded", 2, "run"), found
    versions = hscode("models", "list", "--home", home)
    # Rollout is direct in these settings: a retraining ends in a canary all the same.
    gates = [json.loads(file.read_text())["reason"] for file in home.glob("kfp/**/gate.json")]
    assert [each["aliases"] for each in versions] == [["challenger"], ["champion"]], gates
    lineage = hscode("models", "lineage", "challenger", "--home", home)
    assert lineage["triggered_by"] == "person:one" == lineage["triggers"][0]["key"]
    assert lineage["run"]["name"] == found["run"] == lineage["pipeline_run"]
    assert lineage["parent"]["version"] == "1"
    assert lineage["warm_start"] == {"champion": None, "reason": "svc is fitted anew each time"}
    assert lineage["parent"]["warm_start"] is None
    ingested = [json.loads(file.read_text()) for file in home.glob("kfp/**/ingest.json")]
    assert [each["sources"]["corrections"]["read"] for each in ingested if "corrections" in each["sources"]] == [30]
    folder = home / "retrains" / found["run"]
    assert json.loads((folder / "run.json").read_text())["tags"]["who"]


@pytest.fixture
def here(tmp_path: Path) -> tuple[Path, Settings]:
    home = tmp_path / "home"
    home.mkdir()
    return home, with_home(load_settings(environment=SMALL, assignments=["data.sources=[{path: missing.csv}]"]), home)


def test_a_run_that_fails_says_why_once_and_the_champion_serves_on(here: tuple[Path, Settings]) -> None:
    home, settings = here
    registry = Registry(settings.registry.uri or "", settings.registry.model)
    bundle = home / "bundle"
    write_tiny_bundle(bundle)
    registry.promote(registry.register(bundle, "first", {"kind": "svc"}).number)
    backend = LocalBackend(settings, home)
    assert backend.find("r1") is None
    # Started by a process that is gone by the time it runs.
    code = (
        "import sys; from pathlib import Path; from config.settings import Settings\n"
        "from pipelines.local_backend import LocalBackend\n"
        "backend = LocalBackend(Settings.from_json(sys.argv[1]), Path(sys.argv[2]))\n"
        "backend.submit('r1', {'triggered_by': 'k'}, {'a': 'b'})\n"
    )
    subprocess.run([sys.executable, "-c", code, settings.to_json(), str(home)], check=True)
    ended = until(lambda: backend.find("r1"), lambda state: state.status not in ("intended", "running"))
    assert ended.status == "failed"
    assert "missing.csv" in ended.error
    assert backend.submit("r1", {"triggered_by": "k"}, {}) == "r1"
    assert backend.status("r1") == ended, "a second submission of the name starts nothing"
    champion = registry.find(CHAMPION)
    assert champion is not None
    assert champion.number == "1"
    assert registry.find(CHALLENGER) is None
    for wrong in ("../r1", "", ".hidden", "unknown"):
        with pytest.raises(BackendRefused):
            backend.status(wrong)


def test_a_killed_run_has_failed(here: tuple[Path, Settings]) -> None:
    home, settings = here
    settings = settings.model_copy(update={"data": load_settings(environment=SMALL).data})
    backend = LocalBackend(settings, home)
    backend.submit("r1", {"triggered_by": "k"}, {})
    until(lambda: backend.find("r1"), lambda state: state.status == "running")
    os.kill(json.loads((home / "retrains/r1/status.json").read_text())["pid"], signal.SIGKILL)
    ended = until(lambda: backend.find("r1"), lambda state: state.status != "running")
    assert (ended.status, ended.error) == ("failed", "its process was killed")


def test_a_warm_retrainings_steps_hand_the_champion_on(tmp_path: Path) -> None:
    """The steps' own functions in one process: no champion, then one; the registry says what training began at."""
    from components.champion import champion
    from components.train import train
    from models.text.embedding import train_embedding
    from serving.handover import register_candidate
    from tests.unit.nets.parts import write_parts

    assignments = ["text.dimensions=16", "text.buckets=200", "models.dnn.width=16", "train.epochs=1", "train.threads=1"]
    settings = with_home(load_settings(None, {}, assignments), tmp_path)
    parts = write_parts(tmp_path / "parts")
    train_embedding(parts, settings, tmp_path / "embedding")
    report = tmp_path / "report.html"
    report.write_text("<p>report</p>")
    registry = Registry(settings.registry.uri or "", settings.registry.model)
    for run in ("1", "2"):
        found, bundle = (
            SimpleNamespace(path=str(tmp_path / f"{name}{run}"), metadata={}) for name in ("found", "made")
        )
        champion.python_func(settings.to_json(), found)
        inputs = (SimpleNamespace(path=str(tmp_path / name)) for name in ("parts", "embedding"))
        train.python_func("dnn", settings.to_json(), *inputs, bundle, champion=found)
        register_candidate(settings, Path(bundle.path), report, run, run, "a test")
        registry.promote(run)
    lineage = registry.lineage("2")
    assert lineage["warm_start"] == {"champion": "1", "classes": 13, "new_classes": 0, "body": True}
    assert lineage["parent"]["warm_start"] == {"champion": None, "reason": "there is no champion"}
