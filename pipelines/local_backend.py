"""Retrainings on this machine: each a process of its own (`hscode retrain`) that outlives whoever started it.

A run is the folder ``HOME/retrains/NAME``: what was asked (run.json), the process's log, and status.json, which the
process writes. It holds a lock on the folder for as long as it lives, handed to it locked by whoever starts it: so a
name is started once, whatever dies in between, and a run whose lock is free without an end was killed.
"""

import fcntl
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any, Literal

from config.settings import Settings
from models.errors import UserError
from serving.control.trigger.backend import BackendRefused, BackendUnavailable, RunState, Status, Value

LOCK_VARIABLE = "HSCODE_RUN_LOCK"
"""File descriptor of the locked lock that a started process inherits."""

TAKEN = ("data_until", "new_data", "run_key", "since", "triggered_by")
"""The retraining's parameters that are a caller's here; settings and the data's fingerprint are made by the run."""


class LocalBackend:
    """`backend.RunBackend` over folders and processes; a run's id is its name. One retraining runs at a time."""

    name: Literal["local"] = "local"

    def __init__(self, settings: Settings, home: Path) -> None:
        self._settings, self._runs = settings, home.resolve() / "retrains"
        self._home = home.resolve()
        self._started: dict[str, subprocess.Popen[bytes]] = {}

    def find(self, name: str) -> RunState | None:
        """A run that was started; a folder that nothing was started in is none."""
        self._reap()
        folder = self._folder(name)
        told = _read(folder)
        if told is None:
            return RunState(name, name, "intended") if _locked(folder) else None
        status: Status = told["status"]
        error = str(told.get("error", ""))
        if status not in ("succeeded", "failed") and not _locked(folder):
            # It may have ended, and said so, since we read.
            told = _read(folder) or told
            status, error = told["status"], str(told.get("error", ""))
            if status not in ("succeeded", "failed"):
                status, error = "failed", "its process was killed"
        return RunState(name, name, status, error, _moment(told, "started_at"), _moment(told, "finished_at"))

    def status(self, backend_id: str) -> RunState:
        """As `find`; unknown is BackendRefused."""
        found = self.find(backend_id)
        if found is None and not self._folder(backend_id).exists():
            raise BackendRefused(f"there is no run {backend_id} in {self._home}")
        if found is None:
            raise BackendRefused(f"{backend_id} ended before it began; see log.txt in {self._runs / backend_id}")
        return found

    def submit(self, name: str, parameters: Mapping[str, Value], tags: Mapping[str, str]) -> str:
        """Start it, unless it was started before: here a second submission does no harm."""
        folder = self._folder(name)
        unknown = sorted(set(parameters) - set(TAKEN))
        if unknown:
            raise BackendRefused(f"the retraining here has no parameter {unknown[0]}; it takes {', '.join(TAKEN)}")
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with _lock_file(folder).open("a+") as lock:
                if _taken(lock) and _read(folder) is None:
                    self._start(folder, name, parameters, tags, lock.fileno())
        except OSError as error:
            raise BackendUnavailable(f"{folder}: {error.strerror}") from error
        return name

    def listed(self, limit: int) -> list[RunState]:
        """The newest retrainings of this home."""
        names = [path.name for path in self._runs.iterdir()] if self._runs.exists() else []
        found = [state for state in map(self.find, names) if state is not None]
        return sorted(found, key=lambda state: (state.started_at is None, str(state.started_at)), reverse=True)[:limit]

    def progress(self, backend_id: str) -> tuple[RunState, Mapping[str, str]]:
        """A run, and the last note of each of its steps."""
        lines: dict[str, str] = {}
        try:
            told = (self._home / "runs" / backend_id / "progress.jsonl").read_text(encoding="utf-8")
        except OSError:
            told = ""
        for line in told.splitlines():
            if line.endswith("}"):
                step = json.loads(line)
                lines[str(step["step"])] = str(step["note"] or "running")
        return self.status(backend_id), lines

    def failed_step(self, backend_id: str) -> tuple[str, str]:
        """The process's log: its steps write into one."""
        log = self._folder(backend_id) / "log.txt"
        return "run", log.read_text(encoding="utf-8", errors="replace")[-20_000:] if log.exists() else ""

    def artifacts(self, state: RunState) -> str:
        """Folder with the run's report and log."""
        return str(self._home / "runs" / state.backend_id)

    def _start(
        self, folder: Path, name: str, parameters: Mapping[str, Value], tags: Mapping[str, str], lock: int
    ) -> None:
        _write(folder / "run.json", {"name": name, "parameters": dict(parameters), "tags": dict(tags)})
        _write(folder / "settings.yaml", json.loads(self._settings.to_json()))
        command = [sys.executable, "-m", "cli.main", "retrain", "--name", name, "--home", str(self._home)]
        command += ["--config", str(folder / "settings.yaml"), "--triggered-by", str(parameters.get("triggered_by"))]
        if parameters.get("since"):
            command += ["--since", str(parameters["since"])]
        if parameters.get("data_until"):
            command += ["--data-until", str(parameters["data_until"])]
        for address in str(parameters.get("new_data") or "").splitlines():
            command += ["--new-data", address]
        with (folder / "log.txt").open("ab") as log:
            self._started[name] = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, LOCK_VARIABLE: str(lock)},
                pass_fds=(lock,),
                start_new_session=True,
            )

    def _reap(self) -> None:
        """Take note of our own that ended, lest they stay as zombies."""
        self._started = {name: process for name, process in self._started.items() if process.poll() is None}

    def _folder(self, name: str) -> Path:
        if not name or name != Path(name).name or name.startswith("."):
            raise BackendRefused(f"not a run's name: {name!r}")
        return self._runs / name


