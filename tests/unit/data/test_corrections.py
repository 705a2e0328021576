"""Corrections as training rows: they win over the text they correct, and never lie on both sides of the split."""

import json
import random
from pathlib import Path

import polars as pl
import pytest

from config.settings import Settings, load_settings
from models.data.clean import clean_text, identity
from models.data.ingest import added_sources, ingest
from models.data.sample import write_sample
from models.data.split import PARTS, split

VARIANTS = (
    lambda text: text,
    lambda text: text.upper(),
    lambda text: f"  {text} ",
    lambda text: f"{text} new",
    lambda text: " ".join(reversed(text.split())),
)
"""How the same goods are written again: the same to ingest, or a near-duplicate."""


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> tuple[Settings, pl.DataFrame]:
    folder = tmp_path_factory.mktemp("base")
    write_sample(400, 17, folder / "rows.csv", folder / "nomenclature.csv")
    settings = load_settings(
        assignments=[
            f'data.sources=[{{"path": "{folder}/rows.csv"}}]',
            f"nomenclature.path={folder}/nomenclature.csv",
            "split.test_share=0.3",
        ]
    )
    return settings, pl.read_csv(folder / "rows.csv", schema_overrides={"code": pl.String}).drop_nulls(
        ["description", "code"]
    )


def corrected(settings: Settings, rows: list[tuple[str, str]], folder: Path) -> dict[str, pl.DataFrame]:
    """The parts of the split with these corrections (description, code) among the rows."""
    file = folder / "corrections.jsonl"
    file.write_text("".join(json.dumps({"description": text, "code": code}) + "\n" for text, code in rows))
    ingest(settings, folder / "rows", added=added_sources(settings, (), file))
    split(folder / "rows", settings, folder / "parts")
    return {name: pl.read_parquet(folder / "parts" / f"{name}.parquet") for name in PARTS}


@pytest.mark.parametrize("seed", range(3))
def test_a_correction_never_leaks_into_test_rows_of_its_text(
    base: tuple[Settings, pl.DataFrame], tmp_path: Path, seed: int
) -> None:
    settings, rows = base
    settings = settings.model_copy(update={"split": settings.split.model_copy(update={"seed": seed})})
    draw = random.Random(seed)
    picks = [(draw.randrange(len(rows)), draw.randrange(len(VARIANTS)), draw.randrange(len(rows))) for _ in range(150)]
    texts, codes = rows["description"].to_list(), rows["code"].to_list()
    said = [(VARIANTS[variant](texts[row]), codes[other]) for row, variant, other in picks]
    parts = corrected(settings, said, tmp_path)
    where: dict[int, set[str]] = {}
    own: dict[int, set[str]] = {}
    for name, part in parts.items():
        for group, description in zip(part["group"].to_list(), part["description"].to_list(), strict=True):
            where.setdefault(group, set()).add(name)
            own.setdefault(identity(clean_text(description)), set()).add(name)
    assert all(len(names) == 1 for names in where.values()), "a group of near-duplicates lies in one part"
    assert all(len(names) == 1 for names in own.values())
    kinds = pl.concat([part.select("label_kind") for part in parts.values()])["label_kind"]
    assert (kinds == "corrected").sum() > 0


def test_a_correction_wins_over_the_text_it_corrects(base: tuple[Settings, pl.DataFrame], tmp_path: Path) -> None:
    settings, rows = base
    text, old = rows["description"][0], rows["code"][0]
    edition = pl.read_csv(settings.nomenclature.path or "", schema_overrides={"code": pl.String})["code"]
    new = next(code for code in edition.to_list() if code[:2] != old[:2])
    parts = pl.concat(corrected(settings, [(text.upper(), new)], tmp_path).values())
    found = [
        row
        for row in parts.iter_rows(named=True)
        if identity(clean_text(row["description"])) == identity(clean_text(text))
    ]
    assert [(row["hs6"], row["label_kind"], row["source"]) for row in found] == [(new[:6], "corrected", "corrections")]


def test_what_a_retraining_reads_besides() -> None:
    settings = load_settings(
        assignments=[
            'data.sources=[{"path": "a.csv"}]',
            "retrain.left_out=[s3://x/bad.csv]",
            "retrain.new_data_weight=2",
        ]
    )
    found = added_sources(settings, ["s3://x/1.csv", "a.csv", "s3://x/bad.csv", "s3://x/1.csv"], None)
    assert [(each.path, each.weight) for each in found] == [("s3://x/1.csv", 2.0)]


def test_no_corrections_no_source(tmp_path: Path) -> None:
    file = tmp_path / "corrections.jsonl"
    file.write_text("")
    assert added_sources(Settings(), (), file) == []
    file.write_text("{}\n")
    (found,) = added_sources(Settings(), (), file)
    assert (found.kind, found.name, found.weight) == ("corrected", "corrections", 3.0)
