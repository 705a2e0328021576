"""Group commit: events wait in a bounded line, one thread writes what waits in one transaction, then all are told."""

import asyncio
import logging
import threading
import time
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import cache
from typing import Any, NamedTuple

from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.orm import Session

from config.settings import Monitor
from models.errors import UserError
from serving.control.faults import crash_point
from serving.control.monitor.counters import Counters
from serving.control.monitor.received import Malformed, Received
from serving.control.monitor.sketches import Knows, Sketch
from serving.state.database import State, insert_into
from serving.state.events import Request, Response, Stored, store_events
from serving.state.lease import holder_name
from serving.state.tables import Sketch as SketchRow

log = logging.getLogger("hscode.monitor")

GROWS_SECONDS = 0.001
"""A line that did not grow within them does not grow."""
HELD_SKETCHES = 500
"""Sketches that one writer goes on counting in; then it begins new rows."""
ATTEMPTS = 3
"""Of a transaction that met another one of a replica (deadlock, serialisation)."""

GONE = (OperationalError, InterfaceError, PoolTimeout)
"""What is raised where the database does not answer; its other errors are about what it was asked."""

Key = tuple[str, str, datetime]


class Unavailable(Exception):
    """Not stored, try again: the line is full, or the database is slow or gone."""

    def __init__(self, reason: str, outcome: str) -> None:
        super().__init__(reason)
        self.reason, self.outcome = reason, outcome


Outcome = bool | Unavailable | Malformed
"""Of an event: whether it was new (False: a duplicate), or why it was not stored. The exceptions are handed over as
values, never raised: raised, they would hold the frames that they passed, and these the events of their batch."""


class Waiting(NamedTuple):
    """An event in the line."""

    received: Received
    done: "asyncio.Future[Outcome]"


class Database:
    """The state, opened when it can be; the service starts without it and says so."""

    def __init__(self, open_: Callable[[], State]) -> None:
        self._open, self._lock = open_, threading.Lock()
        self._state: State | None = None
        self.problem = "the database was not asked yet"
        """Why it does not answer; empty where it does."""

    def state(self) -> State:
        """Raises Unavailable."""
        with self._lock:
            if self._state is None:
                try:
                    self._state = self._open()
                except (UserError, SQLAlchemyError) as error:
                    raise self.failed(error) from None
            return self._state

    def failed(self, error: Exception) -> Unavailable:
        """Remember why; the exception to raise."""
        cause = error.orig if isinstance(error, DBAPIError) and error.orig is not None else error
        said = str(cause).strip().splitlines() or [type(cause).__name__]
        if not self.problem:
            log.error("the database does not answer: %s", said[0])
        self.problem = f"the database does not answer: {said[0][:200]}"
        return Unavailable(self.problem, "unavailable")

    def answered(self) -> None:
        """It does."""
        if self.problem:
            log.info("the database answers")
        self.problem = ""

    def close(self) -> None:
        """Give connections back."""
        if self._state is not None:
            self._state.close()


