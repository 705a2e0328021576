"""A small world for the canary controller: a file-backed deployer, a state, aliases, traffic; controllers are forked.

A forked controller is a process of its own: `kill -9` (its own, at ``HSCODE_CRASH_AT``, or the test's) ends it as it
would end a pod.
"""

import contextlib
import fcntl
import itertools
import json
import os
import random
import signal
import sqlite3
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from sqlalchemy import select, text

from config.settings import Canary as Policy
from config.settings import CanaryErrors, CanaryLatency, CanaryQuality
from serving.control.canary import journal
from serving.control.canary.controller import Controller
from serving.control.canary.plan import Model
from serving.control.faults import VARIABLE
from serving.deploy import NotDeployed
from serving.registry import Version
from serving.state import SqlLease, State, open_state
from serving.state.events import Given, Request, Response, store_events
from serving.state.tables import Canary, CanaryBlock, LeaseRow
from tests.serving.file_deployer import FileDeployer

QUICK = Policy(
    steps=(10, 50, 100),
    step_seconds=0,
    step_requests=10,
    deadline_seconds=60,
    ready_seconds=0.3,
    block_seconds=0.1,
    settle_seconds=0.02,
    look_seconds=0.01,
    lease_seconds=0.3,
    errors=CanaryErrors(margin_ratio=1.0, margin=0.3),
    latency=CanaryLatency(margin_ratio=8.0, tolerance_ratio=4.0, budget_seconds=None),
    quality=CanaryQuality(status_margin=0.6, status_tolerance=0.3, confidence_margin=0.6, confidence_tolerance=0.3),
)
"""So wide margins that a few hundred requests decide."""


