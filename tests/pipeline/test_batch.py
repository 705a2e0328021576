"""The batch pipeline by kfp.local, on a registered tiny bundle: same rows, same order, same answers as without KFP."""

import csv
import os
from pathlib import Path

import pytest

from config.settings import Settings
from models.bundle import Bundle
from models.errors import UserError
from pipelines import batch
from pipelines.local import execute
from serving.home import with_home
from serving.predictor.batch import predict_file
from serving.registry import Registry
from tests.serving.tiny_bundle import write_tiny_bundle

ROWS = 23


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("HSCODE_PROGRESS", "HSCODE_RUN_PID", "HSCODE_RUN_ID", "HSCODE_COMMIT", "HSCODE_WORK"):
        monkeypatch.setenv(name, os.environ.get(name, ""))
    return tmp_path / "home"


@pytest.fixture
def settings(home: Path, tmp_path: Path) -> Settings:
    filled = with_home(Settings(), home)
    registry = Registry(filled.registry.uri or "")
    registry.register(write_tiny_bundle(tmp_path / "bundle"), "made", {"kind": "tiny"})
    registry.promote("1")
    return filled


@pytest.fixture
def source(tmp_path: Path) -> Path:
    with (tmp_path / "rows.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["number", "description"])
        writer.writerows([i, "" if i == 7 else f"cotton shirt no {i}"] for i in range(ROWS))
    return tmp_path / "rows.csv"


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.slow
def test_parts_come_back_as_one_file_with_the_answers_of_one_process(
    home: Path, settings: Settings, source: Path, tmp_path: Path
) -> None:
    out = tmp_path / "answers.csv"
    arguments = {"settings": settings.to_json(), "source": str(source), "to": str(out)}
    execute(batch.build(parts=3), arguments, home, "batch", lambda line: None)
    answers = read(out)
    assert [row["number"] for row in answers] == [str(i) for i in range(ROWS)]
    assert {row["hs_version"] for row in answers} == {"1"}
    alone = tmp_path / "alone.csv"
    predict_file(Bundle.load(Registry(settings.registry.uri or "").folder("champion", tmp_path)), source, alone)
    assert answers == read(alone)


@pytest.mark.slow
def test_more_parts_than_rows(home: Path, settings: Settings, source: Path, tmp_path: Path) -> None:
    source.write_text("description\ncotton shirt\nsteel pan\n")
    out = tmp_path / "answers.csv"
    arguments = {"settings": settings.to_json(), "source": str(source), "to": str(out)}
    execute(batch.build(parts=4), arguments, home, "batch", lambda line: None)
    assert [row["description"] for row in read(out)] == ["cotton shirt", "steel pan"]


@pytest.mark.slow
def test_a_missing_file_is_the_users_one_line(home: Path, settings: Settings, tmp_path: Path) -> None:
    arguments = {"settings": settings.to_json(), "source": str(tmp_path / "none.csv"), "to": ""}
    with pytest.raises(UserError, match=r"step shard: .*none\.csv: no such file"):
        execute(batch.build(parts=2), arguments, home, "batch", lambda line: None)


def test_the_number_of_parts_is_bounded() -> None:
    with pytest.raises(UserError, match="choose 1 to 8"):
        batch.build(parts=9)
