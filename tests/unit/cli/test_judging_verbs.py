"""`hscode evaluate` and `hscode explain` on a real, tiny bundle."""

import json
from pathlib import Path

import pytest
from typer import Typer
from typer.testing import CliRunner

from cli import diff, evaluate, explain
from cli import models as models_verbs
from models.bundle import Bundle
from models.errors import UserError
from models.explain import build_index
from tests.serving.tiny_bundle import write_tiny_bundle


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import polars as pl

    folder = write_tiny_bundle(tmp_path_factory.mktemp("bundle"))
    build_index(pl.DataFrame({"description": ["wireless headphones"], "hs6": ["851830"]}), folder)
    return folder


@pytest.fixture(scope="module")
def app() -> Typer:
    made = Typer()
    evaluate.register(made)
    explain.register(made)
    diff.register(made)
    models_verbs.register(made)
    return made


def run(app: Typer, *arguments: str) -> str:
    done = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    path = tmp_path / "mine.csv"
    path.write_text(
        "description,code\nwireless headphones,8518.30.00\nporcelain plate,691110\nhorse for riding,010121\n"
        "wireless headphones,851830\ngift items,VAGUE\nodd thing,ABC\n",
        encoding="utf-8",
    )
    return path


def test_figures_of_every_row_as_json(app: Typer, bundle: Path, rows: Path) -> None:
    got = json.loads(run(app, "evaluate", "--data", str(rows), "--model", str(bundle), "--json"))
    assert list(got) == ["model", "data", "refused", "metrics"]
    assert sum(got["refused"].values()) == 1
    levels = got["metrics"]["groups"]["trader"]["levels"]
    assert [levels[d]["rows"] for d in ("2", "4", "6")] == [4, 4, 4]
    truth = ["851830", "691110", "010121", "851830"]
    texts = ["wireless headphones", "porcelain plate", "horse for riding", "wireless headphones"]
    best = [a["levels"]["6"]["code"] for a in Bundle.load(bundle).answer(texts)]
    assert levels["6"]["top1"]["value"] == sum(t == b for t, b in zip(truth, best, strict=True)) / 4
    assert got["metrics"]["vague"]["rows"] == 1


@pytest.mark.slow
def test_figures_for_people_and_as_a_page(app: Typer, bundle: Path, rows: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    out = run(app, "evaluate", "--data", str(rows), "--model", str(bundle), "--report", str(page))
    assert "HS6" in out
    assert "% answered" in out
    assert "not judged: 1 rows, code holds letters or signs." in out
    assert "<svg" in page.read_text(encoding="utf-8")


def test_a_missing_file_or_model_is_one_clear_line(app: Typer, bundle: Path, tmp_path: Path, rows: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        run(app, "evaluate", "--data", str(tmp_path / "none.csv"), "--model", str(bundle))
    with pytest.raises(UserError, match="no model bundle there"):
        run(app, "evaluate", "--data", str(rows), "--model", str(tmp_path / "none"))


def test_explanations(app: Typer, bundle: Path, tmp_path: Path) -> None:
    page = tmp_path / "why.html"
    texts = ["blue wireless headphones", "gift items"]
    out = run(app, "explain", *texts, "--model", str(bundle), "--html", str(page))
    assert "851830" in out
    assert "known: wireless headphones = 851830" in out
    assert page.read_text(encoding="utf-8").count("<section>") == 2
    got = json.loads(run(app, "explain", *texts, "--model", str(bundle), "--json"))
    assert got["explanations"] == Bundle.load(bundle).explain(texts)
    assert list(got["model"]) == ["name", "version", "edition"]
    with pytest.raises(UserError, match="not 2, 4 or 6"):
        run(app, "explain", "horse", "--digits", "8", "--model", str(bundle))


def test_difference_of_two_models(app: Typer, bundle: Path, rows: Path, tmp_path: Path) -> None:
    other = write_tiny_bundle(tmp_path / "other", version="4", sure=0.01, seed=5)
    same = json.loads(run(app, "models", "diff", str(bundle), str(bundle), "--data", str(rows), "--json"))
    assert same["passed"]
    assert same["changes"]["mine.csv"]["lost"]["rows"] == 0
    got = json.loads(run(app, "models", "diff", str(bundle), str(other), "--data", str(rows), "--json"))
    top = next(check for check in got["checks"] if check["what"] == "HS6 top-1")
    changed = got["changes"]["mine.csv"]
    assert top["delta"] == pytest.approx((changed["gained"]["rows"] - changed["lost"]["rows"]) / 4)
    out = run(app, "models", "diff", str(bundle), str(other), "--data", str(rows))
    assert "HS4 top-1" in out
    assert f"lost: {changed['lost']['rows']} rows" in out
    assert got["reason"][:40] in out.replace("\n", " ")
