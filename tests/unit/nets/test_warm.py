"""A warm start: before its first step a net answers as the champion does; where it cannot, the card says why."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from config.settings import Settings, load_settings
from models.bundle import Bundle
from models.nets.base import build
from models.nets.warm import Cold, read_start
from models.text.embedding import train_embedding
from models.training import load_materials, train_bundle

ASKED = ["cotton t-shirt ladies", "running shoes", "steel zzyzx", "polyester sandal", "goods"]
NEW = [("leather sandal brown", "640399"), ("sandal woman leather", "640399"), ("rubber sandal", "640419")]


@pytest.fixture(scope="module")
def champions(
    parts: Path, embedding: Path, settings: Settings, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """Bundles by kind, as they come from the registry: with a version."""
    folder, made = tmp_path_factory.mktemp("champions"), {}
    for kind in ("textcnn", "bilstm", "transformer", "dnn", "pool"):
        members = {name: made[name] for name in ("textcnn", "dnn")} if kind == "pool" else None
        train_bundle(kind, parts, embedding, settings, folder / kind, members=members)
        made[kind] = folder / kind
    for made_folder in made.values():
        card = json.loads((made_folder / "card.json").read_text())
        (made_folder / "card.json").write_text(json.dumps(card | {"version": "3"}))
    return made


@pytest.fixture(scope="module")
def later(parts: Path, settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Split and embedding when rows with new words and a new class have come."""
    folder = tmp_path_factory.mktemp("later")
    shutil.copytree(parts, folder / "parts")
    train = pl.read_parquet(parts / "train.parquet")
    rows = [
        {**train.row(0, named=True), "id": f"new{n}", "description": text, "code": code, "hs6": code, "group": 1000 + n}
        for n, (text, code) in enumerate(NEW)
    ]
    pl.concat([train, pl.DataFrame(rows, schema=train.schema)]).write_parquet(folder / "parts" / "train.parquet")
    edition = json.loads((parts / "edition.json").read_text())
    edition["texts"]["640399"] = "Footwear; uppers of leather"
    (folder / "parts" / "edition.json").write_text(json.dumps(edition))
    train_embedding(folder / "parts", settings, folder / "embedding")
    return folder / "parts", folder / "embedding"


@pytest.mark.parametrize("kind", ["textcnn", "dnn"])
@pytest.mark.parametrize("taken_from", ["itself", "pool"])
def test_before_its_first_step_it_answers_as_the_champion(
    kind: str, taken_from: str, champions: dict[str, Path], later: tuple[Path, Path], settings: Settings
) -> None:
    champion = champions[kind if taken_from == "itself" else "pool"]
    materials = load_materials(kind, *later, settings, champion=champion)
    net, old = build(kind, materials), Bundle.load(champions[kind])
    assert "sandal" in net.encoder.index  # type: ignore[attr-defined]
    assert "sandal" not in old.encoder.index  # type: ignore[attr-defined]
    shared = [materials.classes.index(code) for code in old.classes]
    np.testing.assert_allclose(net.logits(ASKED)[:, shared], old.logits(ASKED), atol=1e-4)
    cold = build(kind, load_materials(kind, *later, settings))
    assert np.abs(cold.logits(ASKED)[:, shared] - old.logits(ASKED)).max() > 0.1


@pytest.mark.parametrize(
    ("kind", "body"), [("textcnn", True), ("dnn", True), ("bilstm", False), ("transformer", False)]
)
def test_the_card_says_what_was_taken_over(
    kind: str, body: bool, champions: dict[str, Path], later: tuple[Path, Path], settings: Settings, tmp_path: Path
) -> None:
    card = train_bundle(kind, *later, settings, tmp_path / "bundle", champion=champions[kind])
    assert card["training"]["warm_start"] == {"champion": "3", "classes": 7, "new_classes": 1, "body": body}


def test_a_body_of_other_sizes_begins_anew(
    champions: dict[str, Path], later: tuple[Path, Path], settings: Settings
) -> None:
    wider = settings.models.model_copy(update={"dnn": settings.models.dnn.model_copy(update={"width": 24})})
    materials = load_materials("dnn", *later, settings.model_copy(update={"models": wider}), champion=champions["dnn"])
    assert build("dnn", materials).started["warm_start"]["body"] is False  # type: ignore[attr-defined]


def test_where_it_cannot_begin_there_the_reason_is_in_the_card(
    champions: dict[str, Path], later: tuple[Path, Path], settings: Settings, tmp_path: Path
) -> None:
    (tmp_path / "none").mkdir()
    narrow = load_settings(None, None, ["text.dimensions=8", "text.buckets=200", "text.min_count=1"])
    train_embedding(later[0], narrow, tmp_path / "narrow")
    cases: list[tuple[Path, str, Any, str]] = [
        (champions["dnn"], "textcnn", later[1], "version 3 is of kind dnn"),
        (champions["pool"], "bilstm", later[1], "version 3 is of kind pool"),
        (champions["dnn"], "svc", later[1], "svc is fitted anew each time"),
        (tmp_path / "none", "dnn", later[1], "there is no champion"),
        (champions["dnn"], "dnn", tmp_path / "narrow", "vectors of version 3 have other width (16, here 8)"),
    ]
    for champion, kind, trained, reason in cases:
        with pytest.raises(Cold) as cold:
            read_start(champion, kind, trained)
        assert str(cold.value) == reason
    card = train_bundle("svc", *later, settings, tmp_path / "svc", champion=champions["dnn"])
    assert card["training"]["warm_start"] == {"champion": None, "reason": "svc is fitted anew each time"}
