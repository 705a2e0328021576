"""Rows out of files: csv, parquet or jsonl, plain, gzip or zstd, local or anything fsspec opens (http, s3).

Files are read as a stream of batches. Row numbers and original lines survive, so that a row that is refused can be
found again: rows count from 1, a csv's header and blank lines not among them.
"""

import codecs
import csv
import errno
import gzip
import json
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from models.errors import UserError

DESCRIPTION_COLUMNS = ("description", "text", "goods_description", "item")
CODE_COLUMNS = ("code", "hs_code", "hscode", "hs6", "commodity_code", "label")
SOURCE_COLUMN = "source"
RECEIVED_COLUMN = "received_at"

_BLOCK = 1 << 22
_BATCH = 50_000
_DELIMITERS = (",", ";", "\t", "|")
_QUOTE_OPEN, _QUOTES_ODD = "a quote is not closed", "quotes do not pair"
_MAGIC = {
    b"PK\x03\x04": "a zip or Excel file",
    b"%PDF": "a PDF",
    b"\xd0\xcf\x11\xe0": "an old Excel file",
    b"SQLite": "an SQLite database",
    b"\x89PNG": "a picture",
    b"\xff\xd8\xff": "a picture",
    b"\x7fELF": "a program",
    b"BZh": "bzip2",
    b"\xfd7zX": "xz",
}


@dataclass(frozen=True)
class Wanted:
    """What to look for in a file."""

    description: str | None = None
    """Column of the text; None: the first of `DESCRIPTION_COLUMNS`."""
    code: str | None = None
    """Column of the code; None: the first of `CODE_COLUMNS`."""
    needs_code: bool = True
    """Whether a file without a code column is refused."""
    encoding: str = "utf-8"
    """Encoding of text files."""
    max_line_bytes: int = 1_000_000
    """A longer line is refused, and never held in memory."""


@dataclass(frozen=True)
class Refused:
    """A row that could not even be read."""

    row: int
    line: int | None
    reason: str
    original: str


@dataclass
class Batch:
    """Some rows of one file, as columns of equal length; values as the file has them."""

    rows: list[int]
    descriptions: Sequence[Any]
    codes: Sequence[Any] | None
    sources: Sequence[Any] | None
    received: Sequence[Any] | None
    original: Callable[[int], tuple[int | None, str]]
    """Position in the batch → line number (None where the format has no lines) and the original text."""
    refused: list[Refused] = field(default_factory=list)


def read_batches(address: str, wanted: Wanted, scratch: Path, progress: Callable[[int], None]) -> Iterator[Batch]:
    """Yield the rows of one file.

    `scratch` is a folder for a remote parquet file (the format needs random access). `progress` is given the number of
    bytes that were read. Raises UserError, naming the file, for whatever keeps the whole file from being read.
    """
    with file_errors(address), open_raw(address) as raw:
        blocks = _Blocks(raw, progress)
        kind = _format(address, blocks)
        if kind == "parquet":
            yield from _parquet(_local_copy(address, blocks, scratch), address, wanted)
            return
        lines = _Lines(blocks, address, wanted)
        yield from (_jsonl if kind == "jsonl" else _csv)(lines, address, wanted)


def size(address: str) -> int | None:
    """Bytes of a local file as it lies there; None for other addresses."""
    path = Path(address)
    return path.stat().st_size if "://" not in address and path.is_file() else None


# --- bytes ------------------------------------------------------------------------------------------------------------


