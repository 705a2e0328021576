"""How a long step says how far it is, wherever it runs.

Under `hscode run` the environment variable ``HSCODE_PROGRESS`` names a JSON-lines file that the command line follows;
elsewhere (a pod) the same lines go to standard error, at most one every ten seconds and step.
"""

import json
import os
import sys
import time

_last: dict[str, float] = {}


def report(step: str, done: float, total: float | None = None, note: str = "") -> None:
    """Say that `step` has finished `done` of `total` units; `note` is for people ("epoch 3 of 8, loss 2.1")."""
    now = time.monotonic()
    final = total is not None and done >= total
    path = os.environ.get("HSCODE_PROGRESS")
    if not final and now - _last.get(step, -1e9) < (0.2 if path else 10.0):
        return
    _last[step] = now
    line = json.dumps({"step": step, "done": done, "total": total, "note": note, "at": time.time()})
    if path:
        with open(path, "a", encoding="utf-8") as file:
            file.write(line + "\n")
    else:
        sys.stderr.write(line + "\n")
