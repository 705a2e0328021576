"""Ingest: rows from all sources, cleaned, checked against the edition, merged and grouped; the rest in quarantine.

Three passes. The first streams the files, writes accepted rows to chunks on disk and keeps a few numbers a row in memory
(identity of the text, label, weight). Then exact duplicates are decided, the kept rows are grouped, and the chunks are
written out in the order in which the sources were named. read = kept + merged + quarantined, for each source and in all.
"""

import hashlib
import json
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from config.settings import Settings, Source
from models.data.clean import clean_text, identity
from models.data.files import disk_errors, whole_folder, write_json
from models.data.groups import Grouper
from models.data.ingest_report import render
from models.data.merge import Merged, merge
from models.data.sources import Batch, Refused, Wanted, file_errors, open_raw, read_batches, size
from models.errors import UserError
from models.hs.codes import normalise_code
from models.hs.correlation import Correlation, load_correlation
from models.hs.edition import Edition, Place, chapter_title, load_edition
from models.progress import report as progress

KINDS = ("vague", "nomenclature", "given", "corrected")
"""Kinds of labels, the more trusted later: decides between labels of equal weight."""
VAGUE = "VAGUE"
"""What a code column holds for a text that is too vague for any code."""

EXAMPLES = 3
"""Quarantined rows that the report shows for each reason."""

_CHUNK = 100_000


@dataclass
class SourceCounts:
    """Rows of one source."""

    read: int = 0
    kept: int = 0
    merged: int = 0
    quarantined: int = 0


@dataclass
class IngestReport:
    """What was read and what became of it; the content of `ingest.json`."""

    read: int = 0
    kept: int = 0
    merged: int = 0
    quarantined: int = 0
    conflicts: int = 0
    """Texts that came with more than one label (listed in conflicts.jsonl)."""
    groups: int = 0
    """Near-duplicate groups, single rows included."""
    largest_group: int = 0
    """Rows of the largest group."""
    data_hash: str = ""
    """SHA-256 over the kept rows in order; independent of how they were chunked."""
    edition: str = ""
    """Name of the edition."""
    edition_subheadings: int = 0
    """Subheadings that it has."""
    sources: dict[str, SourceCounts] = field(default_factory=dict)
    """Counts by source name."""
    label_kinds: dict[str, int] = field(default_factory=dict)
    """Kept rows by label kind."""
    label_digits: dict[str, int] = field(default_factory=dict)
    """Kept rows by length of the label; 0 is vague."""
    reasons: dict[str, int] = field(default_factory=dict)
    """Quarantined rows by reason."""
    repairs: dict[str, int] = field(default_factory=dict)
    """Rows by what was repaired in them (lost zeros, retired codes, cut texts)."""
    classes: dict[str, int] = field(default_factory=dict)
    """Kept rows by label, most first."""
    classes_lost: list[str] = field(default_factory=list)
    """Labels that were read but have no row left, because another label won all their texts."""

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)


def ingest(settings: Settings, out: Path, step: str = "ingest", legal_texts: bool = True) -> IngestReport:
    """Read all sources of `settings.data` into the folder `out` and say what became of the rows.

    Writes rows.parquet (id, description, code, hs6, source, weight, received_at, label_kind, group), quarantine.jsonl,
    conflicts.jsonl, edition.json, ingest.json and report.html. `out` appears whole or not at all. `step` is the name in
    the progress. With `legal_texts` the nomenclature's texts become rows too, of kind nomenclature, as a source of their
    own. Raises UserError where a file cannot be used or no row is valid.
    """
    with whole_folder(out) as folder, disk_errors(out):
        scratch = folder / "scratch"
        scratch.mkdir()
        result = _Ingest(settings, folder, scratch, step, legal_texts).run()
        shutil.rmtree(scratch)
    return result


