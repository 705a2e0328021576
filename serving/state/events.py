"""Storing inference events: each half of a pair once, answers beside them, in batches.

Statements are of tables, made once: of mapped classes, each execution costs some milliseconds of the ORM's Python."""

import hashlib
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import cache
from typing import Any, TypeVar, cast

from sqlalchemy import Row, Table, func, insert, or_, update
from sqlalchemy.orm import Session

from serving.state.database import State, insert_into
from serving.state.tables import Answer, Event


def text_hash(description: str) -> str:
    """Name of a description that forgets it: SHA-256 of its NFKC, lower-case, single-spaced form, 32 hex digits."""
    plain = " ".join(unicodedata.normalize("NFKC", description).lower().split())
    return hashlib.sha256(plain.encode()).hexdigest()[:32]


@dataclass(frozen=True)
class Request:
    """The request half of an event; fields as in `serving.state.tables.Event`."""

    ce_id: str
    service: str
    at: datetime
    namespace: str = ""
    version: str = ""
    instances: int | None = None
    client_error: bool = False
    cold: bool = False
    texts: Sequence[str] | None = None
    text_hashes: Sequence[str] | None = None
    features: dict[str, Any] | None = None


@dataclass(frozen=True)
class Given:
    """One answer of a response, in the order of the request's descriptions."""

    status: str
    code: str
    confidence: float


@dataclass(frozen=True)
class Response:
    """The response half of an event."""

    ce_id: str
    service: str
    at: datetime
    namespace: str = ""
    version: str = ""
    cold: bool = False
    answers: Sequence[Given] = field(default=())


Half = TypeVar("Half", Request, Response)


@dataclass(frozen=True)
class Stored:
    """What a batch came to. Halves stored + duplicates = halves given."""

    requests: int
    responses: int
    duplicates: int
    paired: int
    asked: Sequence[Request] = ()
    """The requests that were stored, `version` filled in where only the response knew it."""
    told: Sequence[Response] = ()
    """The responses that were stored, likewise."""
    pairs: Sequence[tuple[str, float]] = ()
    """Version and seconds from request to response of each pair that this batch completed."""


def store_events(
    state: State,
    requests: Iterable[Request],
    responses: Iterable[Response],
    within: Callable[[Session, Stored], None] | None = None,
) -> Stored:
    """Write a batch in one transaction; on return it is on the disk. Halves that are there already are left alone.

    `within` is called in the same transaction with what was stored.
    """
    asked, told = list(requests), list(responses)
    first_asked = {half.ce_id: half for half in reversed(asked)}
    first_told = {half.ce_id: half for half in reversed(told)}
    now = datetime.now(UTC)
    with state.write() as session:
        # Sorted, so that two monitors that store the same halves cannot wait for each other in a circle.
        both = [_both(first_asked[key], first_told[key], now) for key in sorted(first_asked.keys() & first_told.keys())]
        whole = _store_whole(session, both)
        done = {row.ce_id for row in whole}
        rows = [_request(first_asked[key], now) for key in sorted(first_asked) if key not in done]
        new_asked = _store_half(session, "request_at", rows)
        rows = [_response(first_told[key], now) for key in sorted(first_told) if key not in done]
        new_told = _store_half(session, "response_at", rows)
        _store_answers(session, [*whole, *new_told], first_told)
        _name_texts(session, [row for row in new_asked if row.response_at is not None])
        pairs = {row.ce_id: row for row in new_asked if row.response_at is not None}
        pairs |= {row.ce_id: row for row in (*whole, *new_told) if row.request_at is not None}
        stored = Stored(
            requests=len(whole) + len(new_asked),
            responses=len(whole) + len(new_told),
            duplicates=len(asked) + len(told) - 2 * len(whole) - len(new_asked) - len(new_told),
            paired=len(pairs),
            asked=[_of_version(first_asked[row.ce_id], row.version) for row in (*whole, *new_asked)],
            told=[_of_version(first_told[row.ce_id], row.version) for row in (*whole, *new_told)],
            pairs=[(row.version, (row.response_at - row.request_at).total_seconds()) for row in pairs.values()],
        )
        if within is not None:
            within(session, stored)
    return stored


