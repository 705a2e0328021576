"""What the local host keeps in its home folder, and how other processes speak to it.

    serving/host.lock                       held while a host runs (the kernel lets go of it, whatever kills the host)
    serving/host.json                       its addresses and process
    serving/services/NAME/desired.json      manifest and generation: written by whoever deploys
    serving/services/NAME/status.json       written by the host alone
    serving/services/NAME/events.jsonl      lines for people

The files are the interface: a deployment is recorded with no host running and taken up by the next one. Writes are
atomic (rename) and flushed to disk; writers of ``desired.json`` take turns by a lock.
"""

import contextlib
import fcntl
import json
import os
import shutil
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from models.errors import UserError
from serving.deploy.base import EventKind


@dataclass(frozen=True)
class Desired:
    """A manifest as it was last written."""

    manifest: dict[str, Any]
    generation: int
    """Counts changes of the manifest's spec, as in Kubernetes."""
    resource_version: int
    """Counts all writes."""
    uid: str


class Store:
    """The folder ``serving/`` of a home; made on first write."""

    def __init__(self, home: Path) -> None:
        self.home = home.resolve()
        self.folder = self.home / "serving"
        self.services = self.folder / "services"

    # -- desired ------------------------------------------------------------------------------------------------

    def names(self) -> list[str]:
        """Names of the recorded InferenceServices."""
        return sorted(path.parent.name for path in self.services.glob("*/desired.json"))

    def desired(self, name: str) -> Desired | None:
        """What was last written for `name`, or None."""
        return self._desired(self.services / name / "desired.json")

    def edit(self, name: str, change: Callable[[Desired | None], Mapping[str, Any] | None]) -> Desired | None:
        """Write what `change` makes of the present state, one writer at a time; None from it deletes.

        Writes nothing where the manifest stays as it is. Returns the state afterwards.
        """
        with self._writing():
            before = self.desired(name)
            manifest = change(before)
            if manifest is None:
                if before is not None:
                    (self.services / name / "desired.json").unlink()
                return None
            if before is not None and before.manifest == manifest:
                return before
            spec_changed = before is None or before.manifest["spec"] != manifest["spec"]
            after = Desired(
                manifest=dict(manifest),
                generation=(before.generation if before else 0) + spec_changed,
                resource_version=(before.resource_version if before else 0) + 1,
                uid=before.uid if before else str(uuid.uuid4()),
            )
            (self.services / name).mkdir(parents=True, exist_ok=True)
            write_json(self.services / name / "desired.json", vars(after))
            return after

    def stamp(self) -> tuple[tuple[str, int, int], ...]:
        """Changes whenever any desired state does; cheap enough to ask several times a second."""
        found = []
        for path in sorted(self.services.glob("*/desired.json")):
            with contextlib.suppress(FileNotFoundError):
                stat = path.stat()
                found.append((path.parent.name, stat.st_mtime_ns, stat.st_ino))
        return tuple(found)

    # -- status -------------------------------------------------------------------------------------------------

    def status(self, name: str) -> dict[str, Any] | None:
        """What the host last wrote for `name`, or None."""
        return read_json(self.services / name / "status.json")

    def write_status(self, name: str, status: Mapping[str, Any]) -> None:
        """For the host alone."""
        write_json(self.services / name / "status.json", status)

    def forget(self, name: str) -> None:
        """Remove all that is kept of `name`."""
        shutil.rmtree(self.services / name, ignore_errors=True)

    def event(self, name: str, kind: EventKind, reason: str, message: str) -> None:
        """Append one line for people; nothing where the service is gone."""
        line = json.dumps({"time": time.time(), "type": kind, "reason": reason, "message": message})
        with (
            contextlib.suppress(FileNotFoundError),
            open(self.services / name / "events.jsonl", "a", encoding="utf-8") as file,
        ):
            file.write(line + "\n")

    def events(self, name: str) -> list[dict[str, Any]]:
        """All lines for people, oldest first."""
        path = self.services / name / "events.jsonl"
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []

    # -- who runs -----------------------------------------------------------------------------------------------

    def host(self) -> dict[str, Any] | None:
        """Addresses and process of the running host (``url, grpc, pid``), or None where none runs."""
        try:
            lock = open(self.folder / "host.lock", "rb")  # noqa: SIM115 (closed below)
        except FileNotFoundError:
            return None
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return read_json(self.folder / "host.json") or {}
        return None

    def take(self) -> IO[bytes]:
        """Become the home's one host; hold the returned file open. Raises UserError where another one runs."""
        self._make()
        (self.folder / "host.lock").touch()
        # Opened for reading, so that a status reader's momentary shared lock is told apart from a host's.
        lock = open(self.folder / "host.lock", "rb")  # noqa: SIM115 (held until the process ends)
        for _ in range(50):
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                (self.folder / "host.json").unlink(missing_ok=True)
                return lock
            except BlockingIOError:
                time.sleep(0.01)
        lock.close()
        other = read_json(self.folder / "host.json") or {}
        raise UserError(
            f"a local host runs already (process {other.get('pid', 'unknown')}, {other.get('url', 'starting')})",
            str(self.home),
            "use it, or stop it first",
        )

    def announce(self, host: Mapping[str, Any]) -> None:
        """Say where the host is reached."""
        write_json(self.folder / "host.json", host)

    # -- rim ----------------------------------------------------------------------------------------------------

    def _make(self) -> None:
        self.home.mkdir(parents=True, exist_ok=True)
        self.folder.mkdir(mode=0o700, exist_ok=True)

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        self._make()
        with open(self.folder / "write.lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    @staticmethod
    def _desired(path: Path) -> Desired | None:
        read = read_json(path)
        return None if read is None else Desired(**read)


def read_json(path: Path) -> dict[str, Any] | None:
    """The object in a file written by `write_json`, or None where there is no file."""
    try:
        loaded: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    return loaded


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Replace a file at once, on disk before it is visible."""
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with open(descriptor, "w", encoding="utf-8") as file:
            json.dump(value, file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise
