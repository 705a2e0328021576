"""Tables in files, read and written row by row: csv, tsv, jsonl, parquet; the text formats also as .gz and .zst.

A row that cannot be read is a row all the same, with what is wrong with it: what comes out has as many rows as what
went in. Memory does not grow with the file.
"""

import csv
import gzip
import io
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import IO, Any, NamedTuple, Protocol

from models.errors import UserError

FORMATS = {".csv": "csv", ".tsv": "tsv", ".jsonl": "jsonl", ".ndjson": "jsonl", ".parquet": "parquet"}
CELL_CHARS = 1_000_000
"""Longest cell or line that is read; a longer one makes its row unreadable."""
ORIGINAL = "hs_original"
"""Column that holds a jsonl line which is no JSON object."""
ROWS_READ, ROWS_WRITTEN = 4096, 16384
"""Rows of a parquet batch in memory."""


class Row(NamedTuple):
    """One input row: its cells, and what is wrong with it where something is."""

    cells: dict[str, Any]
    problem: str | None = None


def file_format(path: Path) -> str:
    """csv, tsv, jsonl or parquet, by the file's name; UserError for any other."""
    suffixes = [s.lower() for s in path.suffixes]
    if suffixes and suffixes[-1] in (".gz", ".zst"):
        suffixes.pop()
    kind = FORMATS.get(suffixes[-1]) if suffixes else None
    if kind is None or (kind == "parquet" and path.suffix.lower() != ".parquet"):
        raise UserError(
            "not a known kind of file", str(path), "known are .csv, .tsv, .jsonl (also .gz, .zst), .parquet"
        )
    return kind


def rows_about(path: Path) -> int:
    """Rows of a file, as far as can be known without reading it as a table: lines, less the header."""
    kind = file_format(path)
    if kind == "parquet":
        return int(_parquet().read_metadata(path).num_rows)
    with _open_raw(path) as file:
        lines: int = sum(chunk.count(b"\n") for chunk in iter(lambda: file.read(1 << 20), b""))
    return max(0, lines - int(kind != "jsonl"))


def schema_of(path: Path) -> Any:
    """The Arrow schema of a parquet file, None for others."""
    return _parquet().read_schema(path) if file_format(path) == "parquet" else None


def read_rows(path: Path, encoding: str = "utf-8") -> tuple[list[str], Iterator[Row]]:
    """Columns and rows of a file, streamed. Raises UserError for one that is missing, empty or not what it seems.

    Columns of jsonl are the keys of all its lines, in order of appearance (one pass more).
    """
    kind = file_format(path)
    if path.is_dir():
        raise UserError("is a folder", str(path), "name a file")
    if not path.exists():
        raise UserError("no such file", str(path))
    if kind == "parquet":
        return _read_parquet(path)
    if kind == "jsonl":
        columns = list(dict.fromkeys(key for row in _read_jsonl(path, encoding) for key in row.cells))
        return columns, _read_jsonl(path, encoding)
    rows = _read_csv(path, encoding, "\t" if kind == "tsv" else ",")
    header = next(rows, None)
    if header is None or not any(str(v).strip() for v in header.cells.values()):
        raise UserError("the file is empty", str(path))
    columns = [str(v) for v in header.cells.values()]
    twice = [name for name, count in Counter(columns).items() if count > 1]
    if twice:
        raise UserError(f"column {twice[0]!r} is there twice", str(path))
    return columns, _named(rows, columns)


def _read_csv(path: Path, encoding: str, delimiter: str) -> Iterator[Row]:
    csv.field_size_limit(CELL_CHARS)
    with _open_text(path, encoding) as file:
        reader = csv.reader(file, delimiter=delimiter)
        while True:
            try:
                cells = next(reader, None)
            except csv.Error as error:
                yield Row({}, f"not readable as csv: {error}")
                continue
            except UnicodeDecodeError as error:
                raise _not_text(path, encoding, error) from None
            except (OSError, EOFError) as error:
                raise UserError(f"cannot read ({error})", str(path)) from None
            if cells is None:
                return
            if cells:
                yield Row(dict(enumerate(cells)))  # type: ignore[arg-type]


