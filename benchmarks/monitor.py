"""Events a second and peak memory of the monitor, beside the request rate that the predictor reaches in one process.

    python -m benchmarks.monitor [--seconds 10] [--bundle FOLDER] [--databases sqlite postgresql]

Load comes from `wrk` over loopback, one thread: requests with one description to the predictor (8 connections, a
Text-CNN of the full edition's size), then pairs of logged events with that predictor's own answers to the monitor (64
connections), on SQLite in WAL with synchronous=FULL and on PostgreSQL with fsync. Each prediction makes two events.
Beside the rates it tells each process's CPU time for a request or an event: less a matter of what else the machine
does, but fixed work is in it, so many events are needed.

Then the monitor is killed (-9) under load from 16 clients: every event that it acknowledged must be stored.
"""

import argparse
import asyncio
import json
import os
import shutil
import statistics
import subprocess
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil
from sqlalchemy import func, select

from benchmarks.peers.full_size import texts, write_full_size
from benchmarks.serving import load
from serving.state import open_state
from serving.state.tables import Event
from tests.serving.monitoring import Monitor, request, response, running_monitor
from tests.serving.running import running_predictor

PREDICTOR_CLIENTS, MONITOR_CLIENTS, KILLED_CLIENTS = 8, 64, 16


@contextmanager
def running_postgresql() -> Iterator[str]:
    """A PostgreSQL with its usual durability in a folder of its own; gives the address of an empty database."""
    programs = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    found = shutil.which("postgres")
    programs = [Path(found).resolve().parent] if found else programs
    if not programs:
        raise SystemExit("PostgreSQL is needed: apt-get install postgresql")
    folder = Path(tempfile.mkdtemp(prefix="hs-postgres-"))
    account = {"user": "nobody", "group": "nogroup"} if os.getuid() == 0 else {}
    if account:
        shutil.chown(folder, **account)
        folder.chmod(0o755)
    given: dict[str, Any] = {"cwd": folder, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, **account}
    initdb = [programs[0] / "initdb", "-D", folder / "data", "-U", "hscode", "--auth=trust", "-E", "UTF8", "--locale=C"]
    subprocess.run(initdb, check=True, **given)
    server = subprocess.Popen(
        [programs[0] / "postgres", "-D", folder / "data", "-k", folder, "-c", "listen_addresses="], **given
    )
    try:
        while subprocess.run([programs[0] / "pg_isready", "-q", "-h", folder, "-t", "1"], check=False).returncode:
            if server.poll() is not None:
                raise SystemExit("PostgreSQL did not start")
        yield f"postgresql+psycopg://hscode@/postgres?host={folder}"
    finally:
        server.send_signal(2)
        server.wait(30)
        shutil.rmtree(folder, ignore_errors=True)


