import csv
import gzip
import io
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pyarrow
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from models.data import sources
from models.data.sources import Batch, Refused, Wanted, read_batches
from models.errors import UserError

HEADER = "description,code\n"
ROWS = "cotton shirt,610910\nasses,010130\n"


def read(path: Path | str, scratch: Path, **wanted: Any) -> tuple[list[tuple[Any, Any]], list[Refused]]:
    """All (description, code) and all that was refused."""
    rows: list[tuple[Any, Any]] = []
    refused: list[Refused] = []
    for batch in read_batches(str(path), Wanted(**wanted), scratch, lambda count: None):
        rows += zip(batch.descriptions, batch.codes or [None] * len(batch.rows), strict=True)
        refused += batch.refused
    return rows, refused


def batches(path: Path, scratch: Path, **wanted: Any) -> list[Batch]:
    return list(read_batches(str(path), Wanted(**wanted), scratch, lambda count: None))


def write(folder: Path, content: str | bytes, name: str = "rows.csv") -> Path:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


EXPECTED = [("cotton shirt", "610910"), ("asses", "010130")]
TABLE = pyarrow.table({"description": ["cotton shirt", "asses"], "code": ["610910", "010130"], "other": [1, 2]})


def parquet_bytes(table: pyarrow.Table = TABLE) -> bytes:
    sink = io.BytesIO()
    parquet.write_table(table, sink)
    return sink.getvalue()


JSONL = "".join(json.dumps({"description": text, "code": code}) + "\n" for text, code in EXPECTED)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("rows.csv", (HEADER + ROWS).encode()),
        ("rows.csv", ("\ufeff" + HEADER + ROWS).encode()),
        ("rows.csv", (HEADER + ROWS).rstrip("\n").encode()),
        ("rows.csv", ("\n\n" + HEADER + "\n" + ROWS + "\n\n").encode()),
        ("rows.csv", (HEADER + ROWS).replace("\n", "\r\n").encode()),
        ("rows.csv", (HEADER + ROWS).replace("\n", "\r").encode()),
        ("rows.tsv", (HEADER + ROWS).replace(",", "\t").encode()),
        ("rows.csv", (HEADER + ROWS).replace(",", ";").encode()),
        ("rows.csv", b'" Description ", CODE\n"cotton shirt",610910\n"asses","010130",\n'),
        ("rows.csv.gz", gzip.compress((HEADER + ROWS).encode(), mtime=0)),
        ("rows.csv.gz", gzip.compress(HEADER.encode(), mtime=0) + gzip.compress(ROWS.encode(), mtime=0)),
        ("rows", gzip.compress((HEADER + ROWS).encode(), mtime=0)),
        ("rows.csv.zst", zstandard.compress((HEADER + ROWS).encode())),
        ("rows.csv.zst", zstandard.compress(HEADER.encode()) + zstandard.compress(ROWS.encode())),
        ("rows.jsonl", JSONL.encode()),
        ("rows.ndjson.zst", zstandard.compress(JSONL.encode())),
        ("rows", JSONL.encode()),
        ("rows.parquet", parquet_bytes()),
        ("rows.parquet.gz", gzip.compress(parquet_bytes(), mtime=0)),
        ("rows.csv", parquet_bytes()),
    ],
)
def test_formats_and_compressions_give_the_same_rows(tmp_path: Path, name: str, content: bytes) -> None:
    assert read(write(tmp_path, content, name), tmp_path) == (EXPECTED, [])