class Writer:
    """The line and the thread. `put` belongs to the event loop that `start` was called in."""

    def __init__(
        self, database: Database, settings: Monitor, counters: Counters, vocabulary: Callable[[str], Knows | None]
    ) -> None:
        self.database, self.settings, self.counters, self.vocabulary = database, settings, counters, vocabulary
        self._line: deque[Waiting] = deque()
        self._some = threading.Condition()
        self._stopping = False
        self._thread = threading.Thread(target=self._write, name="writer", daemon=True)
        self._name, self._series = holder_name()[:80], 0
        self._held: OrderedDict[Key, Sketch] = OrderedDict()

    def start(self) -> None:
        """Begin to write; call it in the event loop."""
        self._loop = asyncio.get_running_loop()
        self._thread.start()

    def stop(self) -> None:
        """Write what waits, then end."""
        with self._some:
            self._stopping = True
            self._some.notify()
        self._thread.join()

    @property
    def alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread.is_alive()

    def put(self, received: Received) -> "asyncio.Future[Outcome]":
        """Take one into the line; the future is done when it is on the disk or cannot be. Raises Unavailable where the
        line is full."""
        waiting = Waiting(received, self._loop.create_future())
        with self._some:
            if len(self._line) >= self.settings.queue_events:
                why = self.database.problem or "events come faster than they are written"
                raise Unavailable(f"{len(self._line)} events wait already: {why}", "refused")
            self._line.append(waiting)
            self._some.notify()
        return waiting.done

    def _gather(self, until: float) -> None:
        """Let the line grow while it grows, until a time at most. A transaction costs nearly as much for one event as
        for thirty, so under load they share it; an event that comes alone does not wait."""
        waited = -1
        while len(self._line) > waited and time.monotonic() < until:
            waited = len(self._line)
            time.sleep(GROWS_SECONDS)

    def _write(self) -> None:
        ended = 0.0
        while True:
            self._gather(ended + self.settings.gather_ms / 1000)
            with self._some:
                while not self._line and not self._stopping:
                    self._some.wait()
                if not self._line:
                    return
                batch = [self._line.popleft() for _ in range(min(len(self._line), self.settings.batch_events))]
            self._loop.call_soon_threadsafe(_tell, batch, self._store(batch))
            ended = time.monotonic()

    def _store(self, batch: list[Waiting]) -> list[Outcome]:
        try:
            return list(self._tried([waiting.received for waiting in batch]))
        except Unavailable as error:
            return [Unavailable(error.reason, error.outcome)] * len(batch)
        except Exception as error:
            # A value that the database refuses must not take the others with it.
            if len(batch) > 1:
                return [outcome for waiting in batch for outcome in self._store([waiting])]
            log.exception("an event was not stored")
            return [Malformed(f"it could not be stored ({type(error).__name__})")]

    def _tried(self, batch: list[Received]) -> list[bool]:
        for attempt in range(ATTEMPTS):
            try:
                done = self._transaction(batch)
                self.database.answered()
                return done
            except GONE as error:
                # 40001, 40P01: two replicas met; PostgreSQL asks to try again.
                code = getattr(getattr(error, "orig", None), "sqlstate", None) or ""
                if not code.startswith("40") or attempt == ATTEMPTS - 1:
                    raise self.database.failed(error) from None
        raise AssertionError("not reached")

    def _transaction(self, batch: list[Received]) -> list[bool]:
        halves = [one.half for one in batch]
        requests = [half for half in halves if isinstance(half, Request)]
        responses = [half for half in halves if isinstance(half, Response)]
        by_half = {(type(one.half), one.half.ce_id): one for one in reversed(batch) if one.half is not None}
        changed: dict[Key, Sketch] = {}

        def within(session: Session, stored: Stored) -> None:
            changed.update(self._counted(stored, by_half))
            self._write_sketches(session, changed)
            crash_point("monitor-before-commit")

        stored = store_events(self.database.state(), requests, responses, within)
        crash_point("monitor-after-commit")
        self._adopt(changed)
        self._count(stored)
        new = {(Request, half.ce_id) for half in stored.asked} | {(Response, half.ce_id) for half in stored.told}
        first = {id(one) for one in by_half.values()}
        return [id(one) in first and one.half is not None and (type(one.half), one.half.ce_id) in new for one in batch]

    def _counted(self, stored: Stored, batch: dict[tuple[type, str], Received]) -> dict[Key, Sketch]:
        seconds = self.settings.window_seconds / self.settings.window_parts
        found: dict[tuple[str, str, float], Sketch] = {}

        def sketch(half: Request | Response) -> Sketch:
            key = (half.service, half.version, half.at.timestamp() // seconds)
            if key not in found:
                found[key] = Sketch()
            return found[key]

        for asked in stored.asked:
            counts = sketch(asked)
            counts.requests += 1
            counts.add_texts(batch[(Request, asked.ce_id)].texts, self.vocabulary(asked.version))
        for told in stored.told:
            counts = sketch(told)
            counts.responses += 1
            counts.add_answers(batch[(Response, told.ce_id)].told)
        new: dict[Key, Sketch] = {
            (service, version, datetime.fromtimestamp(part * seconds, UTC)): counts
            for (service, version, part), counts in found.items()
        }
        for key, counts in new.items():
            if key in self._held:
                counts.add(self._held[key])
        return new

    def _write_sketches(self, session: Session, sketches: dict[Key, Sketch]) -> None:
        if not sketches:
            return
        writer = f"{self._name}/{self._series}"
        rows = [
            {"service": key[0], "version": key[1], "begins_at": key[2], "writer": writer, "counts": sketch.to_json()}
            for key, sketch in sorted(sketches.items())
        ]
        session.connection().execute(_upsert_sketches(session.get_bind().dialect.name), rows)

    def _adopt(self, sketches: dict[Key, Sketch]) -> None:
        self._held.update(sketches)
        if len(self._held) > HELD_SKETCHES:
            self._held.clear()
            self._series += 1

    def _count(self, stored: Stored) -> None:
        counters = self.counters
        requests = Counter((asked.version, "client_error") for asked in stored.asked if asked.client_error)
        requests.update((told.version, "ok") for told in stored.told)
        answers = Counter((told.version, answer.status) for told in stored.told for answer in told.answers)
        for counter, counted in ((counters.requests, requests), (counters.answers, answers)):
            for (version, status), count in counted.items():
                counters.of(counter, version, status).inc(count)
        latencies = {version: counters.of(counters.latency, version) for version, _ in stored.pairs}
        for version, seconds in stored.pairs:
            if seconds >= 0:
                latencies[version].observe(seconds)


@cache
def _upsert_sketches(dialect: str) -> Any:
    statement = insert_into(dialect, SketchRow.__table__)
    return statement.on_conflict_do_update(
        index_elements=["service", "version", "begins_at", "writer"], set_={"counts": statement.excluded.counts}
    )


def _tell(batch: Sequence[Waiting], outcomes: Sequence[Outcome]) -> None:
    for waiting, outcome in zip(batch, outcomes, strict=True):
        if not waiting.done.done():
            waiting.done.set_result(outcome)
