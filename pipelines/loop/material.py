"""Rows of a loop: what the first champion learns, the stream before and after the shift, and rows to judge by."""

import csv
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from config.settings import Loop, Settings
from models.data.groups import Grouper
from models.data.sample import LabelledText, Shift, nomenclature, sample_stream
from models.errors import UserError

VAGUE = "VAGUE"
STREAMED = 4
"""How many times as many synthetic rows are streamed after the shift as there are to train on: none is sent twice, so
that accuracy on the stream is not that on corrected texts."""
NEW_CHAPTERS = ("84", "85", "90", "91", "92")
"""Goods that the synthetic stream lacks before the shift."""
JUDGED_SHARE = 5
"""One row in so many of given files is kept to judge by, and one of the base rows for the stream before the shift."""


@dataclass(frozen=True)
class Material:
    """Files and streams of one loop. No judged text is in any other file or stream."""

    base: Path
    """csv `description, code, source` that the first champion is trained on."""
    shifted: Path
    """The same of the shifted stream, all with their codes: the reference model has them besides. Synthetic ones are as
    many as those of `base`."""
    judged: Path
    """Rows of the stream before the shift that are only judged by."""
    judged_shifted: Path
    """The same of the shifted stream."""
    nomenclature: Path | None
    before: Sequence[LabelledText]
    """What clients send before the shift."""
    after: Sequence[LabelledText]
    """What they send then: at first the rows of `shifted`, in their order."""
    shift: str
    """What changes, in words."""
    synthetic: bool


def synthetic(folder: Path, settings: Loop) -> Material:
    """Rows of the generated sample: at first all goods but machines, electronics and instruments; after the shift every
    second text is of those, the others by turns Turkish and of goods that have moved to another code."""
    count, judged = settings.base_rows, settings.judged_rows

    def stream(seed: int, shift: Shift | None = None, new: bool = False) -> Iterator[LabelledText]:
        return (row for row in sample_stream(seed, shift, settings.subheadings) if (row.hs6[:2] in NEW_CHAPTERS) == new)

    def shifted(seed: int) -> Iterator[LabelledText]:
        goods, turkish, moved = stream(seed, None, True), stream(seed, "language"), stream(seed, "codes")
        while True:
            yield from map(next, (goods, turkish, goods, moved))

    made = {
        "base": list(islice(stream(17), count)),
        "before": list(islice(stream(18), count)),
        "after": list(islice(shifted(19), STREAMED * count)),
    }
    sent = {row.description for rows in made.values() for row in rows}
    kept = {
        name: list(islice((row for row in rows if row.description not in sent), judged))
        for name, rows in (("before", stream(20)), ("after", shifted(21)))
    }
    folder.mkdir(parents=True, exist_ok=True)
    legal = folder / "nomenclature.csv"
    with legal.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("code", "text"), *nomenclature(settings.subheadings).items()])
    return Material(
        _written(folder / "base.csv", made["base"], "synthetic"),
        _written(folder / "shifted.csv", made["after"][:count], "synthetic_shifted"),
        _written(folder / "judged.csv", kept["before"], "synthetic"),
        _written(folder / "judged-shifted.csv", kept["after"], "synthetic_shifted"),
        legal,
        made["before"],
        made["after"],
        "machines, electronics and instruments come in, texts are Turkish, goods have moved to other codes",
        True,
    )


def of_files(folder: Path, settings: Settings, base: Sequence[str], shifted: Sequence[str]) -> Material:
    """Rows of files: of `base` one part in five is streamed before the shift and one is judged by, the rest trained on;
    of `shifted` one in five is judged by, the rest is streamed. Legal texts are trained on alone.

    Near-duplicates are in one part, which the first one's text decides. Raises UserError for files that cannot be read.
    """
    from models.data.labelled import read_labelled
    from models.hs.edition import load_edition

    named = settings.nomenclature
    edition = load_edition(named.path, named.edition) if named.path else None

    def read(files: Sequence[str]) -> list[tuple[LabelledText, str, str]]:
        found = []
        for file in files:
            frame = read_labelled(file, settings, edition).frame
            columns = (frame[name].to_list() for name in ("description", "hs6", "label_kind", "source"))
            found += [
                (LabelledText(text, hs6 or ""), kind, source)
                for text, hs6, kind, source in zip(*columns, strict=True)
                if hs6 or kind == "vague"
            ]
        return found

    folder.mkdir(parents=True, exist_ok=True)
    old, new = read(base), read(shifted)
    lawful = [row for row in old if row[1] == "nomenclature"]
    said = [row for row in old if row[1] != "nomenclature"]
    part = _parts([row.description for row, *_ in (*said, *new)], len(said), settings.data.near_duplicate_similarity)
    trained = [row for at, row in enumerate(said) if part[at] > 1] + lawful
    before = [row for at, (row, *_) in enumerate(said) if part[at] == 1]
    judged = [row for at, (row, *_) in enumerate(said) if part[at] == 0 and row.hs6]
    after = [row for at, (row, *_) in enumerate(new, len(said)) if part[at] > 0]
    judged_after = [row for at, (row, *_) in enumerate(new, len(said)) if part[at] == 0 and row.hs6]
    for name, rows in (("--data", before), ("--data", judged), ("--shifted", after), ("--shifted", judged_after)):
        if len(rows) < 50:
            raise UserError(f"{len(rows)} rows are left for a part of the stream", name, "give a larger file")
    with (folder / "base.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("description", "code", "source"))
        writer.writerows((row.description, row.hs6 or VAGUE, source) for row, _, source in trained)
    return Material(
        folder / "base.csv",
        _written(folder / "shifted.csv", after, "shifted"),
        _written(folder / "judged.csv", judged, "base"),
        _written(folder / "judged-shifted.csv", judged_after, "shifted"),
        Path(named.path) if named.path else None,
        before,
        after,
        f"rows of {', '.join(Path(file).name for file in shifted)}",
        False,
    )


def _parts(texts: list[str], old: int, similarity: float) -> list[int]:
    """Part of each text, 0 to `JUDGED_SHARE` - 1: near-duplicates are in one. The first `old` texts are base rows; what
    is shifted and like one of them is streamed, never judged by."""
    grouper = Grouper(similarity)
    grouper.add(texts)
    return [
        1 if first < old <= at else zlib.crc32(texts[first].encode()) % JUDGED_SHARE
        for at, first in enumerate(grouper.groups().tolist())
    ]


def _written(file: Path, rows: Iterable[LabelledText], source: str) -> Path:
    with file.open("w", encoding="utf-8", newline="") as out:
        writer = csv.writer(out)
        writer.writerow(("description", "code", "source"))
        writer.writerows((row.description, row.hs6 or VAGUE, source) for row in rows)
    return file