def test_a_quoted_field_may_span_lines(tmp_path: Path) -> None:
    path = write(tmp_path, HEADER + '"two\nlines, ""quoted""",610910\nasses,010130\n')
    (batch,) = [batch for batch in batches(path, tmp_path) if batch.rows]
    assert list(batch.descriptions) == ['two\nlines, "quoted"', "asses"]
    assert batch.rows == [1, 2]
    assert batch.original(0) == (2, '"two\nlines, ""quoted""",610910')
    assert batch.original(1) == (4, "asses,010130")


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        ("one field", "1 fields, the header has 2"),
        ("a,b,c", "3 fields, the header has 2"),
        ('"never closed,610910', "a quote is not closed"),
        ('"closed" and more,610910', "quotes do not pair"),
        ("x" * 300 + ",610910", "line longer than 200 bytes"),
    ],
)
@pytest.mark.parametrize("quoted_neighbour", [False, True])
def test_a_broken_row_takes_no_other_with_it(tmp_path: Path, broken: str, reason: str, quoted_neighbour: bool) -> None:
    after = '"asses, wild",010130' if quoted_neighbour else "asses,010130"
    path = write(tmp_path, f"{HEADER}cotton shirt,610910\n{broken}\n{after}\nlast,010130\n")
    rows, refused = read(path, tmp_path, max_line_bytes=200)
    assert [text for text, _ in rows] == ["cotton shirt", "asses, wild" if quoted_neighbour else "asses", "last"]
    (only,) = refused
    assert (only.row, only.line) == (2, 3)
    assert reason in only.reason or (quoted_neighbour and broken[0] == '"' and only.reason == "quotes do not pair")
    assert only.original.startswith(broken[:100])


def test_rows_are_numbered_the_same_whatever_the_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = [f'"item {i}\nsecond line",0101{i:02}' if i % 3 else f"broken {i}" for i in range(50)]
    path = write(tmp_path, HEADER + "\n".join(lines) + "\n")

    def seen() -> list[Any]:
        found: list[Any] = []
        for batch in batches(path, tmp_path):
            found += [(row, *batch.original(i)) for i, row in enumerate(batch.rows)]
            found += [(one.row, one.line, one.original) for one in batch.refused]
        return sorted(found)

    whole = seen()
    assert [row for row, _, _ in whole] == list(range(1, 51))
    for block in (7, 64, 1000):
        monkeypatch.setattr(sources, "_BLOCK", block)
        assert seen() == whole


@settings(deadline=None)
@given(
    st.lists(
        st.lists(
            st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12),
            min_size=2,
            max_size=2,
        )
    )
)
def test_what_csv_writes_is_read_back(tmp_path_factory: pytest.TempPathFactory, rows: list[list[str]]) -> None:
    folder = tmp_path_factory.mktemp("rows")
    with (folder / "rows.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, quoting=csv.QUOTE_ALL, lineterminator="\n")
        writer.writerows([["description", "code"], *rows])
    # A carriage return at a line's end is taken for part of the end, as for any file from Windows.
    got, refused = read(folder / "rows.csv", folder)
    assert [[a.replace("\r", ""), b.replace("\r", "")] for a, b in got] == [
        [text.replace("\r", "") for text in row] for row in rows
    ]
    assert refused == []


def test_a_line_of_50_mb_is_never_held(tmp_path: Path) -> None:
    import tracemalloc

    path = tmp_path / "rows.csv.gz"
    with gzip.open(path, "wb", compresslevel=1) as file:
        file.write(HEADER.encode())
        for _ in range(50):
            file.write(b"x" * 1_000_000)
        file.write(b"\nasses,010130\n")
    tracemalloc.start()
    rows, refused = read(path, tmp_path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert rows == [("asses", "010130")]
    assert [(one.row, one.reason) for one in refused] == [(1, "line longer than 1000000 bytes")]
    assert len(refused[0].original) < 1000
    assert peak < 25_000_000


# --- encodings --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "encoding", ["latin-1", "cp1252", "utf-16", "utf-16-le", "utf-32", "cp500", "shift_jis", "gb18030"]
)
def test_other_encodings_when_named(tmp_path: Path, encoding: str) -> None:
    text = "綿のシャツ" if encoding in ("shift_jis", "gb18030") else "café crème"
    path = write(tmp_path, (HEADER + f"{text},610910\n" + ROWS).encode(encoding))
    assert read(path, tmp_path, encoding=encoding) == ([(text, "610910"), *EXPECTED], [])


def test_one_row_of_another_encoding_is_refused_with_its_byte(tmp_path: Path) -> None:
    good = "crème brûlée,190590\n".encode() * 5
    path = write(tmp_path, HEADER.encode() + good + "café,090121\n".encode("latin-1") + good)
    rows, (refused,) = read(path, tmp_path)
    assert len(rows) == 10
    assert (refused.row, refused.line, refused.reason) == (6, 7, "not utf-8")
    assert refused.original == "caf\\xe9,090121"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ((HEADER + "café,090121\ncrème,040140\n" * 20).encode("latin-1"), "is not utf-8: 40 of 40 rows, .* byte 20 "),
        ((HEADER + ROWS).encode("utf-16"), "is utf-16, not utf-8"),
        ((HEADER + ROWS).encode("utf-16-le"), "looks like utf-16"),
        ((HEADER + ROWS).encode("utf-32"), "is utf-32, not utf-8"),
    ],
)
def test_a_file_of_another_encoding_is_reported_not_guessed(tmp_path: Path, content: bytes, said: str) -> None:
    with pytest.raises(UserError, match=rf"rows\.csv: {said}.*data\.encoding"):
        read(write(tmp_path, content), tmp_path)


