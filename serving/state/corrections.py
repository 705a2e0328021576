"""What experts say is right: recorded once, never changed but withdrawn, and one word a text where they disagree.

**The rule for conflicts.** Of each person the last word on a text counts; of those the code that most persons said; a
tie goes to the newest. All corrections are kept, those that do not prevail too.
"""

import csv
import hashlib
import json
import uuid
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Protocol

from sqlalchemy import select
from sqlalchemy.orm import Session

from models.errors import UserError
from models.hs.codes import normalise_code
from serving.state.database import State, insert_into
from serving.state.events import text_hash
from serving.state.tables import Answer, Correction, Event

SOURCE = "corrections"
FIELDS = ("id", "answer", "position", "description", "code", "edition", "who", "why", "said_at")
LONGEST_TEXT = 2000
"""Characters of a description, as ingest and predictor take them."""
LONGEST_WHY = 2000
FUTURE = timedelta(minutes=5)
IMPORTED_AT_ONCE = 500


class Codes(Protocol):
    """The edition that codes are checked against; `models.hs.edition.Edition` is one."""

    @property
    def name(self) -> str:
        """Name of the edition."""

    def knows(self, code: str) -> bool:
        """Whether this code of 2, 4 or 6 digits exists."""


@dataclass(frozen=True)
class Said:
    """One correction as given, checked."""

    ce_id: str
    code: str
    edition: str
    who: str
    why: str
    said_at: datetime
    description: str | None = None
    answer: str | None = None
    """ce-id of the request whose answer is meant."""
    position: int = 0
    """Which description of that request."""


@dataclass(frozen=True)
class Recorded:
    """What became of a batch: `recorded` are new, `duplicates` were there."""

    recorded: tuple[str, ...]
    duplicates: tuple[str, ...]


def read_correction(
    given: Any, codes: Codes, *, ce_id: str | None = None, said_at: datetime | None = None, now: datetime | None = None
) -> Said:
    """Check one correction: an object of `FIELDS`, all but `code`, `who` and one of `answer`, `description` optional.

    `ce_id` and `said_at` are those of the event that carried it. Codes are read as people write them (``8518.30``) and
    must exist in the edition; national digits are dropped. Raises UserError.
    """
    now = now or datetime.now(UTC)
    if not isinstance(given, Mapping):
        raise UserError("a correction is a JSON object", todo=f"its fields are {', '.join(FIELDS)}")
    for name in given:
        if name not in FIELDS:
            raise UserError(f"unknown field {str(name)[:40]!r}", todo=f"known are {', '.join(FIELDS)}")
    text = {name: _text(given, name) for name in ("id", "answer", "description", "edition", "who", "why")}
    if not text["who"]:
        raise UserError('"who" is missing', todo="say who corrects")
    if not text["answer"] and not text["description"]:
        raise UserError('neither "answer" (the id of the request) nor "description" is given')
    edition = text["edition"] or codes.name
    if edition != codes.name:
        raise UserError(f"codes of edition {edition[:40]} are not taken", todo=f"the edition in use is {codes.name}")
    position = given.get("position") or 0
    if isinstance(position, bool) or not isinstance(position, int) or not 0 <= position < 10_000:
        raise UserError('"position" must be a whole number from 0')
    moment = read_moment(given["said_at"], "said_at") if given.get("said_at") is not None else said_at or now
    if moment > now + FUTURE:
        raise UserError(f'"said_at" {moment.isoformat()} lies in the future')
    return Said(
        ce_id=_text({"id": ce_id}, "id") or text["id"] or str(uuid.uuid4()),
        code=_code(given.get("code"), codes),
        edition=edition,
        who=text["who"],
        why=text["why"],
        said_at=moment,
        description=text["description"] or None,
        answer=text["answer"] or None,
        position=position,
    )


_LONGEST = {"id": 200, "answer": 200, "description": LONGEST_TEXT, "edition": 63, "who": 200, "why": LONGEST_WHY}


def _text(given: Mapping[str, Any], name: str) -> str:
    value = given.get(name)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise UserError(f'"{name}" must be a string')
    value = value.strip()
    if len(value) > _LONGEST[name]:
        raise UserError(f'"{name}" has {len(value)} characters; the limit is {_LONGEST[name]}')
    if "\0" in value or any("\ud800" <= c <= "\udfff" for c in value):
        raise UserError(f'"{name}" holds characters that are no text')
    return value


def read_moment(given: Any, name: str) -> datetime:
    """The moment of a field, in UTC; one without a zone is meant so. Raises UserError."""
    try:
        moment = datetime.fromisoformat(given)
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except (TypeError, ValueError, OverflowError):
        raise UserError(f'"{name}" {str(given)[:40]!r} is no time', todo="write 2026-01-31T12:00:00Z") from None


