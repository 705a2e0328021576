"""How SQLite goes about what is asked of it."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import event

from serving.state import State


@contextmanager
def plans_of(state: State) -> Iterator[list[str]]:
    """The steps of EXPLAIN QUERY PLAN of each SELECT within the block."""
    steps: list[str] = []

    def explain(_connection: Any, cursor: Any, statement: str, given: Any, *_: Any) -> None:
        if statement.startswith("SELECT"):
            other = cursor.connection.cursor()
            steps.extend(row[3] for row in other.execute(f"EXPLAIN QUERY PLAN {statement}", given))

    event.listen(state.engine, "before_cursor_execute", explain)
    try:
        yield steps
    finally:
        event.remove(state.engine, "before_cursor_execute", explain)
