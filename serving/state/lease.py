"""A lease: the right to act under a name for a while, held by one at a time."""

import os
import socket
import uuid
from typing import Protocol

from sqlalchemy import ColumnElement, Float, case, literal_column, select
from sqlalchemy.orm import Session

from serving.state.database import State, insert_into
from serving.state.tables import LeaseRow


class Lease(Protocol):
    """One interface for a lease in SQL and for a ``coordination.k8s.io`` Lease."""

    @property
    def holder(self) -> str:
        """Who we are, unique by process."""
        ...

    def hold(self) -> bool:
        """Take or renew the lease; False when another holds it. Raises the store's error when it cannot be asked."""
        ...

    def release(self) -> None:
        """Give it up now, so that the next need not wait for its end."""
        ...


def holder_name() -> str:
    """A name no other process has: host, process id, and a random part against reused ids."""
    return f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"


class SqlLease:
    """A row of `leases`, timed by the database's clock, so that the holders' clocks do not matter.

    `seconds` is how long the lease lasts after the last `hold`; renew at a third of it.
    """

    def __init__(self, state: State, name: str, seconds: float = 15.0, holder: str | None = None) -> None:
        self._state, self._name, self._seconds = state, name, seconds
        self._holder = holder or holder_name()
        self.token: int | None = None
        """Grows with each change of holder; None while not held."""

    @property
    def holder(self) -> str:
        """Who we are."""
        return self._holder

    def hold(self) -> bool:
        """Take or renew in one statement: of any number that try at once, one gets it."""
        row = LeaseRow.__table__.c
        now = _now(self._state.dialect)
        statement = insert_into(self._state.dialect, LeaseRow).values(
            name=self._name, holder=self._holder, token=1, expires_at=now + self._seconds
        )
        taken = statement.on_conflict_do_update(
            index_elements=[row.name],
            set_={
                "holder": self._holder,
                "expires_at": now + self._seconds,
                "token": case((row.holder == self._holder, row.token), else_=row.token + 1),
            },
            where=(row.holder == self._holder) | (row.expires_at < now),
        ).returning(row.token)
        with self._state.write() as session:
            self.token = session.execute(taken).scalar_one_or_none()
        return self.token is not None

    def guards(self, session: Session) -> bool:
        """Whether it is ours, and nobody can take it before the session's transaction ends (fencing)."""
        row = LeaseRow.__table__.c
        ours = (row.name == self._name, row.holder == self._holder, row.token == self.token)
        query = select(row.token).where(*ours, row.expires_at > _now(self._state.dialect)).with_for_update()
        return session.execute(query).first() is not None

    def release(self) -> None:
        """End it now if it is ours."""
        with self._state.write() as session:
            row = session.execute(select(LeaseRow).where(LeaseRow.name == self._name)).scalar_one_or_none()
            if row is not None and row.holder == self._holder:
                row.expires_at = 0.0
        self.token = None


def _now(dialect: str) -> ColumnElement[float]:
    if dialect == "sqlite":
        return literal_column("((julianday('now') - 2440587.5) * 86400.0)", Float)
    return literal_column("CAST(EXTRACT(EPOCH FROM clock_timestamp()) AS DOUBLE PRECISION)", Float)
