"""The frame around each step's body: its name in the progress, its error as one line, its end when the run is gone."""

import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from models.errors import UserError
from models.progress import report

IMAGE = "hscode/training:0.1.0-python3.11"
"""Image of the steps where nothing else is said; `hscode compile --image` and the overlays name the real one."""

USER_ERROR = 2
"""Exit code of a step that failed by its input."""


def _end_with(pid: str | None) -> None:
    if pid is None:
        return

    def watch() -> None:
        while Path(f"/proc/{pid}").exists() or not Path("/proc").exists():
            time.sleep(0.2)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


@contextmanager
def step(name: str) -> Iterator[None]:
    """Run a step's body: progress from 0 to 1; a UserError ends the process with its one line and exit code 2.

    Where ``HSCODE_RUN_PID`` names the process that runs the pipeline here, the step ends when that process is gone.
    """
    _end_with(os.environ.get("HSCODE_RUN_PID"))
    report(name, 0, None, "started")
    began = time.monotonic()
    try:
        yield
    except UserError as error:
        report(name, 1, 1, f"error: {error}")
        sys.stderr.write(f"hscode: {error}\n")
        sys.exit(USER_ERROR)
    except OSError as error:
        if error.errno is None:
            raise
        where = f"{error.filename}: " if error.filename else ""
        report(name, 1, 1, f"error: {where}{error.strerror}")
        raise
    report(name, 1, 1, f"done in {time.monotonic() - began:.1f} s")


def folders(**given: Any) -> dict[str, Path]:
    """Kind → folder of the bundles that a step was given; KFP hands None for the others."""
    return {kind: Path(bundle.path) for kind, bundle in given.items() if bundle is not None}
