"""The synthetic sample: short product descriptions with real six-digit codes, made from our own word lists.

It shows the whole way without anyone's data, and feeds benchmarks and the loop. Every figure from it is to be called
synthetic. What makes it hard is what makes real declarations hard: words that several subheadings share, telling words
left out, languages, typing errors, cut texts, contradicting labels, and texts that say nothing.
"""

import csv
import gzip
import io
from bisect import bisect
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from importlib import resources
from itertools import accumulate, islice
from pathlib import Path
from random import Random
from typing import IO, Any, Literal, NamedTuple

from models import progress
from models.errors import UserError

Shift = Literal["products", "language", "codes"]
SHIFTS: tuple[Shift, ...] = ("products", "language", "codes")
"""Ways in which the world may change: goods that were never seen; Turkish texts; goods that have moved to another code
and are in demand (drawn three times as often)."""

SOURCES = ("synthetic_trader", "synthetic_catalogue", "synthetic_vague")
"""Values of the column `source`."""
SUBHEADINGS = 400
"""Subheadings of the sample unless asked otherwise, out of some 1,200 in the word lists: with more of them, 12,000 rows
have too few of each to learn from."""
VAGUE = "VAGUE"
"""What the column `code` says of a text that is too vague for any code; `models.data.labels` reads it."""

_LANGUAGES: Mapping[str, Mapping[str, float]] = {
    "usual": {"en": 0.62, "de": 0.09, "fr": 0.08, "es": 0.07, "it": 0.07, "pl": 0.07},
    "language": {"en": 0.22, "de": 0.04, "fr": 0.03, "es": 0.03, "it": 0.03, "tr": 0.65},
}
_BATCH = 5_000
_RECENT = 512
_KEYS = "qwertyuiopasdfghjklzxcvbnm"


class SampleRow(NamedTuple):
    """A row as it stands in the file."""

    description: str
    code: str
    """As written: dots, lost zeros and nonsense included; `VAGUE` for vague texts."""
    source: str


class LabelledText(NamedTuple):
    """A text with what is right for it."""

    description: str
    hs6: str
    """Six digits; empty for a vague text."""


def write_sample(
    rows: int,
    seed: int,
    out: Path,
    nomenclature_out: Path | None = None,
    shift: Shift | None = None,
    subheadings: int = SUBHEADINGS,
) -> dict[str, int]:
    """Write `rows` rows as csv `description, code, source` (gzip where the name ends so); return rows by source.

    Same arguments, same bytes; the first rows of a larger sample are those of a smaller one. Memory does not grow with
    `rows`. `nomenclature_out` receives the sample's own nomenclature: csv `code, text, source`, one row a subheading,
    the texts being ours. Raises UserError for a path that cannot be written.
    """
    counts: Counter[str] = Counter()
    with _csv_file(out) as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(SampleRow._fields)
        made = sample_rows(seed, shift, subheadings)
        for start in range(0, rows, _BATCH):
            batch = list(islice(made, min(_BATCH, rows - start)))
            writer.writerows(batch)
            counts.update(row.source for row in batch)
            progress.report("sample", start + len(batch), rows, "synthetic rows")
    if nomenclature_out is not None:
        with _csv_file(nomenclature_out) as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(("code", "text", "source"))
            writer.writerows((code, text, "synthetic") for code, text in nomenclature(subheadings).items())
    return dict(counts)


def nomenclature(subheadings: int = SUBHEADINGS) -> dict[str, str]:
    """The sample's subheadings with our wording of what is in them, by code."""
    return {each.code: each.text for each in _world(subheadings).goods}


def sample_rows(seed: int, shift: Shift | None = None, subheadings: int = SUBHEADINGS) -> Iterator[SampleRow]:
    """Rows without end, as traders and customs systems would hand them in: doubles, conflicts and bad rows included."""
    maker = _Maker(_world(subheadings), Random(f"rows/{seed}/{shift}"), shift)
    random = maker.random.random
    recent: list[tuple[str, _Good]] = []
    while True:
        roll = random()
        if roll < 0.05 and len(recent) == _RECENT:
            text, good = recent[int(random() * _RECENT)]
            if roll < 0.018:
                good = maker.another(good)
            yield SampleRow(text, maker.written(maker.code(good)), SOURCES[0])
        elif roll < 0.056:
            yield maker.bad_row()
        elif roll < 0.116:
            yield SampleRow(maker.vague_text(), VAGUE, SOURCES[2])
        else:
            good = maker.pick()
            catalogue = roll > 0.78
            text = maker.catalogue_text(good) if catalogue else maker.trader_text(good)
            if len(recent) < _RECENT:
                recent.append((text, good))
            else:
                recent[int(random() * _RECENT)] = (text, good)
            if roll > 0.997:
                text = maker.vague_text()
            yield SampleRow(text, maker.written(maker.code(good)), SOURCES[catalogue])


