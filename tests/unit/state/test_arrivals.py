"""Which new data a retraining reads: named by one decision, the same whenever it is asked."""

import json
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace

import pytest

from components.ingest import ingest
from config.settings import Settings, load_settings
from models.data.ingest import added_sources
from models.errors import UserError
from pipelines.local_backend import LocalBackend
from serving.control.trigger import inputs, journal
from serving.control.trigger.inputs import Occasion
from serving.handover import arrived_data
from serving.state import State
from serving.state.arrivals import newest_arrival
from serving.state.tables import TriggerDecision

NOW = datetime(2026, 1, 2, tzinfo=UTC)
PREFIXES = ("s3://new/", "s3://other/")


def settings(url: str, *prefixes: str) -> Settings:
    return load_settings(assignments=[f"state.url={url}", f"trigger.data_prefixes=[{','.join(prefixes)}]"])


def come(state: State, *addresses: str) -> None:
    event = Occasion(f"data:{addresses[0]}", "data", {"addresses": list(addresses)})
    journal.accept(state, [event, inputs.by_person("expert", "why", addresses[0])], NOW)


def newest(state: State) -> int:
    with state.read() as session:
        return newest_arrival(session) or 0


def test_one_decision_names_all_that_arrived_until_then(url: str, state: State) -> None:
    assert newest(state) == 0
    come(state, "s3://new/1", "s3://other/2")
    until = newest(state)
    come(state, "s3://new/3", "s3://new/1")
    with state.write() as session:
        # The run was refused, not the data: the next run reads it.
        for row in session.query(TriggerDecision):
            row.decision, row.reason = "refuse", "4 runs within a day, 4 are allowed"
    given = settings(url, *PREFIXES)
    assert arrived_data(given, str(until)) == ["s3://new/1", "s3://other/2"]
    assert arrived_data(given, str(newest(state))) == ["s3://new/1", "s3://other/2", "s3://new/3"]
    assert arrived_data(given, "") == []
    assert arrived_data(settings(url, "s3://other/"), str(until)) == ["s3://other/2"], "no longer taken from there"
    assert arrived_data(settings(url), str(until)) == []


def test_what_names_nothing_is_refused(url: str, state: State) -> None:
    with pytest.raises(UserError, match="not the id of a decision: 's3://x'"):
        arrived_data(settings(url), "s3://x")
    with pytest.raises(UserError, match=r"state\.url is missing"):
        arrived_data(Settings(), "3")


def test_any_number_of_files_fits_a_run(url: str, state: State) -> None:
    journal.accept(
        state,
        (
            Occasion(f"object:{n}", "object_store", {"addresses": [f"s3://new/a-file-of-{n:06}.csv"]})
            for n in range(5000)
        ),
        NOW,
    )
    until = str(newest(state))
    assert len(until) < 20
    found = added_sources(settings(url), arrived_data(settings(url, *PREFIXES), until), None)
    assert len(found) == 5000
    assert {source.name for source in found} == {"new data"}, "a report has no room for so many sources"


def test_the_ingest_step_reads_and_lists_them(state: State, url: str, tmp_path: Path) -> None:
    files = [tmp_path / "new" / name for name in ("one.csv", "two.csv")]
    files[0].parent.mkdir()
    for number, file in enumerate(files):
        file.write_text(f"description,code\nhex bolt of steel {number},731815\n")
    come(state, str(files[0]))
    until = str(newest(state))
    come(state, str(files[1]))
    given = settings(url, str(tmp_path))
    rows = SimpleNamespace(path=str(tmp_path / "rows"), metadata={})
    tree = given.model_copy(update={"data": given.data.model_copy(update={"sample_rows": 200})})
    ingest.python_func(tree.to_json(), "", rows, data_until=until)
    assert (tmp_path / "rows" / "new_data.txt").read_text() == f"{files[0]}\n"
    assert json.loads((tmp_path / "rows" / "ingest.json").read_text())["sources"]["one"]["read"] == 1
    first = rows.metadata["data_hash"]
    ingest.python_func(tree.to_json(), "", rows, data_until=until)
    assert rows.metadata["data_hash"] == first
    ingest.python_func(tree.to_json(), "", rows, data_until=str(newest(state)))
    assert rows.metadata["data_hash"] != first


def test_a_run_on_this_machine_gets_it_as_an_option(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[list[str]] = []
    monkeypatch.setattr("subprocess.Popen", lambda command, **_: started.append(command))
    LocalBackend(Settings(), tmp_path).submit("r1", {"triggered_by": "k", "data_until": "17"}, {})
    (command,) = started
    assert command[-2:] == ["--data-until", "17"]