def peak_mib(pid: int) -> float:
    """Highest resident size so far."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024


def cpu_seconds(pid: int) -> float:
    """CPU time of a process so far."""
    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)


def load_events(monitor: Monitor, bodies: Path, seconds: float) -> dict[str, Any]:
    """What wrk measured of one stream of pairs."""
    script = str(Path(__file__).with_name("events.lua"))
    flags = ["-t1", f"-c{MONITOR_CLIENTS}", f"-d{round(seconds)}s", "--timeout", "60s", "-s", script]
    environment = {**os.environ, "HS_EVENTS": str(bodies), "HS_RUN": uuid.uuid4().hex[:8]}
    done = subprocess.run(["wrk", *flags, monitor.url], capture_output=True, text=True, check=True, env=environment)
    line = next(row for row in done.stdout.splitlines() if row.startswith("RESULT "))
    found: dict[str, Any] = json.loads(line.removeprefix("RESULT "))
    return found


async def _send_until_killed(monitor: Monitor, seconds: float) -> set[tuple[str, str]]:
    acknowledged: set[tuple[str, str]] = set()
    loop = asyncio.get_running_loop()

    async def client(number: int, session: httpx.AsyncClient) -> None:
        for i in range(1_000_000):
            ce_id = f"killed-{number}-{i}"
            for half, event in (("request", request(ce_id, f"text {i}")), ("response", response(ce_id, "851830"))):
                try:
                    answer = await session.post(monitor.url, **event)
                except httpx.HTTPError:
                    return
                if answer.status_code == 202:
                    acknowledged.add((half, ce_id))

    async with httpx.AsyncClient(timeout=30, limits=httpx.Limits(max_connections=KILLED_CLIENTS)) as session:
        work = [asyncio.create_task(client(number, session)) for number in range(KILLED_CLIENTS)]
        loop.call_later(seconds, monitor.process.kill)
        await asyncio.gather(*work)
    monitor.process.wait()
    return acknowledged


def measure(name: str, url: str, bodies: Path, seconds: float, rounds: int) -> dict[str, Any]:
    """Rounds of load, memory, and what is stored after kill -9."""
    state = open_state(url, upgrade=True)
    try:
        with running_monitor(url) as monitor:
            load_events(monitor, bodies, 1)
            began = cpu_seconds(monitor.process.pid)
            found = [load_events(monitor, bodies, seconds) for _ in range(rounds)]
            spent = cpu_seconds(monitor.process.pid) - began
            memory = peak_mib(monitor.process.pid)
            acknowledged = asyncio.run(_send_until_killed(monitor, seconds / 2))
        with state.read() as session:
            killed = select(Event.ce_id).where(Event.ce_id.like("killed-%"))
            stored = {("request", one) for one in session.scalars(killed.where(Event.request_at.is_not(None)))}
            stored |= {("response", one) for one in session.scalars(killed.where(Event.response_at.is_not(None)))}
            events = session.scalar(select(func.count()).select_from(Event))
    finally:
        state.close()
    return {
        "database": name,
        "rates": [round(one["requests"] / one["seconds"]) for one in found],
        "cpu_us": round(1e6 * spent / sum(one["requests"] for one in found)),
        "p99_ms": round(statistics.median(one["p99"] for one in found), 1),
        "refused": sum(one["refused"] + one["failed"] for one in found),
        "memory_mib": round(memory),
        "stored_rows": events,
        "acknowledged": len(acknowledged),
        "lost": len(acknowledged - stored),
    }


def main() -> None:
    """Measure, print a table and ratios; exit 1 where an acknowledged event is lost."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--databases", nargs="*", choices=("sqlite", "postgresql"), default=["sqlite", "postgresql"])
    options = parser.parse_args()
    if shutil.which("wrk") is None:
        raise SystemExit("wrk is needed: apt-get install wrk")
    with tempfile.TemporaryDirectory(prefix="hs-bench-") as folder:
        work = Path(folder)
        bundle = options.bundle or write_full_size(work / "bundle")
        asked = texts(400)
        (work / "requests").write_text("".join(json.dumps({"instances": [text]}) + "\n" for text in asked))
        with running_predictor(bundle) as predictor:
            path = f"{predictor.url}/v1/models/hscode:predict"
            with httpx.Client(timeout=60) as client:
                answers = [client.post(path, json={"instances": [text]}).raise_for_status().text for text in asked]
            pairs = [json.dumps({"instances": [t]}) + "\n" + a + "\n" for t, a in zip(asked, answers, strict=True)]
            (work / "events").write_text("".join(pairs))
            began = cpu_seconds(predictor.process.pid)
            runs = [load(path, PREDICTOR_CLIENTS, work / "requests", options.seconds) for _ in range(options.rounds)]
            cost = 1e6 * (cpu_seconds(predictor.process.pid) - began) / sum(one["requests"] for one in runs)
        rates = [one["requests"] / one["seconds"] for one in runs]
        served = statistics.median(rates)
        told = ", ".join(f"{rate:.0f}" for rate in rates)
        print(f"predictor, one process: {served:.0f} requests/s ({told}), {cost:.0f} µs of CPU a request")
        print(f"an answer's event has {statistics.mean(len(a) for a in answers):.0f} bytes")
        lost = 0
        for name in options.databases:
            if name == "sqlite":
                found = measure(name, f"sqlite:///{work}/state.db", work / "events", options.seconds, options.rounds)
            else:
                with running_postgresql() as url:
                    found = measure(name, url, work / "events", options.seconds, options.rounds)
            rate = statistics.median(found["rates"])
            lost += found["lost"]
            print(json.dumps(found))
            print(
                f"{name}: {rate:.0f} events/s = {rate / 2:.0f} predictions/s, {rate / served:.2f} events and "
                f"{rate / 2 / served:.2f} predictions for each request the predictor can answer; "
                f"{found['cpu_us']} µs of CPU an event, {cost / found['cpu_us']:.1f} events for a request's; peak "
                f"{found['memory_mib']} MiB; after kill -9 {found['lost']} of {found['acknowledged']} acknowledged lost"
            )
    raise SystemExit(1 if lost else 0)


if __name__ == "__main__":
    main()
