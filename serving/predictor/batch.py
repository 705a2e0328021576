"""Answers for a file: rows in, the same rows in the same order out, each with its answer or with why it has none.

The pieces that both the batch pipeline and `hscode predict` are made of: `shard` cuts a file, `predict_shard` answers a
part (and does nothing where that part is done), `merge` puts the parts together. csv, tsv, jsonl and parquet, the text
formats also as .gz and .zst; memory does not grow with the file.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

from models.errors import UserError
from serving.predictor.files import Row, file_format, join, open_writer, read_rows, schema_of

DESCRIPTION_COLUMNS = ("description", "text", "goods_description", "item")
"""The column with the text is the first of these, unless it is named."""
ANSWER_COLUMNS = (
    "hs_code", "hs_digits", "hs_confidence", "hs_status", "hs_candidates", "hs_version", "hs_edition", "hs_error",
)  # fmt: skip
"""Added to a row. `hs_candidates`: ``code:confidence`` separated by spaces; `hs_error`: why there is no answer."""
ANSWER_TYPES = dict.fromkeys(ANSWER_COLUMNS, "string") | {"hs_digits": "int32", "hs_confidence": "float64"}
"""Arrow types of these columns."""
PROBLEM = "hs_problem"
"""Column of a shard that carries what was wrong with the row in the original file."""
CHUNK = 256
"""Rows computed in one go."""
PROBLEMS_LISTED = 20

Progress = Callable[[int], None]
"""Told the rows done so far."""


class Answerer(Protocol):
    """What is needed of a bundle (models.bundle.Bundle)."""

    version: str
    edition: str

    def answer(self, instances: Sequence[Any], /, digits: int = 6, limit: int = 5) -> list[dict[str, Any]]:
        """Prediction objects, one an instance."""


@dataclass(frozen=True)
class Question:
    """What is asked of each row."""

    column: str | None = None
    """Column with the description; None: the first of DESCRIPTION_COLUMNS that is there."""
    digits: int = 6
    """Longest code wanted: 2, 4 or 6."""
    candidates: int = 5
    """Candidates listed."""
    text_chars: int = 2000
    """Longest description that is answered."""
    encoding: str = "utf-8"
    """Of csv, tsv and jsonl."""


@dataclass
class BatchReport:
    """What became of the rows; `rows` = the sum of `statuses` + `failed`."""

    rows: int = 0
    statuses: dict[str, int] = field(default_factory=dict)
    failed: int = 0
    problems: list[dict[str, Any]] = field(default_factory=list)
    """The first rows without an answer: row (from 1) and reason."""
    version: str = ""
    edition: str = ""

    def add(self, other: "BatchReport") -> None:
        """Take in the report of the part that follows this one."""
        shifted = [{**p, "row": p["row"] + self.rows} for p in other.problems]
        self.problems = (self.problems + shifted)[:PROBLEMS_LISTED]
        self.rows += other.rows
        self.failed += other.failed
        self.statuses = dict(Counter(self.statuses) + Counter(other.statuses))
        self.version, self.edition = other.version, other.edition


def predict_file(
    bundle: Answerer,
    source: Path,
    out: Path,
    question: Question | None = None,
    *,
    rows_a_part: int = 20_000,
    progress: Progress | None = None,
) -> BatchReport:
    """Answer every row of `source` into `out`. Stopped and called again with the same input, it goes on where it was.

    Parts lie in ``OUT.parts`` until the end. Raises UserError for a file that cannot be read or written.
    """
    question = question or Question()
    file_format(out)
    if out.resolve() == source.resolve():
        raise UserError("output and input are the same file", str(out))
    columns, rows = read_rows(source, question.encoding)
    column = description_column(columns, question.column, str(source))
    _no_clash(columns, str(source))
    schema = schema_of(source)
    work = out.with_name(out.name + ".parts")
    _claim(work, _job(bundle, source, out, question))
    parts, done = [], 0
    for number, block in enumerate(_blocks(rows, rows_a_part)):
        part = work / f"{number:05d}.{file_format(out)}"
        if read_report(part) is None:
            tell = (lambda n, before=done: progress(before + n)) if progress else None
            _predict_rows(bundle, block, columns, column, part, question, schema, tell)
        parts.append(part)
        done += len(block)
        if progress:
            progress(done)
    if not parts:
        part = work / f"00000.{file_format(out)}"
        _predict_rows(bundle, [], columns, column, part, question, schema, None)
        parts.append(part)
    report = merge(parts, out)
    for path in sorted(work.iterdir()):
        path.unlink()
    work.rmdir()
    return report


def shard(source: Path, out_dir: Path, count: int, encoding: str = "utf-8") -> list[Path]:
    """Cut `source` into at most `count` files of consecutive rows, of its own format and uncompressed; at least one.

    Row counts differ by at most one. The same file gives the same parts.
    """
    kind = file_format(source)
    columns, rows = read_rows(source, encoding)
    total = sum(1 for _ in rows)
    count = max(1, min(count, total))
    out_dir.mkdir(parents=True, exist_ok=True)
    _, rows = read_rows(source, encoding)
    paths = []
    for number in range(count):
        size = total // count + (number < total % count)
        path = out_dir / f"{number:05d}.{kind}"
        with open_writer(path, columns if kind == "parquet" else [*columns, PROBLEM], schema_of(source)) as write:
            for row in _take(rows, size):
                write(row.cells if row.problem is None else {**row.cells, PROBLEM: row.problem})
        paths.append(path)
    return paths


def predict_shard(
    bundle: Answerer, source: Path, out: Path, question: Question | None = None, progress: Progress | None = None
) -> BatchReport:
    """Answer every row of one file into `out`, which appears whole or not at all.

    Does nothing where `out` is there and was made from the same input by the same model version.
    """
    question = question or Question()
    job = _job(bundle, source, out, question)
    done = read_report(out)
    marker = out.with_name(out.name + ".job")
    if done is not None and _read_json(marker) == job:
        return done
    columns, rows = read_rows(source, question.encoding)
    column = description_column(columns, question.column, str(source))
    _no_clash(columns, str(source))
    report = _predict_rows(bundle, rows, columns, column, out, question, schema_of(source), progress)
    _write_json(marker, job)
    return report


def merge(parts: Sequence[Path], out: Path) -> BatchReport:
    """Put answered parts of one file together, in order; `out` appears whole or not at all. Returns their sum."""
    report = BatchReport()
    for part in parts:
        answered = read_report(part)
        if answered is None:
            raise UserError("is no answered part", str(part), "predict that shard first")
        report.add(answered)
    join(parts, out)
    return report


def read_report(part: Path) -> BatchReport | None:
    """The report beside a finished part, else None: a report that cannot be read was not finished either."""
    read = _read_json(part.with_name(part.name + ".json")) if part.exists() else None
    try:
        return None if read is None else BatchReport(**read)
    except TypeError:
        return None


def description_column(columns: Sequence[str], named: str | None, where: str) -> str:
    """The column with the text; UserError naming the columns there are."""
    if named is not None:
        if named in columns:
            return named
        raise UserError(f"no column {named!r}", where, f"columns are {', '.join(columns)}")
    for column in DESCRIPTION_COLUMNS:
        if column in columns:
            return column
    todo = f"name it with --column; columns are {', '.join(columns) or 'none'}"
    raise UserError(f"no column {' or '.join(DESCRIPTION_COLUMNS)}", where, todo)


def _no_clash(columns: Sequence[str], where: str) -> None:
    clash = [c for c in columns if c in ANSWER_COLUMNS]
    if clash:
        raise UserError(f"there is a column {clash[0]!r} already", where, "rename or drop it")


# -- answering ----------------------------------------------------------------------------------------------------


def _predict_rows(
    bundle: Answerer,
    rows: Iterable[Row],
    columns: Sequence[str],
    column: str,
    out: Path,
    question: Question,
    schema: Any,
    progress: Progress | None,
) -> BatchReport:
    kept = [c for c in columns if c != PROBLEM]
    report = BatchReport(version=bundle.version, edition=bundle.edition)
    out.parent.mkdir(parents=True, exist_ok=True)
    part = out.with_name(out.name + ".part")
    beside = out.with_name(out.name + ".json")
    beside.unlink(missing_ok=True)
    with open_writer(part, [*kept, *ANSWER_COLUMNS], schema, ANSWER_TYPES, file_format(out)) as write:
        for block in _blocks(rows, CHUNK):
            for cells in _answered(bundle, block, column, question, report):
                write(cells)
            if progress:
                progress(report.rows)
    part.replace(out)
    _write_json(beside, asdict(report))
    return report


def _answered(
    bundle: Answerer, block: Sequence[Row], column: str, question: Question, report: BatchReport
) -> Iterator[dict[str, Any]]:
    problems = [_problem(row, column, question) for row in block]
    texts = [row.cells[column] for row, problem in zip(block, problems, strict=True) if problem is None]
    answers = iter(bundle.answer(texts, digits=question.digits, limit=question.candidates) if texts else ())
    for row, problem in zip(block, problems, strict=True):
        report.rows += 1
        cells = {k: v for k, v in row.cells.items() if k != PROBLEM}
        cells |= {"hs_version": bundle.version, "hs_edition": bundle.edition}
        if problem is not None:
            report.failed += 1
            if len(report.problems) < PROBLEMS_LISTED:
                report.problems.append({"row": report.rows, "reason": problem})
            yield cells | {"hs_error": problem}
            continue
        answer = next(answers)
        report.statuses[answer["status"]] = report.statuses.get(answer["status"], 0) + 1
        yield cells | {
            "hs_code": answer["code"],
            "hs_digits": answer["digits"],
            "hs_confidence": answer["confidence"],
            "hs_status": answer["status"],
            "hs_candidates": " ".join(f"{c['code']}:{c['confidence']}" for c in answer["candidates"]),
        }


def _problem(row: Row, column: str, question: Question) -> str | None:
    problem = row.problem or row.cells.get(PROBLEM)
    if problem:
        return str(problem)
    text = row.cells.get(column)
    if text is None:
        return f"no {column}"
    if not isinstance(text, str):
        return f"{column} is not text"
    if len(text) > question.text_chars:
        return f"{column} has {len(text)} characters; the limit is {question.text_chars}"
    return None


def _job(bundle: Answerer, source: Path, out: Path, question: Question) -> dict[str, Any]:
    try:
        with open(source, "rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"cannot read ({error.strerror})", str(source)) from None
    return {
        "source": digest,
        "version": bundle.version,
        "edition": bundle.edition,
        "question": asdict(question),
        "format": file_format(out),
    }


def _claim(work: Path, job: Mapping[str, Any]) -> None:
    marker = work / "job"
    try:
        if _read_json(marker) == job:
            return
        work.mkdir(parents=True, exist_ok=True)
        for path in work.iterdir():
            path.unlink()
        _write_json(marker, job)
    except OSError as error:
        raise UserError(f"cannot write ({error.strerror})", str(work)) from None


def _read_json(path: Path) -> dict[str, Any] | None:
    """The object in a file of `_write_json`; None where there is no file, or one that says nothing whole."""
    try:
        read = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None
    return read if isinstance(read, dict) else None


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write it whole or not at all."""
    part = path.with_name(path.name + ".part")
    part.write_text(json.dumps(value), encoding="utf-8")
    part.replace(path)


def _blocks(rows: Iterable[Row], size: int) -> Iterator[list[Row]]:
    iterator = iter(rows)
    while block := list(_take(iterator, size)):
        yield block


def _take(rows: Iterator[Row], count: int) -> Iterator[Row]:
    for _ in range(count):
        row = next(rows, None)
        if row is None:
            return
        yield row
