"""Public sources of descriptions and codes, fetched into our csv: `description, code, source, licence`.

Nothing here is fetched by itself or shipped with the project: a user asks for one source by name and is told its
licence. The shapes read are those that the services document or that public code reads; docs/data.md names them.
"""

import csv
import io
import json
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import tenacity

from models import progress
from models.data.clean import clean_text
from models.errors import UserError
from models.hs.codes import normalise_code

HS2022_IN_FORCE = date(2022, 1, 27)
"""Since when the US tariff, and so rulings on it, follow HS 2022."""


@dataclass(frozen=True)
class Limits:
    """How patient a fetch is, and how much it takes."""

    attempts: int = 5
    """Requests made for one page before giving up; only what may pass (429, 5xx, broken connections) is tried again."""
    first_wait_s: float = 1.0
    """Seconds before the second attempt; doubled each time, up to a minute."""
    timeout_s: float = 60.0
    """Seconds without a byte before a connection counts as broken."""
    max_bytes: int = 256 << 20
    """Bytes of one answer; a larger one is refused."""


class FetchedRow(NamedTuple):
    """A row of the csv without what is the same for all of them."""

    description: str
    code: str


@dataclass
class FetchReport:
    """What was fetched."""

    name: str
    rows: int
    skipped: int
    """Entries of the source that are no row: without a code, with several, revoked, empty."""
    licence: str
    address: str
    out: str


@dataclass(frozen=True)
class PublicSource:
    """A public source and how its rows are read."""

    name: str
    """What a user calls it, and the value of the column `source`."""
    what: str
    licence: str
    licence_address: str
    address: str
    kind: str
    """`label_kind` that its rows should have: given or nomenclature (settings `data.source_kinds`)."""
    read: Callable[["_Http", str, date], Iterator[FetchedRow | None]]
    """None for an entry that is no row."""


def fetch(
    name: str, out: Path, address: str | None = None, since: date = HS2022_IN_FORCE, limits: Limits | None = None
) -> FetchReport:
    """Fetch the source `name` into the csv `out`, which appears only when all of it is there.

    `address` replaces the source's own (a mirror). `since` is for sources that date their entries. Raises UserError:
    unknown name, unreachable or refusing service, an answer of another shape or beyond the limit, a path that cannot be
    written.
    """
    if name not in SOURCES:
        raise UserError(f"no public source {name!r}", todo=f"one of {', '.join(SOURCES)}")
    source = SOURCES[name]
    address = (address or source.address).rstrip("/")
    report = FetchReport(name, 0, 0, source.licence, address, str(out))
    part = out.with_name(out.name + ".part")
    try:
        with part.open("w", encoding="utf-8", newline="") as file, _Http(name, limits or Limits()) as http:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(("description", "code", "source", "licence"))
            for row in source.read(http, address, since):
                description = clean_text(row.description) if row else ""
                if row is None or not description or normalise_code(row.code).digits is None:
                    report.skipped += 1
                    continue
                writer.writerow((description, row.code, name, source.licence))
                report.rows += 1
        if not report.rows:
            raise UserError("the service answered, but with no row", address)
        os.replace(part, out)
    except OSError as error:
        raise UserError(f"cannot be written ({error.strerror or error})", str(out)) from None
    finally:
        part.unlink(missing_ok=True)
    return report


# --- the sources ------------------------------------------------------------------------------------------------------


def _uk_search_references(http: "_Http", address: str, since: date) -> Iterator[FetchedRow | None]:
    """One answer: ``{"data": [{"attributes": {"title", "referenced_class", "goods_nomenclature_item_id"}}]}``.

    Of a heading or chapter only its own digits are taken: the rest of its ten are filling.
    """
    digits = {"Chapter": 2, "Heading": 4}
    for entry in http.list_of(http.json(f"{address}/search_references"), "data", address):
        attributes = entry.get("attributes") if isinstance(entry, dict) else None
        if not isinstance(attributes, dict):
            raise UserError("an entry without attributes: the service's answers have changed", address)
        code = str(attributes.get("goods_nomenclature_item_id") or attributes.get("referenced_id") or "")
        code = code.partition("-")[0][: digits.get(str(attributes.get("referenced_class")), 10)]
        yield FetchedRow(str(attributes.get("title") or ""), code) if code else None


