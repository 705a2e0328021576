"""Two trigger replicas as processes, a run backend as another, and clients that send until they are answered."""

import json
import multiprocessing
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from sqlalchemy import select

from config.settings import Trigger
from serving.control.faults import VARIABLE
from serving.control.trigger.service import serve
from serving.control.trigger.submitter import Submitter
from serving.state import SqlLease, State, open_state
from serving.state.tables import Run, TriggerDecision
from tests.serving.run_backend import HttpBackend

TOKEN = "a token of the tests"
QUICK = Trigger(look_seconds=0.05, lease_seconds=0.8, settle_seconds=1.0, cooldown_seconds=0)
_context = multiprocessing.get_context("forkserver")


def replica(state_url: str, backend_url: str, crash_at: str, file: Path, settings: Trigger) -> None:
    """A trigger as a process: serves on any port, tells its address in `file`, dies at `crash_at`."""
    os.environ[VARIABLE] = crash_at
    state = open_state(state_url)
    lease = SqlLease(state, "trigger", settings.lease_seconds)
    submitter = Submitter(state, HttpBackend(backend_url), lease, settings)

    def started(url: str) -> None:
        draft = file.with_suffix(".new")
        draft.write_text(url)
        draft.rename(file)

    serve(submitter, TOKEN, "127.0.0.1", 0, started)


def alert(fingerprint: str = "ab12", starts_at: str = "2026-01-01T00:00:00Z", status: str = "firing") -> dict[str, Any]:
    """A body as Alertmanager sends it."""
    one = {
        "status": status, "labels": {"alertname": "Drift"}, "annotations": {}, "startsAt": starts_at,
        "endsAt": "0001-01-01T00:00:00Z", "generatorURL": "", "fingerprint": fingerprint,
    }  # fmt: skip
    return {"version": "4", "groupKey": "{}", "status": status, "receiver": "trigger", "alerts": [one]}


@dataclass
class World:
    """Everything around the replicas, which are started with the next of `points` and again when they died of it."""

    folder: Path
    url: str
    behaviours: Sequence[str] = ("plain",)
    points: Sequence[str] = ()
    settings: Trigger = QUICK
    state: State = field(init=False)
    kills: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        _context.set_forkserver_preload(["tests.serving.trigger_world", "uvicorn", "cloudevents.http"])
        self.state = open_state(self.url, upgrade=True)
        self._http = httpx.Client()
        command = [sys.executable, "-m", "tests.serving.run_backend", *self.behaviours]
        self._backend = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self._backend.stdout is not None
        self.backend_url = self._backend.stdout.readline().strip()
        self._replicas: list[tuple[Any, Path, str]] = []
        self.left = list(self.points)
        """Points that nothing was killed at yet."""
        self._started = 0
        self._lock = threading.Lock()
        for _ in range(2):
            self._start()

    def _start(self) -> None:
        point = self.left[0] if self.left else ""
        self._started += 1
        file = self.folder / f"replica-{self._started}"
        process = _context.Process(
            target=replica, args=(self.url, self.backend_url, point, file, self.settings), daemon=True
        )
        process.start()
        self._replicas.append((process, file, point))

    def supervise(self) -> None:
        """Start again what was killed; note where, and how far the work was.

        The other is killed wherever it is and started anew, so that both die at the next point: else it would go past.
        """
        dead = [(process, point) for process, _, point in self._replicas if process.exitcode is not None]
        if not dead:
            return
        for process, _, _ in self._replicas:
            process.kill()
            process.join()
        for process, point in dead:
            assert process.exitcode == -9, f"a replica ended by itself: {process.exitcode}"
            if point in self.left:
                self.left.remove(point)
                self.kills.append(f"{point:14} {self.told()}")
        with self._lock:
            self._replicas.clear()
            for _ in range(2):
                self._start()

    def addresses(self) -> list[str]:
        with self._lock:
            return [file.read_text() for _, file, _ in self._replicas if file.exists()]

    def until(self, done: Callable[[], bool], seconds: float = 60) -> None:
        """Supervise until something is so."""
        ends = time.monotonic() + seconds
        while not done():
            assert time.monotonic() < ends, f"not reached in time: {self.told()}; {self.left} not passed"
            self.supervise()
            time.sleep(0.01)

    def deliver(self, body: dict[str, Any], client: int = 0) -> int:
        """Send until it is answered, as Alertmanager does; how many sends it took."""
        content, sends = json.dumps(body), 0
        while True:
            for url in self.addresses()[:: 1 if (client + sends) % 2 else -1]:
                sends += 1
                try:
                    got = self._http.post(
                        f"{url}/alerts", content=content, timeout=10, headers={"Authorization": f"Bearer {TOKEN}"}
                    )
                except httpx.HTTPError:
                    continue
                assert got.status_code in (200, 503), got.text
                if got.status_code == 200:
                    return sends
            time.sleep(0.02)

    def clients(self, each: int, body: dict[str, Any]) -> "Clients":
        """Eight clients that each deliver the same `each` times."""
        return Clients(self, each, body)

    def count(self) -> dict[str, Any]:
        """What the backend has: runs and how often it was asked to start one."""
        found: dict[str, Any] = self._http.get(f"{self.backend_url}/count", timeout=10).json()
        return found

    def runs(self) -> list[Run]:
        with self.state.read() as session:
            return list(session.scalars(select(Run).order_by(Run.id)))

    def decisions(self) -> list[TriggerDecision]:
        with self.state.read() as session:
            return list(session.scalars(select(TriggerDecision).order_by(TriggerDecision.id)))

    def ended(self) -> bool:
        runs = self.runs()
        return bool(runs) and all(run.status in ("succeeded", "failed") for run in runs)

    def told(self) -> str:
        decided = ", ".join(f"{row.decision or 'undecided'} ({row.deliveries} sent)" for row in self.decisions())
        runs = ", ".join(f"{run.status} (attempt {run.attempts})" for run in self.runs())
        return f"alert: {decided or 'unknown':24} run: {runs or 'none':24} at the backend: {len(self.count()['runs'])}"

    def close(self) -> None:
        for process, _, _ in self._replicas:
            process.kill()
            process.join()
        self._backend.kill()
        self._backend.wait()
        self.state.close()


class Clients:
    """Threads that deliver; `answered` counts the deliveries that were. Half of them wait for `second_half`."""

    def __init__(self, world: World, each: int, body: dict[str, Any]) -> None:
        self.answered = 0
        self.sends = 0
        self.second_half = threading.Event()
        self._lock = threading.Lock()
        self._threads = [
            threading.Thread(target=self._send, args=(world, n, each, body), daemon=True) for n in range(8)
        ]
        for thread in self._threads:
            thread.start()

    def _send(self, world: World, number: int, each: int, body: dict[str, Any]) -> None:
        for done in range(each):
            if done >= each // 2:
                self.second_half.wait()
            sends = world.deliver(body, number)
            with self._lock:
                self.answered += 1
                self.sends += sends

    def done(self) -> bool:
        return not any(thread.is_alive() for thread in self._threads)