def sample_stream(seed: int, shift: Shift | None = None, subheadings: int = SUBHEADINGS) -> Iterator[LabelledText]:
    """Traders' texts without end and the code that is right for each: what a client would ask, and the known answer."""
    maker = _Maker(_world(subheadings), Random(f"stream/{seed}/{shift}"), shift)
    while True:
        if maker.random.random() < 0.05:
            yield LabelledText(maker.vague_text(), "")
        else:
            good = maker.pick()
            yield LabelledText(maker.trader_text(good), maker.code(good))


# --- the words --------------------------------------------------------------------------------------------------------

_Words = Mapping[str, tuple[str, ...]]
_Pieces = tuple[str, ...]


@dataclass(frozen=True, eq=False)
class _Good:
    """A subheading, and what is said of its goods. Words by language; `en` always there."""

    code: str
    text: str
    kind: str
    share: float
    nouns: _Words
    shared_nouns: _Words
    later: tuple[str, ...]
    new: bool
    """Whether all of it appears only in the shift "products"."""
    marks: tuple[_Words, ...]
    """Several sets, of each of which one word may be said."""
    brands: tuple[str, ...]


@dataclass(frozen=True)
class _World:
    goods: tuple[_Good, ...]
    siblings: Mapping[str, tuple[_Good, ...]]
    attributes: Mapping[str, tuple[_Pieces | None, ...]]
    """By kind: a text cut at its blanks, or None for a colour."""
    colours: _Words
    noise: tuple[str, ...]
    abbreviations: tuple[tuple[str, str], ...]
    vague: _Words
    brands: tuple[tuple[str, ...], ...]
    moves: Mapping[str, str]


@cache
def _world(subheadings: int) -> _World:
    world = _all_words()
    goods = _most_drawn(world.goods, subheadings)
    siblings: dict[str, list[_Good]] = {}
    for good in goods:
        siblings.setdefault(good.code[:4], []).append(good)
    codes = {good.code for good in goods}
    return replace(
        world,
        goods=goods,
        siblings={heading: tuple(each) for heading, each in siblings.items()},
        moves={old: new for old, new in world.moves.items() if {old, new} <= codes},
    )


def _most_drawn(goods: tuple[_Good, ...], count: int) -> tuple[_Good, ...]:
    """The `count` of the largest share; each chapter has one, and wholly new subheadings are among them."""
    by_share = sorted(goods, key=lambda good: (not good.new, -good.share, good.code))
    first: dict[str, _Good] = {}
    for good in by_share:
        first.setdefault(good.code[:2], good)
    order = [*first.values(), *(good for good in by_share if first[good.code[:2]] is not good)]
    return tuple(sorted(order[: max(count, len(first))], key=lambda good: good.code))


@cache
def _all_words() -> _World:
    words, products = _read("sample_words.yaml"), _read("sample_products.yaml")
    marks = {name: _words(each) for name, each in words["marks"].items()}
    brands = tuple(_listed(words["brands"][part]) for part in ("first", "middle", "last"))
    goods: list[_Good] = []
    for number, (heading, entry) in enumerate(products.items()):
        shared = _nouns(entry)
        own_brands = tuple(_brand(brands, number * 6_151 + each * 2_377) for each in range(6))
        for code, each in entry["codes"].items():
            own = _nouns(each)
            sets = [marks[name] for name in each.get("is", "").split()]
            if "mark" in each:
                sets.append({"en": _listed(each["mark"])})
            later = each.get("later", entry.get("later", ""))
            goods.append(
                _Good(
                    code,
                    each["text"],
                    entry["kind"],
                    entry.get("share", 1.0) * each.get("share", 1.0),
                    own or shared,
                    shared or own,
                    _listed(later) if isinstance(later, str) else (),
                    later is True,
                    tuple(sets),
                    own_brands,
                )
            )
        if not all(code.startswith(heading) for code in entry["codes"]):
            raise ValueError(f"sample_products.yaml: a code under {heading} is not of it")
    return _World(
        tuple(goods),
        {},
        {kind: tuple(_pieces(each) for each in texts) for kind, texts in words["kinds"].items()},
        _words(words["colours"]),
        _listed(words["noise"]),
        tuple(words["abbreviations"].items()),
        _words(words["vague"]),
        brands,
        words["moves"],
    )