def test_bytes_that_are_not_of_a_wide_encoding(tmp_path: Path) -> None:
    content = (HEADER + ROWS).encode("utf-16-le") + b"\x00\xd8\x00\xd8" + b"a\0"
    with pytest.raises(UserError, match=r"is not utf-16-le near byte \d+"):
        read(write(tmp_path, content), tmp_path, encoding="utf-16-le")


# --- what cannot be used ----------------------------------------------------------------------------------------------

WHOLE = gzip.compress((HEADER + "".join(f"{i} {i * i},010130\n" for i in range(5000))).encode(), mtime=0)
WHOLE_ZST = zstandard.compress(gzip.decompress(WHOLE))


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("rows.csv", b"", "the file is empty"),
        ("rows.csv", b" \n\n", "the file is empty"),
        ("rows.csv.gz", gzip.compress(b"", mtime=0), "the file is empty"),
        ("rows.csv", b"name,price\nx,1\n", "no description column .*it has name, price.*data.description_column"),
        ("rows.csv", b"description,price\nx,1\n", "no code column .*it has description, price.*data.code_column"),
        ("rows.jsonl", b'{"text": "x", "price": 1}\n', "no code column .*it has text, price"),
        (
            "rows.parquet",
            parquet_bytes(TABLE.select(["description", "other"])),
            "no code column .*it has desc.*, other",
        ),
        ("rows.csv", b"\x7fELF" + bytes(100), "is a program"),
        ("rows.csv", b"description,code\n" + bytes(8) * 10, "is a binary file"),
        ("rows.xlsx", b"PK\x03\x04" + bytes(100), "is a zip or Excel file"),
        ("rows.csv", bytes(range(128, 256)) * 10, "the header cannot be read: not utf-8"),
        ("rows.csv.gz", WHOLE[: len(WHOLE) // 2], "cut off or damaged"),
        ("rows.csv.gz", WHOLE[:-4], "cut off or damaged"),
        ("rows.csv.gz", WHOLE[:100] + b"\xff" * 50 + WHOLE[150:], "cut off or damaged"),
        ("rows.csv.zst", WHOLE_ZST[: len(WHOLE_ZST) // 2], "cut off"),
        ("rows.csv.zst", WHOLE_ZST[:20] + b"\xff" * 50 + WHOLE_ZST[70:], "cannot be read"),
        ("rows.parquet", parquet_bytes()[:-10], "not a readable parquet file"),
        ("rows.parquet", b"description,code\n", "is named parquet but is none"),
        ("rows.json", b'[{"description": "x", "code": "010130"}]', "is one JSON array"),
        ("rows.csv", b"x" * 2_000_000, "the header cannot be read: line longer"),
    ],
)
def test_a_file_that_cannot_be_used_is_one_clear_line(tmp_path: Path, name: str, content: bytes, said: str) -> None:
    with pytest.raises(UserError, match=said) as error:
        read(write(tmp_path, content, name), tmp_path)
    assert name in str(error.value)
    assert "\n" not in str(error.value)


def test_missing_file_folder_and_unknown_protocol(tmp_path: Path) -> None:
    for address, said in (
        (str(tmp_path / "none.csv"), "no such file"),
        (str(tmp_path), "is a folder"),
        ("nowhere://rows.csv", "cannot open nowhere:// addresses"),
    ):
        with pytest.raises(UserError, match=said):
            read(address, tmp_path)


def test_unknown_encoding(tmp_path: Path) -> None:
    for name in ("utf-9", "rot13", "zlib"):
        with pytest.raises(UserError, match=rf"setting data\.encoding: unknown encoding '{name}'"):
            read(write(tmp_path, HEADER + ROWS), tmp_path, encoding=name)


def test_vague_sources_need_no_code(tmp_path: Path) -> None:
    path = write(tmp_path, "text\ngoods\n")
    assert read(path, tmp_path, needs_code=False) == ([("goods", None)], [])


def test_a_file_of_one_column_may_have_commas_in_its_text(tmp_path: Path) -> None:
    path = write(tmp_path, 'text\ngoods, parts\n"quoted, ""too"""\n')
    assert read(path, tmp_path, needs_code=False) == ([("goods, parts", None), ('quoted, "too"', None)], [])


def test_bytes_in_parquet_are_utf_8_or_said_not_to_be(tmp_path: Path) -> None:
    for text, said in (("café".encode(), None), ("café".encode("latin-1"), "not a readable parquet file")):
        table = pyarrow.table({"description": pyarrow.array([text]), "code": ["090121"]})
        path = write(tmp_path, parquet_bytes(table), "rows.parquet")
        if said is None:
            assert read(path, tmp_path) == ([("café", "090121")], [])
        else:
            with pytest.raises(UserError, match=said):
                read(path, tmp_path)


def test_broken_lines_of_jsonl(tmp_path: Path) -> None:
    lines = ['{"text": "asses", "code": 10130}', "", "{broken", "[1]", '"x"', '{"code": "010130"}']
    rows, refused = read(write(tmp_path, "\n".join(lines), "rows.jsonl"), tmp_path)
    assert rows == [("asses", 10130), (None, "010130")]
    assert [(one.row, one.line, one.reason) for one in refused] == [
        (2, 3, "broken JSON"),
        (3, 4, "not a JSON object"),
        (4, 5, "not a JSON object"),
    ]


# --- http -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def web(tmp_path: Path) -> Iterator[str]:
    """Serves what lies in tmp_path; a path that ends with .cut is promised longer than it is."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            file = tmp_path / self.path.lstrip("/").removesuffix(".cut")
            if not file.is_file():
                self.send_error(404)
                return
            content = file.read_bytes()
            self.send_response(200)
            self.send_header("Content-Length", str(len(content) + (1000 if self.path.endswith(".cut") else 0)))
            self.end_headers()
            self.wfile.write(content)

        do_HEAD = do_GET

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("name", ["rows.csv", "rows.csv.gz", "rows.parquet"])
def test_over_http(tmp_path: Path, web: str, name: str) -> None:
    content = {"rows.csv": (HEADER + ROWS).encode(), "rows.parquet": parquet_bytes()}
    write(tmp_path, content.get(name, gzip.compress((HEADER + ROWS).encode(), mtime=0)), name)
    assert read(f"{web}/{name}", tmp_path) == (EXPECTED, [])


def test_http_errors_are_one_line(tmp_path: Path, web: str) -> None:
    write(tmp_path, HEADER + ROWS)
    with pytest.raises(UserError, match=r"/none\.csv: nothing there \(404\)"):
        read(f"{web}/none.csv", tmp_path)
    with pytest.raises(UserError, match="cannot be read"):
        read(f"{web}/rows.csv.cut", tmp_path)
    with pytest.raises(UserError, match=r"cannot be read .*Connect call failed"):
        read("http://127.0.0.1:1/rows.csv", tmp_path)
