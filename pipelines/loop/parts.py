"""The loop's processes: found, configured, started, watched, stopped. Prometheus and Alertmanager are the real ones."""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, Self

import httpx
import yaml

from config.settings import Loop
from models.errors import UserError

MONITORING = Path(__file__).parent
"""The cluster's own rules and Alertmanager's configuration: links to manifests/monitoring, files in a wheel."""
STOP_SECONDS = 20
_UNITS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}


class PartFailed(Exception):
    """A part ended or did not start; one line."""


def program(*names: str) -> str:
    """Path of the first of `names` that is installed, on PATH or where Debian puts it. Raises UserError."""
    for name in names:
        if found := shutil.which(name) or shutil.which(name, path="/usr/bin:/usr/sbin:/usr/local/bin"):
            return found
    raise UserError(
        "is not installed", names[0], "Debian and Ubuntu: apt-get install prometheus prometheus-alertmanager"
    )


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on."""
    with socket.socket() as made:
        made.bind(("127.0.0.1", 0))
        return int(made.getsockname()[1])


def answers(url: str) -> Callable[[], bool]:
    """Whether `url` says 200 now."""

    def ask() -> bool:
        try:
            return httpx.get(url, timeout=5).status_code == 200
        except httpx.HTTPError:
            return False

    return ask


class Parts:
    """The processes, each with a log in `folder`; left, all are stopped, with what they started."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def hscode(self, name: str, *arguments: str | Path, environment: Mapping[str, str] | None = None) -> None:
        """Start a verb of `hscode`."""
        self.start(name, [sys.executable, "-m", "cli.main", *map(str, arguments)], environment)

    def start(self, name: str, command: Sequence[str], environment: Mapping[str, str] | None = None) -> None:
        """Start a process of its own session: Ctrl-C reaches us alone, and we end them in order."""
        from serving.deploy.process import end_with_parent

        with self._log(name).open("wb") as log:
            self._running[name] = subprocess.Popen(
                list(command),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, **(environment or {})},
                start_new_session=True,
                preexec_fn=end_with_parent(),
            )

    def finish(self, name: str) -> int:
        """Wait for the end of a process, the others looked after meanwhile; its exit code."""
        process = self._running[name]
        while process.poll() is None:
            self.check(name)
            time.sleep(0.1)
        del self._running[name]
        return process.returncode

    def wait(self, name: str, ready: Callable[[], bool], seconds: float) -> None:
        """Until `ready`. Raises PartFailed."""
        ends = time.monotonic() + seconds
        while not ready():
            self.check()
            if time.monotonic() > ends:
                raise PartFailed(f"{name} was not ready after {seconds:g} s: {self.last_words(name)}")
            time.sleep(0.1)

    def check(self, but: str = "") -> None:
        """Raises PartFailed where a process (other than `but`) has ended."""
        for name, process in self._running.items():
            if name != but and process.poll() is not None:
                raise PartFailed(f"{name} ended with exit code {process.returncode}: {self.last_words(name)}")

    def last_words(self, name: str) -> str:
        """The end of a part's log, and where it is."""
        lines = self._log(name).read_text(encoding="utf-8", errors="replace").strip().splitlines()
        return f"{lines[-1][:300] if lines else 'it said nothing'} (log: {self._log(name)})"

    def output(self, name: str) -> str:
        """What a part has written."""
        return self._log(name).read_text(encoding="utf-8", errors="replace")

    def stop(self) -> None:
        """End all, the last started first, then whatever they leave behind (a retraining outlives its trigger)."""
        import psutil  # type: ignore[import-untyped]

        left: list[Any] = []
        for process in reversed(self._running.values()):
            with contextlib.suppress(psutil.Error):
                left += psutil.Process(process.pid).children(recursive=True)
            if process.poll() is None:
                process.terminate()
                try:
                    process.wait(STOP_SECONDS)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()
        self._running.clear()
        for number in (signal.SIGTERM, signal.SIGKILL):
            for one in left:
                with contextlib.suppress(psutil.Error):
                    one.send_signal(number)
            _, left = psutil.wait_procs(left, timeout=STOP_SECONDS / 2)

    def _log(self, name: str) -> Path:
        return self.folder / f"{name}.log"