def fingerprint(settings: Settings) -> str:
    """Hash of the content of all input files, to key a cached result by.

    Remote files answer with ETag or time of change where they have one and are read where not. Raises UserError for what
    is not there.
    """
    digest = hashlib.sha256()
    paths = [source.path for source in settings.data.sources]
    for path in (*paths, settings.nomenclature.path, settings.nomenclature.correlation):
        digest.update(f"{path}\0{_content_hash(path) if path else ''}\n".encode())
    if not paths:
        digest.update(f"sample {settings.data.sample_rows} {settings.split.seed}".encode())
    return digest.hexdigest()


def _content_hash(address: str) -> str:
    with file_errors(address):
        if "://" in address:
            import fsspec

            filesystem, path = fsspec.core.url_to_fs(address)
            info = filesystem.info(path)
            for mark in ("ETag", "etag", "LastModified", "last-modified", "mtime"):
                if info.get(mark):
                    return f"{mark} {info[mark]} {info.get('size')}"
        digest = hashlib.sha256()
        with open_raw(address) as file:
            while block := file.read(1 << 20):
                digest.update(block)
        return digest.hexdigest()


@dataclass(frozen=True, slots=True)
class _Label:
    """What a raw code became."""

    code: str = ""
    hs6: str | None = None
    number: int = -1
    reason: str = ""
    """Why it is refused."""
    repair: str = ""


