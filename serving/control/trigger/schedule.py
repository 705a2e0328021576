"""The recurring retraining as a row of the state, for backends that keep no schedule: the submitter fires it."""

from collections.abc import Callable
from datetime import UTC, datetime

from sqlalchemy.orm import Session

from serving.control.trigger import cron
from serving.control.trigger.backend import ScheduleState
from serving.state.database import State
from serving.state.tables import Schedule

NAME = "retrain"


def _utc_now() -> datetime:
    return datetime.now(UTC)


class StateSchedules:
    """`backend.Schedules` in the state."""

    def __init__(self, state: State, now: Callable[[], datetime] = _utc_now) -> None:
        self._state, self._now = state, now

    @staticmethod
    def row(session: Session) -> Schedule | None:
        """The row as it is."""
        return session.get(Schedule, NAME)

    def set_schedule(self, cron: str) -> ScheduleState:
        """Set or replace it; times before now are not run."""
        with self._state.write() as session:
            session.merge(Schedule(name=NAME, cron=cron, set_at=self._now()))
        return self._shown(cron)

    def show(self) -> ScheduleState | None:
        """As it is."""
        with self._state.read() as session:
            row = self.row(session)
        return None if row is None else self._shown(row.cron)

    def remove(self) -> bool:
        """Take it away."""
        with self._state.write() as session:
            row = self.row(session)
            if row is not None:
                session.delete(row)
        return row is not None

    def _shown(self, expression: str) -> ScheduleState:
        return ScheduleState(expression, next_at=cron.next_after(expression, self._now()))
