import itertools
from pathlib import Path

import numpy as np
import pytest

from models.data.groups import Grouper


def grouped(texts: list[str], similarity: float = 0.8, piece: int = 20_000) -> list[int]:
    grouper = Grouper(similarity)
    grouper.add(texts, piece)
    return grouper.groups().tolist()


@pytest.mark.parametrize(
    ("one", "two"),
    [
        ("ladies cotton t-shirt", "cotton T-SHIRT ladies"),
        ("ladies cotton tshirt", "t shirt, ladies' cotton"[:0] + "Ladies Cotton T-Shirt"),
        ("turkey thigh 1155g", "turkey thigh 280g"),
        ("pump 10.5 bar", "pump 7,25 bar"),
        ("stan 12oz cafe", "stan 8 oz café"),
        ("lampshades", "lamp shades"),
        ("battery", "batteries"),
        ("wooden boxes", "wooden box"),
        ("ladies coton shirt", "ladies cotton shirt"),
        ("stainless kitchen knife", "stainless ktichen knife"),
        ("stainless kitchen knife", "stainless kitchn knife"),
        ("pharmaceutical", "pharmacuetical"),
        ("red wool scarf for winter use", "red wool scarf winter use"),
        ("the quick brown fox jumps", "the quick brown fox jumps high"),
        ("Хлопковая рубашка", "рубашка хлопковая"),
        ("綿のシャツ", "綿シャツの"),
        ("Größe 38 Schuhe", "Große 42 Schuhe"),
    ],
)
def test_near_duplicates(one: str, two: str) -> None:
    assert grouped(["something else entirely", one, "another good", two]) == [0, 1, 2, 1]


@pytest.mark.parametrize(
    ("one", "two"),
    [
        ("coat", "boat"),
        ("cotton shirt", "woollen shirt"),
        ("shirts for men", "shirts for women"),
        ("chair", "chain"),
        ("glass", "grass"),
        ("red wool scarf", "red wool scarf and gloves"),
        ("fresh apples", "dried apples"),
        ("pump", "pump 12"),
        ("party", "parts"),
    ],
)
def test_not_near_duplicates(one: str, two: str) -> None:
    assert grouped([one, two]) == [0, 1]


def test_a_misspelling_needs_no_context_when_the_right_word_is_common() -> None:
    texts = [f"{word} cushion {letter}x" for word in ("red", "blue") for letter in "abcdefghij"] + ["green cushoin zx"]
    assert grouped([*texts, "green cushion zx"])[-1] == len(texts) - 1
    assert grouped(["cushoin", *texts, "cushion"])[-1] == 0


def test_texts_without_words_stay_alone() -> None:
    assert grouped(["***", "", "---", "5", "7.5", "x", "***"]) == [0, 1, 2, 3, 3, 5, 6]


def test_the_pieces_do_not_matter() -> None:
    words = [
        "cotton",
        "coton",
        "shirt",
        "shirts",
        "red",
        "café",
        "cafe",
        "t-shirt",
        "12",
        "13 cm",
        "knife",
        "knive",
        "a",
    ]
    random = np.random.default_rng(3)
    texts = [" ".join(random.choice(words, size=random.integers(1, 8))) for _ in range(300)]
    whole = grouped(texts)
    assert grouped(texts, piece=1) == grouped(texts, piece=7) == whole
    assert all(first <= i and whole[first] == first for i, first in enumerate(whole))


def test_no_texts() -> None:
    assert grouped([]) == []
    assert grouped(["only one"]) == [0]


def closure(sets: list[frozenset[str]], similarity: float) -> list[int]:
    """Groups by comparing all pairs."""
    first = list(range(len(sets)))

    def find(i: int) -> int:
        while first[i] != i:
            i = first[i]
        return i

    for i, j in itertools.combinations(range(len(sets)), 2):
        if len(sets[i] & sets[j]) >= similarity * len(sets[i] | sets[j]) - 1e-9:
            a, b = find(i), find(j)
            first[max(a, b)] = min(a, b)
    return [find(i) for i in range(len(sets))]


@pytest.mark.parametrize("similarity", [0.5, 0.65, 0.8, 0.9])
def test_as_comparing_all_pairs(similarity: float) -> None:
    """Nothing is joined that the pairs do not connect, and nearly all that they do."""
    random = np.random.default_rng(11)
    # Words of four letters are never taken for one another.
    words = ["".join(letters) for letters in itertools.product("bdgk", "ao", "lmnr", "eu")]
    sets = []
    for _ in range(120):
        base = random.choice(words, size=random.integers(3, 14), replace=False).tolist()
        for _ in range(4):
            own = [word for word in base if random.random() > 0.06]
            sets.append(frozenset(own + random.choice(words, size=random.integers(0, 2)).tolist()) or frozenset("x"))
    texts = [" ".join(random.permutation(sorted(own))) for own in sets]
    expected, got = closure(sets, similarity), grouped(texts, similarity)
    joined = joined_too = 0
    for i, j in itertools.combinations(range(len(sets)), 2):
        if got[i] == got[j]:
            assert expected[i] == expected[j], (texts[i], texts[j])
        joined += expected[i] == expected[j]
        joined_too += expected[i] == expected[j] and got[i] == got[j]
    assert joined > 100
    assert joined_too >= 0.97 * joined


def test_real_rows_group_by_sense(shared_data: Path) -> None:
    import polars as pl

    frame = pl.read_csv(shared_data / "hs-open-corpus.csv.gz", infer_schema_length=0)
    traders = frame.filter(pl.col("source").str.starts_with("uk_"))
    texts = traders["description"].to_list()
    groups = grouped(texts)
    at = dict(zip(texts, groups, strict=True))
    assert at["windmills"] == at["windmill"]
    sizes = np.bincount(groups)
    # Chains of near-duplicates must not swallow the data: no group is more than half a percent of it.
    assert sizes.max() < 0.005 * len(texts)
    assert np.count_nonzero(sizes) > 0.9 * len(texts)