class _Ingest:
    def __init__(self, settings: Settings, folder: Path, scratch: Path, step: str, legal_texts: bool) -> None:
        self._settings, self._folder, self._scratch, self._step = settings, folder, scratch, step
        self._legal_texts = legal_texts
        self._report = IngestReport()
        self._sources = list(settings.data.sources)
        self._nomenclature = settings.nomenclature.path
        if not self._sources:
            self._use_sample()
        self._edition = self._load_edition()
        path = settings.nomenclature.correlation
        self._correlation = load_correlation(self._fetched(path)) if path else Correlation()
        self._labels: list[str] = []
        self._label_numbers: dict[str, int] = {}
        self._codes: dict[Any, _Label] = {}
        self._names: dict[str, int] = {}
        self._seen: set[str] = set()
        self._chunks: list[Path] = []
        self._columns: dict[str, list[npt.NDArray[Any]]] = {}
        self._buffer = _Buffer()
        self._done = 0
        self._examples: dict[str, list[tuple[str, int, str]]] = {}
        self._conflicts: list[dict[str, Any]] = []
        self._largest: list[tuple[str, int]] = []

    def _use_sample(self) -> None:
        from models.data.sample import write_sample

        rows, nomenclature = self._scratch / "sample.csv", self._scratch / "sample-nomenclature.csv"
        write_sample(self._settings.data.sample_rows, self._settings.split.seed, rows, nomenclature)
        self._sources = [Source(path=str(rows))]
        self._nomenclature = self._nomenclature or str(nomenclature)

    def _load_edition(self) -> Edition | None:
        if self._nomenclature is None:
            return None
        return load_edition(self._fetched(self._nomenclature), self._settings.nomenclature.edition)

    def _fetched(self, address: str) -> Path:
        if "://" not in address:
            return Path(address)
        local = self._scratch / ("fetched-" + address.rstrip("/").rpartition("/")[2])
        with file_errors(address), open_raw(address) as file, local.open("wb") as copy:
            shutil.copyfileobj(file, copy)
        return local

    # --- first pass: read, clean, check -------------------------------------------------------------------------------

    def run(self) -> IngestReport:
        with (self._folder / "quarantine.jsonl").open("w", encoding="utf-8") as quarantine:
            for source in self._sources:
                self._read(source, quarantine)
            self._add_legal_texts()
        self._spill()
        if not self._chunks:
            self._complain()
        columns = {name: np.concatenate(parts) for name, parts in self._columns.items()}
        self._columns.clear()
        merged = merge(columns["key"], columns["label"], columns["weight"], columns["kind"], self._labels)
        self._count(columns, merged)
        del columns["key"]
        groups = self._group(merged, columns)
        self._write(merged.keep, groups)
        self._finish(groups)
        return self._report

    def _read(self, source: Source, quarantine: IO[str]) -> None:
        data = self._settings.data
        default = source.name or _stem(source.path)
        total = size(source.path)
        done = 0

        def tell(count: int) -> None:
            nonlocal done
            done += count
            progress(self._step, done, None if total is None else max(total, done + 1), f"{default}: {self._done} rows")

        wanted = Wanted(
            description=data.description_column,
            code=data.code_column,
            needs_code=source.kind != "vague",
            encoding=data.encoding,
            max_line_bytes=data.max_line_bytes,
        )
        for batch in read_batches(source.path, wanted, self._scratch, tell):
            for refused in batch.refused:
                self._refuse(quarantine, default, source.path, refused)
            self._take(batch, source, default, quarantine)
            self._done += len(batch.rows)
            if len(self._buffer.key) >= _CHUNK:
                self._spill()

    def _take(self, batch: Batch, source: Source, default: str, quarantine: IO[str]) -> None:
        """The loop that each row goes through."""
        cut_at = self._settings.data.max_text_chars
        buffer, repairs = self._buffer, self._report.repairs
        names = None if source.name or batch.sources is None else [_name(value) for value in batch.sources]
        codes = batch.codes
        kind_of: dict[Any, tuple[str, int, SourceCounts, float, str]] = {}
        for position, raw in enumerate(batch.descriptions):
            given_name = default if names is None else names[position]
            known = kind_of.get(given_name)
            if known is None:
                known = kind_of[given_name] = self._source(given_name, source, default)
            name, number, counts, weight, kind = known
            counts.read += 1
            text = clean_text(raw if isinstance(raw, str) else "" if raw is None or raw != raw else str(raw))
            code = None if codes is None else codes[position]
            label = _NO_CODE if kind == "vague" else self._label(code)
            if label is _NO_CODE:
                kind = "vague"
            reason = label.reason or ("" if text else "no description")
            if not reason and kind != "vague" and text.isascii() and not _has_letter(text):
                reason = "description without a letter"
            if reason:
                counts.read -= 1
                line, original = batch.original(position)
                self._refuse(quarantine, name, source.path, Refused(batch.rows[position], line, reason, original))
                continue
            if label.repair:
                repairs[label.repair] = repairs.get(label.repair, 0) + 1
            if len(text) > cut_at:
                text = text[:cut_at].rstrip()
                repairs["text cut"] = repairs.get("text cut", 0) + 1
            buffer.key.append(identity(text))
            buffer.description.append(text)
            buffer.code.append(label.code)
            buffer.hs6.append(label.hs6)
            buffer.label.append(0 if label is _NO_CODE else label.number)
            buffer.source.append(number)
            buffer.weight.append(weight)
            buffer.kind.append(kind)
            received = None if batch.received is None else batch.received[position]
            buffer.received.append(None if received in (None, "") else str(received))

    def _source(self, given: str | None, source: Source, default: str) -> tuple[str, int, SourceCounts, float, str]:
        name = " ".join((given or "").split()) or default
        data = self._settings.data
        kind = data.source_kinds.get(name, source.kind)
        if kind not in KINDS:
            raise UserError(f"unknown kind {kind!r}", f"setting data.source_kinds.{name}", f"one of {', '.join(KINDS)}")
        counts = self._report.sources.setdefault(name, SourceCounts())
        number = self._names.setdefault(name, len(self._names))
        weight = source.weight * (self._settings.nomenclature.train_weight if kind == "nomenclature" else 1.0)
        return name, number, counts, float(data.source_weights.get(name, weight)), kind

    def _label(self, raw: Any) -> _Label:
        try:
            known = self._codes.get(raw)
        except TypeError:
            return self._read_code(str(raw))
        if known is None:
            if len(self._codes) > 500_000:
                self._codes.clear()
            known = self._codes[raw] = self._read_code(raw)
        return known

    def _read_code(self, raw: Any) -> _Label:
        if isinstance(raw, str) and raw.strip().upper() == VAGUE:
            return _NO_CODE
        edition = self._edition
        digits, said = normalise_code(raw, edition.knows if edition else _chapter_exists)
        if digits is None:
            return _Label(reason=said)
        place = edition.place(digits) if edition else _place_by_chapter(digits)
        if place.code is not None:
            if len(place.code) == 6:
                return _Label(digits, place.code, self._number(place.code), repair=said)
            return _Label(place.code, None, self._number(place.code), repair=said)
        if len(digits) >= 6 and (resolved := self._correlation.resolve(digits[:6])).how != "unknown":
            code, how = resolved.code, resolved.how
            if code is None:
                return _Label(reason=f"code retired without a successor in {self._settings.nomenclature.edition}")
            if edition is None or edition.knows(code):
                if len(code) == 6:
                    return _Label(digits, code, self._number(code), repair=f"retired code mapped ({how})")
                return _Label(code, None, self._number(code), repair="retired code shortened (split)")
        if edition is None:
            return _Label(reason="code of no chapter")
        return _Label(reason=f"code not in {edition.name}")

    def _number(self, label: str) -> int:
        # Number 0 is vague.
        if len(label) == 6:
            self._seen.add(label)
        return self._label_numbers.setdefault(label, len(self._label_numbers) + 1)

    def _refuse(self, quarantine: IO[str], name: str, path: str, refused: Refused) -> None:
        counts = self._report.sources.setdefault(name, SourceCounts())
        counts.read += 1
        counts.quarantined += 1
        reasons = self._report.reasons
        reasons[refused.reason] = reasons.get(refused.reason, 0) + 1
        examples = self._examples.setdefault(refused.reason, [])
        if len(examples) < EXAMPLES:
            examples.append((path, refused.row, refused.original[:200]))
        line = {
            "source": name,
            "file": path,
            "row": refused.row,
            "line": refused.line,
            "reason": refused.reason,
            "original": refused.original,
        }
        quarantine.write(json.dumps(line, ensure_ascii=False) + "\n")

    def _add_legal_texts(self) -> None:
        """The edition's texts as training rows, so that a subheading without an example can still be answered."""
        weight = self._settings.nomenclature.train_weight
        if self._edition is None or weight == 0 or not self._legal_texts:
            return
        if not self._buffer.key and not self._chunks:
            return
        name = f"legal texts {self._edition.name}"
        number = self._names.setdefault(name, len(self._names))
        counts = self._report.sources.setdefault(name, SourceCounts())
        buffer = self._buffer
        for code, legal in self._edition.texts.items():
            text = clean_text(legal)[: self._settings.data.max_text_chars].rstrip()
            if not text:
                continue
            counts.read += 1
            buffer.key.append(identity(text))
            buffer.description.append(text)
            buffer.code.append(code)
            buffer.hs6.append(code)
            buffer.label.append(self._number(code))
            buffer.source.append(number)
            buffer.weight.append(weight)
            buffer.kind.append("nomenclature")
            buffer.received.append(None)

    def _spill(self) -> None:
        buffer = self._buffer
        if not buffer.key:
            return
        import pyarrow
        from pyarrow import parquet

        names = list(self._names)
        table = pyarrow.table(
            {
                "id": [f"{key:016x}" for key in buffer.key],
                "description": buffer.description,
                "code": buffer.code,
                "hs6": pyarrow.array(buffer.hs6, pyarrow.string()),
                "source": [names[number] for number in buffer.source],
                "weight": pyarrow.array(buffer.weight, pyarrow.float64()),
                "received_at": pyarrow.array(buffer.received, pyarrow.string()),
                "label_kind": buffer.kind,
            }
        )
        path = self._scratch / f"{len(self._chunks):06}.parquet"
        parquet.write_table(table, path, compression="zstd")
        self._chunks.append(path)
        for name, values in (
            ("key", np.array(buffer.key, dtype=np.uint64)),
            ("label", np.array(buffer.label, dtype=np.int32)),
            ("weight", np.array(buffer.weight, dtype=np.float32)),
            ("kind", np.array([KINDS.index(kind) for kind in buffer.kind], dtype=np.int8)),
            ("source", np.array(buffer.source, dtype=np.int32)),
        ):
            self._columns.setdefault(name, []).append(values)
        self._labels = ["", *self._label_numbers]
        self._buffer = _Buffer()

    def _complain(self) -> None:
        if not self._report.reasons:
            raise UserError("no rows", self._sources[0].path, "the file has a header only")
        reason, count = Counter(self._report.reasons).most_common(1)[0]
        total = sum(self._report.reasons.values())
        path, row, original = self._examples[reason][0]
        many = "the one row" if total == 1 else f"{count} of {total} rows"
        raise UserError(f"no valid row ({many}: {reason}), such as row {row}: {original[:60]!r}", path)

    # --- then: merge, group, write ------------------------------------------------------------------------------------

    def _count(self, columns: dict[str, npt.NDArray[Any]], merged: Merged) -> None:
        report, keep = self._report, merged.keep
        names = list(self._names)
        for mask, attribute in ((keep, "kept"), (~keep, "merged")):
            for number, count in enumerate(np.bincount(columns["source"][mask], minlength=len(names))):
                setattr(report.sources[names[number]], attribute, int(count))
        report.sources = dict(sorted(report.sources.items()))
        for attribute in ("read", "kept", "merged", "quarantined"):
            setattr(report, attribute, sum(getattr(counts, attribute) for counts in report.sources.values()))
        kinds = np.bincount(columns["kind"][keep], minlength=len(KINDS))
        report.label_kinds = {kind: int(count) for kind, count in zip(KINDS, kinds, strict=True) if count}
        rows = np.bincount(columns["label"][keep], minlength=len(self._labels))
        order = sorted(range(len(self._labels)), key=lambda number: (-int(rows[number]), self._labels[number]))
        report.classes = {self._labels[n] or VAGUE: int(rows[n]) for n in order if rows[n]}
        read = np.bincount(columns["label"], minlength=len(self._labels))
        report.classes_lost = sorted(self._labels[n] for n in order if read[n] and not rows[n])
        digits: Counter[str] = Counter()
        for number in order:
            digits[str(len(self._labels[number]))] += int(rows[number])
        report.label_digits = {key: digits[key] for key in sorted(digits) if digits[key]}
        report.reasons = dict(sorted(report.reasons.items(), key=lambda item: (-item[1], item[0])))
        report.repairs = dict(sorted(report.repairs.items()))
        report.conflicts = merged.conflicts

    def _group(self, merged: Merged, columns: dict[str, npt.NDArray[Any]]) -> npt.NDArray[np.int64]:
        from pyarrow import parquet

        grouper = Grouper(self._settings.data.near_duplicate_similarity)
        names = list(self._names)
        start = 0
        with (self._folder / "conflicts.jsonl").open("w", encoding="utf-8") as conflicts:
            for path in self._chunks:
                texts = parquet.read_table(path, columns=["description"]).column(0).to_pylist()
                keep = merged.keep[start : start + len(texts)]
                for row, chosen, found in merged.listed(start, start + len(texts), columns["source"]):
                    labels = [
                        {
                            "label": self._labels[label] or VAGUE,
                            "weight": round(weight, 6),
                            "rows": rows,
                            "sources": [names[source] for source in sources],
                        }
                        for label, weight, rows, sources in found
                    ]
                    line = {
                        "description": texts[row - start],
                        "chosen": self._labels[chosen] or VAGUE,
                        "labels": labels,
                    }
                    if len(self._conflicts) < 10 * EXAMPLES:
                        self._conflicts.append(line)
                    conflicts.write(json.dumps(line, ensure_ascii=False) + "\n")
                start += len(texts)
                grouper.add([text for text, kept in zip(texts, keep.tolist(), strict=True) if kept])
                progress(self._step, start, len(merged.keep) * 2, "near-duplicate groups")
        return grouper.groups()

    def _write(self, keep: npt.NDArray[np.bool_], groups: npt.NDArray[np.int64]) -> None:
        import pyarrow
        from pyarrow import parquet

        digest = hashlib.sha256()
        sizes = np.bincount(groups)
        largest = np.argsort(-sizes, kind="stable")[: 2 * EXAMPLES]
        largest = largest[sizes[largest] > 1]
        start = written = 0
        writer = None
        for path in self._chunks:
            table = parquet.read_table(path)
            mask = keep[start : start + len(table)]
            start += len(table)
            kept = table.filter(pyarrow.array(mask))
            _update(digest, kept)
            kept = kept.append_column("group", pyarrow.array(groups[written : written + len(kept)], pyarrow.int64()))
            for first in largest[(largest >= written) & (largest < written + len(kept))].tolist():
                self._largest.append((kept.column("description")[first - written].as_py(), int(sizes[first])))
            written += len(kept)
            writer = writer or parquet.ParquetWriter(self._folder / "rows.parquet", kept.schema, compression="zstd")
            writer.write_table(kept)
            path.unlink()
            progress(self._step, len(keep) + start, len(keep) * 2, "writing")
        if writer is not None:
            writer.close()
        self._report.data_hash = digest.hexdigest()

    def _finish(self, groups: npt.NDArray[np.int64]) -> None:
        report = self._report
        sizes = np.bincount(groups)
        report.groups, report.largest_group = int(np.count_nonzero(sizes)), int(sizes.max())
        edition = self._edition or Edition(self._settings.nomenclature.edition, dict.fromkeys(sorted(self._seen), ""))
        report.edition, report.edition_subheadings = edition.name, len(edition.texts)
        write_json(self._folder / "edition.json", edition.to_json())
        write_json(self._folder / "ingest.json", report.to_json())
        values, counts = np.unique(sizes[sizes > 0], return_counts=True)
        page = render(
            report,
            edition,
            self._examples,
            self._conflicts,
            dict(zip(values.tolist(), counts.tolist(), strict=True)),
            sorted(self._largest, key=lambda item: -item[1]),
        )
        (self._folder / "report.html").write_text(page, encoding="utf-8")


