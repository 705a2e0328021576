"""Ingest: rows from all sources, cleaned, checked against the edition, merged and grouped; the rest in quarantine.

Three passes. The first streams the files, writes accepted rows to chunks on disk and keeps a few numbers a row in
memory (identity of the text, label, weight). Then exact duplicates are decided, the kept rows are grouped, and the
chunks are written out in the order in which the sources were named. For each source and in all,
read = kept + merged + quarantined.
"""

import hashlib
import json
import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from itertools import compress
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from config.settings import Settings, Source
from models.data.clean import clean_text, identity
from models.data.files import disk_errors, whole_folder, write_json
from models.data.groups import Grouper
from models.data.ingest_report import render
from models.data.labels import VAGUE, Label, Labels
from models.data.merge import Merged, merge
from models.data.sources import Batch, Refused, Wanted, file_errors, open_raw, read_batches, size
from models.errors import UserError
from models.hs.correlation import Correlation, load_correlation
from models.hs.edition import Edition, load_edition
from models.progress import report as progress

KINDS = ("vague", "nomenclature", "given", "corrected")
"""Kinds of labels, the more trusted later: decides between labels of equal weight."""

MOST_SOURCES = 1000
"""Different source names; more are rather identifiers of rows than sources."""
EXAMPLES = 3
"""Quarantined rows that the report shows for each reason."""

_CHUNK = 100_000
_FEW_VALUES = ["code", "hs6", "source", "weight", "received_at", "label_kind"]


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


def ingest(
    settings: Settings, out: Path, step: str = "ingest", legal_texts: bool = True, added: Sequence[Source] = ()
) -> IngestReport:
    """Read all sources of `settings.data` into the folder `out` and say what became of the rows.

    Writes rows.parquet (id, description, code, hs6, source, weight, received_at, label_kind, group), quarantine.jsonl,
    conflicts.jsonl, edition.json, ingest.json and report.html. `out` appears whole or not at all. `step` is the name in
    the progress; `added` are read after the settings' own sources. With `legal_texts` the nomenclature's texts become
    rows too, of kind nomenclature, as a source of their own. Raises UserError where a file cannot be used or no row is
    valid.
    """
    with whole_folder(out) as folder, disk_errors(out):
        scratch = folder / "scratch"
        scratch.mkdir()
        result = _Ingest(settings, folder, scratch, step, legal_texts, added).run()
        shutil.rmtree(scratch)
    return result


def added_sources(settings: Settings, new_data: Sequence[str], corrections: Path | None) -> list[Source]:
    """What a retraining reads besides the settings' sources: new data by address, and the file of corrections.

    A correction counts `retrain.corrections_weight` in training; of its own text its label wins whatever stands against
    it (see merge). An empty file is left out. Each file of new data is a source of its own, unless there are so many
    that they would be more than the sources of a report: then they are one, "new data".
    """
    again, known = settings.retrain, {source.path for source in settings.data.sources}
    paths = [path for path in dict.fromkeys(new_data) if path not in known and path not in again.left_out]
    name = "new data" if len(paths) > MOST_SOURCES // 2 else None
    found = [Source(path=path, weight=again.new_data_weight, name=name) for path in paths]
    if corrections is not None and corrections.stat().st_size:
        weight = again.corrections_weight
        found.append(Source(path=str(corrections), weight=weight, kind="corrected", name="corrections"))
    return found


def fingerprint(settings: Settings) -> str:
    """Hash of the content of all input files, to key a cached result by.

    Remote files answer with ETag or time of change where they have one and are read where not. Raises UserError for
    what is not there.
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


@dataclass(frozen=True)
class _Profile:
    """What rows of one source have in common."""

    source: int
    """Number of the source's name."""
    weight: float
    kind: str


@dataclass
class _Buffer:
    """Accepted rows since the last chunk."""

    key: list[int] = field(default_factory=list)
    description: list[str] = field(default_factory=list)
    entry: list[int] = field(default_factory=list)
    profile: list[int] = field(default_factory=list)
    received: list[str | None] = field(default_factory=list)


