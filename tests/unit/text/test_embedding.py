"""The embedding step: what words say of goods, also words never seen."""

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from config.settings import Settings, load_settings
from models.errors import UserError
from models.text.embedding import load_embedding, train_embedding
from models.text.tokentable import read_table

ROWS = [
    ("cotton t-shirt", "610910"), ("cotton tee", "610910"), ("white cotton vest", "610910"),
    ("running shoe", "640411"), ("tennis shoe", "640411"), ("white sneaker shoe", "640411"),
    ("steel hook", "732690"), ("steel bracket", "732690"), ("white steel clip", "732690"), ("gift", ""),
]  # fmt: skip


def write_parts(folder: Path, rows: list[tuple[str, str]]) -> Path:
    folder.mkdir()
    pl.DataFrame(
        {
            "description": [text for text, _ in rows],
            "hs6": [code or None for _, code in rows],
            "code": [code or None for _, code in rows],
            "weight": 1.0,
            "label_kind": ["given" if code else "vague" for _, code in rows],
        }
    ).write_parquet(folder / "train.parquet")
    return folder


@pytest.fixture
def parts(tmp_path: Path) -> Path:
    return write_parts(tmp_path / "parts", ROWS)


@pytest.fixture
def settings() -> Settings:
    return load_settings(None, None, ["text.dimensions=6", "text.buckets=500", "text.min_count=1"])


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A made-up encoder's folder: footwear words point one way, clothing another."""
    from safetensors.numpy import save_file

    words = ["[UNK]", "shoe", "boot", "sandal", "shirt", "blouse", "##let"]
    vectors = np.array([[0, 0, 0], [1, 0, 0], [1, 0.1, 0], [1, 0, 0.1], [0, 1, 0], [0, 1, 0.1], [0, 0, 1]])
    folder = tmp_path / "outside"
    folder.mkdir()
    (folder / "vocab.txt").write_text("\n".join(words) + "\n")
    save_file({"embeddings.word_embeddings.weight": vectors.astype(np.float32)}, str(folder / "model.safetensors"))
    return folder


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))


def test_words_of_one_code_are_near_and_misspelt_ones_stay(parts: Path, settings: Settings, tmp_path: Path) -> None:
    card = train_embedding(parts, settings, tmp_path / "out")
    shoe, sneaker, steel, typo = load_embedding(tmp_path / "out").mean_vectors(["shoe", "sneaker", "steel", "sneakr"])
    assert cosine(shoe, sneaker) > cosine(shoe, steel) + 0.3
    assert cosine(typo, sneaker) > cosine(typo, steel) + 0.3
    assert card["rows"] == len(ROWS)
    assert json.loads((tmp_path / "out" / "embedding.json").read_text()) == card


def test_frequent_words_are_short(parts: Path, settings: Settings, tmp_path: Path) -> None:
    train_embedding(parts, settings, tmp_path / "out")
    white, hook = load_embedding(tmp_path / "out").mean_vectors(["white", "hook"])
    assert np.linalg.norm(white) < np.linalg.norm(hook)


def test_padding_is_zero_and_nothing_is_known_of_no_word(parts: Path, settings: Settings, tmp_path: Path) -> None:
    train_embedding(parts, settings, tmp_path / "out")
    embedding = load_embedding(tmp_path / "out")
    assert not embedding.vectors[0].any()
    assert not embedding.mean_vectors([""]).any()
    assert len(embedding.vectors) == embedding.encoder.rows


def test_same_rows_same_bytes(parts: Path, settings: Settings, tmp_path: Path) -> None:
    for name in ("one", "two"):
        train_embedding(parts, settings, tmp_path / name)
    for file in ("vectors.npy", "text.json", "embedding.json"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()


def test_a_simulation_sees_its_own_rows_only(parts: Path, settings: Settings, tmp_path: Path) -> None:
    train_embedding(parts, settings, tmp_path / "some", rows=[0, 1, 2, 2])
    assert load_embedding(tmp_path / "some").encoder.knows("cotton")
    assert not load_embedding(tmp_path / "some").encoder.knows("steel")


def test_words_from_outside_have_a_place(parts: Path, settings: Settings, outside: Path, tmp_path: Path) -> None:
    text = settings.text.model_copy(update={"pretrained": str(outside), "pretrained_dimensions": 3})
    train_embedding(parts, settings.model_copy(update={"text": text}), tmp_path / "out")
    embedding = load_embedding(tmp_path / "out")
    assert embedding.encoder.knows("sandal")
    shoe, sandal, blouse = embedding.mean_vectors(["shoe", "sandal", "blouse"])
    assert cosine(sandal[-3:], shoe[-3:]) > cosine(sandal[-3:], blouse[-3:])


def test_a_word_is_cut_into_pieces(outside: Path) -> None:
    table = read_table(str(outside))
    np.testing.assert_allclose(table.vector("bootlet"), (table.vector("boot") + table.vectors[6]) / 2)
    assert not table.vector("xyz").any()
    assert table.other_words(["shoe"]) == ["boot", "sandal", "shirt", "blouse"]


def test_what_is_no_encoder_is_one_line(tmp_path: Path, outside: Path) -> None:
    with pytest.raises(UserError, match="no such folder"):
        read_table(str(tmp_path / "absent"))
    with pytest.raises(UserError, match=r"vocab\.txt"):
        read_table(str(tmp_path))
    (outside / "model.safetensors").write_bytes(b"no tensors here")
    with pytest.raises(UserError, match="not a readable encoder"):
        read_table(str(outside))
