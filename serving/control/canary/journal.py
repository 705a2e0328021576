"""The canary's rows in the state: started, decided (intent), confirmed, finished. Each change is a compare-and-set."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import func, select, text
from sqlalchemy.exc import IntegrityError, OperationalError
from sqlalchemy.orm import Session

from config.settings import Canary as Policy
from models.errors import UserError
from serving.control.canary.blocks import arm_between
from serving.control.canary.plan import Model, Wanted
from serving.deploy import Conflict, Status
from serving.state import State
from serving.state.tables import Canary, CanaryStep

STARTING, STEPPING, PROMOTING, ROLLING_BACK = "starting", "stepping", "promoting", "rolling_back"
ALONE_SECONDS = 60
"""How long `alone` may do nothing in the database before PostgreSQL ends its transaction: a machine that froze in there
holds up the others no longer. More than a working registry takes to move an alias."""
LOCKED = "55P03"
"""PostgreSQL's code for a row that another transaction has locked."""
PROMOTED, ROLLED_BACK, GONE, SUPERSEDED = "promoted", "rolled_back", "gone", "superseded"


def start(
    state: State,
    status: Status,
    challenger: Model,
    policy: Policy,
    *,
    model: str,
    who: str,
    now: datetime,
    run_name: str | None = None,
) -> int:
    """Record a new canary on the service of `status`; returns its id. The controller does the rest.

    Raises UserError where one is undecided already, the challenger serves already, or a share is set by other hands.
    """
    where = f"InferenceService {status.name}"
    busy = UserError(
        "a canary is undecided already", where, "see hscode canary status; end it with hscode canary abort"
    )
    with state.read() as session:
        if any(row.service == status.name for row in undecided(session, status.namespace)):
            raise busy
    champion = Model(status.storage_uri, status.version)
    if champion == challenger or status.version == challenger.version:
        raise UserError(f"version {challenger.version} serves already", where)
    if status.canary_percent is not None:
        raise UserError(
            f"canaryTrafficPercent is {status.canary_percent} already", where, "remove the field, then start the canary"
        )
    canary = Canary(
        namespace=status.namespace,
        service=status.name,
        service_uid=status.uid,
        model=model,
        champion_version=champion.version,
        champion_uri=champion.storage_uri,
        challenger_version=challenger.version,
        challenger_uri=challenger.storage_uri,
        policy=policy.model_dump(mode="json"),
        run_name=run_name,
        state=STARTING,
        percent=policy.steps[0],
        reason=f"started by {who}",
        started_by=who,
        started_at=now,
        deadline_at=now + timedelta(seconds=policy.deadline_seconds),
    )
    try:
        with state.write() as session:
            history = now - timedelta(seconds=policy.history_seconds)
            canary.before = arm_between(session, canary, champion.version, history, now, policy).to_json()
            session.add(canary)
            session.flush()
            session.add(
                CanaryStep(
                    canary_id=canary.id,
                    sequence=0,
                    action="start",
                    percent_before=0,
                    percent_after=canary.percent,
                    reason=canary.reason,
                    evidence={},
                    actor=who,
                    intent_at=now,
                )
            )
    except IntegrityError:
        raise busy from None
    return canary.id


def undecided(session: Session, namespace: str | None = None) -> list[Canary]:
    """All that are not finished (of one namespace)."""
    query = select(Canary).where(Canary.finished_at.is_(None)).order_by(Canary.id)
    if namespace is not None:
        query = query.where(Canary.namespace == namespace)
    return list(session.scalars(query))


def find(session: Session, canary_id: int | None = None) -> Canary:
    """One by id, else the newest; raises UserError."""
    query = select(Canary).order_by(Canary.id.desc()).limit(1)
    if canary_id is not None:
        query = query.where(Canary.id == canary_id)
    found = session.scalars(query).first()
    if found is None:
        what = "there was no canary yet" if canary_id is None else f"no canary {canary_id}"
        raise UserError(
            what, todo="hscode canary history lists them" if canary_id else "start one: hscode canary start"
        )
    return found


def steps_of(session: Session, canary_id: int) -> list[CanaryStep]:
    """All decisions, oldest first."""
    query = select(CanaryStep).where(CanaryStep.canary_id == canary_id).order_by(CanaryStep.sequence)
    return list(session.scalars(query))


