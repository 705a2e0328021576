"""Throughput and latency of the predictor, beside other servers with the same model on the same cores.

    python -m benchmarks.serving [--bundle FOLDER] [--seconds 3] [--rounds 3] [--only NAME ...] [--json FILE]

Load comes from `wrk` (Debian: apt-get install wrk) over loopback with 1, 8 and 64 connections, 1 and 32 descriptions a
request, hardly one twice. All servers are up all the time; each setting is measured on one after the other, in
`--rounds` rounds with the order turned. Medians count, and ratios are medians of the ratios within a round, so that
what else runs on the machine hits all alike. CPU is user and system time of the server's processes for a request: it
is hardly touched by what else runs.

- *bare*: no server; `session.run` on arrays made before, and Bundle.answer, in a loop: the limit; *paced* with a pause
  between calls, as between requests of one client (a loop keeps the weights in the processor's cache)
- *hscode*: ours, one process, as it is deployed
- *echo*: a KServe model that gives back what it got: what KServe costs without a model
- *torch*: a minimal KServe model on torch with the same net and the same answers
- *mlflow*, *mlflow-2*: `mlflow models serve` with the bundle as pyfunc, one and two workers
- *litserve*, *litserve-batch*, *litserve-2*: LitServe with one worker, with its batching on, with two workers

The bundle is one of the full edition's size with weights at random (benchmarks/peers/full_size.py) unless `--bundle`
names another; *torch* needs the former.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from socket import socket
from typing import Any

from benchmarks.peers.full_size import TORCH, texts, write_full_size

ROOT = Path(__file__).resolve().parents[1]
CLIENTS, BATCHES = (1, 8, 64), (1, 32)
PATH = "/v1/models/hscode:predict"
PEERS = ("mlflow", "mlflow-2", "torch", "litserve", "litserve-batch", "litserve-2")
SERVERS = ("hscode", "echo", *PEERS)


def command(name: str, port: int, bundle: Path, work: Path) -> list[str]:
    """How a server is started."""
    python = sys.executable
    if name == "hscode":
        flags = ["--host", "127.0.0.1", "--http-port", str(port), "--grpc-port", "-1", "--max-waiting", "4096"]
        return [python, "-m", "serving.predictor", "--model-dir", str(bundle), *flags]
    if name == "echo":
        return [python, "-m", "benchmarks.peers.kserve_echo", str(port)]
    if name == "torch":
        return [python, "-m", "benchmarks.peers.kserve_torch", str(port), str(bundle)]
    if name.startswith("mlflow"):
        workers = "2" if name.endswith("-2") else "1"
        serve = ["models", "serve", "--model-uri", str(work / "mlflow-model"), "--env-manager", "local"]
        return [python, "-m", "mlflow", *serve, "--host", "127.0.0.1", "--port", str(port), "--workers", workers]
    batching, workers = ("64" if name.endswith("-batch") else "1"), ("2" if name.endswith("-2") else "1")
    return [python, "-m", "benchmarks.peers.litserve_app", str(port), str(bundle), batching, workers]


def body(name: str, asked: Sequence[str]) -> str:
    """A request's JSON, as the server wants it."""
    if name.startswith("mlflow"):
        return json.dumps({"dataframe_split": {"columns": ["description"], "data": [[text] for text in asked]}})
    return json.dumps({"instances": list(asked)})


@contextmanager
def running(name: str, bundle: Path, work: Path) -> Iterator[tuple[str, int]]:
    """The server's address and process id, once it answers."""
    with socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}{'/invocations' if name.startswith('mlflow') else PATH}"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "KSERVE_LOGLEVEL": "WARNING"}
    environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"
    with open(work / f"{name}.log", "ab") as log:
        process = subprocess.Popen(
            command(name, port, bundle, work), stdout=log, stderr=log, env=environment, start_new_session=True
        )
    try:
        ends = time.monotonic() + 180
        while True:
            try:
                ask(url, body(name, ["cotton shirt"]))
                break
            except (OSError, urllib.error.URLError) as error:
                if process.poll() is not None or time.monotonic() > ends:
                    raise SystemExit(f"{name} did not start: {error}; see {work / (name + '.log')}") from None
                time.sleep(0.2)
        yield url, process.pid
    finally:
        for signal in (15, 9):
            with suppress(ProcessLookupError, subprocess.TimeoutExpired):
                os.killpg(process.pid, signal)
                process.wait(15)