@contextmanager
def file_errors(address: str) -> Iterator[None]:
    """Turn what the layers below raise for an unreadable file into one UserError."""
    try:
        yield
    except UserError as error:
        raise UserError(error.what, error.where or address, error.todo) from None
    except (EOFError, gzip.BadGzipFile, zlib.error):
        raise UserError("the file is cut off or damaged (gzip)", address, "fetch or compress it again") from None
    except FileNotFoundError as error:
        # What fsspec says for everything that goes wrong over http; the cause knows better.
        cause = error.__cause__ or error.__context__
        if (cause is not None and getattr(cause, "status", 404) != 404) or isinstance(cause, OSError):
            raise UserError(f"cannot be read ({_said(cause)})", address) from None
        what = "nothing there (404)" if address.startswith("http") else "no such file"
        raise UserError(what, address) from None
    except PermissionError:
        raise UserError("no permission to read it", address) from None
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise
        raise UserError(f"cannot be read ({_said(error)})", address) from None
    except Exception as error:
        module = type(error).__module__.partition(".")[0]
        if module in ("aiohttp", "botocore", "aiobotocore", "s3fs", "fsspec", "zstandard", "pyarrow"):
            raise UserError(f"cannot be read ({_said(error)})", address) from None
        raise


def _said(error: BaseException) -> str:
    text = (getattr(error, "strerror", None) or str(error) or type(error).__name__).strip()
    return text.splitlines()[0][:200]


@contextmanager
def open_raw(address: str) -> Iterator[IO[bytes]]:
    if "://" not in address:
        path = Path(address)
        if path.is_dir():
            raise UserError("is a folder", address, "name a file in it")
        with path.open("rb") as file:
            yield file
        return
    import fsspec

    protocol = address.partition("://")[0]
    try:
        options: dict[str, Any] = {}
        if protocol in ("http", "https"):
            import aiohttp

            # Streamed, and without the library's limit of five minutes for a whole file.
            timeout = aiohttp.ClientTimeout(total=None, sock_connect=30, sock_read=120)
            options = {"block_size": 0, "client_kwargs": {"timeout": timeout}}
        opened = fsspec.open(address, "rb", **options)
    except (ValueError, ImportError) as error:
        raise UserError(f"cannot open {protocol}:// addresses ({_said(error)})", address) from None
    with opened as file:
        yield file


class _Blocks:
    """Blocks of a file, decompressed by its first bytes and not by its name; `peek` looks ahead."""

    def __init__(self, raw: IO[bytes], progress: Callable[[int], None]) -> None:
        self._raw, self._progress = raw, progress
        self._head = self._read_raw(1 << 16)
        self.empty = not self._head
        self._blocks = self._decompressed()
        self._ahead: bytes | None = None

    def peek(self) -> bytes:
        """The first block, which `__iter__` gives again."""
        if self._ahead is None:
            self._ahead = next(self._blocks, b"")
        return self._ahead

    def __iter__(self) -> Iterator[bytes]:
        if first := self.peek():
            self._ahead = b""
            yield first
        yield from self._blocks

    def _read_raw(self, count: int) -> bytes:
        data: bytes = self._raw.read(count)
        self._progress(len(data))
        return data

    def read(self, count: int = -1) -> bytes:
        """Raw bytes, as `gzip` asks for them."""
        if self._head:
            data, self._head = self._head[:count], self._head[count:]
            return data
        return self._read_raw(count)

    def _decompressed(self) -> Iterator[bytes]:
        if self._head[:2] == b"\x1f\x8b":
            with gzip.GzipFile(fileobj=self, mode="rb") as file:  # type: ignore[call-overload]
                while block := file.read(_BLOCK):
                    yield block
        elif self._head[:4] == b"\x28\xb5\x2f\xfd":
            yield from self._unzstd()
        else:
            while block := self.read(_BLOCK):
                yield block

    def _unzstd(self) -> Iterator[bytes]:
        import zstandard

        frame = zstandard.ZstdDecompressor().decompressobj()
        # Small pieces: a frame may unfold to 30,000 times its size.
        while piece := self.read(1 << 13):
            while piece:
                if frame.eof:
                    frame = zstandard.ZstdDecompressor().decompressobj()
                if block := frame.decompress(piece):
                    yield block
                piece = frame.unused_data if frame.eof else b""
        if not frame.eof:
            raise UserError("the file is cut off (zstd)", todo="fetch or compress it again")


