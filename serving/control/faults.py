"""Dying on purpose: how tests kill a service at a chosen point of its work."""

import os
import signal

VARIABLE = "HSCODE_CRASH_AT"
_passed: dict[str, int] = {}


def crash_point(name: str) -> None:
    """End this process as ``kill -9`` would, where ``HSCODE_CRASH_AT`` is `name` (or ``name:3``: at the third pass)."""
    wanted = os.environ.get(VARIABLE)
    if not wanted:
        return
    point, _, pass_ = wanted.partition(":")
    if point != name:
        return
    _passed[name] = _passed.get(name, 0) + 1
    if _passed[name] == int(pass_ or 1):
        os.kill(os.getpid(), signal.SIGKILL)
