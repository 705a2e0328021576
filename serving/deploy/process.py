"""One revision of the local host as a process: started, watched, restarted, scaled to zero, woken."""

import asyncio
import contextlib
import ctypes
import json
import logging
import os
import signal
import sys
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from models.errors import UserError

log = logging.getLogger("hscode.host")

FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.1, 10.0
"""Pause before a restart; doubles with each failure in a row, as the kubelet's does (10 s to 300 s there)."""
READY = "ready.json"
"""Written by the process once it listens: its ports."""
FAILURES = 3
"""Failed starts in a row after which a revision counts as failed (and is tried on)."""
STOP_SECONDS = 40.0
"""From SIGTERM to SIGKILL: above the predictor's own grace."""


class NotStarted(Exception):
    """A revision did not become ready in the time a request could wait; the text says why."""


@dataclass(frozen=True)
class Endpoint:
    """Where a revision's process answers."""

    http: str
    grpc: str | None
    pid: int


@dataclass
class Limits:
    """Times of a revision, in seconds."""

    start: float = 120
    """From process start to readiness; then the process is killed and started again."""
    idle: float = 60
    """Without a request for so long a revision with `minReplicas: 0` is scaled to zero."""


@dataclass
class RevisionProcess:
    """A revision's process, or its absence at zero.

    `command` is completed with flags of ``serving.predictor``. `changed` is called whenever `ready`, `reason` or
    `running` may have changed. All methods are for the host's event loop.
    """

    name: str
    command: Sequence[str]
    environment: Mapping[str, str]
    model: Callable[[], Path]
    """Folder of the bundle, fetched where it is remote; runs in a thread before each start; raises UserError."""
    folder: Path
    """For its log and its ready file."""
    limits: Limits
    min_replicas: int
    concurrency: int
    """Most requests in the process at once; 0: no limit."""
    changed: Callable[[], None]
    grpc: bool = False
    endpoint: Endpoint | None = None
    reason: str = ""
    starts: int = 0
    busy: int = 0
    last_used: float = field(default_factory=time.monotonic)
    _wanted: bool = False
    _unwanted: asyncio.Event = field(default_factory=asyncio.Event)
    _terminated: bool = False
    _failures: int = 0
    _process: asyncio.subprocess.Process | None = None
    _life: asyncio.Task[None] | None = None
    _ready: asyncio.Event = field(default_factory=asyncio.Event)
    _slots: asyncio.Semaphore | None = None

    @property
    def ready(self) -> bool:
        """Whether it can take a request now."""
        return self.endpoint is not None

    @property
    def running(self) -> bool:
        """Whether there is a process, or will be without a request asking for it."""
        return self._wanted

    @property
    def gone(self) -> bool:
        """Whether there is nothing left of it."""
        return self._life is None

    @property
    def failed(self) -> bool:
        """Whether it has failed so often in a row that waiting is unlikely to help."""
        return self._failures >= FAILURES

    def start(self) -> None:
        """Have a process, from now until `stop`; the way from zero to one."""
        self._wanted = True
        self._unwanted.clear()
        self.last_used = time.monotonic()
        if self._life is None:
            self._life = asyncio.get_running_loop().create_task(self._live(), name=f"revision {self.name}")
            self.changed()

    async def stop(self) -> None:
        """Have none: wait for requests under way, then SIGTERM, then SIGKILL. A request meanwhile wakes it again."""
        self._wanted = False
        self._unwanted.set()
        life, process = self._life, self._process
        if life is None:
            return
        self._clear()
        deadline = time.monotonic() + STOP_SECONDS
        while self.busy and not self._wanted and time.monotonic() < deadline:
            await asyncio.sleep(0.01)
        if self._wanted and process is not None and process.returncode is None and (self.folder / READY).exists():
            self._publish()
            return
        if process is not None and process.returncode is None:
            self._terminated = True
            process.terminate()
            try:
                await asyncio.wait_for(process.wait(), STOP_SECONDS)
            except TimeoutError:
                process.kill()
        if not self._wanted:
            await asyncio.wait([life])

    @contextlib.asynccontextmanager
    async def take(self, deadline: float) -> AsyncIterator[Endpoint]:
        """A ready process for one request, started if there is none; raises NotStarted at `deadline` (monotonic)."""
        self.busy += 1
        try:
            if not self.ready:
                self.start()
                try:
                    await asyncio.wait_for(self._ready.wait(), max(0.0, deadline - time.monotonic()))
                except TimeoutError:
                    raise NotStarted(self.reason or "it is still starting") from None
            async with self._slot():
                endpoint = self.endpoint
                if endpoint is None:
                    raise ConnectionError("the process ended before the request reached it")
                yield endpoint
        finally:
            self.busy -= 1
            self.last_used = time.monotonic()

    async def ended(self, endpoint: Endpoint) -> bool:
        """Whether the process behind `endpoint` is gone; gives the end of one that just broke a connection a moment."""
        for _ in range(25):
            if self.endpoint is not endpoint:
                return True
            await asyncio.sleep(0.01)
        return False

    def idle(self) -> bool:
        """Whether it may be scaled to zero now."""
        quiet = time.monotonic() - self.last_used > self.limits.idle
        return self.min_replicas == 0 and self.ready and self.busy == 0 and quiet

    def tail(self) -> str:
        """The last line its process said that names an error, else its last line."""
        try:
            with open(self.folder / "log", "rb") as file:
                file.seek(max(0, file.seek(0, os.SEEK_END) - 8192))
                lines = deque((line.strip() for line in file.read().decode(errors="replace").splitlines()), 50)
        except OSError:
            return ""
        said = [line for line in lines if line]
        errors = [line for line in said if "error" in line.lower()]
        return (errors or said or [""])[-1][:300]

    # -- the life of the process --------------------------------------------------------------------------------

    def _slot(self) -> contextlib.AbstractAsyncContextManager[object]:
        if not self.concurrency:
            return contextlib.nullcontext()
        if self._slots is None:
            self._slots = asyncio.Semaphore(self.concurrency)
        return self._slots

    def _publish(self) -> None:
        told = json.loads((self.folder / READY).read_text(encoding="utf-8"))
        grpc = told.get("grpc")
        self.endpoint = Endpoint(
            f"http://127.0.0.1:{told['http']}", f"127.0.0.1:{grpc}" if grpc else None, int(told["pid"])
        )
        self.reason, self._failures, self.last_used = "", 0, time.monotonic()
        self._ready.set()
        self.changed()

    def _clear(self) -> None:
        self.endpoint = None
        self._ready.clear()
        self.changed()

    async def _live(self) -> None:
        try:
            while self._wanted:
                try:
                    why = await self._once()
                except OSError as error:
                    await self._kill()
                    why = f"cannot start: {error}"
                self._clear()
                if self._terminated or not self._wanted:
                    self._terminated = False
                    continue
                self.reason = why
                self._failures += 1
                pause = min(LONGEST_PAUSE_SECONDS, FIRST_PAUSE_SECONDS * 2 ** min(self._failures - 1, 10))
                log.warning("revision %s: %s; starting again in %.1f s", self.name, why, pause)
                self.changed()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._unwanted.wait(), pause)
        finally:
            self._process, self._life = None, None
            self.changed()

    async def _kill(self) -> None:
        process = self._process
        if process is not None and process.returncode is None:
            process.kill()
            await process.wait()

    async def _once(self) -> str:
        """One process from start to end; returns why it ended. Raises OSError where the folder cannot be used."""
        self.folder.mkdir(parents=True, exist_ok=True)
        ready = self.folder / READY
        ready.unlink(missing_ok=True)
        try:
            model = await asyncio.to_thread(self.model)
        except UserError as error:
            return str(error)
        if not self._wanted:
            return ""
        flags = [
            f"--model-dir={model}",
            "--host=127.0.0.1",
            "--http-port=0",
            f"--grpc-port={0 if self.grpc else -1}",
            f"--ready-file={ready}",
            "--drain-seconds=0",
        ]
        self.starts += 1
        with open(self.folder / "log", "ab") as output:
            try:
                self._process = await asyncio.create_subprocess_exec(
                    *self.command,
                    *flags,
                    env={**os.environ, **self.environment},
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    start_new_session=True,  # Ctrl-C on a terminal is for the host alone, which then drains
                    preexec_fn=end_with_parent(),
                )
            except OSError as error:
                return f"cannot start {self.command[0]}: {error.strerror}"
        process = self._process
        deadline = time.monotonic() + self.limits.start
        while process.returncode is None and not ready.exists():
            if time.monotonic() > deadline:
                await self._kill()
                return f"not ready after {self.limits.start:g} s"
            await asyncio.sleep(0.01)
        if process.returncode is None:
            self._publish()
            log.info("revision %s: ready (process %d)", self.name, process.pid)
        code = await process.wait()
        how = f"exit code {code}" if code >= 0 else f"signal {signal.Signals(-code).name}"
        return f"its process ended with {how}: {self.tail()}"


def end_with_parent() -> Callable[[], None] | None:
    """Run in a child, makes a killed host take it along (PR_SET_PDEATHSIG); None where the kernel has no such thing.

    The C function is looked up before the fork: a child of a process with threads must not load anything.
    """
    if sys.platform != "linux":
        return None
    prctl = ctypes.CDLL(None).prctl
    return lambda: prctl(1, int(signal.SIGTERM))
