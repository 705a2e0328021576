"""`hscode predict` on a folder with a bundle."""

import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner, Result

from cli.predict import register
from models.bundle import Bundle
from models.errors import UserError
from tests.serving.tiny_bundle import write_tiny_bundle


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_bundle(tmp_path_factory.mktemp("bundle"))


def run(*arguments: str) -> Result:
    app = typer.Typer()
    app.callback()(lambda: None)
    register(app)
    return CliRunner().invoke(app, ["predict", *arguments], catch_exceptions=True)


def test_texts_give_the_bundles_answers(bundle: Path) -> None:
    result = run("wireless headphones", "gift items", "--model", str(bundle), "--json")
    assert result.exit_code == 0, result.output
    answer = json.loads(result.stdout)
    assert answer["predictions"] == Bundle.load(bundle).answer(["wireless headphones", "gift items"])
    assert answer["model"] == {"name": "hscode", "version": "3", "edition": "HS2022"}
    spoken = run("wireless headphones", "gift items", "horse", "zzz", "--model", str(bundle)).stdout
    assert "wireless headphones: 851830 at 100%" in spoken
    assert "gift items: too vague" in spoken
    assert "horse: 0101 at 99% (a longer code is not sure enough)" in spoken
    assert "zzz: no code is sure enough" in spoken


def test_a_file_comes_back_with_its_answers(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_text("id,goods\n1,headphones\n2,\n3,horse,more\n")
    files = ("--input", str(tmp_path / "in.csv"), "--output", str(tmp_path / "out.jsonl"), "--column", "goods")
    result = run(*files, "--model", str(bundle), "--digits", "4", "--json")
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert (report["rows"], report["failed"], report["statuses"]) == (3, 1, {"answered": 1, "vague": 1})
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [(r["id"], r.get("hs_code"), bool(r.get("hs_error"))) for r in rows] == [
        ("1", "8518", False),
        ("2", "", False),
        ("3", None, True),
    ]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((), "nothing to predict"),
        (("a", "--input", "x.csv", "--output", "y.csv"), "nothing to predict"),
        (("--input", "x.csv"), "go together"),
        (("a", "--digits", "8"), "not 2, 4 or 6"),
        (("a", "--model", "./nowhere"), "no model bundle"),
        (("a", "--home", "/nonexistent-home"), "no model here yet"),
    ],
)
def test_wrong_use_is_one_line(arguments: tuple[str, ...], says: str) -> None:
    error = run(*arguments).exception
    assert isinstance(error, UserError)
    assert says in str(error)
