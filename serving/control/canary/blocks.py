"""From stored events and corrections to closed blocks of evidence."""

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Row, exists, func, select
from sqlalchemy.orm import Session

from config.settings import Canary as Policy
from serving.control.canary.evidence import Arm, Block
from serving.state.corrections import resolve
from serving.state.tables import Answer, Canary, CanaryBlock, CanaryStep, Correction, Event

_CHUNK = 500
"""Corrections looked up in one statement."""


def blocks_of(session: Session, canary_id: int) -> tuple[Block, ...]:
    """The closed blocks, oldest first."""
    rows = session.scalars(select(CanaryBlock).where(CanaryBlock.canary_id == canary_id).order_by(CanaryBlock.number))
    return tuple(read_block(row) for row in rows)


def read_block(row: CanaryBlock) -> Block:
    """A row as evidence."""
    champion, challenger = (Arm.from_json(row.counts[version]) for version in ("champion", "challenger"))
    return Block(row.opened_at, row.closed_at, row.percent, champion, challenger)


def ended_blocks(session: Session, canary: Canary, policy: Policy, now: datetime) -> list[CanaryBlock]:
    """Rows for the blocks that have ended and settled since the last one written; nothing is written here.

    Blocks follow each other without gaps from the moment the challenger was first seen with its share. One ends after
    `policy.block_seconds`, or where a step was confirmed.
    """
    if canary.first_seen_at is None:
        return []
    last = session.execute(
        select(CanaryBlock.number, CanaryBlock.closed_at)
        .where(CanaryBlock.canary_id == canary.id)
        .order_by(CanaryBlock.number.desc())
        .limit(1)
    ).first()
    number: int = last.number + 1 if last else 0
    opened: datetime = last.closed_at if last else canary.first_seen_at
    confirmed = session.execute(
        select(CanaryStep.done_at, CanaryStep.percent_after)
        .where(CanaryStep.canary_id == canary.id, CanaryStep.action.in_(("start", "step")))
        .order_by(CanaryStep.sequence)
    )
    steps = [(done, percent) for done, percent in confirmed if done is not None]
    ended: list[CanaryBlock] = []
    while True:
        percent = next((after for done, after in reversed(steps) if done <= opened), canary.percent)
        closed = min([opened + timedelta(seconds=policy.block_seconds), *(done for done, _ in steps if done > opened)])
        if closed + timedelta(seconds=policy.settle_seconds) > now:
            return ended
        champion, challenger = (
            arm_between(session, canary, version, opened, closed, policy)
            for version in (canary.champion_version, canary.challenger_version)
        )
        row = CanaryBlock(canary_id=canary.id, number=number, opened_at=opened, closed_at=closed, percent=percent)
        row.counts = {"champion": champion.to_json(), "challenger": challenger.to_json()}
        ended.append(row)
        number, opened = number + 1, closed


def arm_between(session: Session, canary: Canary, version: str, start: datetime, end: datetime, policy: Policy) -> Arm:
    """Count one version's requests that began in [start, end) and the corrections recorded then."""
    arm = Arm()
    answers = _answers(session, canary, version, start, end)
    ready_at = _last_answer_before(session, canary, version, start)
    idle = timedelta(seconds=policy.latency.idle_seconds)
    waking_until: datetime | None = None
    rows = session.execute(
        select(Event.id, Event.at, Event.request_at, Event.response_at, Event.client_error, Event.cold)
        .where(Event.namespace == canary.namespace, Event.service == canary.service, Event.version == version)
        .where(Event.at >= start, Event.at < end)
        .order_by(Event.at, Event.id)
    )
    for row in rows:
        if row.client_error:
            arm.requests += 1
            arm.client_errors += 1
            continue
        if row.response_at is None:
            arm.requests += 1
            arm.errors += 1
            continue
        begun = row.request_at or row.at
        slept = ready_at is None or begun - ready_at > idle
        if slept and (waking_until is None or begun >= waking_until):
            # The first request after a pause wakes the version; those that come before its answer wait with it.
            waking_until = row.response_at
        cold = bool(row.cold) or (waking_until is not None and begun < waking_until)
        if ready_at is None or row.response_at > ready_at:
            ready_at = row.response_at
        seconds = None if row.request_at is None else (row.response_at - row.request_at).total_seconds()
        said = answers.get(row.id, ())
        arm.add_answered(
            None if seconds is None or seconds < 0 else seconds,
            cold,
            [status for status, _ in said],
            [confidence for _, confidence in said],
        )
    arm.right, arm.wrong = _corrected(session, canary, version, start, end)
    return arm


