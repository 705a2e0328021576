"""The rows of trigger decisions and runs: accepting, reading the facts, writing decisions and what became of runs."""

import hashlib
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, cast

from sqlalchemy import func, or_, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from config.settings import Trigger
from serving.control.faults import crash_point
from serving.control.trigger.inputs import Occasion
from serving.control.trigger.policy import ACTIVE, DAY, Decision, Event, Facts, PastRun, Source
from serving.state.arrivals import newest_arrival
from serving.state.database import State
from serving.state.tables import Canary, Run, TriggerDecision

TAG_CHARS = 500


def accept(state: State, occasions: Iterable[Occasion], now: datetime) -> int:
    """Write each occasion once, counting how often it was delivered; on return it is on the disk.

    Returns how many were new.
    """
    # Sorted, so that two replicas cannot wait for each other in a circle.
    rows = [
        {
            "key": each.key,
            "source": each.source,
            "payload": dict(each.payload),
            "deliveries": 1,
            "received_at": now,
            "reason": "",
        }
        for each in sorted({each.key: each for each in occasions}.values(), key=lambda each: each.key)
    ]
    if not rows:
        return 0
    table = TriggerDecision.__table__.c
    insert = sqlite.insert if state.dialect == "sqlite" else postgresql.insert
    statement = (
        insert(TriggerDecision)
        .on_conflict_do_update(index_elements=[table.key], set_={"deliveries": table.deliveries + 1})
        .returning(table.deliveries)
    )
    crash_point("before_accept")
    with state.write() as session:
        counts = list(session.scalars(statement, rows))
        crash_point("in_accept")
    crash_point("after_accept")
    return counts.count(1)


def undecided(session: Session) -> list[TriggerDecision]:
    """What was accepted and waits for a decision, oldest first."""
    query = select(TriggerDecision).where(TriggerDecision.decision.is_(None)).order_by(TriggerDecision.id)
    return list(session.scalars(query))


def unfinished(session: Session) -> list[Run]:
    """Runs that have not ended, oldest first."""
    return list(session.scalars(select(Run).where(Run.status.in_(ACTIVE)).order_by(Run.id)))


def facts(session: Session, settings: Trigger, now: datetime) -> Facts:
    """How things stand by the database."""
    since = now - max(DAY, timedelta(seconds=settings.cooldown_seconds))
    young = select(Run).where(or_(Run.status.in_(ACTIVE), Run.created_at >= since, Run.finished_at >= since))
    canary = session.scalars(select(Canary).where(Canary.finished_at.is_(None)).limit(1)).first()
    tried = set(session.scalars(select(Canary.run_name).where(Canary.started_at >= since)))
    return Facts(
        now=now,
        runs=tuple(
            PastRun(row.name, row.status, row.created_at, row.finished_at, row.name in tried)
            for row in session.scalars(young.order_by(Run.id))
        ),
        canary=None if canary is None else canary.challenger_version,
        promoted_at=session.scalar(select(func.max(Canary.finished_at)).where(Canary.state == "promoted")),
    )


def event_of(row: TriggerDecision) -> Event:
    """What the policy needs of an accepted row."""
    return Event(row.key, cast(Source, row.source), row.received_at, bool(row.payload.get("dry_run")))


def write_decision(
    session: Session, row: TriggerDecision, decision: Decision, backend: Literal["kfp", "local"], now: datetime
) -> str | None:
    """Write a decision and, for a run, the run that is intended; returns the run's name then."""
    row.reason = decision.reason
    if decision.kind == "wait":
        return None
    row.decision, row.decided_at, row.run_name = decision.kind, now, decision.run_name
    if decision.kind != "run":
        return None
    row.run_name = run_name(row.key, row.received_at)
    tags = {
        "trigger": row.key,
        "source": row.source,
        "alert": str(row.payload.get("alert", "")),
        "reason": decision.reason,
        "who": str(row.payload.get("who", "")),
        "why": str(row.payload.get("why", "")),
    }
    session.add(
        Run(
            name=row.run_name,
            backend=backend,
            status="intended",
            parameters={
                "run_key": row.run_name,
                "triggered_by": row.key,
                "since": "",
                "data_until": str(newest_arrival(session) or ""),
            },
            tags={name: value[:TAG_CHARS] for name, value in tags.items() if value},
            created_at=now,
        )
    )
    return row.run_name


def run_name(key: str, received_at: datetime) -> str:
    """The name of the run that a trigger starts: the same whoever derives it, and good for a Kubernetes object."""
    moment = received_at.astimezone(UTC).strftime("%Y%m%d-%H%M%S")
    return f"retrain-{moment}-{hashlib.sha256(key.encode()).hexdigest()[:12]}"


def listing(session: Session, most: int) -> Sequence[tuple[TriggerDecision, Run | None]]:
    """The newest decisions, each with its run."""
    query = (
        select(TriggerDecision, Run)
        .outerjoin(Run, Run.name == TriggerDecision.run_name)
        .order_by(TriggerDecision.id.desc())
        .limit(most)
    )
    return [(decision, run) for decision, run in session.execute(query)]


def lineage(state: State, run_key: str | None, version: str, model: str) -> dict[str, Any]:
    """What is known of a version here: what triggered its run, the run, and its canary with the verdict."""
    triggered = select(TriggerDecision).where(TriggerDecision.run_name == run_key).order_by(TriggerDecision.id)
    tried = select(Canary).where(Canary.challenger_version == version, Canary.model == model).order_by(Canary.id.desc())
    with state.read() as session:
        triggers = list(session.scalars(triggered)) if run_key else []
        run = session.scalars(select(Run).where(Run.name == run_key)).first()
        canary = session.scalars(tried.limit(1)).first()
    return {
        "triggers": [
            _told(row, "key", "source", "decision", "reason", "deliveries", "received_at")
            | {"alert": row.payload.get("alert")}
            for row in triggers
        ],
        "run": run
        and _told(run, "name", "backend", "backend_id", "status", "error", "created_at", "submitted_at", "finished_at")
        | {"data_until": run.parameters.get("data_until")},
        "canary": canary and _told(canary, "id", "state", "percent", "reason", "started_at", "finished_at"),
    }


def _told(row: object, *names: str) -> dict[str, Any]:
    values = {name: getattr(row, name) for name in names}
    return {name: each.isoformat() if isinstance(each, datetime) else each for name, each in values.items()}
