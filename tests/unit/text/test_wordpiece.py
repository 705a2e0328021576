"""Word pieces as BERT cuts them, without its library."""

import numpy as np
import pytest

from models.text.encode import encoder_from_json
from models.text.wordpiece import LONGEST_WORD, WordPieceEncoder, basic_words

VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "cotton", "shirt", "##s", "s", "##hirt", "-", "caf", "##e", "0", "茶"]
TEXTS = [
    "Cotton shirts",
    "  COTTON\tshirt ",
    "cotton-shirt",
    "Café",
    "café shirts",
    "unknowable",
    "",
    "茶cotton茶",
    "cotton\u200bshirt\x00s",
    "x" * (LONGEST_WORD + 1) + " cotton",
    "$shirt£",
    "İcotton",
]


def encoder(**other: object) -> WordPieceEncoder:
    return WordPieceEncoder(VOCABULARY, "[CLS]", "[SEP]", "[UNK]", max_tokens=6, **other)  # type: ignore[arg-type]


def test_pieces_are_those_of_the_tokenizers_library() -> None:
    tokenizers = pytest.importorskip("tokenizers")
    theirs = tokenizers.Tokenizer(
        tokenizers.models.WordPiece({p: i for i, p in enumerate(VOCABULARY)}, unk_token="[UNK]")
    )
    theirs.normalizer = tokenizers.normalizers.BertNormalizer(lowercase=True)
    theirs.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    for text in TEXTS:
        expected = [2, *theirs.encode(text).ids[:4], 3]
        assert [i - 1 for i in encoder().analyse(text)] == expected, text


def test_a_row_is_padded_with_zeros_and_no_longer_than_the_limit() -> None:
    ids = encoder().encode(["cotton", "cotton shirts cotton shirts"])["ids"]
    assert ids.dtype == np.int64
    assert ids.tolist() == [[3, 5, 4, 0, 0, 0], [3, 5, 6, 7, 5, 4]]


def test_entities_are_resolved_and_digits_masked_where_asked() -> None:
    assert basic_words("M&amp;S 24x36") == ["m", "&", "s", "24x36"]
    assert basic_words("M&amp;S 24x36", mask_digits=True) == ["m", "&", "s", "0x0"]


def test_what_says_nothing_is_not_informative() -> None:
    assert encoder().informative("cotton")
    assert not any(encoder().informative(text) for text in ("", "12 34", "- x -"))


def test_text_json_gives_the_same_encoder_again() -> None:
    one = encoder(mask_digits=True)
    other = encoder_from_json(one.to_json())
    assert other.to_json() == one.to_json()
    assert [other.encode([t])["ids"].tolist() for t in TEXTS] == [one.encode([t])["ids"].tolist() for t in TEXTS]