def _code(given: Any, codes: Codes) -> str:
    if not isinstance(given, str):
        raise UserError('"code" must be a string of digits', todo="a number would lose its leading zero")
    read = normalise_code(given, codes.knows)
    if read.digits is None:
        raise UserError(f"code {given[:40]!r}: {read.reason}")
    code = read.digits[:6]
    if len(code) not in (2, 4, 6) or not codes.knows(code):
        raise UserError(f"code {given[:40]!r} does not exist in edition {codes.name}")
    return code


def line_id(given: Any) -> str:
    """Id of an imported line without one: a digest of what it says, so that a file imported twice counts once."""
    canonical = json.dumps(given, sort_keys=True, ensure_ascii=False, default=str)
    return "line-" + hashlib.sha256(canonical.encode("utf-8", "replace")).hexdigest()[:32]


def record(state: State, said: Sequence[Said], now: datetime | None = None) -> Recorded:
    """Store corrections in one transaction, all or none; one with an id that is there already counts once.

    Raises UserError where an answer that is meant is not known and no description is given.
    """
    now = now or datetime.now(UTC)
    with state.write() as session:
        rows = [_row(session, one, now) for one in {one.ce_id: one for one in reversed(said)}.values()]
        if not rows:
            return Recorded((), ())
        statement = insert_into(state.dialect, Correction).on_conflict_do_nothing(index_elements=[Correction.ce_id])
        new = set(session.scalars(statement.returning(Correction.ce_id), rows))
    given = [one.ce_id for one in said]
    duplicates = [name for i, name in enumerate(given) if name not in new or name in given[:i]]
    return Recorded(tuple(dict.fromkeys(name for name in given if name in new)), tuple(duplicates))


def _row(session: Session, said: Said, now: datetime) -> dict[str, Any]:
    description, name = said.description, text_hash(said.description) if said.description else None
    if said.answer is not None:
        found = session.execute(
            select(Event.texts, Event.text_hashes, Answer.text_hash)
            .join(Answer, Answer.event_id == Event.id, isouter=True)
            .where(Event.ce_id == said.answer)
            .where((Answer.position == said.position) | Answer.position.is_(None))
        ).first()
        if name is None:
            hashes = (found.text_hashes or ()) if found else ()
            name = (found.text_hash if found else None) or (
                hashes[said.position] if said.position < len(hashes) else None
            )
            texts = (found.texts or ()) if found else ()
            description = texts[said.position] if said.position < len(texts) else None
            # A redacted text is not what was asked, but it is what there is to learn from.
        if name is None:
            what = f"no answer {said.position} of {said.answer!r} is stored" if not found else "its text is not stored"
            raise UserError(what, todo='give the "description" too')
    return {
        "ce_id": said.ce_id, "answer_ce_id": said.answer, "answer_position": said.position if said.answer else None,
        "description": description, "text_hash": name, "code": said.code, "edition": said.edition, "who": said.who,
        "why": said.why, "said_at": said.said_at, "recorded_at": now,
    }  # fmt: skip


def withdraw(state: State, ce_id: str, who: str, now: datetime | None = None) -> Correction:
    """Take a correction back; it stays on record. A second time changes nothing. Raises UserError for an unknown id."""
    with state.write() as session:
        row = session.scalar(select(Correction).where(Correction.ce_id == ce_id))
        if row is None:
            raise UserError("no such correction", ce_id[:80], "see: hscode corrections list")
        if row.withdrawn_at is None:
            row.withdrawn_at, row.withdrawn_by = now or datetime.now(UTC), who[:200]
        return row


def listed(state: State, limit: int = 1000) -> list[tuple[Correction, bool]]:
    """Corrections, newest first, withdrawn ones too; with each, whether it stands."""
    query = select(Correction).order_by(Correction.recorded_at.desc(), Correction.id.desc()).limit(limit)
    with state.read() as session:
        rows = list(session.scalars(query))
        texts = {row.text_hash for row in rows}
        found = resolve(session.scalars(select(Correction).where(Correction.text_hash.in_(texts))))
    prevail = {one.id for one in found.values()}
    return [(row, row.id in prevail) for row in rows]


