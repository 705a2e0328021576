"""Editions: what exists, what it is about, and files that are none."""

import csv
import gzip
from pathlib import Path

import pytest

from models.errors import UserError
from models.hs.edition import Edition, chapter_title, heading_text, load_edition

TEXTS = {
    "010121": "Horses; live, pure-bred breeding animals",
    "010129": "Horses; live, other than pure-bred breeding animals",
    "010130": "Asses; live",
    "090210": "Tea, green; (not fermented), in immediate packings of a content not exceeding 3kg",
    "090220": "Tea, green; (not fermented), in immediate packings of a content exceeding 3kg",
    "851830": "Headphones and earphones",
}


@pytest.fixture
def edition() -> Edition:
    return Edition("TEST", TEXTS)


def write(path: Path, content: str) -> Path:
    path.write_text(content, encoding="utf-8")
    return path


def test_an_edition_knows_its_levels(edition: Edition) -> None:
    assert edition.valid("010121")
    assert not edition.valid("010122")
    assert edition.knows("0101")
    assert edition.knows("85")
    assert not edition.knows("8519")
    assert edition.headings["0101"] == ("010121", "010129", "010130")
    assert list(edition.chapters) == ["01", "09", "85"]


@pytest.mark.parametrize(
    ("digits", "code", "how"),
    [
        ("8518300090", "851830", "subheading"),
        ("851830", "851830", "subheading"),
        ("8518000000", "8518", "heading"),
        ("8518", "8518", "heading"),
        ("8500000000", "85", "chapter"),
        ("85", "85", "chapter"),
        ("8519000000", None, "unknown"),
        ("851899", None, "unknown"),
        ("8518990000", None, "unknown"),
        ("770000", None, "unknown"),
    ],
)
def test_codes_are_placed_without_padding(edition: Edition, digits: str, code: str | None, how: str) -> None:
    assert edition.place(digits) == (code, how)


def test_texts_at_every_level(edition: Edition) -> None:
    assert edition.text("010130") == "Asses; live"
    assert edition.text("0101") == "Horses / Asses"
    assert edition.text("8518") == "Headphones and earphones"
    assert edition.text("0902").startswith("Tea, green")
    assert edition.text("85") == chapter_title("85") != ""
    assert edition.text("999999") == edition.text("9999") == edition.text("99") == ""


def test_all_chapters_have_a_short_title_but_the_reserved_one() -> None:
    titles = {f"{chapter:02d}": chapter_title(f"{chapter:02d}") for chapter in range(1, 98)}
    assert [chapter for chapter, title in titles.items() if not title] == ["77"]
    assert len(set(titles.values())) == 97
    assert max(len(title) for title in titles.values()) <= 64


def test_heading_texts_never_end_loosely() -> None:
    assert heading_text(["Yarn of wool", "Yarn of cotton"]) == "Yarn; wool / cotton"
    assert heading_text(["Cheese (fresh) of cows", "Cheese (fresh) of goats"]) == "Cheese (fresh)"


def test_json_keeps_everything(edition: Edition) -> None:
    again = Edition.from_json(edition.to_json())
    assert (again.name, again.texts) == (edition.name, edition.texts)


def test_files_plain_and_gzip_with_any_reasonable_header(tmp_path: Path) -> None:
    content = 'Text,CODE\n"Horses;  live",0101.21\nchapter row,85\n"Headphones",8518.30\n'
    (tmp_path / "b.csv.gz").write_bytes(gzip.compress(content.encode("utf-8-sig")))
    for path in (write(tmp_path / "a.csv", content), tmp_path / "b.csv.gz"):
        edition = load_edition(path, "TEST")
        assert edition.texts == {"010121": "Horses; live", "851830": "Headphones"}


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"", "is empty"),
        (b"code,text\n", "no subheading"),
        (b"code\n851830\n", "no column 'text'"),
        (b"a,b\n851830,x\n", "no column 'code'"),
        (b"code,text\n851830\n", "row 2 has 1 of 2"),
        (b"code,text\n85183x,x\n", "row 2, code '85183x'"),
        (b"code,text\n8518300000,x\n", "six digits"),
        (b"code,text\n851830,x\n851830,y\n", "row 3: subheading 851830 stands twice"),
        (b"code,text\n851830,\xe9\n", "not UTF-8"),
        (b"\x1f\x8b\x08damaged", "not valid gzip"),
        (b"code,text\n" + b'"' + b"x" * 200_000 + b'",y\n', "not valid csv"),
    ],
)
def test_a_bad_file_is_one_clear_line(tmp_path: Path, content: bytes, what: str) -> None:
    path = tmp_path / "nomenclature.csv"
    path.write_bytes(content)
    csv.field_size_limit(1_000_000)  # as another reader in this process may have set it
    with pytest.raises(UserError, match=what) as error:
        load_edition(path, "TEST")
    assert str(error.value).startswith(str(path))
    assert "\n" not in str(error.value)


def test_a_missing_file_and_a_folder_are_one_clear_line(tmp_path: Path) -> None:
    for path in (tmp_path / "none.csv", tmp_path):
        with pytest.raises(UserError, match="cannot read the nomenclature"):
            load_edition(path, "TEST")


def test_the_real_edition(shared_data: Path) -> None:
    edition = load_edition(shared_data / "hs2022-nomenclature.csv.gz", "HS2022")
    assert len(edition.texts) == 5613
    texts = [edition.text(heading) for heading in edition.headings]
    assert all(len(text) >= 3 for text in texts)
    assert all(edition.text(chapter) for chapter in edition.chapters if chapter < "98")