def ask(state: State, canary_id: int | None, verb: str, who: str, why: str) -> Canary:
    """Leave a person's wish ("promote" or "abort") for the controller. Raises UserError where it comes too late."""
    with state.write() as session:
        canary = find(session, canary_id)
        if canary.state not in (STARTING, STEPPING):
            raise UserError(f"canary {canary.id} is {canary.state} already ({canary.reason})")
        canary.command = {"verb": verb, "who": who, "why": why}
    return canary


def decide(
    session: Session,
    canary: Canary,
    action: str,
    percent: int,
    reason: str,
    *,
    actor: str,
    now: datetime,
    verdict: str = "",
    evidence: Mapping[str, Any] | None = None,
) -> None:
    """Write an intent: what the service should become from now on."""
    last = session.scalar(select(func.max(CanaryStep.sequence)).where(CanaryStep.canary_id == canary.id))
    session.add(
        CanaryStep(
            canary_id=canary.id,
            sequence=(-1 if last is None else last) + 1,
            action=action,
            percent_before=canary.percent,
            percent_after=percent,
            verdict=verdict,
            reason=reason,
            evidence=dict(evidence or {}),
            actor=actor,
            intent_at=now,
        )
    )
    canary.state = {"step": STEPPING, "promote": PROMOTING, "rollback": ROLLING_BACK}[action]
    canary.percent, canary.reason, canary.step_since, canary.command = percent, reason, None, None


def confirm(session: Session, canary: Canary, now: datetime) -> CanaryStep:
    """Write that the last intent was seen to be done."""
    step = _last_step(session, canary)
    step.done_at = now
    canary.step_since = now
    if canary.first_seen_at is None:
        canary.first_seen_at = now
    canary.state = STEPPING
    return step


@contextmanager
def alone(state: State, canary: Canary) -> Iterator[Session]:
    """A transaction in which no other process can write this canary's row; `canary` is part of its session.

    Raises Conflict where another is in one, or the row is no longer as `canary` was read. PostgreSQL locks the row;
    SQLite has one writer at a time anyway.
    """
    with state.write() as session:
        if state.dialect == "postgresql":
            session.execute(text(f"SET LOCAL idle_in_transaction_session_timeout = '{ALONE_SECONDS}s'"))
        current = select(Canary.row_version).where(Canary.id == canary.id).with_for_update(nowait=True)
        try:
            version = session.scalar(current)
        except OperationalError as error:
            if getattr(error.orig, "sqlstate", None) != LOCKED:
                raise
            raise Conflict("another controller is writing its end") from None
        if version != canary.row_version:
            raise Conflict("its row was changed")
        session.add(canary)
        yield session


def finish(session: Session, canary: Canary, state: str, reason: str, *, actor: str, now: datetime) -> None:
    """Write the end."""
    if state in (GONE, SUPERSEDED):
        decide_end = CanaryStep(
            canary_id=canary.id,
            sequence=_last_step(session, canary).sequence + 1,
            action=state,
            percent_before=canary.percent,
            percent_after=canary.percent,
            reason=reason,
            evidence={},
            actor=actor,
            intent_at=now,
            done_at=now,
        )
        session.add(decide_end)
    else:
        _last_step(session, canary).done_at = now
    canary.state, canary.reason, canary.finished_at, canary.command = state, reason, now, None


def wanted_of(canary: Canary) -> Wanted:
    """What the row asks of the service."""
    goals = {PROMOTING: "promote", ROLLING_BACK: "rollback"}
    return Wanted(
        goal=goals.get(canary.state, "step"),  # type: ignore[arg-type]
        champion=Model(canary.champion_uri, canary.champion_version),
        challenger=Model(canary.challenger_uri, canary.challenger_version),
        percent=canary.percent,
        seen=canary.first_seen_at is not None,
    )


def _last_step(session: Session, canary: Canary) -> CanaryStep:
    query = select(CanaryStep).where(CanaryStep.canary_id == canary.id).order_by(CanaryStep.sequence.desc()).limit(1)
    return session.scalars(query).one()
