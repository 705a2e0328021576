"""The frame around each step's body: its name in the progress, its error as one line, the run it belongs to."""

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from models.errors import UserError
from models.progress import report

IMAGE = "hscode/training:0.1.0-python3.11"
"""Image of the steps where nothing else is said; `hscode compile --image` and the overlays name the real one."""

USER_ERROR = 2
"""Exit code of a step that failed by its input."""


@contextmanager
def step(name: str, run: str = "") -> Iterator[None]:
    """Run a step's body: progress from 0 to 1; a UserError ends the process with its one line and exit code 2.

    `run` is the pipeline run's id; it reaches model cards through ``HSCODE_RUN_ID``.
    """
    if run:
        os.environ["HSCODE_RUN_ID"] = run
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