def _format(address: str, blocks: _Blocks) -> str:
    if blocks.empty:
        raise UserError("the file is empty", address)
    head = blocks.peek()
    if not head.strip():
        raise UserError("the file is empty", address)
    if head[:4] == b"PAR1":
        return "parquet"
    for magic, name in _MAGIC.items():
        if head.startswith(magic):
            raise UserError(f"is {name}", address, "csv, parquet or jsonl is needed (plain, .gz or .zst)")
    name = address.partition("?")[0].lower()
    for ending in (".gz", ".zst", ".zstd"):
        name = name.removesuffix(ending)
    if name.endswith(".parquet"):
        raise UserError("is named parquet but is none (it does not begin with PAR1)", address)
    if name.endswith((".csv", ".tsv", ".txt")):
        return "csv"
    if head.lstrip(codecs.BOM_UTF8 + b" \t\r\n").startswith(b"["):
        raise UserError("is one JSON array", address, "write one object a line (jsonl)")
    if name.endswith((".jsonl", ".ndjson", ".json")):
        return "jsonl"
    return "jsonl" if head.lstrip(codecs.BOM_UTF8 + b" \t\r\n").startswith(b"{") else "csv"


def _local_copy(address: str, blocks: _Blocks, scratch: Path) -> Path:
    path = Path(address)
    if "://" not in address:
        with path.open("rb") as file:
            if file.read(4) == b"PAR1":
                return path
    copy = scratch / "copy.parquet"
    with copy.open("wb") as file:
        for block in blocks:
            file.write(block)
    return copy


# --- lines ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Line:
    """A line that cannot be taken: too long, or not of the encoding."""

    reason: str
    original: str


class _Lines:
    """Blocks of decoded lines, without their ends. What cannot be decoded is a `_Line`."""

    def __init__(self, blocks: _Blocks, address: str, wanted: Wanted) -> None:
        try:
            # Lines can be told apart as bytes where ASCII is; elsewhere (utf-16, EBCDIC) everything is decoded first.
            self._wide = '\n,"'.encode(wanted.encoding) != b'\n,"'
            self._codec = codecs.lookup(wanted.encoding)
        except LookupError:
            raise UserError(f"unknown encoding {wanted.encoding!r}", "setting data.encoding") from None
        self._address, self._limit = address, wanted.max_line_bytes
        self._bytes = self._transcoded(blocks) if self._wide else iter(blocks)
        self._encoding = "utf-8" if self._wide else self._codec.name
        self.bad = 0
        """Lines that were not of the encoding."""
        self.good_beyond_ascii = 0
        """Lines beyond ASCII that were."""
        self.first_bad = ""
        self._refuse_binary(blocks.peek())

    def _refuse_binary(self, head: bytes) -> None:
        if self._wide:
            return
        for mark, name in (
            (codecs.BOM_UTF32_LE, "utf-32"),
            (codecs.BOM_UTF16_LE, "utf-16"),
            (codecs.BOM_UTF16_BE, "utf-16"),
        ):
            if head.startswith(mark):
                raise UserError(f"is {name}, not {self._encoding}", self._address, f"--set data.encoding={name}")
        part = head[: 1 << 16]
        zeros = part.count(b"\0")
        if b"\0" in part.partition(b"\n")[0] or zeros > 0.05 * len(part):
            if len(part) * 0.4 < zeros < len(part) * 0.6 and zeros in (part[::2].count(0), part[1::2].count(0)):
                raise UserError(f"looks like utf-16, not {self._encoding}", self._address, "set data.encoding")
            raise UserError(
                f"is a binary file (a zero byte at {part.index(0)})", self._address, "csv, parquet or jsonl is needed"
            )

    def _transcoded(self, blocks: _Blocks) -> Iterator[bytes]:
        decoder = self._codec.incrementaldecoder("strict")
        offset = 0
        try:
            for block in blocks:
                yield decoder.decode(block).encode("utf-8")
                offset += len(block)
            yield decoder.decode(b"", final=True).encode("utf-8")
        except UnicodeError as error:
            at = offset + getattr(error, "start", 0)
            raise UserError(f"is not {self._codec.name} near byte {at}", self._address, "set data.encoding") from None

    def __iter__(self) -> Iterator[list[str | _Line]]:
        tail, skipping, offset, newline = b"", False, 0, b"\n"
        first = True
        for block in self._bytes:
            if not block:
                continue
            if first:
                if block.startswith(codecs.BOM_UTF8):
                    block, offset = block[3:], 3
                if b"\n" not in block and b"\r" in block:
                    newline = b"\r"
                first = False
            if skipping:
                end = block.find(newline)
                if end < 0:
                    offset += len(block)
                    continue
                offset, block, skipping = offset + end + 1, block[end + 1 :], False
            lines = (tail + block).split(newline)
            tail = lines.pop()
            if lines:
                yield self._decoded(lines, offset)
                offset += sum(map(len, lines)) + len(lines)
            if len(tail) > self._limit:
                yield [self._too_long(tail)]
                offset, tail, skipping = offset + len(tail), b"", True
        if tail:
            yield self._decoded([tail], offset)

    def _too_long(self, line: bytes) -> _Line:
        start = line[:200].decode(self._encoding, "replace")
        return _Line(f"line longer than {self._limit} bytes", start + "…")

    def _decoded(self, lines: list[bytes], offset: int) -> list[str | _Line]:
        if max(map(len, lines)) <= self._limit:
            joined = b"\n".join(lines)
            try:
                text = joined.decode(self._encoding)
            except UnicodeDecodeError:
                pass
            else:
                if not joined.isascii():
                    self.good_beyond_ascii += sum(not line.isascii() for line in lines)
                decoded = [line.rstrip("\r") for line in text.split("\n")] if "\r" in text else text.split("\n")
                return list(decoded)
        result: list[str | _Line] = []
        for line in lines:
            if len(line) > self._limit:
                result.append(self._too_long(line))
            else:
                try:
                    result.append(line.decode(self._encoding).rstrip("\r"))
                    self.good_beyond_ascii += not line.isascii()
                except UnicodeDecodeError as error:
                    where = f"byte 0x{line[error.start]:02x} at byte {offset + error.start} of the file"
                    self.bad += 1
                    self.first_bad = self.first_bad or where
                    result.append(_Line(f"not {self._encoding}", line.decode("ascii", "backslashreplace")))
            offset += len(line) + 1
        return result

    def check_encoding(self, rows: int) -> None:
        """Refuse the file when it is another encoding as a whole, rather than broken in single rows."""
        if self.bad > max(1, 0.01 * rows) and self.bad > self.good_beyond_ascii:
            raise UserError(
                f"is not {self._encoding}: {self.bad} of {rows} rows, the first {self.first_bad}",
                self._address,
                "convert it, or name its encoding with --set data.encoding=NAME (it is not guessed)",
            )


