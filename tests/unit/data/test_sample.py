"""The synthetic sample: wide, deterministic, hard in the ways real rows are hard."""

import csv
import gzip
from collections import Counter
from itertools import islice
from pathlib import Path

import pytest
import yaml

import models.data
from models.data.sample import (
    SHIFTS,
    SOURCES,
    SUBHEADINGS,
    VAGUE,
    LabelledText,
    SampleRow,
    nomenclature,
    sample_rows,
    sample_stream,
    write_sample,
)
from models.errors import UserError
from models.hs.codes import normalise_code
from models.hs.edition import Edition, load_edition

EVERYTHING = 10_000


@pytest.fixture(scope="module")
def edition() -> Edition:
    return Edition("sample", nomenclature())


@pytest.fixture(scope="module")
def rows() -> list[SampleRow]:
    return list(islice(sample_rows(17), 12_000))


@pytest.fixture(scope="module")
def labels(rows: list[SampleRow], edition: Edition) -> list[str | None]:
    read = (normalise_code(row.code, edition.knows).digits for row in rows)
    return [digits and edition.place(digits).code for digits in read]


def test_it_covers_300_subheadings_in_60_chapters(labels: list[str | None]) -> None:
    subheadings = {label for label in labels if label and len(label) == 6}
    assert len(subheadings) >= 300
    assert len({label[:2] for label in subheadings}) >= 60
    assert len(nomenclature()) == SUBHEADINGS


def test_the_word_lists_hold_far_more(shared_data: Path) -> None:
    everything = nomenclature(EVERYTHING)
    assert len(everything) >= 1_200
    assert len(set(everything.values())) >= 0.95 * len(everything)
    real = load_edition(shared_data / "hs2022-nomenclature.csv.gz", "HS2022")
    assert [code for code in everything if not real.valid(code)] == []


def test_our_wording_is_not_the_legal_text(shared_data: Path) -> None:
    real = load_edition(shared_data / "hs2022-nomenclature.csv.gz", "HS2022")
    same = [text for code, text in nomenclature(EVERYTHING).items() if text.casefold() == real.text(code).casefold()]
    # "Vodka" and "Chewing gum" cannot be said otherwise.
    assert len(same) <= 20
    assert max(len(text.split()) for text in same) <= 5