class _Ingest:
    def __init__(
        self,
        settings: Settings,
        folder: Path,
        scratch: Path,
        step: str,
        legal_texts: bool,
        added: Sequence[Source] = (),
    ) -> None:
        self._settings, self._folder, self._scratch, self._step = settings, folder, scratch, step
        self._legal_texts = legal_texts
        self._report = IngestReport()
        self._sources = list(settings.data.sources)
        self._nomenclature = settings.nomenclature.path
        if not self._sources:
            self._use_sample()
        self._sources += added
        self._edition = self._load_edition()
        path = settings.nomenclature.correlation
        correlation = load_correlation(self._fetched(path)) if path else Correlation()
        self._labels = Labels(self._edition, correlation)
        self._names: dict[str, int] = {}
        self._profiles: dict[_Profile, int] = {}
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

    def run(self) -> IngestReport:
        with (self._folder / "quarantine.jsonl").open("w", encoding="utf-8") as quarantine:
            for source in self._sources:
                self._read(source, quarantine)
        if self._legal_texts and (self._buffer.key or self._chunks):
            self._add_legal_texts()
        self._spill()
        if not self._chunks:
            self._complain()
        columns = {name: np.concatenate(parts) for name, parts in self._columns.items()}
        self._columns.clear()
        merged = merge(columns["key"], columns["label"], columns["weight"], columns["kind"], self._labels.names)
        del columns["key"]
        self._count(columns, merged)
        groups = self._group(merged, columns)
        self._write(merged.keep, groups)
        self._finish(groups)
        return self._report

    # --- first pass: read, clean, check -------------------------------------------------------------------------------

    def _read(self, source: Source, quarantine: IO[str]) -> None:
        data = self._settings.data
        default = source.name or _stem(source.path)
        total = size(source.path)
        done = 0

        def tell(count: int) -> None:
            nonlocal done
            done += count
            # The last step belongs to the writing.
            progress(self._step, done, None if total is None else max(total, done) + 1, f"{default}: {self._done} rows")

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
        buffer, repairs, read = self._buffer, self._report.repairs, self._labels.read
        names = None if source.name or batch.sources is None else [_name(value) for value in batch.sources]
        profiles: dict[str | None, tuple[str, SourceCounts, int, int, bool]] = {}
        for position, raw in enumerate(batch.descriptions):
            given_name = default if names is None else names[position]
            if given_name not in profiles:
                profiles[given_name] = self._profiled(given_name, source, default)
            name, counts, profile, vague_profile, is_vague = profiles[given_name]
            text = clean_text(raw if isinstance(raw, str) else "" if raw is None or raw != raw else str(raw))
            label = _VAGUE if is_vague else read(None if batch.codes is None else batch.codes[position])
            reason = label.reason
            if not text:
                reason = reason or "no description"
            elif label.number and text.isascii() and text.lower() == text.upper():
                reason = reason or "description without a letter"
            if reason:
                line, original = batch.original(position)
                self._refuse(quarantine, name, source.path, Refused(batch.rows[position], line, reason, original))
                continue
            counts.read += 1
            if label.repair:
                repairs[label.repair] = repairs.get(label.repair, 0) + 1
            if len(text) > cut_at:
                text = text[:cut_at].rstrip()
                repairs["text cut"] = repairs.get("text cut", 0) + 1
            buffer.key.append(identity(text))
            buffer.description.append(text)
            buffer.entry.append(label.entry)
            buffer.profile.append(profile if label.number else vague_profile)
            if batch.received is not None:
                received = batch.received[position]
                buffer.received += [None] * (len(buffer.key) - 1 - len(buffer.received))
                buffer.received.append(None if received is None else clean_text(str(received)) or None)

    def _profiled(self, given: str | None, source: Source, default: str) -> tuple[str, SourceCounts, int, int, bool]:
        """Name, counts, number of the profile, of the profile of its vague rows, and whether all its rows are vague."""
        name = clean_text(given or "") or default
        data = self._settings.data
        if len(self._names) > MOST_SOURCES:
            raise UserError(
                f"column 'source' has more than {MOST_SOURCES} values: it does not name where rows come from",
                source.path,
                "give the file one name with data.sources[].name",
            )
        kind = data.source_kinds.get(name, source.kind)
        counts = self._report.sources.setdefault(name, SourceCounts())
        number = self._names.setdefault(name, len(self._names))
        weight = source.weight * (self._settings.nomenclature.train_weight if kind == "nomenclature" else 1.0)
        weight = float(data.source_weights.get(name, weight))
        own, vague = (self._profile(_Profile(number, weight, each)) for each in (kind, "vague"))
        return name, counts, own, vague, kind == "vague"

    def _profile(self, profile: _Profile) -> int:
        return self._profiles.setdefault(profile, len(self._profiles))

    def _refuse(self, quarantine: IO[str], name: str, path: str, refused: Refused) -> None:
        counts = self._report.sources.setdefault(name, SourceCounts())
        self._names.setdefault(name, len(self._names))
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
        if self._edition is None or weight == 0:
            return
        name = f"legal texts {self._edition.name}"
        counts = self._report.sources.setdefault(name, SourceCounts())
        profile = self._profile(_Profile(self._names.setdefault(name, len(self._names)), weight, "nomenclature"))
        for code, legal in self._edition.texts.items():
            text = clean_text(legal)[: self._settings.data.max_text_chars].rstrip()
            if text:
                counts.read += 1
                self._buffer.key.append(identity(text))
                self._buffer.description.append(text)
                self._buffer.entry.append(self._labels.read(code).entry)
                self._buffer.profile.append(profile)

    def _spill(self) -> None:
        """Write the buffered rows to disk and keep their numbers."""
        buffer = self._buffer
        if not buffer.key:
            return
        import pyarrow
        from pyarrow import parquet

        profiles, entries, names = list(self._profiles), self._labels.entries, list(self._names)
        entry, profile = np.array(buffer.entry), np.array(buffer.profile)
        buffer.received += [None] * (len(buffer.key) - len(buffer.received))

        def spread(values: list[Any], by: npt.NDArray[np.int64], kind: Any) -> Any:
            return pyarrow.array(values, kind).take(pyarrow.array(by))

        text = pyarrow.string()
        table = pyarrow.table(
            {
                "id": [f"{key:016x}" for key in buffer.key],
                "description": pyarrow.array(buffer.description, text),
                "code": spread([each.code for each in entries], entry, text),
                "hs6": spread([each.hs6 for each in entries], entry, text),
                "source": spread([names[each.source] for each in profiles], profile, text),
                "weight": spread([each.weight for each in profiles], profile, pyarrow.float64()),
                "received_at": pyarrow.array(buffer.received, text),
                "label_kind": spread([each.kind for each in profiles], profile, text),
            }
        )
        path = self._scratch / f"{len(self._chunks):06}.parquet"
        parquet.write_table(table, path, compression="zstd", use_dictionary=_FEW_VALUES)
        self._chunks.append(path)
        for name, values in (
            ("key", np.array(buffer.key, dtype=np.uint64)),
            ("label", np.array([each.number for each in entries], dtype=np.int32)[entry]),
            ("weight", np.array([each.weight for each in profiles], dtype=np.float32)[profile]),
            ("kind", np.array([KINDS.index(each.kind) for each in profiles], dtype=np.int8)[profile]),
            ("source", np.array([each.source for each in profiles], dtype=np.int32)[profile]),
        ):
            self._columns.setdefault(name, []).append(values)
        self._buffer = _Buffer()

    def _complain(self) -> None:
        if not self._report.reasons:
            raise UserError("no rows", self._sources[0].path, "the file has a header only")
        reason, count = Counter(self._report.reasons).most_common(1)[0]
        total = sum(self._report.reasons.values())
        path, row, original = self._examples[reason][0]
        many = "the one row" if total == 1 else f"{count} of {total} rows"
        raise UserError(f"no valid row ({many}: {reason}), such as row {row}: {original[:60]!r}", path)

    # --- then: count, group, write ------------------------------------------------------------------------------------

    def _count(self, columns: dict[str, npt.NDArray[Any]], merged: Merged) -> None:
        report, keep = self._report, merged.keep
        names, labels = list(self._names), self._labels.names
        for mask, attribute in ((keep, "kept"), (~keep, "merged")):
            for number, count in enumerate(np.bincount(columns["source"][mask], minlength=len(names))):
                setattr(report.sources[names[number]], attribute, int(count))
        report.sources = dict(sorted(report.sources.items()))
        for attribute in ("read", "kept", "merged", "quarantined"):
            setattr(report, attribute, sum(getattr(counts, attribute) for counts in report.sources.values()))
        kinds = np.bincount(columns["kind"][keep], minlength=len(KINDS))
        report.label_kinds = {kind: int(count) for kind, count in zip(KINDS, kinds, strict=True) if count}
        read = np.bincount(columns["label"], minlength=len(labels))
        rows = np.bincount(columns["label"][keep], minlength=len(labels))
        order = sorted(range(len(labels)), key=lambda number: (-int(rows[number]), labels[number]))
        report.classes = {labels[n] or VAGUE: int(rows[n]) for n in order if rows[n]}
        report.classes_lost = sorted(labels[n] or VAGUE for n in order if read[n] and not rows[n])
        digits = np.bincount([len(label) for label in labels], weights=rows)
        report.label_digits = {str(length): int(count) for length, count in enumerate(digits) if count}
        report.reasons = dict(sorted(report.reasons.items(), key=lambda item: (-item[1], item[0])))
        report.repairs = dict(sorted(report.repairs.items()))
        report.conflicts = merged.conflicts
        if self._edition is None:
            seen = sorted(label for label, count in zip(labels, read, strict=True) if count and len(label) == 6)
            self._edition = Edition(self._settings.nomenclature.edition, dict.fromkeys(seen, ""))
        report.edition, report.edition_subheadings = self._edition.name, len(self._edition.texts)

    def _group(self, merged: Merged, columns: dict[str, npt.NDArray[Any]]) -> npt.NDArray[np.int64]:
        """Near-duplicate group of each kept row; lists the conflicts on the way."""
        from pyarrow import parquet

        grouper = Grouper(self._settings.data.near_duplicate_similarity)
        names, labels = list(self._names), self._labels.names
        start = 0
        with (self._folder / "conflicts.jsonl").open("w", encoding="utf-8") as conflicts:
            for path in self._chunks:
                texts = parquet.read_table(path, columns=["description"]).column(0).to_pylist()
                keep = merged.keep[start : start + len(texts)]
                for row, chosen, found in merged.listed(start, start + len(texts), columns["source"]):
                    line = {
                        "description": texts[row - start],
                        "chosen": labels[chosen] or VAGUE,
                        "labels": [
                            {
                                "label": labels[label] or VAGUE,
                                "weight": round(weight, 6),
                                "rows": rows,
                                "sources": [names[source] for source in sources],
                            }
                            for label, weight, rows, sources in found
                        ],
                    }
                    if len(self._conflicts) < 10 * EXAMPLES:
                        self._conflicts.append(line)
                    conflicts.write(json.dumps(line, ensure_ascii=False) + "\n")
                start += len(texts)
                grouper.add(list(compress(texts, keep.tolist())))
                progress(self._step, start, len(merged.keep) * 2, "near-duplicates")
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
            kept = table.filter(pyarrow.array(mask)).combine_chunks()
            _update(digest, kept)
            kept = kept.append_column("group", pyarrow.array(groups[written : written + len(kept)], pyarrow.int64()))
            for first in largest[(largest >= written) & (largest < written + len(kept))].tolist():
                self._largest.append((kept.column("description")[first - written].as_py(), int(sizes[first])))
            written += len(kept)
            if writer is None:
                writer = parquet.ParquetWriter(
                    self._folder / "rows.parquet", kept.schema, compression="zstd", use_dictionary=_FEW_VALUES
                )
            writer.write_table(kept)
            path.unlink()
            progress(self._step, len(keep) + start, len(keep) * 2, "writing")
        if writer is not None:
            writer.close()
        self._report.data_hash = digest.hexdigest()

    def _finish(self, groups: npt.NDArray[np.int64]) -> None:
        report, edition = self._report, self._edition
        assert edition is not None
        sizes, groups_of_size = np.unique(np.unique(groups, return_counts=True)[1], return_counts=True)
        report.groups, report.largest_group = int(groups_of_size.sum()), int(sizes.max())
        write_json(self._folder / "edition.json", edition.to_json())
        write_json(self._folder / "ingest.json", report.to_json())
        page = render(
            report,
            edition,
            self._examples,
            self._conflicts,
            dict(zip(sizes.tolist(), groups_of_size.tolist(), strict=True)),
            sorted(self._largest, key=lambda item: -item[1]),
        )
        (self._folder / "report.html").write_text(page, encoding="utf-8")


_VAGUE = Label()


def _name(value: Any) -> str | None:
    return value if value is None or isinstance(value, str) else str(value)


def _stem(address: str) -> str:
    name = address.partition("?")[0].rstrip("/").rpartition("/")[2]
    return name.partition(".")[0] or name


def _update(digest: Any, table: Any) -> None:
    """Add rows to the hash: fields with unit separators between, a record separator after each row, NUL for null.

    Cleaned text holds none of these, so the bytes are unambiguous.
    """
    import pyarrow
    from pyarrow import compute

    columns = []
    for name in ("id", "description", "code", "hs6", "source", "weight", "received_at", "label_kind"):
        column = table.column(name).combine_chunks()
        if name == "weight":
            values = column.dictionary_encode()
            column = pyarrow.array([repr(value) for value in values.dictionary.to_pylist()]).take(values.indices)
        columns.append(column.cast(pyarrow.string()).fill_null("\0"))
    rows = compute.binary_join_element_wise(*columns, "\x1e", "\x1f").to_pylist()
    digest.update("".join(rows).encode())