# --- csv --------------------------------------------------------------------------------------------------------------


def _csv(lines: _Lines, address: str, wanted: Wanted) -> Iterator[Batch]:
    csv.field_size_limit(max(csv.field_size_limit(), wanted.max_line_bytes))
    reader = _CsvReader(lines, address)
    at = _columns(reader.header, wanted, address)
    for numbers, records, starts, texts, refused in reader:
        columns = list(zip(*records, strict=True)) if records else [()] * len(reader.header)

        def original(position: int, starts: list[int] = starts, texts: list[str] = texts) -> tuple[int, str]:
            return starts[position], texts[position]

        yield Batch(
            numbers,
            columns[at.description],
            columns[at.code] if at.code is not None else None,
            columns[at.source] if at.source is not None else None,
            columns[at.received] if at.received is not None else None,
            original,
            refused,
        )
    lines.check_encoding(reader.rows)


class _CsvReader:
    """Records with row number, line number and original text; a broken one never takes its neighbours with it.

    A quoted field may span lines. Where it does not end well (end of file, a limit, text after the closing quote, a
    wrong number of fields), only the line on which it began is refused, and reading goes on with the next.
    """

    def __init__(self, lines: _Lines, address: str) -> None:
        self._blocks = iter(lines)
        self._limit = lines._limit
        self.rows = 0
        self._line = 1
        self._pending: list[str | _Line] = []
        self._ended = False
        self.header, self.delimiter = self._read_header(address)

    def _read_header(self, address: str) -> tuple[list[str], str]:
        while True:
            block = next(self._blocks, None)
            if block is None:
                raise UserError("the file is empty", address)
            self._pending += block
            while self._pending and self._pending[0] in ("", "\ufeff"):
                self._pending.pop(0)
                self._line += 1
            if self._pending:
                break
        first = self._pending.pop(0)
        self._line += 1
        if isinstance(first, _Line):
            raise UserError(
                f"the header cannot be read: {first.reason}", address, "see data.encoding, data.max_line_bytes"
            )
        plain = "".join(first.split('"')[::2])
        delimiter = max(_DELIMITERS, key=plain.count)
        if delimiter not in plain:
            # One column: what looks like a delimiter in a row is part of its text.
            delimiter = "\x1f"
        try:
            header = next(csv.reader([first], delimiter=delimiter, strict=True))
        except csv.Error as error:
            raise UserError(f"the header is not valid csv ({error})", address) from None
        return [name.strip() for name in header], delimiter

    def __iter__(self) -> Iterator[tuple[list[int], list[list[str]], list[int], list[str], list[Refused]]]:
        while True:
            if self._pending:
                yield self._parse()
            if self._ended:
                if not self._pending:
                    return
                continue
            block = next(self._blocks, None)
            if block is None:
                self._ended = True
            else:
                self._pending += block

    def _parse(self) -> tuple[list[int], list[list[str]], list[int], list[str], list[Refused]]:
        numbers: list[int] = []
        records: list[list[str]] = []
        starts: list[int] = []
        texts: list[str] = []
        refused: list[Refused] = []
        lines, width = self._pending, len(self.header)
        marks = [*(i for i, line in enumerate(lines) if isinstance(line, _Line)), len(lines)]
        mark = position = 0

        def refuse(at: int, reason: str, original: str) -> None:
            self.rows += 1
            refused.append(Refused(self.rows, self._line + at, reason, original))

        while position < len(lines):
            line = lines[position]
            if isinstance(line, _Line):
                refuse(position, line.reason, line.original)
                mark, position = mark + 1, position + 1
                continue
            stop, base = marks[mark], position
            reader = csv.reader((f"{lines[i]}\n" for i in range(base, stop)), delimiter=self.delimiter, strict=True)
            trouble = ""
            try:
                for record in reader:
                    after = base + reader.line_num
                    if len(record) > width and not any(record[width:]):
                        record = record[:width]
                    if len(record) == width:
                        self.rows += 1
                        numbers.append(self.rows)
                        records.append(record)
                        starts.append(self._line + position)
                        single = after == position + 1
                        texts.append(str(lines[position] if single else "\n".join(map(str, lines[position:after]))))
                    elif record and (len(record) > 1 or record[0].strip()):
                        trouble = f"{len(record)} fields, the header has {width}"
                        if after > position + 1:
                            break
                        refuse(position, trouble, str(lines[position]))
                        trouble = ""
                    position = after
            except csv.Error as error:
                unclosed = "unexpected end" in str(error)
                more = unclosed and stop == len(lines) and not self._ended
                if more and sum(len(str(each)) for each in lines[position:]) <= self._limit:
                    break
                trouble = _QUOTE_OPEN if unclosed else _QUOTES_ODD if "expected after" in str(error) else str(error)
            if trouble:
                refuse(position, trouble, str(lines[position]))
                position += 1
        self._line += position
        self._pending = lines[position:]
        return numbers, records, starts, texts, refused