def import_file(state: State, file: Path, codes: Codes, quarantine: Path, who: str) -> dict[str, int]:
    """Record the corrections of a csv (with a header) or jsonl file; counts as `read, recorded, duplicates, refused`.

    A line that is wrong goes to `quarantine` (jsonl: line, reason, original); the others are recorded in transactions
    of `IMPORTED_AT_ONCE`. A line without `who` is by `who`; one without an id is named by what it says, so that a file
    imported twice counts once. Raises UserError for a file that cannot be read and for one of which nothing can be
    taken.
    """
    counts = {"read": 0, "recorded": 0, "duplicates": 0, "refused": 0}
    refused: list[dict[str, Any]] = []
    waiting: list[tuple[int, Any, Said]] = []

    def refuse(number: int, error: UserError, original: Any) -> None:
        refused.append({"line": number, "reason": str(error), "original": original})

    def write() -> None:
        try:
            done = record(state, [said for _, _, said in waiting])
            counts["recorded"] += len(done.recorded)
            counts["duplicates"] += len(done.duplicates)
        except UserError as error:
            # An answer that is not stored: that line alone is wrong.
            lines = list(waiting)
            for line in lines:
                waiting[:] = [line]
                refuse(line[0], error, line[1]) if len(lines) == 1 else write()
        waiting.clear()

    for number, original in _lines(file):
        counts["read"] += 1
        try:
            if isinstance(original, str):
                raise UserError("not a JSON object")
            given = {key: value for key, value in original.items() if value not in ("", None)}
            if str(given.get("position", "")).isdigit():
                given["position"] = int(given["position"])
            said = read_correction({"who": who, **given}, codes)
            waiting.append((number, original, said if "id" in given else replace(said, ce_id=line_id(original))))
        except UserError as error:
            refuse(number, error, original)
        if len(waiting) >= IMPORTED_AT_ONCE:
            write()
    if waiting:
        write()
    counts["refused"] = len(refused)
    refused.sort(key=lambda line: int(line["line"]))
    if refused:
        with quarantine.open("w", encoding="utf-8") as out:
            out.writelines(json.dumps(line, ensure_ascii=False) + "\n" for line in refused)
    if not counts["read"]:
        raise UserError("no corrections in it", str(file))
    if not counts["recorded"] + counts["duplicates"]:
        first = f"line {refused[0]['line']}: {refused[0]['reason']}"
        raise UserError(
            f"none of {counts['read']} lines could be taken ({first})", str(file), f"all are in {quarantine}"
        )
    return counts


def _lines(file: Path) -> Iterator[tuple[int, dict[str, Any] | str]]:
    """Numbered lines as objects, or as they are where they are none."""
    try:
        with file.open(encoding="utf-8-sig", newline="") as opened:
            if file.suffix == ".csv":
                reader = csv.DictReader(opened)
                columns = reader.fieldnames or ()
                if columns and ("code" not in columns or not {"answer", "description"} & set(columns)):
                    told = ", ".join(columns)[:200]
                    raise UserError(f"its columns are {told}", str(file), "needed are code, and description or answer")
                for number, row in enumerate(reader, 2):
                    row.pop(None, None)
                    yield number, dict(row)
                return
            for number, line in enumerate(opened, 1):
                if line.strip():
                    try:
                        read = json.loads(line)
                    except ValueError:
                        read = line.strip()
                    yield number, read if isinstance(read, dict) else line.strip()
    except OSError as error:
        raise UserError(f"cannot be read ({error.strerror})", str(file)) from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"cannot be read ({error})", str(file), "corrections come as UTF-8") from None


def resolve(corrections: Iterable[Correction]) -> dict[str, Correction]:
    """The correction that stands for each text (by hash), after this module's rule; withdrawn ones have no say."""
    last: dict[str, dict[str, Correction]] = defaultdict(dict)
    for one in sorted(corrections, key=lambda c: (c.said_at, c.recorded_at, c.id or 0)):
        if one.withdrawn_at is None:
            # Taken out first, so that the order of a text's persons is that of their last words.
            last[one.text_hash].pop(one.who, None)
            last[one.text_hash][one.who] = one
    standing = {}
    for name, by_person in last.items():
        votes = Counter(one.code for one in by_person.values())
        most = max(votes.values())
        standing[name] = [one for one in by_person.values() if votes[one.code] == most][-1]
    return standing


def standing(session: Session, since: datetime) -> dict[str, Correction]:
    """`resolve` of the texts that have a correction recorded since; what was said of them before has its say too."""
    texts = select(Correction.text_hash).where(Correction.recorded_at >= since)
    return resolve(
        session.scalars(select(Correction).where(Correction.text_hash.in_(texts), Correction.withdrawn_at.is_(None)))
    )


def training_rows(state: State, since: datetime | None = None) -> list[dict[str, Any]]:
    """Rows for the next training: of each text with a correction recorded `since`, the one that stands.

    Each has `description, code, source, label_kind, received_at`; sorted by text. Corrections whose text is not known
    (events without texts) are no rows.
    """
    with state.read() as session:
        found = standing(session, since or datetime(1970, 1, 1, tzinfo=UTC))
    return [
        {
            "description": one.description,
            "code": one.code,
            "source": SOURCE,
            "label_kind": "corrected",
            "received_at": one.said_at,
        }
        for _, one in sorted(found.items())
        if one.description
    ]
