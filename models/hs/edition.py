"""An edition of the Harmonized System: which subheadings exist, and what a chapter, heading or subheading is about."""

import csv
import gzip
import io
import re
import zlib
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from functools import cache, cached_property
from importlib import resources
from pathlib import Path
from typing import Any, Literal, NamedTuple

from models.errors import UserError
from models.hs.codes import normalise_code

_CODE_COLUMNS = ("code", "hs6", "hscode", "hs_code", "subheading")
_TEXT_COLUMNS = ("text", "description", "label")


class Place(NamedTuple):
    """Where a code of any length stands in an edition."""

    code: str | None
    """Six digits; four or two for a code that names only a heading or chapter; None where the edition has no such."""
    how: Literal["subheading", "heading", "chapter", "unknown"]


class Edition:
    """The subheadings of one edition with their texts.

    `texts` maps six digits to the legal (or, for the sample, synthetic) text. Immutable by convention: what is derived
    from it is computed once.
    """

    def __init__(self, name: str, texts: Mapping[str, str]) -> None:
        self.name = name
        self.texts = dict(sorted(texts.items()))
        self._heading_texts: dict[str, str] = {}

    @cached_property
    def headings(self) -> Mapping[str, tuple[str, ...]]:
        """Heading (4 digits) → its subheadings."""
        return self._grouped(4)

    @cached_property
    def chapters(self) -> Mapping[str, tuple[str, ...]]:
        """Chapter (2 digits) → its subheadings."""
        return self._grouped(2)

    def valid(self, hs6: str) -> bool:
        """Whether this six-digit subheading exists."""
        return hs6 in self.texts

    def knows(self, code: str) -> bool:
        """Whether this code of two, four or six digits exists; what `normalise_code` asks."""
        return code in self.texts or code in self.headings or code in self.chapters

    def place(self, digits: str) -> Place:
        """Where `digits` (2 to 12, as `normalise_code` gives them) stand.

        A heading or chapter filled up with zeros to the length of a national code (``8518000000`` where 851800 does
        not exist) is that heading or chapter: the zeros say nothing.
        """
        if digits[:6] in self.texts:
            return Place(digits[:6], "subheading")
        stripped = digits.rstrip("0")
        if len(digits) >= 4 and len(stripped) <= 4 and digits[:4] in self.headings:
            return Place(digits[:4], "heading")
        if len(stripped) <= 2 and digits[:2] in self.chapters:
            return Place(digits[:2], "chapter")
        return Place(None, "unknown")

    def text(self, code: str) -> str:
        """What a code of two, four or six digits is about; empty for one that does not exist.

        Subheading: the edition's text. Heading: what its subheadings' texts begin with. Chapter: a short title in our
        own words.
        """
        if len(code) == 6:
            return self.texts.get(code, "")
        if len(code) == 4:
            if code not in self._heading_texts and code in self.headings:
                self._heading_texts[code] = heading_text([self.texts[each] for each in self.headings[code]])
            return self._heading_texts.get(code, "")
        return chapter_title(code)

    def to_json(self) -> dict[str, Any]:
        """``{"name", "texts"}``: the content of `edition.json`."""
        return {"name": self.name, "texts": self.texts}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "Edition":
        """Read what `to_json` gave."""
        return cls(content["name"], content["texts"])

    def _grouped(self, digits: int) -> dict[str, tuple[str, ...]]:
        groups: dict[str, list[str]] = defaultdict(list)
        for code in self.texts:
            groups[code[:digits]].append(code)
        return {key: tuple(codes) for key, codes in groups.items()}


def load_edition(path: str | Path, name: str) -> Edition:
    """Read a nomenclature: csv (plain or .gz, UTF-8) with columns `code, text`, one row a subheading.

    Codes may be dotted; rows of chapters and headings (2 or 4 digits) are passed over. Raises UserError for a file
    that cannot be read, has no such columns, a row that is no code, or a subheading twice with different texts.
    """
    path = Path(path)
    texts: dict[str, str] = {}
    header, rows = read_csv(path, "nomenclature")
    code_at, text_at = _column(header, _CODE_COLUMNS, path), _column(header, _TEXT_COLUMNS, path)
    for number, row in rows:
        if len(row) <= max(code_at, text_at):
            raise UserError(f"row {number} has {len(row)} of {len(header)} columns", str(path))
        raw, text = row[code_at], row[text_at]
        digits, reason = normalise_code(raw)
        if digits is None and raw.strip().isdigit() and len(raw.strip()) == 5:
            digits = "0" + raw.strip()
        if digits is None:
            raise UserError(f"row {number}, code {raw[:40]!r}: {reason}", str(path))
        if len(digits) in (2, 4):
            continue
        if len(digits) != 6:
            raise UserError(f"row {number}, code {raw[:40]!r}: a nomenclature's codes have six digits", str(path))
        text = " ".join(text.split())
        if texts.setdefault(digits, text) != text:
            raise UserError(f"row {number}: subheading {digits} stands twice with different texts", str(path))
    if not texts:
        raise UserError("no subheading in this nomenclature", str(path))
    return Edition(name, texts)


def chapter_title(chapter: str) -> str:
    """Short title of a chapter (2 digits) in our own words; empty for 77, which is reserved, and for unknown ones."""
    return _chapter_titles().get(chapter, "")