def _named(rows: Iterator[Row], columns: Sequence[str]) -> Iterator[Row]:
    for row in rows:
        values = list(row.cells.values())
        problem = row.problem
        if problem is None and len(values) != len(columns):
            beyond = f"; beyond: {values[len(columns) :]!r}"[:200] if len(values) > len(columns) else ""
            problem = f"{len(values)} cells under {len(columns)} columns{beyond}"
        yield Row(dict(zip(columns, values, strict=False)), problem)


def _read_jsonl(path: Path, encoding: str) -> Iterator[Row]:
    with _open_text(path, encoding) as file:
        while True:
            try:
                line = file.readline(CELL_CHARS)
            except UnicodeDecodeError as error:
                raise _not_text(path, encoding, error) from None
            except (OSError, EOFError) as error:
                raise UserError(f"cannot read ({error})", str(path)) from None
            if not line:
                return
            if len(line) == CELL_CHARS and not line.endswith("\n"):
                while (rest := file.readline(CELL_CHARS)) and not rest.endswith("\n"):
                    pass
                yield Row({}, f"the line is longer than {CELL_CHARS} characters")
                continue
            if not line.strip():
                continue
            try:
                cells = json.loads(line)
            except ValueError as error:
                yield Row({ORIGINAL: line.rstrip("\r\n")}, f"not JSON: {error}")
                continue
            if isinstance(cells, dict):
                yield Row(cells)
            else:
                yield Row({ORIGINAL: line.rstrip("\r\n")}, "not a JSON object")


def _read_parquet(path: Path) -> tuple[list[str], Iterator[Row]]:
    parquet = _parquet()
    try:
        file = parquet.ParquetFile(path)
    except Exception as error:
        raise UserError(f"not a parquet file ({str(error).splitlines()[0]})", str(path)) from None

    def rows() -> Iterator[Row]:
        for batch in file.iter_batches(ROWS_READ):
            for cells in batch.to_pylist():
                yield Row(cells)

    return list(file.schema_arrow.names), rows()


class Write(Protocol):
    """Writes one row; missing cells are empty."""

    def __call__(self, cells: Mapping[str, Any], /) -> None: ...


def open_writer(
    path: Path,
    columns: Sequence[str],
    schema: Any = None,
    types: Mapping[str, str] | None = None,
    kind: str | None = None,
) -> AbstractContextManager[Write]:
    """A writer of rows with `columns` (for jsonl: whatever a row has).

    Parquet columns have the types of `schema` (Arrow, of an input that is parquet), else of `types` (Arrow names), else
    they are text, and what is no text is written as JSON. `kind` overrides the format of the file's name.
    """
    kind = kind or file_format(path)
    if kind == "parquet":
        return _write_parquet(path, columns, schema, types or {})
    return _write_text(path, columns, kind)


@contextmanager
def _write_text(path: Path, columns: Sequence[str], kind: str) -> Iterator[Write]:
    try:
        with open(path, "w", encoding="utf-8", newline="") as file:
            if kind == "jsonl":

                def write_line(cells: Mapping[str, Any], /) -> None:
                    file.write(json.dumps(cells, ensure_ascii=False, default=str) + "\n")

                yield write_line
            else:
                writer = csv.writer(file, delimiter="\t" if kind == "tsv" else ",", lineterminator="\n")
                known = list(dict.fromkeys(columns))
                writer.writerow(known)

                def write_row(cells: Mapping[str, Any], /) -> None:
                    writer.writerow([_cell(cells.get(c)) for c in known])

                yield write_row
    except OSError as error:
        raise UserError(f"cannot write ({error.strerror})", str(path)) from None


def _cell(value: Any) -> Any:
    if value is None:
        return ""
    if isinstance(value, (dict, list, bool)):
        return json.dumps(value, ensure_ascii=False, default=str)
    return value


