"""Encoders: arrays that depend on a text alone, and that survive being written."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.text.encode import NgramEncoder, SeveralEncoders, WordEncoder, bucket, encoder_from_json

WORDS = WordEncoder(["cotton", "shirt", "of", "steel"], buckets=50, ngrams=(3, 5), max_tokens=12)
GRAMS = NgramEncoder(["cotton", "cotton shirt", "#<co", "#cot", "shirt"], [1.0, 2.0, 1.5, 1.2, 1.1], ngrams=(3, 4))
TEXTS = ["Cotton shirts", "", "steell bolt M8", "cotton " * 40, "дом из стали", "a"]


def test_bucket_is_fixed_for_all_time() -> None:
    assert bucket("123456789", 2**32) == 0xCBF43926  # the check value of CRC-32 in every description of it
    assert bucket("ß", 2**32) == bucket(b"\xc3\x9f".decode(), 2**32)


def test_known_words_are_one_row_and_unknown_ones_their_ngrams() -> None:
    ids = WORDS.encode(["cotton zzzz shirt"])["ids"]
    assert ids.shape == (1, 8, 24)
    assert ids[0, 0, 0] == 1
    assert not ids[0, 0, 1:].any()
    assert set(ids[0, 1][ids[0, 1] > 0]) == set(WORDS.subwords("zzzz"))
    assert min(WORDS.subwords("zzzz")) > len(WORDS.vocabulary)
    assert not ids[0, 3:].any()


def test_a_long_word_spreads_its_rows_over_its_length() -> None:
    rows = WordEncoder([], 100_000, (3, 5), 8).subwords("pneumonoultramicroscopicsilico")
    last = WordEncoder([], 100_000, (3, 5), 8, max_rows=1000).subwords("pneumonoultramicroscopicsilico")
    assert len(rows) == 24
    assert set(rows) <= set(last)
    assert set(rows) & set(last[-8:])


def test_shapes_hold_all_words_read() -> None:
    for text in TEXTS:
        length, depth = WORDS.shape(text)
        assert len(WORDS.analyse(text)) <= length <= 12
        assert all(len(rows) <= depth for rows in WORDS.analyse(text))


@pytest.mark.parametrize("encoder", [WORDS, GRAMS, SeveralEncoders({"a": WORDS, "b": GRAMS})])
def test_texts_of_one_shape_are_encoded_as_alone(encoder: WordEncoder) -> None:
    by_shape: dict[object, list[str]] = {}
    for text in TEXTS * 2:
        by_shape.setdefault(encoder.shape(text), []).append(text)
    for texts in by_shape.values():
        together = encoder.encode(texts)
        for n, text in enumerate(texts):
            for name, array in encoder.encode([text]).items():
                np.testing.assert_array_equal(together[name][n], array[0])


@pytest.mark.parametrize("encoder", [WORDS, GRAMS, SeveralEncoders({"a": WORDS, "b": GRAMS})])
def test_written_and_read_it_encodes_the_same(encoder: WordEncoder) -> None:
    again = encoder_from_json(json.loads(json.dumps(encoder.to_json())))
    for text in TEXTS:
        assert again.shape(text) == encoder.shape(text)
        for name, array in encoder.encode([text]).items():
            np.testing.assert_array_equal(again.encode([text])[name], array)


def test_ngram_values_are_of_length_one_and_features_ascend() -> None:
    feeds = GRAMS.encode(["cotton cotton shirt"])
    features, values = feeds["features"][0], feeds["values"][0]
    used = features[features > 0]
    assert used.tolist() == sorted({1, 2, 3, 4, 5} & set(used.tolist()))
    assert float(np.linalg.norm(values)) == pytest.approx(1.0, abs=1e-6)
    assert not values[features == 0].any()


@pytest.mark.parametrize(("text", "says"), [("", False), ("12 x 5", False), ("a", False), ("??", False), ("tea", True)])
def test_informative(text: str, says: bool) -> None:
    assert WORDS.informative(text) is says
    assert GRAMS.informative(text) is says


@given(st.text(max_size=80))
def test_any_text_can_be_encoded(text: str) -> None:
    ids = WORDS.encode([text])["ids"]
    assert ids.dtype == np.int64
    assert ids.min() >= 0
    assert ids.max() < WORDS.rows
    GRAMS.encode([text])