def heading_text(texts: Sequence[str]) -> str:
    """What a heading is about, from its subheadings' texts: what all begin with and share, else how they begin.

    >>> heading_text(["Tea, green; in packages up to 3 kg", "Tea, green; other"])
    'Tea, green'
    >>> heading_text(["Wood; oak, sawn or chipped lengthwise, planed", "Wood; ash, sawn or chipped lengthwise, rough"])
    'Wood; sawn or chipped lengthwise'
    >>> heading_text(["Horses; live, for breeding", "Asses; live"])
    'Horses / Asses'
    """
    if len(texts) == 1:
        return texts[0]
    words = [text.split() for text in texts]
    plain = [[word.strip(",;:()").lower() for word in each] for each in words]
    shared = 0
    while all(len(each) > shared for each in plain) and len({each[shared] for each in plain}) == 1:
        shared += 1
    begin = _standing(words[0][:shared])
    if len(begin.split()) > 1:
        return begin
    start, length = _longest_shared_run(plain, shared)
    run = _standing(words[0][start : start + length]) if length > 2 else ""
    if len(run.split()) > 2:
        return f"{begin}; {run}" if begin else run
    rest = [re.sub(r"^[\s;:,]+", "", text[len(begin) :]) for text in texts] if begin else list(texts)
    parts = list(dict.fromkeys(_standing(re.split(r"[;:(]", text, maxsplit=1)[0].split()[:8]) for text in rest))
    parts = [part for part in parts if part]
    listed = " / ".join(parts[:3]) + (" / …" if len(parts) > 3 else "")
    return f"{begin}; {listed}" if begin and listed else begin or listed


_CELL_CHARS = 131_072
"""csv's own default; the limit it keeps is the whole process's, and other readers raise it."""


def read_csv(path: Path, what: str) -> tuple[list[str], Iterator[tuple[int, list[str]]]]:
    """Header (lower case) and rows with their number (the header is row 1) of a csv, plain or .gz, UTF-8.

    `what` names the file in errors. Small tables only: the file is read at once. Raises UserError.
    """
    try:
        raw = path.read_bytes()
        if raw[:2] == b"\x1f\x8b":
            raw = gzip.decompress(raw)
        text = raw.decode("utf-8-sig")
    except (EOFError, zlib.error, gzip.BadGzipFile):
        raise UserError(f"the {what} is damaged (not valid gzip)", str(path)) from None
    except OSError as error:
        raise UserError(f"cannot read the {what} ({error.strerror or error})", str(path)) from None
    except UnicodeDecodeError as error:
        raise UserError(f"the {what} is not UTF-8 (byte {error.start})", str(path), "convert it") from None
    reader = csv.reader(io.StringIO(text, newline=""))

    def rows() -> Iterator[tuple[int, list[str]]]:
        number = 1
        while True:
            number += 1
            try:
                row = next(reader, None)
            except csv.Error as error:
                raise UserError(f"row {number} is not valid csv ({error})", str(path)) from None
            if row is None:
                return
            if max(map(len, row), default=0) > _CELL_CHARS:
                raise UserError(
                    f"row {number} is not valid csv (a cell longer than {_CELL_CHARS} characters)", str(path)
                )
            if row:
                yield number, row

    try:
        header = [name.strip().lower() for name in next(reader, [])]
    except csv.Error as error:
        raise UserError(f"the {what} is not valid csv ({error})", str(path)) from None
    if not header:
        raise UserError(f"the {what} is empty", str(path))
    return header, rows()


def _column(header: list[str], names: tuple[str, ...], path: Path) -> int:
    for name in names:
        if name in header:
            return header.index(name)
    raise UserError(
        f"the nomenclature has no column {names[0]!r} (it has {', '.join(header)[:80]})",
        str(path),
        "a csv with columns code, text is needed",
    )


_LOOSE = frozenset(
    {"of", "or", "and", "the", "a", "an", "for", "in", "on", "with", "without", "than", "other", "to", "by", "whether"}
    | {"not", "containing", "including", "per", "excluding"}
)


def _standing(words: Sequence[str]) -> str:
    """Join `words`, cut at both ends to what can stand alone; empty where nothing can."""
    first, last = 0, len(words)
    while last > first and words[last - 1].strip(",;:(").lower() in _LOOSE:
        last -= 1
    while last > first and words[first].strip(",;:(").lower() in _LOOSE - {"not", "a", "an", "the"}:
        first += 1
    text = " ".join(words[first:last]).strip(" ,;:(")
    if text.count("(") > text.count(")"):
        text = text[: text.rindex("(")].rstrip(" ,;:")
    return text if text.count("(") == text.count(")") else text.replace(")", "")


def _longest_shared_run(texts: Sequence[Sequence[str]], start: int) -> tuple[int, int]:
    """Place in the first text and length of the longest run of words after `start` that all texts have."""
    first = texts[0]
    for length in range(min(len(each) for each in texts) - start, 0, -1):
        shared = set.intersection(
            *({tuple(each[at : at + length]) for at in range(start, len(each) - length + 1)} for each in texts)
        )
        for at in range(start, len(first) - length + 1):
            if tuple(first[at : at + length]) in shared:
                return at, length
    return start, 0


@cache
def _chapter_titles() -> Mapping[str, str]:
    lines = (resources.files("models.hs") / "chapters.tsv").read_text(encoding="utf-8").splitlines()
    return {line[:2]: line[3:] for line in lines}
