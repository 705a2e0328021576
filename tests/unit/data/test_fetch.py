"""Public sources, against answers of the documented shapes served by a local web server."""

import csv
import json
import threading
from collections.abc import Callable, Iterator
from datetime import date
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from models.data.fetch import SOURCES, Limits, fetch
from models.errors import UserError
from models.hs.edition import load_edition

QUICK = Limits(attempts=3, first_wait_s=0.001, timeout_s=5)
Answer = tuple[int, bytes]
Serve = Callable[[Callable[[str, dict[str, str]], Answer]], str]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Starts a server that answers as a function of path and query says; gives its address."""
    servers: list[ThreadingHTTPServer] = []

    def start(answer: Callable[[str, dict[str, str]], Answer]) -> str:
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            wbufsize = 1 << 16

            def do_GET(self) -> None:
                asked = urlsplit(self.path)
                status, body = answer(asked.path, {key: value[0] for key, value in parse_qs(asked.query).items()})
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        servers.append(server)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{server.server_address[1]}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def reference(title: str, kind: str, item: str) -> dict[str, object]:
    attributes = {"title": title, "negated_title": title, "referenced_class": kind, "goods_nomenclature_item_id": item}
    return {"id": "1", "type": "search_reference", "attributes": attributes}


def test_uk_search_references(serve: Serve, tmp_path: Path) -> None:
    def answer(path: str, query: dict[str, str]) -> Answer:
        assert path == "/search_references"
        entries = [
            reference("abalone", "Commodity", "0307810000"),
            reference("headphones &amp; earphones", "Subheading", "8518300000"),
            reference("horses", "Heading", "0101000000"),
            reference("toys", "Chapter", "9500000000"),
            reference("", "Commodity", "0307810000"),
            reference("nothing", "Commodity", ""),
        ]
        return 200, json.dumps({"data": entries}).encode()

    report = fetch("uk_search_references", tmp_path / "uk.csv", serve(answer), limits=QUICK)
    rows = rows_of(tmp_path / "uk.csv")
    assert [(row["description"], row["code"]) for row in rows] == [
        ("abalone", "0307810000"),
        ("headphones & earphones", "8518300000"),
        ("horses", "0101"),
        ("toys", "95"),
    ]
    assert {row["source"] for row in rows} == {"uk_search_references"}
    assert {row["licence"] for row in rows} == {report.licence}
    assert "OGL" in report.licence
    assert (report.rows, report.skipped) == (4, 2)


def test_us_hts_lines_carry_their_path(serve: Serve, tmp_path: Path) -> None:
    lines = [
        {"htsno": "0101", "indent": "0", "description": "Live horses, asses, mules and hinnies:", "superior": None},
        {"htsno": "", "indent": "1", "description": "Horses:", "superior": "true"},
        {"htsno": "0101.21.00", "indent": "2", "description": "Purebred breeding animals", "superior": None},
        {"htsno": "0101.21.00.10", "indent": "3", "description": "Males", "superior": None},
        {"htsno": "0101.29.00", "indent": "2", "description": "<i>Other</i>", "superior": None},
    ]
    asked: list[str] = []

    def answer(path: str, query: dict[str, str]) -> Answer:
        assert path == "/exportList"
        assert query["format"] == "JSON"
        asked.append(query["from"])
        return 200, json.dumps(lines if query["from"] == "0101" else []).encode()

    fetch("us_hts", tmp_path / "us.csv", serve(answer), limits=QUICK)
    assert [(row["description"], row["code"]) for row in rows_of(tmp_path / "us.csv")] == [
        ("Live horses, asses, mules and hinnies > Horses > Purebred breeding animals", "0101.21.00"),
        ("Live horses, asses, mules and hinnies > Horses > Purebred breeding animals > Males", "0101.21.00.10"),
        ("Live horses, asses, mules and hinnies > Horses > Other", "0101.29.00"),
    ]
    assert len(asked) == 96
    assert not {"7701", "9801", "9901"} & set(asked)


def ruling(subject: str, tariffs: object, **fields: object) -> dict[str, object]:
    return {
        "rulingNumber": "N123456",
        "subject": subject,
        "categories": "Classification",
        "rulingDate": "2024-03-01T00:00:00",
        "tariffs": tariffs,
        "operationallyRevoked": False,
        "revokedBy": [],
        "modifiedBy": [],
        **fields,
    }


def test_cbp_rulings_in_force_with_one_subheading(serve: Serve, tmp_path: Path) -> None:
    rulings = [
        ruling("The tariff classification of a woman's knit cardigan from China", ["6110.30.3059"]),
        ruling("The tariff classification of glass beads from the Czech Republic, Italy and India.", "7018.10.2000"),
        ruling("The tariff classification and status of plastic toys from Mexico", ["9503.00.0073", "9503.00.0090"]),
        ruling("The tariff classification of a kit from China", ["8205.40.0000", "4202.92.9100"]),
        ruling("The tariff classification of wool socks", ["6115.94.0000"], revokedBy=["H300000"]),
        ruling("The country of origin marking of socks", ["6115.94.0000"], categories="Marking"),
        ruling("Request for reconsideration", ["6115.94.0000"]),
    ]
    asked: list[tuple[str, str, str]] = []

    def answer(path: str, query: dict[str, str]) -> Answer:
        assert path == "/search"
        asked.append((query["fromDate"], query["toDate"], query["page"]))
        page = int(query["page"])
        shown = rulings[(page - 1) * 4 : page * 4] if query["fromDate"] < f"{date.today():%Y-%m}" else []
        return 200, json.dumps({"rulings": shown, "totalHits": len(rulings) if shown else 0}).encode()

    this_month = date.today().replace(day=1)
    last_month = date(this_month.year - (this_month.month == 1), (this_month.month - 2) % 12 + 1, 15)
    report = fetch("cbp_rulings", tmp_path / "cbp.csv", serve(answer), since=last_month, limits=QUICK)
    assert [(row["description"], row["code"]) for row in rows_of(tmp_path / "cbp.csv")] == [
        ("woman's knit cardigan", "6110.30.3059"),
        ("glass beads", "7018.10.2000"),
        ("plastic toys", "950300"),
    ]
    assert report.skipped == 4
    assert [page for _, _, page in asked] == ["1", "2", "1"]
    assert asked[0][0] == str(last_month)
    assert asked[-1][1] == str(date.today())


def test_hs_nomenclature_is_a_nomenclature(serve: Serve, tmp_path: Path) -> None:
    table = (
        "section,hscode,description,parent,level\nI,01,Animals; live,TOTAL,2\nI,0101,Horses,01,4\n"
        'I,010121,"Horses; live, pure-bred breeding animals",0101,6\n'
    )
    address = serve(lambda path, query: (200, table.encode()))
    fetch("hs_nomenclature", tmp_path / "hs.csv", address + "/hs.csv", limits=QUICK)
    assert load_edition(tmp_path / "hs.csv", "HS").texts == {"010121": "Horses; live, pure-bred breeding animals"}


def test_what_may_pass_is_tried_again(serve: Serve, tmp_path: Path) -> None:
    answers = iter(
        [(503, b""), (429, b""), (200, json.dumps({"data": [reference("tea", "Heading", "0902")]}).encode())]
    )
    address = serve(lambda path, query: next(answers))
    assert fetch("uk_search_references", tmp_path / "uk.csv", address, limits=QUICK).rows == 1


@pytest.mark.parametrize(
    ("status", "body", "what"),
    [
        (404, b"", "answered 404"),
        (503, b"", r"answered 503 \(3 attempts\)"),
        (200, b"<html>", "is not JSON"),
        (200, b"\xff\xfe", "is not UTF-8"),
        (200, b"[]", "another shape"),
        (200, b'{"data": {}}', "another shape"),
        (200, b'{"data": [{}]}', "entry without attributes"),
        (200, b'{"data": []}', "with no row"),
        (200, b"[" + b" " * 5000 + b"]", "larger than 4,096 bytes"),
    ],
)
def test_a_refusing_or_changed_service_is_one_clear_line(
    serve: Serve, tmp_path: Path, status: int, body: bytes, what: str
) -> None:
    limits = Limits(attempts=3, first_wait_s=0.001, timeout_s=5, max_bytes=4096)
    with pytest.raises(UserError, match=what) as error:
        fetch("uk_search_references", tmp_path / "uk.csv", serve(lambda path, query: (status, body)), limits=limits)
    assert "\n" not in str(error.value)
    assert "127.0.0.1" in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_a_fetch_that_breaks_leaves_an_earlier_file_alone(serve: Serve, tmp_path: Path) -> None:
    (tmp_path / "uk.csv").write_text("earlier")
    with pytest.raises(UserError):
        fetch("uk_search_references", tmp_path / "uk.csv", serve(lambda path, query: (404, b"")), limits=QUICK)
    assert (tmp_path / "uk.csv").read_text() == "earlier"


@pytest.mark.parametrize(
    ("name", "address", "out", "what"),
    [
        ("nothing", None, "x.csv", "one of uk_search_references, us_hts"),
        ("us_hts", "http://127.0.0.1:9", "x.csv", r"cannot be reached \(ConnectError\)"),
        ("us_hts", "nowhere", "x.csv", "not an http address"),
        ("us_hts", None, "no/such/folder.csv", "cannot be written"),
    ],
)
def test_wrong_use_is_one_clear_line(tmp_path: Path, name: str, address: str | None, out: str, what: str) -> None:
    with pytest.raises(UserError, match=what):
        fetch(name, tmp_path / out, address, limits=QUICK)


def test_every_source_states_its_licence() -> None:
    assert len(SOURCES) >= 2
    for name, source in SOURCES.items():
        assert source.name == name
        assert source.licence
        assert source.licence_address.startswith("https://")
        assert source.address.startswith("https://")
        assert source.kind in ("given", "nomenclature")
