"""A real MLflow server as a process."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from tests.serving.s3 import S3


@contextmanager
def running_mlflow(folder: Path, ip: str = "127.0.0.1", artifacts: S3 | None = None) -> Iterator[str]:
    """Serve a registry kept in `folder` on a free port of `ip`; gives its address.

    With `artifacts` clients put models there themselves, as manifests/base/mlflow has it; else the server keeps them.
    """
    with socket.socket() as made:
        made.bind((ip, 0))
        port = int(made.getsockname()[1])
    command = [sys.executable, "-m", "mlflow", "server", "--host", ip, "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{folder}/server.db", "--allowed-hosts", f"{ip}:*"]
    if artifacts is None:
        command += ["--artifacts-destination", str(folder / "store")]
    else:
        command += ["--no-serve-artifacts", "--default-artifact-root", f"s3://{artifacts.bucket}/mlflow"]
    log = (folder / "log").open("w")
    # Its job runner is seven processes more.
    environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    server = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True, env=environment)
    try:
        _wait(f"http://{ip}:{port}", server, folder / "log")
        yield f"http://{ip}:{port}"
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def _wait(address: str, server: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 600
    while True:
        try:
            if httpx.get(f"{address}/health").status_code == 200:
                return
        except httpx.TransportError:
            if server.poll() is not None or time.monotonic() > deadline:
                pytest.fail(log.read_text()[-2000:])
        time.sleep(0.1)
