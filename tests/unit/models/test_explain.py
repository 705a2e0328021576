import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from models.bundle import Bundle
from models.explain import INDEX, VARIANTS, build_index, cost, explain, to_html
from tests.serving.tiny_bundle import write_tiny_bundle

KNOWN = pl.DataFrame(
    {
        "description": [
            "ladies cotton T-shirt",
            "LADIES COTTON T-SHIRT",
            "wireless bluetooth headphones",
            "porcelain dinner plate",
            "Horses; live, pure-bred breeding animals",
            "gift items",
            "steel flask <b>500 ml</b>",
        ],
        "hs6": ["610910", "610910", "851830", "691110", "010121", None, "961700"],
        "code": ["61091000", "61091000", "85183000", "69111000", "010121", None, "961700"],
        "label_kind": ["given", "given", "given", "corrected", "nomenclature", "vague", "given"],
    }
)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    folder = write_tiny_bundle(tmp_path_factory.mktemp("bundle"))
    build_index(KNOWN, folder)
    return Bundle.load(folder)


def test_words_that_carry_the_answer_stand_out(bundle: Bundle) -> None:
    (got,) = explain(bundle, ["blue wireless headphones"])
    assert list(got) == ["answer", "explained", "words", "legal", "nearest"]
    assert got["answer"] == bundle.answer(["blue wireless headphones"])[0]
    effects = {w["word"]: w["effect"] for w in got["words"]}
    assert list(effects) == ["blue", "wireless", "headphones"]
    assert abs(effects["blue"]) < min(effects["wireless"], effects["headphones"])


def test_effect_is_the_fall_of_the_explained_code_without_the_word(bundle: Bundle) -> None:
    (got,) = explain(bundle, [{"description": "cotton shirt plate", "digits": 4}])
    code, digits = got["explained"]["code"], got["explained"]["digits"]
    assert (len(code), digits) == (4, 4)
    for left_out, word in zip(("shirt plate", "cotton plate", "cotton shirt"), got["words"], strict=True):
        p = bundle.levels.probabilities(bundle.probabilities([left_out]), 4)[0]
        without = p[bundle.levels.codes[4].index(code)]
        assert word["effect"] == pytest.approx(got["explained"]["confidence"] - without, abs=2e-4)


def test_all_places_of_a_word_are_left_out_together(bundle: Bundle) -> None:
    (got,) = explain(bundle, ["Cotton, shirt of cotton"])
    assert [w["word"] for w in got["words"]] == ["Cotton,", "shirt", "of"]


def test_same_text_same_explanation_whatever_stands_beside_it(bundle: Bundle) -> None:
    texts = ["horse", "wireless headphones", "", "gift item", "porcelain plate cup " * 60]
    together = explain(bundle, texts)
    assert together == [explain(bundle, [text])[0] for text in texts]
    assert json.loads(json.dumps(together)) == together


@pytest.mark.parametrize("text", ["", "   ", "zzz", "gift items"])
def test_texts_without_an_answer_are_explained_too(bundle: Bundle, text: str) -> None:
    (got,) = explain(bundle, [text])
    assert got["answer"]["code"] == ""
    assert got["explained"]["code"] == got["answer"]["levels"]["6"]["code"]


def test_memory_is_bounded_by_one_texts_variants(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = ["horse", "", " ".join(f"word{i}" for i in range(500)), "Cotton, shirt of cotton"]
    sizes: list[int] = []
    expected, probabilities = explain(bundle, texts), bundle.probabilities

    def counted(given: Sequence[str]) -> Any:
        sizes.append(len(given))
        return probabilities(given)

    monkeypatch.setattr(bundle, "probabilities", counted)
    assert explain(bundle, texts) == expected
    assert sizes == [cost(text) for text in texts]
    assert max(sizes) <= VARIANTS + 1


def test_a_long_text_has_a_bounded_number_of_variants(bundle: Bundle) -> None:
    text = " ".join(f"word{i}" for i in range(500))
    (got,) = explain(bundle, [text])
    assert len(got["words"]) <= VARIANTS
    assert " ".join(w["word"] for w in got["words"]) == text


def test_legal_text_of_each_level_down_to_the_explained_code(bundle: Bundle) -> None:
    (got,) = explain(bundle, ["wireless headphones"])
    code = got["explained"]["code"]
    assert [level["code"] for level in got["legal"].values()] == [code[:2], code[:4], code][: len(got["legal"])]
    assert all(level["text"] == bundle.texts.get(level["code"], "") for level in got["legal"].values())


def test_nearest_known_descriptions(bundle: Bundle) -> None:
    (got,) = explain(bundle, ["Wireles headphone, black"])
    assert got["nearest"][0]["description"] == "wireless bluetooth headphones"
    assert got["nearest"][0]["code"] == "851830"
    similarities = [n["similarity"] for n in got["nearest"]]
    assert similarities == sorted(similarities, reverse=True)
    (same,) = explain(bundle, ["PORCELAIN dinner plates"])
    assert same["nearest"][0]["similarity"] == pytest.approx(1.0, abs=1e-3)
    assert explain(bundle, ["qqq"])[0]["nearest"] == []


def test_without_an_index_there_are_no_nearest(tmp_path: Path) -> None:
    bundle = Bundle.load(write_tiny_bundle(tmp_path))
    assert explain(bundle, ["horse"])[0]["nearest"] == []


def test_index_leaves_out_vague_rows_and_repeated_texts_and_is_limited(tmp_path: Path) -> None:
    assert build_index(KNOWN, tmp_path) == 5
    first = (tmp_path / INDEX).read_bytes()
    build_index(KNOWN.reverse(), tmp_path)
    assert (tmp_path / INDEX).read_bytes() == first, "the order of the rows must not matter"
    assert build_index(KNOWN, tmp_path, rows=3) == 3
    assert b"Horses" not in (tmp_path / INDEX).read_bytes()
    assert build_index(KNOWN.head(0), tmp_path) == 0
    assert Bundle.load(write_tiny_bundle(tmp_path)).explain(["horse"])[0]["nearest"] == []


def test_a_limited_index_keeps_some_of_every_code(tmp_path: Path) -> None:
    frame = pl.DataFrame(
        {"description": [f"shirt {chr(97 + i)}x" for i in range(26)] + ["horse"], "hs6": ["610910"] * 26 + ["010121"]}
    )
    build_index(frame, tmp_path, rows=4)
    bundle = Bundle.load(write_tiny_bundle(tmp_path))
    assert bundle.explain(["horse"])[0]["nearest"][0]["code"] == "010121"


def test_page_needs_nothing_else_and_escapes_texts(bundle: Bundle) -> None:
    texts = ["<script>alert(1)</script> steel flask", "gift items", "horse"]
    page = to_html(explain(bundle, texts), texts, {"name": "hscode", "version": "3", "edition": "HS2022"})
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert "&lt;b&gt;500 ml" in page
    assert not re.search(r"(src|href)=", page)
    assert page.count("<section>") == 3
