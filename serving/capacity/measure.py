"""Times a bundle's predictor on this machine: what a request costs and how long a process takes to its first answer.

CPU time counts, not the clock: on a machine that does other work too the clock says more of that work. Linux only
(``/proc``).
"""

import http.client
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from models.errors import UserError

TEXTS = (
    "ladies cotton knitted t-shirt",
    "wireless bluetooth headphones with charging case",
    "stainless steel hex bolts m8x40",
    "frozen atlantic salmon fillets skin on 10 kg",
    "spare parts",
    "plastic storage box with lid 20 litre",
    "lithium ion battery pack 36v for e-bike",
    "men's leather safety boots steel toe",
)
BATCH = 32
"""Descriptions of the larger request, by which a further description's cost is found."""
START_SECONDS = 120.0


@dataclass(frozen=True)
class Measured:
    """Medians and 95th percentiles; CPU seconds unless said otherwise."""

    service_ms: tuple[float, float]
    """A request with one description, the whole process's CPU milliseconds."""
    text_ms: float
    """Each further description in a request."""
    start_s: tuple[float, float]
    """Process start to first answer, CPU seconds."""
    start_clock_s: tuple[float, float]
    """The same by the clock: longer where the machine is busy."""
    memory_gb: float
    """Peak resident memory, GB."""
    requests: int
    starts: int

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def measure(bundle: Path, requests: int = 200, starts: int = 5) -> Measured:
    """Start a predictor with `bundle` `starts` times and send the last one `requests` requests, one after the other.

    Raises UserError where it does not start, or where the system has no ``/proc``.
    """
    if not Path("/proc/self/task").is_dir():
        raise UserError(
            "cannot measure CPU time here", todo="measure on Linux, or give --service-ms and --cold-start-s"
        )
    if not (bundle / "card.json").is_file():
        raise UserError("no model bundle there", str(bundle))
    cpu: list[float] = []
    clock: list[float] = []
    ones: list[float] = []
    batches: list[float] = []
    peak = 0.0
    for start in range(starts):
        began = time.perf_counter()
        with _predictor(bundle) as (process, port):
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
            _ask(connection, TEXTS[:1])
            clock.append(time.perf_counter() - began)
            cpu.append(_cpu_since_start(process))
            if start == starts - 1:
                for number in range(requests):
                    before = _cpu(process)
                    # A number makes each description new: nothing is answered from a cache.
                    _ask(connection, [f"{TEXTS[number % len(TEXTS)]} {number}"])
                    ones.append(_cpu(process) - before)
                for number in range(max(5, requests // 10)):
                    before = _cpu(process)
                    _ask(connection, [f"{TEXTS[i % len(TEXTS)]} {number} {i}" for i in range(BATCH)])
                    batches.append(_cpu(process) - before)
            peak = max(peak, _peak_gb(process))
            connection.close()
    one = _middle_and_high([1000 * s for s in ones])
    more = (1000 * float(np.median(batches)) - one[0]) / (BATCH - 1)
    return Measured(
        one, round(max(more, 0.0), 3), _middle_and_high(cpu), _middle_and_high(clock), peak, requests, starts
    )


@contextmanager
def _predictor(bundle: Path) -> "Iterator[tuple[int, int]]":
    """Its process id and port, once it listens."""
    with tempfile.TemporaryDirectory(prefix="hscode-measure-") as folder:
        ready, log = Path(folder) / "ready.json", Path(folder) / "log"
        flags = ["--host", "127.0.0.1", "--http-port", "0", "--grpc-port", "-1", "--drain-seconds", "0"]
        command = [sys.executable, "-m", "serving.predictor", "--model-dir", str(bundle), "--ready-file", str(ready)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        with log.open("wb") as out:
            process = subprocess.Popen([*command, *flags], env=environment, stdout=out, stderr=out)
        try:
            deadline = time.monotonic() + START_SECONDS
            while not ready.exists():
                if process.poll() is not None or time.monotonic() > deadline:
                    said = log.read_text(errors="replace").strip().splitlines()
                    raise UserError("the predictor does not start" + (f": {said[-1]}" if said else ""), str(bundle))
                time.sleep(0.005)
            yield process.pid, int(json.loads(ready.read_text())["http"])
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _ask(connection: http.client.HTTPConnection, texts: Sequence[str]) -> None:
    body = json.dumps({"instances": list(texts)})
    connection.request("POST", "/v1/models/hscode:predict", body, {"Content-Type": "application/json"})
    response = connection.getresponse()
    said = response.read()
    if response.status != 200:
        raise UserError(f"the predictor answers {response.status}: {said[:200].decode(errors='replace')}")


def _cpu(process: int) -> float:
    """CPU seconds of all threads that live, to the nanosecond."""
    tasks = Path(f"/proc/{process}/task")
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks.iterdir()) / 1e9


def _cpu_since_start(process: int) -> float:
    """CPU seconds of the process since its start, with threads and children that have ended, to 10 ms."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return sum(int(field) for field in fields[11:15]) / os.sysconf("SC_CLK_TCK")


def _peak_gb(process: int) -> float:
    for line in Path(f"/proc/{process}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return round(int(line.split()[1]) * 1024 / 1e9, 3)
    return 0.0


def _middle_and_high(values: Sequence[float]) -> tuple[float, float]:
    middle, high = np.quantile(values, (0.5, 0.95))
    return round(float(middle), 3), round(float(high), 3)