def _answers(
    session: Session, canary: Canary, version: str, start: datetime, end: datetime
) -> dict[int, list[tuple[str, float]]]:
    rows = session.execute(
        select(Answer.event_id, Answer.status, Answer.confidence)
        .join(Event, Event.id == Answer.event_id)
        .where(Event.namespace == canary.namespace, Event.service == canary.service, Event.version == version)
        .where(Event.at >= start, Event.at < end)
    )
    found: dict[int, list[tuple[str, float]]] = {}
    for row in rows:
        found.setdefault(row.event_id, []).append((row.status, row.confidence))
    return found


def _last_answer_before(session: Session, canary: Canary, version: str, start: datetime) -> datetime | None:
    return session.scalar(
        select(Event.response_at)
        .where(Event.namespace == canary.namespace, Event.service == canary.service, Event.version == version)
        .where(Event.at < start, Event.response_at.is_not(None))
        .order_by(Event.at.desc())
        .limit(1)
    )


def _corrected(session: Session, canary: Canary, version: str, start: datetime, end: datetime) -> tuple[int, int]:
    """(right, wrong) of a version's answers that corrections recorded in [start, end) speak of; each text once."""
    spoken = session.execute(
        select(Correction.text_hash)
        .where(Correction.recorded_at >= (canary.first_seen_at or start), Correction.recorded_at < start)
        .distinct()
    )
    counted = set(spoken.scalars())
    corrections = session.scalars(
        select(Correction)
        .where(Correction.recorded_at >= start, Correction.recorded_at < end, Correction.withdrawn_at.is_(None))
        .order_by(Correction.recorded_at, Correction.id)
    )
    standing = resolve(c for c in corrections if c.text_hash not in counted)
    right = wrong = 0
    for correction, given in _answers_meant(session, canary, version, list(standing.values())):
        if given.status not in ("answered", "shortened"):
            continue
        length = min(len(given.code), len(correction.code))
        if given.code[:length] == correction.code[:length]:
            right += 1
        else:
            wrong += 1
    return right, wrong


def _answers_meant(
    session: Session, canary: Canary, version: str, corrections: list[Correction]
) -> Iterator[tuple[Correction, Row[Any]]]:
    """Each correction with status and code of the version's newest answer that it speaks of, where there is one."""
    # As expressions: SQLite would take the index of the version or of the service, that is all of its answers or
    # events, before that of texts or ids.
    of_version = Answer.version.concat("") == version
    of_service = (Event.namespace.concat("") == canary.namespace, Event.service.concat("") == canary.service)
    newest_first = (Answer.at.desc(), Answer.event_id.desc(), Answer.position.desc())
    place = func.row_number().over(partition_by=Answer.text_hash, order_by=newest_first)
    # Two statements: of an OR over columns of two tables no database makes two looks into indexes.
    for chunk in (corrections[at : at + _CHUNK] for at in range(0, len(corrections), _CHUNK)):
        texts = [one.text_hash for one in chunk if one.answer_ce_id is None]
        ids = [one.answer_ce_id for one in chunk if one.answer_ce_id is not None]
        ranked = (
            select(Answer.status, Answer.code, Answer.text_hash, place.label("place"))
            .where(Answer.text_hash.in_(texts), of_version, exists().where(Event.id == Answer.event_id, *of_service))
            .subquery()
        )
        by_text = {row.text_hash: row for row in session.execute(select(ranked).where(ranked.c.place == 1))}
        of_requests = (
            select(Answer.status, Answer.code, Event.ce_id, Answer.position)
            .join(Event, Event.id == Answer.event_id)
            .where(Event.ce_id.in_(ids), of_version, *of_service)
        )
        by_id = {(row.ce_id, row.position): row for row in session.execute(of_requests)}
        for correction in chunk:
            if correction.answer_ce_id is None:
                found = by_text.get(correction.text_hash)
            else:
                found = by_id.get((correction.answer_ce_id, correction.answer_position or 0))
            if found is not None:
                yield correction, found
