"""`hscode data sample`, `fetch` and `migrate`, as a user calls them."""

import csv
import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

import cli.data
from models.errors import UserError


@pytest.fixture
def app(monkeypatch: pytest.MonkeyPatch) -> typer.Typer:
    monkeypatch.setenv("HSCODE_PROGRESS", "/dev/null")
    app = typer.Typer()
    cli.data.register(app)
    return app


def run(app: typer.Typer, *arguments: object) -> str:
    result = CliRunner().invoke(app, ["data", *map(str, arguments)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_sample_writes_rows_and_nomenclature(app: typer.Typer, tmp_path: Path) -> None:
    rows, nomenclature = tmp_path / "rows.csv", tmp_path / "nomenclature.csv"
    said = json.loads(
        run(app, "sample", "--rows", 120, "--seed", 3, "--out", rows, "--nomenclature-out", nomenclature, "--json")
    )
    assert said["rows"] == sum(said["sources"].values()) == 120
    assert said["synthetic"] is True
    with rows.open(encoding="utf-8", newline="") as file:
        assert len(list(csv.DictReader(file))) == 120
    assert "synthetic rows" in run(app, "sample", "--rows", 10, "--out", rows, "--shift", "language")


def test_fetch_lists_sources_with_their_licences(app: typer.Typer) -> None:
    listed = json.loads(run(app, "fetch", "--json"))
    assert {"uk_search_references", "us_hts"} <= {each["name"] for each in listed}
    assert all(each["licence"] for each in listed)
    assert run(app, "fetch").count("licence: ") == len(listed)


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (("sample", "--out", "x.csv", "--shift", "y"), "no shift 'y'; one of products"),
        (("fetch", "nothing"), "no public source 'nothing'"),
        (("fetch", "us_hts", "--since", "soon"), "'soon' is no date"),
    ],
)
def test_wrong_use_is_one_clear_line(app: typer.Typer, arguments: tuple[str, ...], what: str) -> None:
    with pytest.raises(UserError, match=what):
        run(app, *arguments)


@pytest.fixture
def editions(tmp_path: Path) -> Path:
    (tmp_path / "HS9.csv").write_text("code,text\n010121,Horses\n851771,Aerials\n851779,Parts\n", encoding="utf-8")
    (tmp_path / "table.csv").write_text("old,new\n010121,010121\n851770,851771\n851770,851779\n", encoding="utf-8")
    (tmp_path / "rows.csv").write_text(
        "description,code\na,0101.21\nb,851770\nc,8517.70.00\nd,999999\n", encoding="utf-8"
    )
    (tmp_path / "bundle").mkdir()
    labels = {"classes": ["010121", "851770", ""], "edition": "HS8", "vague": 2, "texts": {}}
    (tmp_path / "bundle/labels.json").write_text(json.dumps(labels), encoding="utf-8")
    return tmp_path


def asked(folder: Path, model: str) -> list[object]:
    files = ("--data", folder / "rows.csv", "--to", folder / "HS9.csv", "--correlation", folder / "table.csv")
    return ["migrate", *files, "--model", folder / model]


def test_migrate_says_what_a_new_edition_does(app: typer.Typer, editions: Path) -> None:
    said = json.loads(run(app, *asked(editions, "bundle"), "--json"))
    assert said["edition"] == "HS9"
    assert said["rows_by_fate"] == {"kept": 1, "narrowed": 0, "reused": 0, "renumbered": 0, "split": 2, "lost": 1}
    assert said["rows_shortened"] == {"4": 2}
    assert [each["code"] for each in said["new"]] == ["851771", "851779"]
    assert said["model"]["vanished"] == ["851770"]
    assert said["model"]["uncovered_new"] == ["851771", "851779"]
    told = run(app, *asked(editions, "bundle"))
    assert "2 rows are shortened to 4 digits" in told
    assert "1 of its classes vanish" in told
    assert "--set nomenclature.correlation=" in told


def test_a_folder_that_is_no_bundle_is_one_clear_line(app: typer.Typer, editions: Path) -> None:
    (editions / "empty").mkdir()
    with pytest.raises(UserError, match="holds no model bundle"):
        run(app, *asked(editions, "empty"))
