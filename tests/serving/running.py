"""A predictor as a process of its own, for tests that talk to the real thing."""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path


@dataclass
class Predictor:
    """A running predictor: its ports, its process."""

    http_port: int
    grpc_port: int
    process: subprocess.Popen[bytes]
    log: Path

    @property
    def url(self) -> str:
        """Base address of the REST side."""
        return f"http://127.0.0.1:{self.http_port}"


@contextmanager
def running_predictor(
    bundle: Path, *flags: str, environment: Mapping[str, str] | None = None, deadline: float = 60
) -> Iterator[Predictor]:
    """Start ``python -m serving.predictor`` on free ports, wait until it listens, end it."""
    with tempfile.TemporaryDirectory(prefix="hs-predictor-") as folder:
        ready, log = Path(folder) / "ready.json", Path(folder) / "log"
        command = [sys.executable, "-m", "serving.predictor", "--model-dir", str(bundle), "--host", "127.0.0.1"]
        command += ["--http-port", "0", "--grpc-port", "0", "--ready-file", str(ready), *flags]
        with open(log, "wb") as out:
            process = subprocess.Popen(command, stdout=out, stderr=out, env={**os.environ, **(environment or {})})
        try:
            ends = time.monotonic() + deadline
            while not ready.exists():
                assert process.poll() is None, f"the predictor ended:\n{log.read_text()}"
                assert time.monotonic() < ends, f"the predictor did not start:\n{log.read_text()}"
                time.sleep(0.02)
            ports = json.loads(ready.read_text())
            yield Predictor(ports["http"], ports["grpc"], process, log)
        finally:
            if process.poll() is None:
                process.terminate()
                try:
                    process.wait(20)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()