@dataclass(frozen=True)
class _At:
    description: int
    code: int | None
    source: int | None
    received: int | None


def _columns(seen: Sequence[str], wanted: Wanted, address: str) -> _At:
    lower = [name.strip().lower() for name in seen]

    def find(name: str | None, usual: Sequence[str]) -> int | None:
        for each in [name] if name else usual:
            if each.lower() in lower:
                return lower.index(each.lower())
        return None

    def needed(what: str, setting: str, name: str | None, usual: Sequence[str]) -> int:
        at = find(name, usual)
        if at is None:
            missing = f"no column {name!r}" if name else f"no {what} column (looked for {', '.join(usual)})"
            columns = ", ".join(each[:30] or "''" for each in seen[:20]) + (", …" if len(seen) > 20 else "")
            raise UserError(f"{missing}; it has {columns}", address, f"name it with --set data.{setting}=NAME")
        return at

    description = needed("description", "description_column", wanted.description, DESCRIPTION_COLUMNS)
    if wanted.needs_code:
        code: int | None = needed("code", "code_column", wanted.code, CODE_COLUMNS)
    else:
        code = find(wanted.code, CODE_COLUMNS)
    return _At(description, code, find(None, (SOURCE_COLUMN,)), find(None, (RECEIVED_COLUMN,)))


