"""The one that decides and submits, while it holds the lease: looks, decides, writes the intent, acts, writes the end.

It keeps nothing in memory that matters: killed anywhere, the next look (of this process or another) goes on from the
rows. No backend knows an idempotency key, so before each submission the run is looked for by its name, and after one
that was not answered it is given time to appear (`trigger.settle_seconds`) before it is submitted again. Every write is
made only while the lease is ours, checked in the same transaction.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial

from sqlalchemy import select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from config.settings import Trigger
from models.errors import UserError
from serving.control.faults import crash_point
from serving.control.trigger import cron, inputs, journal
from serving.control.trigger.backend import BackendRefused, BackendUnavailable, RunBackend, RunState
from serving.control.trigger.policy import policy
from serving.control.trigger.schedule import StateSchedules
from serving.state import SqlLease, State
from serving.state.tables import Run, TriggerDecision

log = logging.getLogger("hscode.trigger")

POINTS = (
    "before_decide",
    "in_decide",
    "after_decide",
    "before_find",
    "after_find",
    "in_mark",
    "after_mark",
    "after_submit",
    "after_running",
    "before_end",
    "in_end",
    "after_end",
)
"""Where `faults.crash_point` can end the submitter; `journal.accept` has before_, in_ and after_accept besides."""


class LeaseLost(Exception):
    """Another submitter acts now; nothing was written."""


def utc_now() -> datetime:
    """Now, aware."""
    return datetime.now(UTC)


class Submitter:
    """Decides on what was accepted and takes each run to its end."""

    def __init__(
        self,
        state: State,
        backend: RunBackend,
        lease: SqlLease,
        settings: Trigger,
        *,
        now: Callable[[], datetime] = utc_now,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.state, self.backend, self.lease, self.settings = state, backend, lease, settings
        self._now, self._clock = now, clock
        self.leading = False
        self.looked_at = clock()
        """When it last looked, or tried to, by `time.monotonic`."""
        self.wake = threading.Event()
        """Set where something was accepted: look now."""
        self._unanswered: dict[tuple[int, int], float] = {}
        """Since when this process knows of a run's attempt that has no answer; another's clock is not trusted."""
        self._troubles: dict[int, str] = {}

    def run(self, stop: threading.Event) -> None:
        """Look until `stop` is set; then give the lease back."""
        while not stop.is_set():
            self.wake.clear()
            try:
                self.look()
            except (SQLAlchemyError, LeaseLost, OSError) as error:
                # The lease runs out by itself, and nothing is half done.
                log.warning("could not look: %s", error)
            except Exception:
                log.exception("this look failed")
            self.looked_at = self._clock()
            self.wake.wait(self.settings.look_seconds)
        if self.leading:
            self.lease.release()

    def since_look(self) -> float:
        """Seconds since the last look."""
        return self._clock() - self.looked_at

    def look(self) -> None:
        """One round. Does nothing while another submitter holds the lease."""
        leading = self.lease.hold()
        if leading != self.leading:
            log.info("%s %s", self.lease.holder, "submits" if leading else "no longer submits")
            self.leading = leading
            self._unanswered.clear()
        if not leading:
            return
        self._fire_schedule()
        self._decide()
        with self.state.read() as session:
            runs = journal.unfinished(session)
        for run in runs:
            self._try(run, partial(self._advance, run))

    def _try(self, run: Run, work: Callable[[], None]) -> None:
        """One run's trouble must not stop the others'; said once, tried again at each look.

        Where the backend refuses to be asked at all (a wrong kfp.namespace, a token file that cannot be read) the run
        waits until people have mended the settings.
        """
        try:
            work()
            self._troubles.pop(run.id, None)
        except (BackendUnavailable, BackendRefused, UserError) as error:
            if self._troubles.get(run.id) != str(error):
                log.warning("run %s waits: %s", run.name, error)
                self._troubles[run.id] = str(error)

    # -- deciding -----------------------------------------------------------------------------------------------

    def _fire_schedule(self) -> None:
        with self.state.read() as session:
            row = StateSchedules.row(session)
        if row is None:
            return
        now = self._now()
        try:
            due = cron.last_until(row.cron, now)
        except UserError:
            return
        # No catching up: what was due while nobody looked is not run late.
        if due <= row.set_at or now - due > timedelta(seconds=5 + 3 * self.settings.look_seconds):
            return
        occasion = inputs.by_schedule(row.cron, due)
        with self.state.read() as session:
            if session.scalars(select(TriggerDecision.id).where(TriggerDecision.key == occasion.key)).first():
                return
        journal.accept(self.state, [occasion], now)

    def _decide(self) -> None:
        """Decide on all that is undecided, in one transaction with the facts it rests on."""
        now = self._now()
        with self.state.read() as session:
            facts = journal.facts(session, self.settings, now)
            found = [(row, policy(journal.event_of(row), facts, self.settings)) for row in journal.undecided(session)]
        if all(decision.kind == "wait" and decision.reason == row.reason for row, decision in found):
            return
        crash_point("before_decide")
        told = []
        with self._write() as session:
            facts = journal.facts(session, self.settings, now)
            for row in journal.undecided(session):
                decision = policy(journal.event_of(row), facts, self.settings)
                if decision.kind != "wait" or decision.reason != row.reason:
                    told.append((row.key, decision))
                started = journal.write_decision(session, row, decision, self.backend.name, now)
                facts = replace(facts, started=started or facts.started)
            session.flush()
            crash_point("in_decide")
        crash_point("after_decide")
        for key, decision in told:
            log.info("%s: %s: %s", key, decision.kind, decision.reason)

    # -- runs ---------------------------------------------------------------------------------------------------

    def _advance(self, run: Run) -> None:
        if run.status == "running":
            return self._follow(run)
        crash_point("before_find")
        found = self.backend.find(run.name)
        crash_point("after_find")
        if found is not None:
            return self._adopt(run, found)
        if run.status == "submitting":
            since = self._unanswered.setdefault((run.id, run.attempts), self._clock())
            if self._clock() - since < self.settings.settle_seconds:
                return None
        return self._submit(run)

    def _submit(self, run: Run) -> None:
        with self._write() as session:
            session.add(run)
            run.status, run.attempts, run.submitted_at = "submitting", run.attempts + 1, self._now()
            run.backend = self.backend.name
            session.flush()
            crash_point("in_mark")
        crash_point("after_mark")
        # Nothing at the backend fences us, so we ask once more, as late as we can, whether it is still our turn: the
        # same one as at the mark, for another may have submitted in between.
        token = self.lease.token
        if not self.lease.hold() or self.lease.token != token:
            raise LeaseLost(f"another submits {run.name}")
        try:
            backend_id = self.backend.submit(run.name, run.parameters, run.tags)
        except BackendRefused as error:
            return self._end(run, "failed", f"refused by {self.backend.name}: {error}")
        except BackendUnavailable:
            self._unanswered[run.id, run.attempts] = self._clock()
            raise
        crash_point("after_submit")
        self._running(run, backend_id)
        return None

    def _adopt(self, run: Run, found: RunState) -> None:
        """It is there already: we, or the one before us, submitted it and had no answer."""
        if found.status in ("succeeded", "failed"):
            run.backend_id = found.backend_id
            return self._end(run, found.status, found.error)
        return self._running(run, found.backend_id)

    def _running(self, run: Run, backend_id: str) -> None:
        with self._write() as session:
            session.add(run)
            run.status, run.backend_id = "running", backend_id
        crash_point("after_running")
        log.info("run %s is %s's %s", run.name, self.backend.name, backend_id)

    def _follow(self, run: Run) -> None:
        try:
            found = self.backend.status(run.backend_id or "")
        except BackendRefused as error:
            return self._end(run, "failed", f"{self.backend.name} does not know it any more: {error}")
        if found.status in ("succeeded", "failed"):
            self._end(run, found.status, found.error)
        return None

    def _end(self, run: Run, status: str, error: str) -> None:
        crash_point("before_end")
        with self._write() as session:
            session.add(run)
            run.status, run.error, run.finished_at = status, error, self._now()
            session.flush()
            crash_point("in_end")
        crash_point("after_end")
        log.info("run %s %s%s", run.name, status, f": {error}" if error else "")

    @contextmanager
    def _write(self) -> Iterator[Session]:
        """A transaction that is ours alone: another can take the lease only after its end."""
        with self.state.write() as session:
            if not self.lease.guards(session):
                raise LeaseLost("another submitter took over")
            yield session
