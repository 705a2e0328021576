"""From the start of the process to the first answer: the predictor beside KServe's empty model and a torch variant.

    python -m benchmarks.coldstart [--bundle FOLDER] [--repeats 9] [--json FILE]

Each repeat starts every variant once, in turn, and asks until it answers; medians count, and ratios are medians of the
ratios within a repeat. CPU is user and system time of the process at its first answer: what a start costs on a busy
node, and steadier than the clock. Memory is the peak resident size then. Bytecode is warm, except where the name says.

- *hscode*: as deployed; *hscode, all imports*: with HSCODE_FULL_IMPORTS=1 (what `serving/predictor/lean.py` saves);
  *hscode, no bytecode*: as in an image without .pyc files; *hscode, forked*: by a fork server (peers/fork_server.py)
- *empty KServe model*: `ModelServer().start([Model])` that gives back what it got
- *torch on KServe*: a minimal KServe model with the same net on torch
"""

import argparse
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from benchmarks.peers.full_size import TORCH, write_full_size

ROOT = Path(__file__).resolve().parents[1]
QUESTION = json.dumps({"instances": ["ladies cotton t-shirt"]}).encode()
OURS, EMPTY, TORCH_PEER = "hscode", "empty KServe model", "torch on KServe"
TICK = os.sysconf("SC_CLK_TCK")


def free_port() -> int:
    """A port that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def first_answer(url: str, alive: Callable[[], bool]) -> float:
    """Ask until there is an answer; when that was (perf_counter)."""
    while True:
        try:
            request = urllib.request.Request(url, QUESTION, {"content-type": "application/json"})
            with urllib.request.urlopen(request, timeout=60) as response:
                json.load(response)
            return time.perf_counter()
        except urllib.error.HTTPError as error:
            raise SystemExit(f"a variant answered {error.code}") from None
        except (OSError, urllib.error.URLError) as error:
            if not alive():
                raise SystemExit(f"a variant ended before it answered ({error})") from None
            time.sleep(0.005)


def usage(pid: int) -> dict[str, float]:
    """CPU seconds and peak MiB of a process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    peak = next(r for r in Path(f"/proc/{pid}/status").read_text().splitlines() if r.startswith("VmHWM"))
    return {"cpu": (int(fields[11]) + int(fields[12])) / TICK, "MiB": int(peak.split()[1]) / 1024}


def started(command: list[str], environment: Mapping[str, str], port: int, ready: Path | None = None) -> dict[str, Any]:
    """Start, ask, measure, end."""
    url = f"http://127.0.0.1:{port}/v1/models/hscode:predict"
    before = time.perf_counter()
    process = subprocess.Popen(
        command, env={**os.environ, **environment}, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        result: dict[str, Any] = {"wall": first_answer(url, lambda: process.poll() is None) - before}
        result |= usage(process.pid)
        if ready:
            result |= {f"until {k}": v for k, v in json.loads(ready.read_text())["seconds"].items()}
        return result
    finally:
        process.kill()
        process.wait()


def forked(server: Path, bundle: Path, work: Path) -> dict[str, Any]:
    """Ask the fork server for a predictor, ask that, measure, end it."""
    port, ready = free_port(), work / "ready-forked"
    ready.unlink(missing_ok=True)
    before = time.perf_counter()
    with socket.socket(socket.AF_UNIX) as line:
        line.connect(str(server))
        line.sendall((" ".join(flags(bundle, port, ready)) + "\n").encode())
    wall = first_answer(f"http://127.0.0.1:{port}/v1/models/hscode:predict", lambda: True) - before
    pid = json.loads(ready.read_text())["pid"]
    result = {"wall": wall, **usage(pid)}
    os.kill(pid, signal.SIGKILL)
    return result


def flags(bundle: Path, port: int, ready: Path) -> list[str]:
    """The predictor's arguments."""
    return [
        f"--model-dir={bundle}",
        "--host=127.0.0.1",
        f"--http-port={port}",
        "--grpc-port=-1",
        f"--ready-file={ready}",
    ]


def variants(bundle: Path, work: Path) -> dict[str, Callable[[], dict[str, Any]]]:
    """What is started, by name."""
    python = sys.executable
    plain = {"PYTHONDONTWRITEBYTECODE": "", "HSCODE_FULL_IMPORTS": "", "OMP_NUM_THREADS": "1"}

    def ours(name: str, extra: Mapping[str, str], *options: str) -> Callable[[], dict[str, Any]]:
        def start() -> dict[str, Any]:
            port, ready = free_port(), work / f"ready-{name}"
            ready.unlink(missing_ok=True)
            command = [python, *options, "-m", "serving.predictor", *flags(bundle, port, ready)]
            return started(command, {**plain, **extra}, port, ready)

        return start

    def peer(module: str, *arguments: str) -> Callable[[], dict[str, Any]]:
        def start() -> dict[str, Any]:
            port = free_port()
            return started([python, "-m", f"benchmarks.peers.{module}", str(port), *arguments], plain, port)

        return start

    made = {
        OURS: ours("plain", {}),
        f"{OURS}, all imports": ours("full", {"HSCODE_FULL_IMPORTS": "1"}),
        f"{OURS}, no bytecode": ours(
            "bare", {"PYTHONDONTWRITEBYTECODE": "1"}, "-X", f"pycache_prefix={work / 'nothing'}"
        ),
        f"{OURS}, forked": lambda: forked(work / "fork", bundle, work),
        EMPTY: peer("kserve_echo"),
    }
    if (bundle / TORCH).exists():
        made[TORCH_PEER] = peer("kserve_torch", str(bundle))
    return made


IMPORTS = {
    "interpreter alone": "pass",
    "numpy": "import numpy",
    "onnxruntime (with numpy)": "import onnxruntime",
    "kserve": "import kserve",
    "kserve, as the predictor has it": "from serving.predictor import lean; lean.install(); import kserve.model_server",
    "pandas": "import pandas",
    "kubernetes": "import kubernetes",
    "fastapi": "import fastapi",
    "torch": "import torch",
}
"""Programs whose CPU time says what a part of the start costs."""


def import_cost(program: str) -> float:
    """CPU seconds of a process that runs `program`."""
    before = os.times()
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "", "OMP_NUM_THREADS": "1", "ORT_DISABLE_TELEMETRY": "1"}
    subprocess.run([sys.executable, "-c", program], check=True, env=environment, cwd=ROOT, capture_output=True)
    after = os.times()
    return after.children_user + after.children_system - before.children_user - before.children_system