# --- jsonl ------------------------------------------------------------------------------------------------------------


def _jsonl(lines: _Lines, address: str, wanted: Wanted) -> Iterator[Batch]:
    names: tuple[str | None, ...] | None = None
    line = row = 0
    for block in lines:
        objects: list[dict[str, Any]] = []
        rows: list[int] = []
        at_line: list[int] = []
        texts: list[str] = []
        refused: list[Refused] = []
        for text in block:
            line += 1
            if isinstance(text, _Line):
                row += 1
                refused.append(Refused(row, line, text.reason, text.original))
                continue
            if not text or text.isspace():
                continue
            row += 1
            try:
                value = json.loads(text)
                if not isinstance(value, dict):
                    raise ValueError("not an object")
            except (ValueError, RecursionError) as error:
                reason = "not a JSON object" if "object" in str(error) else "broken JSON"
                refused.append(Refused(row, line, reason, text))
                continue
            objects.append(value)
            rows.append(row)
            at_line.append(line)
            texts.append(text)
        if names is None and objects:
            seen = list(dict.fromkeys(key for each in objects[:1000] for key in each))
            at = _columns(seen, wanted, address)
            names = tuple(None if i is None else seen[i] for i in (at.description, at.code, at.source, at.received))
        picked = [None if name is None else [each.get(name) for each in objects] for name in names or (None,) * 4]

        def original(position: int, at: list[int] = at_line, texts: list[str] = texts) -> tuple[int, str]:
            return at[position], texts[position]

        yield Batch(rows, picked[0] or [], picked[1], picked[2], picked[3], original, refused)
    lines.check_encoding(row)


# --- parquet ----------------------------------------------------------------------------------------------------------


def _parquet(path: Path, address: str, wanted: Wanted) -> Iterator[Batch]:
    import pyarrow
    from pyarrow import parquet

    try:
        file = parquet.ParquetFile(path)
        seen = [field.name for field in file.schema_arrow]
        at = _columns(seen, wanted, address)
        used = [i for i in (at.description, at.code, at.source, at.received) if i is not None]
        row = 0
        for part in file.iter_batches(_BATCH, columns=[seen[i] for i in used]):
            values = {name: _values(part.column(name)) for name in part.schema.names}

            def column(i: int | None, values: dict[str, list[Any]] = values) -> list[Any] | None:
                return None if i is None else values[seen[i]]

            def original(position: int, values: dict[str, list[Any]] = values) -> tuple[None, str]:
                row = {name: column[position] for name, column in values.items()}
                return None, json.dumps(row, ensure_ascii=False, default=str)

            rows = list(range(row + 1, row + 1 + part.num_rows))
            row += part.num_rows
            yield Batch(
                rows, column(at.description) or [], column(at.code), column(at.source), column(at.received), original
            )
    except (pyarrow.ArrowException, OSError) as error:
        if getattr(error, "errno", None) == errno.ENOSPC:
            raise
        raise UserError(f"is not a readable parquet file ({_said(error)})", address, "write it again") from None


def _values(column: Any) -> list[Any]:
    """Values of a parquet column; bytes are read as UTF-8 (pyarrow raises where they are not)."""
    import pyarrow

    if pyarrow.types.is_binary(column.type) or pyarrow.types.is_large_binary(column.type):
        column = column.cast(pyarrow.string())
    values: list[Any] = column.to_pylist()
    return values
