"""What the monitor must know of a model version: its reference, vocabulary and edition, from the registry's bundle.

MLflow is large, so a process of its own asks it, once a version (``python -m serving.control.monitor.versions``); the
monitor reads three small files of the bundle and never the model.
"""

import argparse
import json
import logging
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

from config.settings import Settings
from models.errors import UserError
from models.hs.edition import load_edition
from models.text.encode import encoder_from_json
from serving.control.monitor.sketches import Knows
from serving.registry import BUNDLE, CHAMPION, Registry
from serving.state.corrections import Codes

log = logging.getLogger("hscode.monitor")

FILES = ("reference.json", "text.json", "labels.json")
RETRY_SECONDS = 60.0
"""After a failure, how long until a version is asked for again."""
LOAD_SECONDS = 120.0


@dataclass(frozen=True)
class Known:
    """One version."""

    number: str
    created: datetime
    reference: Mapping[str, Any]
    """`models.reference`; empty where the bundle has none."""
    knows: Knows | None
    """Whether a word is in its vocabulary; None where its encoder has none."""
    codes: Codes


@dataclass(frozen=True)
class BundleCodes:
    """The codes of a bundle's labels."""

    name: str
    codes: frozenset[str] = field(repr=False)

    def knows(self, code: str) -> bool:
        """Whether the code exists."""
        return code in self.codes


def read_bundle(folder: Path, number: str, created: datetime) -> Known:
    """Read what is needed of a bundle's folder. Raises UserError where a file is missing or damaged."""
    try:
        reference, text, labels = (json.loads((folder / name).read_bytes()) for name in FILES)
        encoder = encoder_from_json(text)
        codes = {code[:digits] for code in labels["classes"] if code for digits in (2, 4, 6)} | set(labels["texts"])
        return Known(
            number,
            created,
            reference,
            getattr(encoder, "knows", None),
            BundleCodes(labels["edition"], frozenset(codes)),
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"not a model bundle ({error})", str(folder)) from None


def fetch(registry: Registry, reference: str, cache: Path) -> tuple[str, datetime, Path]:
    """Number, time of registration and a folder with `FILES` of a version (by number or alias). Raises UserError."""
    version = registry.resolve(reference)
    parsed = urlparse(version.source)
    if parsed.scheme in ("", "file"):
        return version.number, version.created, Path(parsed.path)
    folder = str(_made(cache / version.model / version.number))
    # Where a file comes to lie depends on the store: with its folder's name from a server, without it from S3.
    got = [registry.client.download_artifacts(version.run_id, f"{BUNDLE}/{name}", folder) for name in FILES]
    return version.number, version.created, Path(got[0]).parent


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def codes_in_use(settings: Settings, cache: Path) -> Codes:
    """The edition of the settings, else that of the champion. Raises UserError where there is neither."""
    if settings.nomenclature.path:
        return load_edition(settings.nomenclature.path, settings.nomenclature.edition)
    number, created, folder = fetch(Registry(settings.registry.uri or "", settings.registry.model), CHAMPION, cache)
    return read_bundle(folder, number, created).codes


class Versions:
    """The versions that were met; unknown ones are loaded in the background."""

    def __init__(self, settings: Settings, cache: Path) -> None:
        self.settings, self.cache = settings, cache
        self._known: dict[str, Known] = {}
        self._asked: dict[str, float] = {}
        self._lock = threading.Lock()
        self._loader = ThreadPoolExecutor(1, "versions")
        self._codes: Codes | None = None
        if settings.nomenclature.path:
            self._codes = load_edition(settings.nomenclature.path, settings.nomenclature.edition)

    def get(self, number: str) -> Known | None:
        """The version where it is known; asks for it where it is not."""
        found = self._known.get(number)
        if found is None and number:
            self._ask(number)
        return found

    def knows(self, number: str) -> Knows | None:
        """Its vocabulary, likewise."""
        found = self.get(number)
        return None if found is None else found.knows

    @property
    def codes(self) -> Codes | None:
        """The edition corrections are checked against: the settings', else that of the newest version known."""
        if self._codes is not None:
            return self._codes
        if not self._known:
            self._ask(CHAMPION)
            return None
        return max(self._known.values(), key=lambda known: known.created).codes

    def put(self, known: Known) -> None:
        """Take a version as known."""
        self._known[known.number] = known

    def close(self) -> None:
        """Load nothing more."""
        self._loader.shutdown(wait=False, cancel_futures=True)

    def _ask(self, reference: str) -> None:
        if not self.settings.registry.uri:
            return
        with self._lock:
            if time.monotonic() - self._asked.get(reference, -1e9) < RETRY_SECONDS or len(self._asked) > 1000:
                return
            self._asked[reference] = time.monotonic()
        self._loader.submit(self._load, reference)

    def _load(self, reference: str) -> None:
        registry = self.settings.registry
        command = [sys.executable, "-m", __name__, registry.uri or "", registry.model, reference, str(self.cache)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=LOAD_SECONDS)
            if done.returncode:
                last = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
                log.warning("version %s is not known: %s", reference, last)
                return
            told = json.loads(done.stdout)
            self.put(read_bundle(Path(told["folder"]), told["number"], datetime.fromisoformat(told["created"])))
            log.info("version %s: reference and vocabulary read", told["number"])
        except (UserError, OSError, ValueError, subprocess.SubprocessError) as error:
            log.warning("version %s is not known: %s", reference, error)


def main(arguments: list[str] | None = None) -> None:
    """Print where a version's files are, as JSON."""
    parser = argparse.ArgumentParser(prog="python -m serving.control.monitor.versions", description=main.__doc__)
    for name in ("uri", "model", "version", "cache"):
        parser.add_argument(name)
    given = parser.parse_args(arguments)
    try:
        number, created, folder = fetch(Registry(given.uri, given.model), given.version, Path(given.cache))
    except UserError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(2)
    told = {"number": number, "created": created.astimezone(UTC).isoformat(), "folder": str(folder)}
    sys.stdout.write(json.dumps(told))


if __name__ == "__main__":
    main()