def _us_hts(http: "_Http", address: str, since: date) -> Iterator[FetchedRow | None]:
    """A chapter an answer: ``[{"htsno", "indent", "description", …}]`` in the order of the tariff, the tree by indent.

    A row is a line of eight or ten digits with the descriptions of all it stands under. Chapters 98 and 99 (special
    provisions) say nothing of what goods are and are left out.
    """
    chapters = [chapter for chapter in range(1, 98) if chapter != 77]
    for done, chapter in enumerate(chapters, start=1):
        query = f"from={chapter:02d}01&to={chapter:02d}99&format=JSON&styles=false"
        entries = http.list_of(http.json(f"{address}/exportList?{query}"), None, address)
        path: list[str] = []
        for entry in entries:
            try:
                indent, text = int(entry["indent"]), _plain(str(entry["description"]))
                code = str(entry["htsno"] or "")
            except (KeyError, TypeError, ValueError):
                raise UserError(
                    "a line without htsno, indent or description: its answers have changed", address
                ) from None
            path = [*path[:indent], text]
            leaf = len(re.sub(r"\D", "", code)) >= 8
            yield FetchedRow(" > ".join(part.rstrip(" :") for part in path), code) if leaf else None
        progress.report("fetch", done, len(chapters), f"chapter {chapter:02d}")


def _cbp_rulings(http: "_Http", address: str, since: date) -> Iterator[FetchedRow | None]:
    """Pages of a search by month: ``{"rulings": [{"subject", "tariffs", "categories", "revokedBy", …}], "totalHits"}``.

    The subject ("The tariff classification of a … from …") holds the goods. Taken are rulings on classification in
    force that name one subheading. By month, because one search shows its first 10,000 hits only.
    """
    start, today, size = since.replace(day=1), date.today(), 100
    months = max(1, (today.year - start.year) * 12 + today.month - start.month + 1)
    for month in range(months):
        first = _months_later(start, month)
        last = min(_months_later(start, month + 1) - timedelta(days=1), today)
        page, seen, total = 1, 0, 1
        while seen < total:
            query = (
                f"term=tariff%20classification&collection=ALL&sortBy=DATE_DESC&pageSize={size}&page={page}"
                f"&fromDate={max(first, since)}&toDate={last}"
            )
            answer = http.json(f"{address}/search?{query}")
            rulings = http.list_of(answer, "rulings", address)
            total = int(answer.get("totalHits") or 0)
            for ruling in rulings:
                yield _ruling_row(ruling)
            seen, page = seen + len(rulings), page + 1
            if not rulings:
                break
        progress.report("fetch", month + 1, months, f"{first:%Y-%m}")


def _hs_nomenclature(http: "_Http", address: str, since: date) -> Iterator[FetchedRow | None]:
    """One csv: ``section,hscode,description,parent,level``; rows of level 6 are taken."""
    reader = csv.DictReader(io.StringIO(http.text(address), newline=""))
    if not {"hscode", "description", "level"} <= set(reader.fieldnames or ()):
        raise UserError("no columns hscode, description, level: the file has changed", address)
    for row in reader:
        yield FetchedRow(row["description"] or "", row["hscode"] or "") if row["level"] == "6" else None


SOURCES = {
    source.name: source
    for source in (
        PublicSource(
            "uk_search_references",
            "terms that HMRC's tariff search knows, with chapter, heading or commodity code",
            "OGL-UK-3.0 (Crown Copyright, HMRC)",
            "https://www.nationalarchives.gov.uk/doc/open-government-licence/version/3/",
            "https://www.trade-tariff.service.gov.uk/api/v2",
            "given",
            _uk_search_references,
        ),
        PublicSource(
            "us_hts",
            "the Harmonized Tariff Schedule of the United States, each line with its path",
            "public domain (US Government work, 17 U.S.C. 105)",
            "https://www.usitc.gov/privacy",
            "https://hts.usitc.gov/reststop",
            "nomenclature",
            _us_hts,
        ),
        PublicSource(
            "cbp_rulings",
            "subjects of US customs rulings on classification (CROSS), those in force with one subheading",
            "public domain (US Government work, 17 U.S.C. 105)",
            "https://rulings.cbp.gov/",
            "https://rulings.cbp.gov/api",
            "given",
            _cbp_rulings,
        ),
        PublicSource(
            "hs_nomenclature",
            "six-digit subheadings of the Harmonized System with their text; use it as --nomenclature",
            "ODC-PDDL-1.0",
            "https://opendatacommons.org/licenses/pddl/1-0/",
            "https://raw.githubusercontent.com/datasets/harmonized-system/main/data/harmonized-system.csv",
            "nomenclature",
            _hs_nomenclature,
        ),
    )
}
"""Public sources by name."""

