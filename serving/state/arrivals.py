"""New data that arrived, as the trigger wrote it down: where a retraining finds the addresses it reads."""

from collections.abc import Sequence

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from serving.state.database import State
from serving.state.tables import TriggerDecision

SOURCES = ("data", "object_store")


def newest_arrival(session: Session) -> int | None:
    """Id of the last decision on data that arrived; None where none did."""
    return session.scalar(select(func.max(TriggerDecision.id)).where(TriggerDecision.source.in_(SOURCES)))


def arrived(state: State, until: int, prefixes: Sequence[str]) -> list[str]:
    """Addresses of all data that arrived up to a decision, oldest first, each once; the same `until`, the same list.

    A model is trained from its rows alone, so older ones stay in, and those whose run was refused too: what was refused
    is one more run, and the next one reads them. Addresses that are no longer under one of `prefixes` are refused.
    """
    query = (
        select(TriggerDecision.payload)
        .where(TriggerDecision.source.in_(SOURCES), TriggerDecision.id <= until)
        .order_by(TriggerDecision.id)
    )
    with state.read() as session:
        addresses = dict.fromkeys(address for payload in session.scalars(query) for address in payload["addresses"])
    return [address for address in addresses if address.startswith(tuple(prefixes))]
