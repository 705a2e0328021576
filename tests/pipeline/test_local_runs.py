"""What people are told of retrainings on this machine: from the folders that they leave."""

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
import yaml

from config.settings import Settings
from models.errors import UserError
from pipelines.backends import runs_of
from pipelines.compile import compiled
from pipelines.local_backend import TAKEN, LocalBackend, recorded
from serving.control.trigger.backend import BackendRefused


@pytest.fixture
def backend(tmp_path: Path) -> LocalBackend:
    return LocalBackend(Settings(), tmp_path)


def ran(home: Path, name: str, failed: str = "") -> None:
    """A run that was here and has ended."""
    try:
        with recorded(home, name):
            if failed:
                raise ValueError(f"{failed}\nand a traceback")
    except ValueError:
        pass


def test_the_newest_come_first_and_no_more_than_asked_for(backend: LocalBackend, tmp_path: Path) -> None:
    assert backend.listed(5) == []
    for name in ("monday", "tuesday", "wednesday"):
        ran(tmp_path, name, "no rows" if name == "tuesday" else "")
    (tmp_path / "retrains" / "never-started").mkdir()
    listed = backend.listed(5)
    assert [state.name for state in listed] == ["wednesday", "tuesday", "monday"]
    assert [state.status for state in listed] == ["succeeded", "failed", "succeeded"]
    assert listed[1].error == "no rows"
    assert [state.name for state in backend.listed(2)] == ["wednesday", "tuesday"]


def test_a_run_that_was_killed_is_listed_as_failed(backend: LocalBackend, tmp_path: Path) -> None:
    ran(tmp_path, "monday")
    began = datetime.now(UTC).isoformat()
    (tmp_path / "retrains" / "monday" / "status.json").write_text(
        json.dumps({"status": "running", "started_at": began})
    )
    (state,) = backend.listed(5)
    assert (state.status, state.error) == ("failed", "its process was killed")


def test_progress_is_the_last_note_of_each_step(backend: LocalBackend, tmp_path: Path) -> None:
    ran(tmp_path, "monday")
    assert backend.progress("monday")[1] == {}
    notes = [("ingest", ""), ("ingest", "12,000 rows"), ("split", ""), ("train", "epoch 1"), ("train", "epoch 2")]
    lines = [json.dumps({"step": step, "note": note}) for step, note in notes]
    folder = tmp_path / "runs" / "monday"
    folder.mkdir(parents=True)
    # The last line is still being written.
    (folder / "progress.jsonl").write_text("\n".join([*lines, '{"step": "train", "no']))
    state, steps = backend.progress("monday")
    assert state.status == "succeeded"
    assert steps == {"ingest": "12,000 rows", "split": "running", "train": "epoch 2"}
    with pytest.raises(BackendRefused, match="there is no run tuesday"):
        backend.progress("tuesday")


def test_the_log_of_a_failed_run_and_where_its_files_are(backend: LocalBackend, tmp_path: Path) -> None:
    ran(tmp_path, "monday", "no rows")
    assert backend.failed_step("monday") == ("run", "")
    (tmp_path / "retrains" / "monday" / "log.txt").write_text("x" * 30_000 + "hscode: no rows\n")
    step, log = backend.failed_step("monday")
    assert (step, len(log)) == ("run", 20_000)
    assert log.endswith("hscode: no rows\n")
    assert backend.artifacts(backend.status("monday")) == str(tmp_path / "runs" / "monday")


@pytest.mark.parametrize("name", ["", "..", ".hidden", "a/b"])
def test_a_name_that_is_no_name_is_refused(backend: LocalBackend, name: str) -> None:
    with pytest.raises(BackendRefused, match="not a run's name"):
        backend.failed_step(name)


def test_an_unknown_parameter_starts_nothing(backend: LocalBackend, tmp_path: Path) -> None:
    with pytest.raises(
        BackendRefused, match=r"has no parameter new-data; it takes data_until, new_data, .*triggered_by"
    ):
        backend.submit("monday", {"triggered_by": "k", "new-data": "s3://x/1"}, {})
    assert not (tmp_path / "retrains").exists()


def test_callers_parameters_are_the_pipelines(backend: LocalBackend) -> None:
    (spec, _) = yaml.safe_load_all(compiled(Settings(), "hscode-retrain").text)
    assert set(TAKEN) == set(spec["root"]["inputDefinitions"]["parameters"]) - {"settings", "data_version"}


def test_a_run_that_never_was_and_one_that_did_not_begin(backend: LocalBackend, tmp_path: Path) -> None:
    with pytest.raises(BackendRefused, match=r"^there is no run nope in "):
        backend.status("nope")
    (tmp_path / "retrains" / "monday").mkdir(parents=True)
    with pytest.raises(BackendRefused, match="monday ended before it began"):
        backend.status("monday")


def test_what_runs_in_the_foreground_here_is_told_as_it_is_typed(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="run: hscode predict --input FILE --output FILE"):
        runs_of(Settings(), tmp_path, "batch")