_NO_CODE = _Label()


@dataclass
class _Buffer:
    """Accepted rows since the last chunk."""

    key: list[int] = field(default_factory=list)
    description: list[str] = field(default_factory=list)
    code: list[str] = field(default_factory=list)
    hs6: list[str | None] = field(default_factory=list)
    label: list[int] = field(default_factory=list)
    source: list[int] = field(default_factory=list)
    weight: list[float] = field(default_factory=list)
    kind: list[str] = field(default_factory=list)
    received: list[str | None] = field(default_factory=list)


def _has_letter(text: str) -> bool:
    return any(map(str.isalpha, text))


def _name(value: Any) -> str | None:
    return value if value is None or isinstance(value, str) else str(value)


def _chapter_exists(code: str) -> bool:
    return bool(chapter_title(code[:2]))


def _place_by_chapter(digits: str) -> Place:
    if not _chapter_exists(digits):
        return Place(None, "unknown")
    if len(digits) >= 6:
        return Place(digits[:6], "subheading")
    return Place(digits, "heading" if len(digits) == 4 else "chapter")


def _stem(address: str) -> str:
    name = address.partition("?")[0].rstrip("/").rpartition("/")[2]
    return name.partition(".")[0] or name


def _update(digest: Any, table: Any) -> None:
    """Add rows to the hash: fields end with unit separators, rows with record separators, null is one NUL."""
    columns: list[Sequence[str]] = []
    for name in ("id", "description", "code", "hs6", "source", "weight", "received_at", "label_kind"):
        values = table.column(name).to_pylist()
        columns.append(
            [repr(value) for value in values] if name == "weight" else [v if v is not None else "\0" for v in values]
        )
    digest.update("".join(map("\x1f".join, _with_ends(columns))).encode())


def _with_ends(columns: list[Sequence[str]]) -> Iterator[tuple[str, ...]]:
    for row in zip(*columns, strict=True):
        yield (*row, "\x1e")