def ask(url: str, content: str) -> Any:
    """One request's answer."""
    request = urllib.request.Request(url, content.encode(), {"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as response:
        return json.loads(response.read())


def load(url: str, clients: int, bodies: Path, seconds: float) -> dict[str, Any]:
    """What wrk measured: requests, seconds, p50, p95, p99 (ms), refused, failed."""
    script = str(Path(__file__).with_name("load.lua"))
    flags = ["-t1", f"-c{clients}", f"-d{max(1, round(seconds))}s", "--timeout", "60s", "-s", script]
    done = subprocess.run(
        ["wrk", *flags, url], capture_output=True, text=True, check=True, env={**os.environ, "HS_BODIES": str(bodies)}
    )
    line = next(row for row in done.stdout.splitlines() if row.startswith("RESULT "))
    result: dict[str, Any] = json.loads(line.removeprefix("RESULT "))
    return result


def processes(session: int) -> Iterator[Path]:
    """/proc folders of a session's processes."""
    for entry in Path("/proc").iterdir():
        with suppress(OSError):
            if entry.name.isdigit() and os.getsid(int(entry.name)) == session:
                yield entry


def peak_memory(session: int) -> float:
    """MiB: the highest resident sizes of the processes of a session, summed."""
    total = 0.0
    for entry in processes(session):
        with suppress(OSError, StopIteration):
            lines = (entry / "status").read_text().splitlines()
            total += next(int(row.split()[1]) for row in lines if row.startswith("VmHWM")) / 1024
    return total


def cpu_seconds(session: int) -> float:
    """User and system time so far of the processes of a session."""
    ticks = 0
    for entry in processes(session):
        with suppress(OSError):
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
            ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def bare(bundle: Path, asked: Sequence[str], batch: int, seconds: float) -> dict[str, dict[str, float]]:
    """The model in a loop: session.run on arrays made before, and Bundle.answer."""
    from models.bundle import Bundle

    loaded = Bundle.load(bundle)
    groups = [list(asked[i : i + batch]) for i in range(0, len(asked) - batch, batch)]
    feeds = [loaded.encoder.encode(group) for group in groups[:500]]
    out = {}
    calls: dict[str, Callable[[int], Any]] = {
        "run": lambda i: loaded._run(feeds[i % len(feeds)]),
        "answer": lambda i: loaded.answer(groups[i % len(groups)]),
    }
    calls["answer, paced"] = calls["answer"]
    for name, work in calls.items():
        work(0)
        took: list[float] = []
        spent = time.process_time()
        ends = time.perf_counter() + seconds
        while time.perf_counter() < ends:
            if name.endswith("paced"):
                time.sleep(0.002)
            before = time.perf_counter()
            work(len(took))
            took.append(time.perf_counter() - before)
        spent = (time.process_time() - spent) * 1e3 / len(took)
        took.sort()
        at = {p: took[min(len(took) - 1, int(len(took) * p / 100))] * 1e3 for p in (50, 95, 99)}
        out[name] = {"rate": len(took) / sum(took), "p50": at[50], "p95": at[95], "p99": at[99], "cpu": spent}
    return out


def main() -> None:
    """Measure, print tables and ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path)
    parser.add_argument("--seconds", type=float, default=3)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", nargs="*", choices=SERVERS, default=list(SERVERS))
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    if shutil.which("wrk") is None:
        raise SystemExit("wrk is needed: apt-get install wrk")
    with tempfile.TemporaryDirectory(prefix="hs-bench-") as folder:
        work = Path(folder)
        bundle = given.bundle or write_full_size(work / "bundle")
        names = [n for n in given.only if n != "torch" or (bundle / TORCH).exists()]
        asked = texts(33_000, seed=5)
        if any(n.startswith("mlflow") for n in names):
            saver = [sys.executable, "-m", "benchmarks.peers.mlflow_model", str(work / "mlflow-model"), str(bundle)]
            subprocess.run(saver, check=True, cwd=ROOT, capture_output=True)
        results = measure(names, bundle, work, asked, given.seconds, given.rounds)
    show(results, names)
    if given.json:
        given.json.write_text(json.dumps(results, indent=1))


def measure(
    names: Sequence[str], bundle: Path, work: Path, asked: Sequence[str], seconds: float, rounds: int
) -> dict[str, Any]:
    """{server: {"BATCHxCLIENTS": one result a round}}, and "bare" by batch."""
    seen: dict[str, dict[str, list[dict[str, Any]]]] = {name: {} for name in ("bare", *names)}
    for name in names:
        for batch in BATCHES:
            groups = [asked[i : i + batch] for i in range(0, len(asked) - batch, batch)]
            (work / f"{name}-{batch}").write_text("".join(body(name, group) + "\n" for group in groups))
    with ExitStack() as stack:
        servers = {name: stack.enter_context(running(name, bundle, work)) for name in names}
        for name, (url, _) in servers.items():
            if name != "echo":
                check(name, url, bundle, asked[:32])
            load(url, 8, work / f"{name}-1", 1)
        for number in range(rounds):
            for batch in BATCHES:
                for name, value in bare(bundle, asked, batch, seconds / 2).items():
                    seen["bare"].setdefault(f"{batch} {name}", []).append(value)
                for clients in CLIENTS:
                    sys.stderr.write(f"round {number + 1} of {rounds}: {batch} a request, {clients} clients\n")
                    at = number % len(names)
                    for name in (*names[at:], *names[:at]):
                        url, pid = servers[name]
                        before = cpu_seconds(pid)
                        result = load(url, clients, work / f"{name}-{batch}", seconds)
                        answered = max(1, result["requests"] - result["refused"])
                        result["rate"] = answered / result["seconds"]
                        result["cpu"] = (cpu_seconds(pid) - before) * 1e3 / answered
                        seen[name].setdefault(f"{batch}x{clients}", []).append(result)
        for name, (_, pid) in servers.items():
            seen[name]["memory"] = [{"MiB": peak_memory(pid)}]
    return seen


def median(many: Sequence[Mapping[str, float]], key: str) -> float:
    """Of one figure over the rounds."""
    return statistics.median(one[key] for one in many)


def ratio(ours: Sequence[Mapping[str, float]], theirs: Sequence[Mapping[str, float]], key: str) -> float:
    """Median of the ratios within a round."""
    return statistics.median(a[key] / b[key] for a, b in zip(ours, theirs, strict=True))


def check(name: str, url: str, bundle: Path, asked: Sequence[str]) -> None:
    """Every server must give the bundle's codes."""
    from models.bundle import Bundle

    wanted = [(a["code"], a["status"]) for a in Bundle.load(bundle).answer(list(asked))]
    got = [(a["code"], a["status"]) for a in ask(url, body(name, asked))["predictions"]]
    if got != wanted:
        raise SystemExit(f"{name} does not give the bundle's answers: {got[:3]} for {wanted[:3]}")


def show(results: Mapping[str, Any], names: Sequence[str]) -> None:
    """Tables, then the ratios that are aimed at."""
    print(f"{'bare loop':<28}{'calls/s':>10}{'p50 ms':>9}{'p95 ms':>9}{'p99 ms':>9}{'CPU ms':>9}")
    for setting, many in results["bare"].items():
        figures = "".join(f"{median(many, key):9.2f}" for key in ("p50", "p95", "p99", "cpu"))
        print(f"{setting:<28}{median(many, 'rate'):10.0f}{figures}")
    for batch in BATCHES:
        for clients in CLIENTS:
            print(f"\n{batch} a request, {clients} clients:")
            heads = ("requests/s", "rows/s", "p50 ms", "p95 ms", "p99 ms", "CPU ms", "lost")
            print(f"{'':<16}" + "".join(f"{head:>11}" for head in heads))
            for name in names:
                many = results[name][f"{batch}x{clients}"]
                rate = median(many, "rate")
                lost = sum(int(one["refused"] + one["failed"]) for one in many)
                times = (f"{median(many, key):.2f}" for key in ("p50", "p95", "p99", "cpu"))
                figures = (f"{rate:.0f}", f"{rate * batch:.0f}", *times, lost)
                print(f"{name:<16}" + "".join(f"{f:>11}" for f in figures))
    print("\npeak memory, MiB: " + ", ".join(f"{n} {results[n]['memory'][0]['MiB']:.0f}" for n in names))
    if "hscode" in names:
        show_ratios(results, names)


def show_ratios(results: Mapping[str, Any], names: Sequence[str]) -> None:
    """Ours against each."""
    ours = {setting: many for setting, many in results["hscode"].items() if setting != "memory"}
    print("\nratios (settings are BATCHxCLIENTS)")
    if "echo" in names:
        alone, echo = ours["1x1"], results["echo"]["1x1"]
        for key, word in (("p50", "latency"), ("cpu", "CPU")):
            each = [
                (a[key] - b[key]) / e[key]
                for a, b, e in zip(alone, results["bare"]["1 answer, paced"], echo, strict=True)
            ]
            over = statistics.median(each)
            print(f"overhead over the bare model (paced) / KServe echo, {word}: {over:.2f} (aim <= 1.5)")
    for name in names:
        if name in PEERS:
            for key, word, turned in (("rate", "throughput", 1), ("cpu", "CPU, theirs/ours", -1)):
                each = {s: ratio(many, results[name][s], key) ** turned for s, many in ours.items()}
                print(f"{word + ' / ' + name:<34}" + "  ".join(f"{s} {value:.1f}" for s, value in each.items()))
    tails = {s: statistics.median(one["p99"] / one["p50"] for one in many) for s, many in ours.items()}
    print(f"{'p99 / p50 of ours (aim < 3)':<34}" + "  ".join(f"{s} {value:.1f}" for s, value in tails.items()))


if __name__ == "__main__":
    main()
