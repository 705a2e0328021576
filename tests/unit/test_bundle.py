"""A bundle is light to load, says what is wrong with its folder, and takes instances as the design has them."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from models.bundle import Bundle
from models.errors import UserError
from models.nets.svc import sparse_graph
from models.text.encode import NgramEncoder

CLASSES = ["610910", "610990", "640411", ""]
TERMS = {"cotton": {0: 90}, "shirt": {0: 60, 1: 70}, "shoe": {2: 120}, "gift": {3: 127}}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A bundle made by hand: a linear model of four words."""
    import onnx

    encoder = NgramEncoder(list(TERMS), [1.0] * 4, (9, 9))
    starts = np.cumsum([0, 0, *(len(w) for w in TERMS.values())])
    ids = np.array([c for w in TERMS.values() for c in w])
    steps = np.array([s for w in TERMS.values() for s in w.values()], dtype=np.int8)
    # Machines: one chapter, four headings of one class each, which alone weigh, and the classes' own.
    ids, scale, bias = ids + 1, np.full(9, 1 / 20, dtype=np.float32), np.zeros(9, dtype=np.float32)
    graph = sparse_graph(starts, ids, steps, scale, bias, np.zeros(4, dtype=int), np.arange(4), np.array([1, 10, 1]))
    onnx.save(graph, str(tmp_path / "model.onnx"))
    texts = {"61": "Knitted clothing", "6109": "T-shirts", "610910": "T-shirts; cotton"}
    labels = {"classes": CLASSES, "vague": 3, "edition": "HS2022", "texts": texts}
    calibration = {"temperature": 1.0, "thresholds": {"2": 0.5, "4": 0.6, "6": 0.9, "vague": 0.5}, "candidates": 2}
    card = {"format": 1, "name": "hscode", "kind": "svc", "version": 7}
    files = {"text": encoder.to_json(), "labels": labels, "calibration": calibration, "card": card}
    for name, content in files.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    return tmp_path


def test_answers_are_the_designs_objects(folder: Path) -> None:
    bundle = Bundle.load(folder)
    cotton, mixed, gift = bundle.answer(["Cotton", {"description": "shirt", "digits": 4, "limit": 1}, "gift"])
    assert (cotton["code"], cotton["status"], len(cotton["candidates"])) == ("610910", "answered", 2)
    assert (mixed["code"], mixed["digits"], len(mixed["candidates"])) == ("6109", 4, 1)
    assert (gift["code"], gift["status"]) == ("", "vague")
    assert list(cotton) == ["code", "digits", "confidence", "status", "levels", "candidates"]
    assert (bundle.version, bundle.edition, bundle.kind, bundle.name) == ("7", "HS2022", "svc", "hscode")


def test_probabilities_by_hand(folder: Path) -> None:
    p = Bundle.load(folder).probabilities(["cotton shirt"])[0]
    logits = -10 * np.logaddexp(0, -np.array([150, 70, 0, 0]) / np.sqrt(2) / 20)
    np.testing.assert_allclose(p, np.exp(logits) / np.exp(logits).sum(), rtol=1e-5)


def test_no_texts_no_answers(folder: Path) -> None:
    bundle = Bundle.load(folder)
    assert bundle.probabilities([]).shape == (0, 4)
    assert bundle.answer([]) == []


@pytest.mark.parametrize("missing", ["model.onnx", "text.json", "labels.json", "calibration.json", "card.json"])
def test_a_missing_file_is_named(folder: Path, missing: str) -> None:
    (folder / missing).unlink()
    with pytest.raises(UserError, match=missing):
        Bundle.load(folder)


def test_damage_is_one_line(folder: Path) -> None:
    (folder / "labels.json").write_text("{")
    with pytest.raises(UserError, match=r"labels\.json: not a model bundle"):
        Bundle.load(folder)
    (folder / "labels.json").write_text("{}")
    (folder / "card.json").write_text('{"format": 99}')
    with pytest.raises(UserError, match="format 99"):
        Bundle.load(folder)


def test_it_needs_no_training_library(folder: Path) -> None:
    code = (
        "import sys\nfrom models.bundle import Bundle\n"
        "Bundle.load(sys.argv[1]).answer(['cotton shirt'])\n"
        "heavy = {'torch', 'sklearn', 'polars', 'pydantic', 'scipy', 'onnx', 'pandas'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code, str(folder)], check=True, cwd=Path(__file__).parents[2])