def start_prometheus(parts: Parts, settings: Loop, scraped: Mapping[str, int], alertmanager: int) -> str:
    """Start Prometheus on `scraped` ports (by job) with the cluster's rules, only sooner; returns its address."""
    every = f"{settings.scrape_seconds}s"
    config = {
        "global": {"scrape_interval": every, "scrape_timeout": every, "evaluation_interval": every},
        "rule_files": ["rules.yaml"],
        "scrape_configs": [
            {"job_name": job, "static_configs": [{"targets": [f"127.0.0.1:{port}"]}]} for job, port in scraped.items()
        ],
        "alerting": {"alertmanagers": [{"static_configs": [{"targets": [f"127.0.0.1:{alertmanager}"]}]}]},
    }
    folder = _folder(parts.folder / "prometheus")
    _write(folder / "rules.yaml", sooner_rules(settings))
    _write(folder / "prometheus.yaml", config)
    port = free_port()
    command = [program("prometheus"), f"--config.file={folder}/prometheus.yaml", f"--storage.tsdb.path={folder}/data"]
    # An alert that is still there is sent again after so long; Alertmanager makes one notice of all.
    command += [f"--web.listen-address=127.0.0.1:{port}", "--log.level=warn", f"--rules.alert.resend-delay={every}"]
    parts.start("prometheus", command)
    parts.wait("prometheus", answers(f"http://127.0.0.1:{port}/-/ready"), settings.start_seconds)
    return f"http://127.0.0.1:{port}"


def start_alertmanager(parts: Parts, settings: Loop, trigger: str, token_file: Path) -> int:
    """Start Alertmanager with the cluster's configuration, only sooner and to this trigger; returns its port."""
    config = sooner_routes(settings)
    for receiver in config["receivers"]:
        for webhook in receiver.get("webhook_configs", ()):
            webhook["url"] = f"{trigger}/alerts"
            webhook["http_config"]["authorization"]["credentials_file"] = str(token_file.resolve())
    folder = _folder(parts.folder / "alertmanager")
    _write(folder / "alertmanager.yaml", config)
    port = free_port()
    command = [program("prometheus-alertmanager", "alertmanager"), f"--config.file={folder}/alertmanager.yaml"]
    command += [f"--storage.path={folder}/data", f"--web.listen-address=127.0.0.1:{port}", "--log.level=warn"]
    parts.start("alertmanager", [*command, "--cluster.listen-address="])
    parts.wait("alertmanager", answers(f"http://127.0.0.1:{port}/-/ready"), settings.start_seconds)
    return port


def sooner_rules(settings: Loop) -> Any:
    """The cluster's rules, looked at often and with a short `for`."""
    rules = _read("rules.yaml")
    for group in rules["groups"]:
        group["interval"] = f"{settings.scrape_seconds}s"
        for rule in group["rules"]:
            if "for" in rule:
                rule["for"] = f"{min(_seconds(rule['for']), settings.sustained_seconds):g}s"
    return rules


def sooner_routes(settings: Loop) -> Any:
    """The cluster's Alertmanager configuration with short waits."""
    config = _read("alertmanager.yaml")
    soon = f"{settings.grouped_seconds}s"
    config["route"] |= {"group_wait": soon, "group_interval": soon}
    return config


def _read(name: str) -> Any:
    return yaml.safe_load((MONITORING / name).read_text(encoding="utf-8"))


def _write(file: Path, tree: Any) -> None:
    # JSON is YAML.
    file.write_text(json.dumps(tree, indent=1), encoding="utf-8")


def _folder(path: Path) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    return path


def _seconds(text: str) -> float:
    """A duration of Prometheus (``1h30m``) in seconds."""
    import re

    return timedelta(
        seconds=sum(float(number) * _UNITS[unit] for number, unit in re.findall(r"(\d+)(ms|[smhdw])", text))
    ).total_seconds()