def main() -> None:
    """Measure, print a table and the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="hs-cold-") as folder:
        work = Path(folder)
        bundle = given.bundle or write_full_size(work / "bundle")
        server = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.peers.fork_server", str(work / "fork")],
            cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            env={**os.environ, "OMP_NUM_THREADS": "1", "ORT_DISABLE_TELEMETRY": "1"},
        )  # fmt: skip
        try:
            while not (work / "fork").exists():
                time.sleep(0.05)
            made = variants(bundle, work)
            runs: dict[str, list[dict[str, Any]]] = {name: [] for name in made}
            for repeat in range(given.repeats + 1):
                for name, start in made.items():
                    result = start()
                    if repeat:  # the first fills caches and writes bytecode
                        runs[name].append(result)
        finally:
            with suppress(ProcessLookupError):
                server.kill()
            server.wait()
    costs = {
        name: statistics.median(import_cost(program) for _ in range(max(3, given.repeats // 2)))
        for name, program in IMPORTS.items()
    }
    show(runs, costs)
    if given.json:
        given.json.write_text(json.dumps({"runs": runs, "imports": costs}, indent=1))


def show(runs: Mapping[str, list[dict[str, Any]]], costs: Mapping[str, float]) -> None:
    """The table, the parts, the ratios."""

    def median(name: str, key: str) -> float:
        return statistics.median(run[key] for run in runs[name])

    print(f"{'process start to first answer':<32}{'wall s':>8}{'min':>8}{'max':>8}{'CPU s':>8}{'peak MiB':>10}")
    for name, many in runs.items():
        walls = [run["wall"] for run in many]
        print(
            f"{name:<32}{median(name, 'wall'):8.2f}{min(walls):8.2f}{max(walls):8.2f}"
            f"{median(name, 'cpu'):8.2f}{median(name, 'MiB'):10.0f}"
        )
    parts = [key for key in runs[OURS][0] if key.startswith("until")]
    print(f"\n{OURS}, seconds from the start: " + ", ".join(f"{k} {median(OURS, k):.2f}" for k in parts))
    print("(begun: the interpreter is up and flags are read; loaded: bundle, session and warm-up, in a thread beside")
    print(" imported: KServe and the server; listening: both are done and the port is open)")
    print("\nCPU seconds of imports alone: " + ", ".join(f"{name} {value:.2f}" for name, value in costs.items()))
    print("\nratios, median of the repeats (lowest to highest)")
    for peer, aim in ((EMPTY, "0.5"), (TORCH_PEER, "0.33")):
        if peer in runs:
            for key in ("wall", "cpu"):
                each = sorted(a[key] / b[key] for a, b in zip(runs[OURS], runs[peer], strict=True))
                middle = statistics.median(each)
                print(f"  {OURS} / {peer}, {key}: {middle:.2f} ({each[0]:.2f} to {each[-1]:.2f}; aim below {aim})")


if __name__ == "__main__":
    main()
