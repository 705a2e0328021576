"""Words of a description: what is the same to a customs officer is the same to a model."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.text.normalise import ngrams, normalise, singular, words


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("LADIES COTTON T-SHIRT", "ladies cotton t-shirt"),
        ("cotton shirts", "cotton shirt"),
        ("bolt 12mm", "bolt 8 mm"),
        ("caf\u00e9 table", "cafe\u0301 table"),
        ("nuts &amp; bolts", "nuts & bolts"),
        ("ﬁshing rod", "fishing rod"),
        ("shoes,leather/rubber", "shoes leather rubber"),
        ("２ cups", "3 cups"),
        ("t-shirt", "t shirts"),
        ("tshirt", "T-Shirt"),
        ("e-cigarette", "ecigarettes"),
    ],
)
def test_writings_of_the_same_goods_give_the_same_words(one: str, other: str) -> None:
    assert words(one) == words(other)


@pytest.mark.parametrize(
    ("plural", "one"),
    [
        ("batteries", "battery"),
        ("glasses", "glass"),
        ("glass", "glass"),
        ("gas", "gas"),
        ("bus", "bus"),
        ("ties", "tie"),
    ],
)
def test_singular(plural: str, one: str) -> None:
    assert singular(plural) == one


def test_without_stem_plurals_stay() -> None:
    assert words("Red shoes", stem=False) == ["red", "shoes"]


@given(st.text(max_size=60))
def test_normalising_twice_changes_nothing(text: str) -> None:
    once = normalise(text)
    assert once == " ".join(once.split())
    assert words(once) == words(" ".join(words(once, stem=False)))


@given(st.text(min_size=1, max_size=40).filter(str.strip))
def test_ngrams_are_parts_of_the_marked_word_once_each(word: str) -> None:
    found = ngrams(word, 3, 5)
    assert len(found) == len(set(found))
    assert all(gram in f"<{word[:30]}>" and 3 <= len(gram) <= 5 for gram in found)