def _read(name: str) -> Any:
    import yaml

    text = (resources.files("models.data") / name).read_text(encoding="utf-8")
    return yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))  # noqa: S506


def _listed(text: str) -> tuple[str, ...]:
    return tuple(each.strip() for each in text.split(",") if each.strip())


def _words(texts: Mapping[str, str]) -> dict[str, tuple[str, ...]]:
    return {language: _listed(text) for language, text in texts.items()}


def _nouns(entry: Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
    """English nouns and those of ``abroad: de …, …; fr …``."""
    if "en" not in entry:
        return {}
    nouns = {"en": _listed(entry["en"])}
    for part in entry.get("abroad", "").split(";"):
        language, _, listed = part.strip().partition(" ")
        if language:
            nouns[language] = _listed(listed)
    return nouns


def _pieces(text: str) -> _Pieces | None:
    """``"{n} pcs"`` → ``("", "n", " pcs")``: texts at even places, blanks at odd ones."""
    if text == "colour":
        return None
    pieces: list[str] = []
    for part in text.split("{"):
        name, closed, rest = part.partition("}")
        pieces.extend((name, rest) if closed else (part,))
    return tuple(pieces)


def _brand(parts: tuple[tuple[str, ...], ...], number: int) -> str:
    first, middle, last = parts
    number, at = divmod(number, len(first))
    middle_number, middle_at = divmod(number, len(middle))
    return first[at] + middle[middle_at] + last[middle_number % len(last)]


# --- making texts -----------------------------------------------------------------------------------------------------


class _Maker:
    """Draws goods and words from one source of chance. `int(random() * n)` is the quickest way to one of n."""

    def __init__(self, world: _World, random: Random, shift: Shift | None) -> None:
        self.random, self._world, self._shift = random, world, shift
        self._moves = world.moves if shift == "codes" else {}
        known = [good for good in world.goods if not good.new]
        shares = (good.share * (3 if good.code in self._moves else 1) for good in known)
        self._known, self._known_up_to = known, list(accumulate(shares))
        later = [good for good in world.goods if good.new or good.later]
        self._later, self._later_up_to = later, list(accumulate(max(0.7, good.share) for good in later))
        languages = _LANGUAGES["language" if shift == "language" else "usual"]
        self._languages, self._languages_up_to = list(languages), list(accumulate(languages.values()))
        self._brand_count = len(world.brands[0]) * len(world.brands[1]) * len(world.brands[2])

    def pick(self) -> _Good:
        """A subheading, by its share."""
        random = self.random.random
        if self._shift == "products" and random() < 0.6:
            return self._later[bisect(self._later_up_to, random() * self._later_up_to[-1])]
        return self._known[bisect(self._known_up_to, random() * self._known_up_to[-1])]

    def code(self, good: _Good) -> str:
        """The six digits that are right for it now."""
        return self._moves.get(good.code, good.code)

    def another(self, good: _Good) -> _Good:
        """What someone else may have declared it as: mostly the same heading."""
        siblings = self._world.siblings[good.code[:4]]
        if len(siblings) > 1 and self.random.random() < 0.8:
            others = [each for each in siblings if each is not good]
            return others[int(self.random.random() * len(others))]
        return self.pick()

    def written(self, hs6: str) -> str:
        """A code as it is written: six, eight or ten digits, dots, a leading zero lost."""
        random = self.random.random
        roll = random()
        digits = hs6
        if roll > 0.45:
            digits += ("00", "10", "90", "20", "99", "30")[int(random() * 6)]
            if roll > 0.7:
                digits += ("00", "10", "90")[int(random() * 3)]
        roll = random()
        if roll < 0.1:
            return ".".join((digits[:4], *(digits[at : at + 2] for at in range(4, len(digits), 2))))
        if roll < 0.13:
            return f"{digits[:4]} {digits[4:]}"
        if roll < 0.15:
            return f"{digits[:4]}.{digits[4:]}"
        if digits[0] == "0" and roll < 0.3:
            return digits[1:] if roll < 0.28 else f"{digits[1:]}.0"
        return digits

    def bad_row(self) -> SampleRow:
        """A row that no one can use, as they come."""
        random = self.random.random
        good = self.pick()
        text = self.trader_text(good)
        kind = int(random() * 8)
        if kind < 2:
            return SampleRow(("", "  ", "...")[int(random() * 3)], self.written(good.code), SOURCES[0])
        code = (
            f"{good.code[:5]}x",
            f"{good.code[0]}.{good.code[1:5]}E+09",
            "7701" + good.code[4:],
            good.code[:4] + "77" if good.code[4:] != "77" else "7702",
            f"{good.code}, {self.another(good).code}",
            "",
        )[kind - 2]
        return SampleRow(text, code, SOURCES[0])

    def vague_text(self) -> str:
        """A text that says nothing of the goods: a word for anything, or everything but the goods."""
        random = self.random.random
        words = self._world.vague
        language = self._language()
        if random() < 0.4:
            good = self.pick()
            parts = [self._attribute(good, language) for _ in range(1 + int(random() * 2))]
            if random() < 0.6:
                parts.insert(0, self._any_brand())
            return self._spelled(" ".join(parts))
        parts = [self._one(words.get(language, words["en"]))]
        roll = random()
        if roll < 0.25:
            parts.append(f"{1 + int(random() * 40)} pcs")
        elif roll < 0.4:
            parts.append(self._model())
        elif roll < 0.55:
            parts.append(self._one(self._world.noise))
        elif roll < 0.65:
            parts.insert(0, self._any_brand())
        elif roll < 0.75:
            parts.append(self._one(words["en"]))
        return self._spelled(" ".join(parts))

    def catalogue_text(self, good: _Good) -> str:
        """A clean text of a shop's catalogue: noun, telling words and attributes, separated by commas."""
        random = self.random.random
        language = "en" if random() < 0.7 else self._language()
        parts = [self._noun(good, language)]
        if random() < 0.5:
            parts[0] = f"{self._own_brand(good)} {parts[0]}"
        parts += self._marks(good, language, 0.9)
        for _ in range(1 + int(random() * 3)):
            parts.append(self._attribute(good, language))
        if random() < 0.25:
            parts.append(f"{self._own_brand(good)} {self._model()}")
        text = (", ", ", ", " - ", "; ")[int(random() * 4)].join(dict.fromkeys(parts))
        if random() < 0.02:
            text = text.replace("'", "&#39;").replace(" - ", " &amp; ")
        return text[0].upper() + text[1:]

    def trader_text(self, good: _Good) -> str:
        """A short text as it stands on a parcel or an invoice."""
        random = self.random.random
        language = self._language()
        noun = self._noun(good, language)
        marks = self._marks(good, language, 0.85)
        if random() < 0.012 and marks:
            parts = marks
        elif marks and random() < (0.25 if language in ("fr", "es", "it") else 0.6):
            parts = [*marks, noun]
        else:
            parts = [noun, *marks]
        if random() < 0.03:
            parts.append(self._sibling_word(good))
        roll = random()
        if roll < 0.38:
            brand = self._own_brand(good) if roll < 0.28 else self._any_brand()
            parts.insert(0 if roll % 0.1 < 0.08 else len(parts), brand)
        roll = random()
        for limit in (0.8, 0.4, 0.12):
            if roll < limit:
                place = len(parts) if random() < 0.8 else int(random() * len(parts))
                parts.insert(place, self._attribute(good, language))
        if random() < 0.07:
            parts.append(self._one(self._world.noise))
        return self._spelled(" ".join(parts))

    def _one(self, options: Any) -> Any:
        return options[int(self.random.random() * len(options))]

    def _language(self) -> str:
        up_to = self._languages_up_to
        return self._languages[min(bisect(up_to, self.random.random() * up_to[-1]), len(up_to) - 1)]

    def _noun(self, good: _Good, language: str) -> str:
        random = self.random.random
        if self._shift == "products" and good.later and random() < 0.75:
            return str(self._one(good.later))
        nouns = good.nouns if random() < 0.82 else good.shared_nouns
        return str(self._one(nouns.get(language) or nouns["en"]))

    def _marks(self, good: _Good, language: str, chance: float) -> list[str]:
        random = self.random.random
        said = []
        for words in good.marks:
            if random() < chance:
                said.append(self._one(words["en"] if random() < 0.15 else words.get(language, words["en"])))
        return said

    def _sibling_word(self, good: _Good) -> str:
        other = self.another(good)
        return str(self._one(self._one(other.marks)["en"])) if other.marks else str(self._one(other.nouns["en"]))

    def _attribute(self, good: _Good, language: str) -> str:
        random = self.random.random
        pieces = self._one(self._world.attributes[good.kind])
        if pieces is None:
            colours = self._world.colours
            return str(self._one(colours.get(language, colours["en"])))
        text: str = pieces[0]
        for at in range(1, len(pieces), 2):
            blank = pieces[at]
            if blank == "n":
                text += str(1 + int(random() * 9))
            elif blank == "N":
                text += str(10 + int(random() * 90) if random() < 0.5 else 5 * (20 + int(random() * 180)))
            elif blank == "y":
                text += str(12 + int(random() * 34))
            else:
                text += self._model()
            text += pieces[at + 1]
        return text

    def _model(self) -> str:
        random = self.random.random
        number = 10 + int(random() ** 2 * 9_990)
        roll = random()
        if roll < 0.3:
            return str(number)
        letters = _KEYS[int(random() * 26)] + (_KEYS[int(random() * 26)] if roll < 0.8 else "")
        return f"{letters.upper()}{'-' if roll < 0.6 else ''}{number}"

    def _own_brand(self, good: _Good) -> str:
        return str(self._one(good.brands))

    def _any_brand(self) -> str:
        # Squared: few brands are frequent, most are rare.
        return _brand(self._world.brands, int(self.random.random() ** 2 * self._brand_count))

    def _spelled(self, text: str) -> str:
        """Case, abbreviations, typing errors and cut ends, as people and systems leave them."""
        random = self.random.random
        roll = random()
        if roll < 0.42:
            text = text.lower()
        elif roll < 0.55:
            text = text.upper()
        elif roll < 0.7:
            text = text.title()
        if random() < 0.06:
            for long, short in self._world.abbreviations:
                text = text.replace(long, short)
        if random() < 0.13 and len(text) > 5:
            text = self._mistyped(text)
            if random() < 0.2:
                text = self._mistyped(text)
        roll = random()
        if roll < 0.09 and len(text) > 18:
            text = text[: 15 + int(random() * 20)]
        elif roll < 0.12:
            words = text.split(" ")
            self.random.shuffle(words)
            text = " ".join(words)
        elif roll < 0.14:
            text = text.replace(" ", "  ", 1)
        elif roll < 0.16:
            text = text.replace(" ", "", 1)
        elif roll < 0.18:
            text = text.replace(" ", ",", 1)
        elif roll < 0.19:
            text += f" {1 + int(random() * 20)}pcs"
        return text

    def _mistyped(self, text: str) -> str:
        random = self.random.random
        at = 1 + int(random() * (len(text) - 2))
        roll = random()
        if roll < 0.3:
            return text[:at] + text[at + 1 :]
        if roll < 0.55:
            return text[: at - 1] + text[at] + text[at - 1] + text[at + 1 :]
        if roll < 0.8:
            return text[:at] + text[at] + text[at:]
        return text[:at] + _KEYS[int(random() * 26)] + text[at + 1 :]


@contextmanager
def _csv_file(path: Path) -> Iterator[IO[str]]:
    """A text file to write, gzip where the name ends so (the same bytes each time: no name and no time in it)."""
    try:
        raw = path.open("wb")
    except OSError as error:
        raise UserError(f"cannot be written ({error.strerror})", str(path)) from None
    with raw:
        if path.name.endswith(".gz"):
            with (
                gzip.GzipFile(filename="", mode="wb", compresslevel=4, fileobj=raw, mtime=0) as packed,
                io.TextIOWrapper(packed, encoding="utf-8", newline="") as file,
            ):
                yield file
        else:
            with io.TextIOWrapper(raw, encoding="utf-8", newline="") as file:
                yield file
