"""A monitor as a process of its own, and the logger's events for it, as KServe and the local host send them."""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from serving.deploy.base import REQUEST_TYPE, RESPONSE_TYPE

TOKEN = "a-token-for-tests"


@dataclass
class Monitor:
    """A running monitor."""

    url: str
    process: subprocess.Popen[bytes]
    log: Path

    def kill(self) -> None:
        """As a pod that is gone: kill -9."""
        self.process.kill()
        self.process.wait()


@contextmanager
def running_monitor(
    state_url: str, *assignments: str, home: Path | None = None, environment: Mapping[str, str] | None = None
) -> Iterator[Monitor]:
    """Start ``python -m serving.control.monitor`` on a free port, wait until it listens, end it."""
    with tempfile.TemporaryDirectory(prefix="hs-monitor-") as folder:
        ready, log = Path(folder) / "ready.json", Path(folder) / "log"
        command = [sys.executable, "-m", "serving.control.monitor", "--address", "127.0.0.1", "--port", "0"]
        command += ["--ready-file", str(ready), "--set", f"state.url={state_url}"]
        command += ["--home", str(home)] if home is not None else []
        command += [part for one in assignments for part in ("--set", one)]
        given = {**os.environ, "HSCODE_MONITOR_TOKEN": TOKEN, **(environment or {})}
        with open(log, "wb") as out:
            process = subprocess.Popen(command, stdout=out, stderr=out, env=given)
        try:
            ends = time.monotonic() + 60
            while not ready.exists():
                assert process.poll() is None, f"the monitor ended:\n{log.read_text()}"
                assert time.monotonic() < ends, f"the monitor did not start:\n{log.read_text()}"
                time.sleep(0.02)
            yield Monitor(f"http://127.0.0.1:{json.loads(ready.read_text())['port']}", process, log)
        finally:
            if process.poll() is None:
                process.terminate()
                try:
                    process.wait(30)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()


def headers(ce_id: str, kind: str, version: str = "1", **changes: str) -> dict[str, str]:
    """Headers of one event."""
    return {
        "ce-specversion": "1.0", "ce-id": ce_id, "ce-type": kind, "ce-source": "http://localhost:9081/",
        "ce-time": datetime.now(UTC).isoformat(), "ce-inferenceservicename": "hscode", "ce-namespace": "shop",
        "ce-component": "predictor", "ce-endpoint": "", "ce-metadata": "{}", "content-type": "application/json",
        "ce-annotations": json.dumps({"hscode/version": version}), **changes,
    }  # fmt: skip


def request(ce_id: str, *texts: str, version: str = "1", **changes: str) -> dict[str, Any]:
    """Arguments of a POST with a request's event."""
    body = json.dumps({"instances": list(texts)}).encode()
    return {"headers": headers(ce_id, REQUEST_TYPE, version, **changes), "content": body}


def response(ce_id: str, *codes: str, version: str = "1", confidence: float = 0.9, **changes: str) -> dict[str, Any]:
    """Arguments of a POST with a response's event."""
    predictions = [
        {
            "code": code, "digits": len(code), "confidence": confidence if code else 0.0,
            "status": "answered" if code else "unsure", "candidates": [],
            "levels": {d: {"code": (code or "851830")[: int(d)], "confidence": confidence} for d in ("2", "4", "6")},
        }
        for code in codes
    ]  # fmt: skip
    body = json.dumps(
        {"predictions": predictions, "model": {"name": "hscode", "version": version, "edition": "HS2022"}}
    )
    return {"headers": headers(ce_id, RESPONSE_TYPE, version, **changes), "content": body.encode()}