@contextmanager
def recorded(home: Path, name: str) -> Iterator[None]:
    """Run the block as the run of this name: its status is written, its lock held. Raises UserError where it was run.

    A failure of the block is written too, as one line, and raised again.
    """
    folder = home.resolve() / "retrains" / name
    inherited = os.environ.pop(LOCK_VARIABLE, None)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = os.fdopen(int(inherited), "a+") if inherited else _lock_file(folder).open("a+")
    except OSError as error:
        raise UserError(f"cannot be written ({error.strerror})", str(folder), "choose another --home") from None
    with lock:
        if not inherited and not _taken(lock):
            raise UserError("this run is active already", name)
        if _read(folder) is not None:
            raise UserError("a run of this name has been", str(folder), "choose another --name")
        began = {"started_at": datetime.now(UTC).isoformat(), "pid": os.getpid()}
        _write(folder / "status.json", {"status": "running", **began})
        try:
            yield
        except BaseException as error:
            told = str(error).splitlines() or [type(error).__name__]
            _write(folder / "status.json", {"status": "failed", "error": told[0][:1000], **began, **_ended()})
            raise
        _write(folder / "status.json", {"status": "succeeded", **began, **_ended()})


def _ended() -> dict[str, str]:
    return {"finished_at": datetime.now(UTC).isoformat()}


def _taken(lock: IO[str]) -> bool:
    """Take the lock; False where a process holds it. Whoever only looks (`_locked`) has it for a moment, no longer."""
    for _ in range(50):
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except OSError:
            time.sleep(0.01)
    return False


def _lock_file(folder: Path) -> Path:
    return folder / "lock"


def _locked(folder: Path) -> bool:
    """Whether a process lives that runs it, or is about to."""
    try:
        with _lock_file(folder).open("a+") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return False


def _read(folder: Path) -> dict[str, Any] | None:
    try:
        told: dict[str, Any] = json.loads((folder / "status.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    return told


def _write(file: Path, content: Mapping[str, Any]) -> None:
    draft = file.with_suffix(".new")
    draft.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    os.replace(draft, file)


def _moment(told: Mapping[str, Any], name: str) -> datetime | None:
    return datetime.fromisoformat(told[name]) if told.get(name) else None
