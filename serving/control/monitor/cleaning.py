"""What is past its days goes: first the texts of events, then events with their answers, then sketches."""

from datetime import datetime, timedelta

from sqlalchemy import delete, null, select, update
from sqlalchemy.orm import Session

from config.settings import Monitor
from serving.state.database import State
from serving.state.tables import Answer, Event, Sketch

CHUNK = 2000
"""Events of one transaction: others write meanwhile."""


def clean(state: State, settings: Monitor, now: datetime) -> dict[str, int]:
    """Drop and delete by the settings' days; returns how many `texts` and `events` it were."""
    texts_before = now - timedelta(days=settings.texts_days)
    events_before = now - timedelta(days=settings.events_days)
    done = {"texts": 0, "events": 0}
    while count := _events(state, events_before):
        done["events"] += count
    while count := _texts(state, texts_before):
        done["texts"] += count
    with state.write() as session:
        session.execute(delete(Sketch).where(Sketch.begins_at < events_before))
    return done


def _old(session: Session, before: datetime, *also: object) -> list[int]:
    query = select(Event.id).where(Event.at < before, *also).order_by(Event.at).limit(CHUNK)  # type: ignore[arg-type]
    return list(session.scalars(query))


def _events(state: State, before: datetime) -> int:
    with state.write() as session:
        ids = _old(session, before)
        session.execute(delete(Answer).where(Answer.event_id.in_(ids)))
        session.execute(delete(Event).where(Event.id.in_(ids)))
    return len(ids)


def _texts(state: State, before: datetime) -> int:
    with state.write() as session:
        ids = _old(session, before, Event.texts.is_not(None))
        session.execute(update(Event).where(Event.id.in_(ids)).values(texts=null()))
    return len(ids)