def test_class_sizes_are_uneven_as_in_life(labels: list[str | None]) -> None:
    sizes = sorted(Counter(label for label in labels if label).values(), reverse=True)
    assert sizes[0] > 5 * sizes[len(sizes) // 2]
    assert sizes[-1] <= 5


def test_same_seed_same_bytes_and_a_prefix_stays_a_prefix(tmp_path: Path) -> None:
    for name, rows, seed in (("a", 3_000, 5), ("b", 3_000, 5), ("c", 1_000, 5), ("d", 1_000, 6)):
        write_sample(rows, seed, tmp_path / name)
    a, b, c, d = ((tmp_path / name).read_bytes() for name in "abcd")
    assert a == b
    assert a.startswith(c)
    assert c != d


def test_files_are_what_ingest_reads(tmp_path: Path) -> None:
    counts = write_sample(500, 1, tmp_path / "rows.csv.gz", tmp_path / "nomenclature.csv")
    write_sample(500, 1, tmp_path / "again.csv.gz")
    assert (tmp_path / "rows.csv.gz").read_bytes() == (tmp_path / "again.csv.gz").read_bytes()
    with gzip.open(tmp_path / "rows.csv.gz", "rt", encoding="utf-8", newline="") as file:
        read = list(csv.DictReader(file))
    assert len(read) == sum(counts.values()) == 500
    assert list(read[0]) == ["description", "code", "source"]
    assert load_edition(tmp_path / "nomenclature.csv", "sample").texts == nomenclature()


def test_most_texts_are_their_own(rows: list[SampleRow]) -> None:
    texts = Counter(row.description.casefold() for row in rows if row.source != "synthetic_vague")
    once = sum(count for text, count in texts.items() if count == 1)
    assert 0.80 < once / sum(texts.values()) < 0.97


def test_a_few_labels_contradict_each_other(rows: list[SampleRow], labels: list[str | None]) -> None:
    seen: dict[str, set[str]] = {}
    for row, label in zip(rows, labels, strict=True):
        if label and row.source != "synthetic_vague":
            seen.setdefault(row.description, set()).add(label)
    share = sum(len(each) > 1 for each in seen.values()) / len(seen)
    assert 0.005 < share < 0.05


def test_a_few_rows_are_fit_for_quarantine(rows: list[SampleRow], labels: list[str | None]) -> None:
    bad = [
        row
        for row, label in zip(rows, labels, strict=True)
        if row.code != VAGUE and (label is None or not row.description.strip(" ."))
    ]
    assert 0.003 < len(bad) / len(rows) < 0.02
    reasons = {normalise_code(row.code)[1] for row in bad}
    assert len(reasons) >= 4


def test_vague_rows_have_no_code_and_others_never_say_so(rows: list[SampleRow]) -> None:
    assert {row.source for row in rows} == set(SOURCES)
    assert all((row.code == VAGUE) == (row.source == "synthetic_vague") for row in rows)


def test_codes_come_in_many_forms(rows: list[SampleRow]) -> None:
    lengths = Counter(len(row.code) for row in rows if row.code.isdigit())
    assert min(lengths[6], lengths[8], lengths[10]) > 1_000
    assert sum("." in row.code for row in rows) > 500
    assert any(normalise_code(row.code).reason == "code has an odd number of digits" for row in rows)


@pytest.mark.parametrize(
    "words",
    [("Baumwolle", "Damen"), ("coton", "femme"), ("algodón", "mujer"), ("cotone", "donna"), ("bawełna", "damska")],
)
def test_languages_are_there(rows: list[SampleRow], words: tuple[str, ...]) -> None:
    text = "\n".join(row.description.casefold() for row in rows)
    assert all(word.casefold() in text for word in words)
    assert "pamuk" not in text


def test_texts_are_short_and_untidy(rows: list[SampleRow]) -> None:
    lengths = sorted(len(row.description.split()) for row in rows)
    assert 2 <= lengths[len(lengths) // 2] <= 6
    assert any(row.description.isupper() for row in rows)
    assert any("&amp;" in row.description for row in rows)
    assert any("  " in row.description for row in rows)


def test_shift_products_brings_words_and_subheadings_never_seen() -> None:
    usual = [text for text, _ in islice(sample_stream(3), 6_000)]
    shifted = list(islice(sample_stream(3, "products"), 6_000))
    known = "\n".join(usual).casefold()
    assert "snail mucin" not in known
    assert sum("mucin" in text.casefold() for text, _ in shifted) > 20
    assert "240491" in {code for _, code in shifted}


def test_shift_language_speaks_turkish() -> None:
    shifted = "\n".join(text for text, _ in islice(sample_stream(3, "language"), 3_000)).casefold()
    assert all(word in shifted for word in ("pamuk", "kadın", "elbise"))


def test_shift_codes_changes_labels_and_not_texts() -> None:
    words = (Path(models.data.__file__).parent / "sample_words.yaml").read_text(encoding="utf-8")
    known = nomenclature()
    moves = {old: new for old, new in yaml.safe_load(words)["moves"].items() if old in known and new in known}
    codes = Counter(code for _, code in islice(sample_stream(3, "codes"), 6_000))
    gone = [old for old in moves if old not in moves.values()]
    assert sum(codes[old] for old in gone) == 0
    assert sum(codes[new] for new in moves.values()) > 600


@pytest.mark.parametrize("shift", [None, *SHIFTS])
def test_a_stream_is_labelled_and_deterministic(shift: str | None, edition: Edition) -> None:
    first, again = (list(islice(sample_stream(8, shift), 400)) for _ in range(2))  # type: ignore[arg-type]
    assert first == again
    assert all(isinstance(row, LabelledText) and row.description.strip() for row in first)
    assert all(row.hs6 == "" or edition.valid(row.hs6) for row in first)


def test_a_path_that_cannot_be_written_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no/such/file\.csv: cannot be written"):
        write_sample(10, 1, tmp_path / "no/such/file.csv")
