"""Split: train, valid and test by near-duplicate group, stratified by heading.

Which rows are judged. Traders' descriptions (label_kind given or corrected) and vague ones are; nomenclature texts are
training material: they stay in train, unless a near-duplicate of theirs, written by a trader, is drawn for valid or
test: a group always moves as one. So no part holds a near-duplicate of another part's row.

Which groups are drawn. Within each heading the groups are put in the order of a hash of their content and the seed,
and the first test_share of them go to test, the next valid_share to valid. The order does not depend on other rows, so
rows that are added later leave nearly all earlier ones where they are: a version is hardly judged on what it, or an
earlier one that it is compared with, has learnt.

What stays in train: a group that holds the only rows of a class; a group so large that it alone would weigh on a part's
score; and, where the draw took all groups of a class, one of them.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from config.settings import Settings
from models.data.files import disk_errors, whole_folder, write_json
from models.errors import UserError
from models.progress import report as progress

PARTS = ("train", "valid", "test")
VAGUE = "VAGUE"
LARGEST_SHARE = 0.02
"""Largest share of the rows expected in a part that one group may have: a single pattern shall not decide a score."""
LARGEST_AT_LEAST = 8
"""Rows that a group may always have."""

Ints = npt.NDArray[np.int64]


@dataclass
class SplitReport:
    """How the rows were cut; the content of `split.json`."""

    rows: dict[str, int] = field(default_factory=dict)
    """Rows by part."""
    groups: dict[str, int] = field(default_factory=dict)
    """Near-duplicate groups by part."""
    classes: dict[str, int] = field(default_factory=dict)
    """Labels by part."""
    sources: dict[str, dict[str, int]] = field(default_factory=dict)
    """Rows by source and part."""
    label_kinds: dict[str, dict[str, int]] = field(default_factory=dict)
    """Rows by label kind and part."""
    headings: dict[str, int] = field(default_factory=dict)
    """Headings by part."""
    kept_in_train: dict[str, int] = field(default_factory=dict)
    """Groups with rows to judge that were kept in train, by reason."""
    classes_only_in_train: int = 0
    """Labels that neither valid nor test has."""
    largest_group_drawn: int = 0
    """Rows of the largest group outside train."""
    seed: int = 0
    test_share: float = 0.0
    valid_share: float = 0.0
    data_hash: str = ""
    """Of the rows (see ingest.json)."""
    edition: str = ""
    rule: str = ""
    """How it was decided, for people."""

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)


def split(rows_dir: Path, settings: Settings, out: Path) -> SplitReport:
    """Cut the rows of an ingest folder into three parts.

    Writes train.parquet, valid.parquet, test.parquet, split.json and edition.json into `out`. Weights count in training
    only: rows of valid and test are written with weight 1. Raises UserError where the rows are too few for three parts.
    """
    from pyarrow import parquet

    with whole_folder(out) as folder, disk_errors(out):
        file = parquet.ParquetFile(rows_dir / "rows.parquet")
        table = file.read(columns=["id", "group", "hs6", "code", "label_kind", "source"])
        labels = np.array(
            [
                hs6 or code or VAGUE
                for hs6, code in zip(*(table.column(c).to_pylist() for c in ("hs6", "code")), strict=True)
            ]
        )
        kinds = np.array(table.column("label_kind").to_pylist())
        sources = np.array(table.column("source").to_pylist())
        group = table.column("group").to_numpy()
        part, report = assign(table.column("id").to_pylist(), group, labels, kinds, settings)
        _count(report, part, group, labels, kinds, sources)
        ingested = json.loads((rows_dir / "ingest.json").read_text(encoding="utf-8"))
        report.data_hash, report.edition = ingested["data_hash"], ingested["edition"]
        _write(file, part, folder)
        (folder / "edition.json").write_bytes((rows_dir / "edition.json").read_bytes())
        write_json(folder / "split.json", report.to_json())
    return report


def assign(
    ids: list[str],
    group: Ints,
    labels: npt.NDArray[np.str_],
    kinds: npt.NDArray[np.str_],
    settings: Settings,
) -> tuple[npt.NDArray[np.int8], SplitReport]:
    """The part of each row (0 train, 1 valid, 2 test), shape (rows,), and the reasons.

    All arguments have shape (rows,): content id, near-duplicate group, label (2, 4 or 6 digits, or VAGUE), label kind.
    """
    cut = settings.split
    judged = kinds != "nomenclature"
    rule = (
        "groups with rows of kind given, corrected or vague are drawn within their heading by a hash of content and "
        "seed; rows of kind nomenclature are for training and leave train only with a near-duplicate that was drawn"
    )
    if not judged.any():
        judged = np.ones(len(labels), dtype=bool)
        rule = "all rows are of kind nomenclature, so all are judged; groups are drawn within their heading by a hash"
    _, inverse = np.unique(group, return_inverse=True)
    groups = int(inverse.max()) + 1 if len(inverse) else 0
    size = np.bincount(inverse, minlength=groups)
    drawable = np.bincount(inverse, weights=judged, minlength=groups) > 0

    names, label = np.unique(labels, return_inverse=True)
    pairs = np.unique(np.stack([label, inverse], axis=1), axis=0)
    groups_of_label = np.bincount(pairs[:, 0], minlength=len(names))
    only = np.zeros(groups, dtype=bool)
    only[pairs[groups_of_label[pairs[:, 0]] == 1, 1]] = True
    largest = max(LARGEST_AT_LEAST, LARGEST_SHARE * min(cut.test_share, cut.valid_share) * int(judged.sum()))
    large = size > largest
    reasons = {
        "only group of a class": int(np.count_nonzero(drawable & only)),
        "too large a group": int(np.count_nonzero(drawable & large & ~only)),
    }
    drawable &= ~only & ~large

    # A group's heading and name in the draw are those of its first judged row.
    rows = np.flatnonzero(judged)
    first_of = np.full(groups, -1, dtype=np.int64)
    first_of[inverse[rows[::-1]]] = rows[::-1]
    strata: dict[str, list[tuple[float, int]]] = {}
    for each in np.flatnonzero(drawable).tolist():
        row = int(first_of[each])
        strata.setdefault(str(labels[row])[:4], []).append((_uniform(cut.seed, "group", ids[row]), each))
    part_of = np.zeros(groups, dtype=np.int8)
    drawn: list[tuple[float, int]] = []
    for heading, members in sorted(strata.items()):
        members.sort()
        test = int(len(members) * cut.test_share + _uniform(cut.seed, "test", heading))
        valid = int(len(members) * cut.valid_share + _uniform(cut.seed, "valid", heading))
        for taken, (order, each) in enumerate(members[: test + valid]):
            part_of[each] = 2 if taken < test else 1
            drawn.append((order, each))
    reasons["last group of a class"] = _return_last(part_of, pairs, {each: order for order, each in drawn})
    _fill_empty(part_of, pairs, strata)
    return part_of[inverse], SplitReport(
        seed=cut.seed, test_share=cut.test_share, valid_share=cut.valid_share, kept_in_train=reasons, rule=rule
    )


def _return_last(part_of: npt.NDArray[np.int8], pairs: Ints, order: dict[int, float]) -> int:
    """Bring back to train one group of each class that has none there; the number of groups brought back."""
    in_train = np.zeros(int(pairs[:, 0].max()) + 1, dtype=bool)
    in_train[pairs[part_of[pairs[:, 1]] == 0, 0]] = True
    candidates: dict[int, list[int]] = {}
    labels_of: dict[int, list[int]] = {}
    for label, each in pairs[~in_train[pairs[:, 0]]].tolist():
        candidates.setdefault(label, []).append(each)
    for label, each in pairs[part_of[pairs[:, 1]] > 0].tolist():
        labels_of.setdefault(each, []).append(label)
    returned = 0
    for label, members in sorted(candidates.items()):
        if in_train[label]:
            continue
        back = max(members, key=lambda each: order[each])
        part_of[back] = 0
        in_train[labels_of[back]] = True
        returned += 1
    return returned


def _fill_empty(part_of: npt.NDArray[np.int8], pairs: Ints, strata: Mapping[str, Sequence[tuple[float, int]]]) -> None:
    """Give an empty valid or test one group; few rows may leave them without any."""
    every = sorted(member for members in strata.values() for member in members)
    for part in (2, 1):
        if np.any(part_of == part):
            continue
        in_train = np.bincount(pairs[part_of[pairs[:, 1]] == 0, 0])
        # A class must keep a group in train.
        needed = set(pairs[in_train[pairs[:, 0]] < 2, 1].tolist())
        free = [each for _, each in every if part_of[each] == 0 and each not in needed]
        if not free:
            raise UserError(
                f"too few rows for train, valid and test: {len(every)} groups of near-duplicates can leave train",
                todo="give more rows; a class needs rows in at least two groups",
            )
        part_of[free[0]] = part


def _uniform(seed: int, use: str, name: str) -> float:
    """A number in [0, 1) that only its arguments decide."""
    return int.from_bytes(blake2b(f"{seed}\0{use}\0{name}".encode(), digest_size=7).digest(), "big") / 2**56


def _count(
    report: SplitReport,
    part: npt.NDArray[np.int8],
    group: Ints,
    labels: npt.NDArray[np.str_],
    kinds: npt.NDArray[np.str_],
    sources: npt.NDArray[np.str_],
) -> None:
    for number, name in enumerate(PARTS):
        inside = part == number
        report.rows[name] = int(np.count_nonzero(inside))
        report.groups[name] = len(np.unique(group[inside]))
        own = np.unique(labels[inside])
        report.classes[name] = len(own)
        report.headings[name] = len({label[:4] for label in own.tolist() if label != VAGUE})
        for column, into in ((sources, report.sources), (kinds, report.label_kinds)):
            values, counts = np.unique(column[inside], return_counts=True)
            for value, count in zip(values.tolist(), counts.tolist(), strict=True):
                into.setdefault(value, dict.fromkeys(PARTS, 0))[name] = count
    report.classes_only_in_train = len(np.setdiff1d(labels[part == 0], labels[part > 0]))
    outside = np.unique(group[part > 0], return_counts=True)[1]
    report.largest_group_drawn = int(outside.max()) if len(outside) else 0


def _write(file: Any, part: npt.NDArray[np.int8], folder: Path) -> None:
    import pyarrow
    from pyarrow import parquet

    schema = file.schema_arrow
    weight = schema.get_field_index("weight")
    writers = [parquet.ParquetWriter(folder / f"{name}.parquet", schema, compression="zstd") for name in PARTS]
    start = 0
    for batch in file.iter_batches(100_000):
        own = part[start : start + batch.num_rows]
        start += batch.num_rows
        for number, writer in enumerate(writers):
            rows = pyarrow.Table.from_batches([batch]).filter(pyarrow.array(own == number))
            if number > 0:
                rows = rows.set_column(weight, "weight", pyarrow.array(np.ones(len(rows))))
            if len(rows):
                writer.write_table(rows)
        progress("split", start, len(part), "writing")
    for writer in writers:
        writer.close()