@contextmanager
def _write_parquet(path: Path, columns: Sequence[str], schema: Any, types: Mapping[str, str]) -> Iterator[Write]:
    parquet = _parquet()
    import pyarrow as pa

    known = set(schema.names) if schema is not None else set()
    fields = pa.schema(
        [schema.field(c) if c in known else pa.field(c, getattr(pa, types.get(c, "string"))()) for c in columns]
    )
    held: list[Mapping[str, Any]] = []

    try:
        with parquet.ParquetWriter(path, fields) as writer:

            def flush() -> None:
                table = {f.name: [_fitting(pa, row.get(f.name), f.type) for row in held] for f in fields}
                writer.write_table(pa.table(table, schema=fields))
                held.clear()

            def write(cells: Mapping[str, Any], /) -> None:
                held.append(cells)
                if len(held) >= ROWS_WRITTEN:
                    flush()

            yield write
            flush()
    except OSError as error:
        raise UserError(f"cannot write ({error.strerror})", str(path)) from None


def _fitting(pa: Any, value: Any, kind: Any) -> Any:
    if value is not None and pa.types.is_string(kind) and not isinstance(value, str):
        return json.dumps(value, ensure_ascii=False, default=str)
    return value


def join(parts: Sequence[Path], out: Path) -> None:
    """Put files of one format and the same columns together, in order; `out` appears whole or not at all."""
    part_file = out.with_name(out.name + ".part")
    kind = file_format(out)
    try:
        if kind == "parquet":
            _join_parquet(parts, part_file)
        else:
            _join_text(parts, part_file, header=kind != "jsonl", packed=out.suffix)
        part_file.replace(out)
    except OSError as error:
        raise UserError(f"cannot write ({error.strerror})", str(out)) from None
    finally:
        part_file.unlink(missing_ok=True)


def _join_parquet(parts: Sequence[Path], out: Path) -> None:
    parquet = _parquet()
    import pyarrow as pa

    with parquet.ParquetWriter(out, parquet.read_schema(parts[0])) as writer:
        for part in parts:
            for batch in parquet.ParquetFile(part).iter_batches():
                writer.write_table(pa.Table.from_batches([batch]))


def _join_text(parts: Sequence[Path], out: Path, header: bool, packed: str) -> None:
    with _open_packed(out, packed) as target:
        for number, part in enumerate(parts):
            with open(part, "rb") as file:
                if header:
                    line = file.readline()
                    if number == 0:
                        target.write(line)
                while chunk := file.read(1 << 20):
                    target.write(chunk)


def _open_packed(path: Path, suffix: str) -> IO[bytes]:
    if suffix.lower() == ".gz":
        return gzip.GzipFile(path, "wb", mtime=0)  # type: ignore[return-value]
    if suffix.lower() == ".zst":
        return _zstandard(path).open(path, "wb")  # type: ignore[no-any-return]
    return open(path, "wb")


def _open_raw(path: Path) -> Any:
    try:
        if path.suffix.lower() == ".gz":
            return gzip.open(path, "rb")
        if path.suffix.lower() == ".zst":
            return _zstandard(path).open(path, "rb")
        return open(path, "rb")
    except OSError as error:
        raise UserError(f"cannot read ({error.strerror})", str(path)) from None


def _open_text(path: Path, encoding: str) -> IO[str]:
    raw = _open_raw(path)
    try:
        return io.TextIOWrapper(raw, encoding="utf-8-sig" if encoding == "utf-8" else encoding, newline="")
    except LookupError:
        raise UserError(f"unknown encoding {encoding!r}", str(path)) from None


def _not_text(path: Path, encoding: str, error: UnicodeDecodeError) -> UserError:
    return UserError(f"not {encoding} text ({error.reason})", str(path), "name its encoding with --encoding")


def _parquet() -> Any:
    try:
        import pyarrow.parquet as parquet
    except ImportError:
        raise UserError("parquet needs pyarrow", todo="pip install 'hscode[training]', or use csv or jsonl") from None
    return parquet


def _zstandard(path: Path) -> Any:
    try:
        import zstandard
    except ImportError:
        raise UserError("zst needs zstandard", str(path), "pip install zstandard") from None
    return zstandard