class FileAliases:
    """The registry's aliases in a file: what the controller needs of `Registry`."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def aliases(self) -> dict[str, str]:
        return dict(json.loads(self.file.read_text()))

    def _write(self, aliases: dict[str, str]) -> None:
        new = self.file.with_suffix(".new")
        new.write_text(json.dumps(aliases))
        new.rename(self.file)

    def hold_up(self) -> None:
        """The next promotion waits until `let_go`; whoever is held writes the file `held`."""
        self.file.with_name("hold").touch()

    @property
    def held(self) -> bool:
        """Whether a promotion waits."""
        return self.file.with_name("held").exists()

    def let_go(self) -> None:
        """The held promotion goes on."""
        self.file.with_name("held").unlink()

    def find(self, alias: str) -> Version | None:
        number = self.aliases().get(alias)
        if number is None:
            return None
        return Version("hscode", number, f"file:///bundles/{number}", datetime.now(UTC), "run")

    def promote(self, reference: str) -> Version:
        hold = self.file.with_name("hold")
        if hold.exists():
            hold.rename(self.file.with_name("held"))
            while self.held:
                time.sleep(0.005)
        self._write({**self.aliases(), "champion": reference})
        found = self.find("champion")
        assert found is not None
        return found

    def delete_alias(self, alias: str) -> None:
        self._write({key: value for key, value in self.aliases().items() if key != alias})


@dataclass
class World:
    """Everything outside the controller."""

    folder: Path
    url: str
    errors: float = 0.0
    """Share of the challenger's requests that fail."""
    challenger_uri: str = "file:///bundles/2"
    policy: Policy = QUICK
    state: State = field(init=False)
    deployer: FileDeployer = field(init=False)
    versions: FileAliases = field(init=False)
    served: int = 0

    def __post_init__(self) -> None:
        self.state = open_state(self.url, upgrade=True)
        self.deployer = FileDeployer(self.folder / "cluster.json")
        self.versions = FileAliases(self.folder / "aliases.json")
        self.versions._write({"champion": "1", "challenger": "2"})
        self.deployer.make("hscode", "file:///bundles/1", "1")
        self.random = random.Random(5)

    def start(self, policy: Policy | None = None) -> int:
        return journal.start(
            self.state,
            self.deployer.status("hscode"),
            Model(self.challenger_uri, "2"),
            policy or self.policy,
            model="hscode",
            who="test",
            now=datetime.now(UTC),
        )

    def fork_controller(self, crash_at: str = "", until_finished: bool = True) -> int:
        """A controller as a process; it ends by itself (0) once nothing is undecided. Returns its id."""
        self.state.close()
        pid = os.fork()
        if pid:
            return pid
        code = 1
        try:
            os.environ[VARIABLE] = crash_at
            state = open_state(self.url)
            lease = SqlLease(state, "canary", self.policy.lease_seconds)
            controller = Controller(state, self.deployer, self.versions, lease, self.policy)
            stop = threading.Event()
            if until_finished:
                threading.Thread(target=_stop_when_finished, args=(state, stop), daemon=True).start()
            controller.run(stop)
            code = 0
        finally:
            os._exit(code)

    def serve(self, requests: int = 20) -> None:
        """Some requests, split as the deployer says, as the monitor would store them."""
        try:
            status = self.deployer.status("hscode")
        except NotDeployed:
            return
        versions = {revision.name: revision.version for revision in status.revisions}
        names = [(versions[entry.revision], entry.percent) for entry in status.traffic]
        now = datetime.now(UTC)
        asked, told = [], []
        for _ in range(requests):
            version = self.random.choices([name for name, _ in names], [share for _, share in names])[0]
            ce_id, self.served = f"e{self.served}", self.served + 1
            asked.append(Request(ce_id, "hscode", now, "default", version))
            if version == "2" and self.random.random() < self.errors:
                continue
            answers = (Given("answered", "731815", 0.9),)
            told.append(Response(ce_id, "hscode", now + timedelta(milliseconds=9), "default", version, answers=answers))
        store_events(self.state, asked, told)

    def serve_until(self, done: Callable[[], bool], seconds: float = 60) -> None:
        """Traffic until something is so."""
        ends = time.monotonic() + seconds
        while not done():
            assert time.monotonic() < ends, "not reached in time: " + self.told()
            self.serve()
            time.sleep(0.005)

    def serve_until_exit(self, pid: int, seconds: float = 60) -> int:
        """Traffic until a controller ended; its status as `os.waitpid` gives it."""
        codes: list[int] = []

        def ended() -> bool:
            found, status = os.waitpid(pid, os.WNOHANG)
            if found:
                codes.append(status)
            return bool(found)

        self.serve_until(ended, seconds)
        return codes[0]

    def reached(self, done: Callable[[], bool], seconds: float) -> bool:
        """Whether something became so, without traffic meanwhile."""
        ends = time.monotonic() + seconds
        while not done():
            if time.monotonic() > ends:
                return False
            time.sleep(0.005)
        return True

    def leader(self) -> str:
        """Who holds the lease."""
        with self.state.read() as session:
            return session.scalars(select(LeaseRow.holder)).one()

    def stop_outside_a_write(self, pid: int) -> None:
        """SIGSTOP, but not while the process holds a lock (the database's or the deployer's): it would hold up all."""
        while True:
            os.kill(pid, signal.SIGSTOP)
            if self._unlocked():
                return
            os.kill(pid, signal.SIGCONT)
            time.sleep(self.random.uniform(0, 0.02))

    def _unlocked(self) -> bool:
        with self.deployer.file.with_suffix(".lock").open("a") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                return False
        if self.state.dialect == "postgresql":
            writers = "pg_stat_activity WHERE datname = current_database() AND backend_xid IS NOT NULL"
            with self.state.read() as session:
                return session.scalar(text(f"SELECT count(*) FROM {writers}")) == 0
        try:
            with contextlib.closing(sqlite3.connect(self.state.engine.url.database or "", timeout=0.1)) as database:
                database.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError:
            return False
        return True

    def canary(self) -> Canary:
        with self.state.read() as session:
            return journal.find(session)

    def steps(self) -> list[tuple[str, int, bool]]:
        """(action, percent after, confirmed)."""
        with self.state.read() as session:
            rows = journal.steps_of(session, journal.find(session).id)
            return [(row.action, row.percent_after, row.done_at is not None) for row in rows]

    def writes(self) -> list[tuple[str, int | None]]:
        """(version, share) of each write to the spec that changed it."""
        kept = self.deployer.tree()["services"]["hscode"]["writes"]
        return [(version, percent) for version, percent in kept]

    def gaps(self) -> int:
        """Blocks that do not begin where the one before ended."""
        with self.state.read() as session:
            rows = session.scalars(select(CanaryBlock).order_by(CanaryBlock.number)).all()
        return sum(a.closed_at != b.opened_at or b.number != a.number + 1 for a, b in itertools.pairwise(rows))

    def told(self) -> str:
        row = self.canary()
        return f"{row.state} {row.percent} % {row.reason}; steps {self.steps()}; writes {self.writes()}"


def _stop_when_finished(state: State, stop: threading.Event) -> None:
    while True:
        with state.read() as session:
            if not journal.undecided(session):
                stop.set()
                return
        time.sleep(0.02)


PROMOTED_STEPS = [("start", 10, True), ("step", 50, True), ("step", 100, True), ("promote", 100, True)]
PROMOTED_WRITES = [("1", None), ("2", 10), ("2", 50), ("2", 100), ("2", None)]
BACK_WRITES = [("2", 0), ("1", 0), ("1", None)]