_PREFIX = re.compile(r"^\W*(?:re:\s*)?(?:the\s+)?tariff classification\b.*?\bof\s+(?:an?\s+|the\s+)?", re.IGNORECASE)
_ORIGIN = re.compile(r",?\s+\bfrom\s+(?:the\s+)?[A-Z][^,;]*(?:[,;].*)?$")
_TAG = re.compile(r"<[^<>]{1,80}>")


def _ruling_row(ruling: Any) -> FetchedRow | None:
    if not isinstance(ruling, dict):
        return None
    listed = ruling.get("tariffs") or []
    tariffs = re.split(r"[,;]\s*", listed) if isinstance(listed, str) else [str(each) for each in listed]
    subheadings = {re.sub(r"\D", "", each)[:6] for each in tariffs if each.strip()}
    in_force = not (ruling.get("operationallyRevoked") or ruling.get("revokedBy") or ruling.get("modifiedBy"))
    if len(subheadings) != 1 or not in_force or "classification" not in str(ruling.get("categories")).lower():
        return None
    subject = str(ruling.get("subject") or "").strip().rstrip(".")
    goods, found = _PREFIX.subn("", subject, count=1)
    if not found:
        return None
    code = tariffs[0] if len(tariffs) == 1 else subheadings.pop()
    return FetchedRow(_ORIGIN.sub("", goods), code.strip())


def _plain(text: str) -> str:
    return _TAG.sub("", text).strip()


def _months_later(day: date, months: int) -> date:
    month = day.month - 1 + months
    return date(day.year + month // 12, month % 12 + 1, 1)


# --- http -------------------------------------------------------------------------------------------------------------


class _MayPassError(Exception):
    """A failure that another attempt may not meet."""


class _Http:
    """GET with attempts, timeouts and a limit on what is read; every failure a UserError that names the address."""

    def __init__(self, name: str, limits: Limits) -> None:
        self._limits = limits
        self._client = httpx.Client(
            timeout=limits.timeout_s,
            follow_redirects=True,
            headers={
                "User-Agent": f"hscode (data fetch {name})",
                "Accept": "application/json, text/csv;q=0.9, */*;q=0.1",
            },
        )
        self._attempts = tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(_MayPassError),
            stop=tenacity.stop_after_attempt(limits.attempts),
            wait=tenacity.wait_exponential(multiplier=limits.first_wait_s, max=60),
            reraise=True,
        )

    def __enter__(self) -> "_Http":
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def text(self, address: str) -> str:
        """The answer as UTF-8 text."""
        try:
            return self._attempts(self._read, address).decode("utf-8-sig")
        except _MayPassError as error:
            raise UserError(f"{error} ({self._limits.attempts} attempts)", address, "try again later") from None
        except UnicodeDecodeError:
            raise UserError("the answer is not UTF-8", address) from None

    def json(self, address: str) -> Any:
        """The answer as JSON."""
        try:
            return json.loads(self.text(address))
        except json.JSONDecodeError as error:
            raise UserError(f"the answer is not JSON (line {error.lineno})", address) from None

    @staticmethod
    def list_of(answer: Any, key: str | None, address: str) -> list[Any]:
        """The list in the answer, which is the answer itself where `key` is None."""
        found = answer if key is None else answer.get(key) if isinstance(answer, dict) else None
        if not isinstance(found, list):
            raise UserError("the answer has another shape than documented", address)
        return found

    def _read(self, address: str) -> bytes:
        parts, size = [], 0
        try:
            with self._client.stream("GET", address) as answer:
                if answer.status_code == 429 or answer.status_code >= 500:
                    raise _MayPassError(f"answered {answer.status_code}")
                if answer.status_code != 200:
                    raise UserError(f"answered {answer.status_code}", address)
                for part in answer.iter_bytes():
                    parts.append(part)
                    size += len(part)
                    if size > self._limits.max_bytes:
                        raise UserError(f"the answer is larger than {self._limits.max_bytes:,} bytes", address)
        except (httpx.InvalidURL, httpx.UnsupportedProtocol) as error:
            raise UserError(f"not an http address ({error})", address) from None
        except httpx.HTTPError as error:
            raise _MayPassError(f"cannot be reached ({type(error).__name__})") from None
        return b"".join(parts)