def _of_version(half: Half, version: str) -> Half:
    return half if half.version == version else replace(half, version=version)


def _both(request: Request, response: Response, now: datetime) -> dict[str, Any]:
    return _request(request, now) | {
        "response_at": response.at,
        "version": request.version or response.version,
        "cold": request.cold or response.cold,
    }


def _request(half: Request, now: datetime) -> dict[str, Any]:
    return {
        "ce_id": half.ce_id, "namespace": half.namespace, "service": half.service, "version": half.version,
        "at": half.at, "request_at": half.at, "stored_at": now, "instances": half.instances,
        "client_error": half.client_error, "cold": half.cold,
        "texts": None if half.texts is None else list(half.texts),
        "text_hashes": None if half.text_hashes is None else list(half.text_hashes), "features": half.features,
    }  # fmt: skip


def _response(half: Response, now: datetime) -> dict[str, Any]:
    return {
        "ce_id": half.ce_id, "namespace": half.namespace, "service": half.service, "version": half.version,
        "at": half.at, "response_at": half.at, "stored_at": now, "cold": half.cold,
    }  # fmt: skip


def _columns() -> tuple[Any, ...]:
    table = Event.__table__.c
    return (table.id, table.ce_id, table.version, table.request_at, table.response_at, table.text_hashes)


def _store_whole(session: Session, rows: list[dict[str, Any]]) -> list[Row[Any]]:
    """Insert events that came with both halves. Returns the rows that were: the others are there in part or whole."""
    if not rows:
        return []
    return list(session.connection().execute(_whole(session.get_bind().dialect.name), rows))


@cache
def _whole(dialect: str) -> Any:
    statement = insert_into(dialect, Event.__table__)
    return statement.on_conflict_do_nothing(index_elements=["ce_id"]).returning(*_columns())


_OF_FIRST_HALF = ("ce_id", "namespace", "service", "at", "stored_at", "cold", "version")


def _store_half(session: Session, half: str, rows: list[dict[str, Any]]) -> list[Row[Any]]:
    """Insert, or fill the empty half of the row that is there. Returns the rows that were changed."""
    if not rows:
        return []
    return list(session.connection().execute(_half(session.get_bind().dialect.name, half, tuple(rows[0])), rows))


@cache
def _half(dialect: str, half: str, given: tuple[str, ...]) -> Any:
    table = Event.__table__.c
    statement = insert_into(dialect, Event.__table__)
    filled = {name: statement.excluded[name] for name in given if name not in _OF_FIRST_HALF}
    statement = statement.on_conflict_do_update(
        index_elements=[table.ce_id],
        set_={
            **filled,
            "cold": or_(table.cold, statement.excluded.cold),
            "version": func.coalesce(func.nullif(statement.excluded.version, ""), table.version),
        },
        where=table[half].is_(None),
    )
    return statement.returning(*_columns())


def _store_answers(session: Session, stored: list[Row[Any]], halves: dict[str, Response]) -> None:
    rows = []
    for row in stored:
        half = halves[row.ce_id]
        hashes = row.text_hashes or ()
        for position, given in enumerate(half.answers):
            rows.append({
                "event_id": row.id, "position": position, "version": row.version, "at": half.at,
                "status": given.status, "code": given.code, "confidence": given.confidence,
                "text_hash": hashes[position] if position < len(hashes) else None,
            })  # fmt: skip
    if rows:
        session.connection().execute(insert(cast(Table, Answer.__table__)), rows)


def _name_texts(session: Session, late: list[Row[Any]]) -> None:
    """A request that came after its response: its answers are there and learn their texts now."""
    for row in late:
        for position, value in enumerate(row.text_hashes or ()):
            session.execute(
                update(Answer).where(Answer.event_id == row.id, Answer.position == position).values(text_hash=value)
            )
