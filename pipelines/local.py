"""The embedded run backend: the same pipeline by `kfp.local`, its steps as processes of this machine.

A home folder holds all state. A run's id is its run key: the digest of settings, data and code. So the same input
started again goes on from the finished steps (KFP's local cache) and registers one version, however often it stopped.
"""

import fcntl
import hashlib
import json
import os
import re
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from config.settings import Settings
from models.errors import UserError
from models.training import commit

Progress = Callable[[Mapping[str, Any]], None]
"""Called with each progress line of each step: step, done, total, note, at."""

NEEDED_BYTES = 200 * 2**20
"""Free space a run starts with at least; a run on the sample writes about this much."""

GONE = ".gone-"
"""Begin of the name of a folder that is being removed."""


@dataclass(frozen=True)
class Run:
    """What a finished run left."""

    id: str
    gate: str
    """pass or fail"""
    report: str
    """Path of the report page."""
    log: str
    """Path of the full log."""
    resumed: bool
    """Some of its steps were finished before."""


@contextmanager
def opened_home(home: Path, wait: bool = False) -> Iterator[Path]:
    """Make the home folder and hold it: one run at a time. Raises UserError where that cannot be.

    With `wait` another run's end is waited for.
    """
    try:
        home.mkdir(parents=True, exist_ok=True)
        lock = (home / "run.lock").open("a+")
    except OSError as error:
        raise UserError(f"cannot be written ({error.strerror})", str(home), "choose another --home") from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except OSError:
            raise UserError("another run is active in this home", str(home), "wait for it, or choose --home") from None
        free = shutil.disk_usage(home).free
        if free < NEEDED_BYTES:
            raise UserError(
                f"only {free // 2**20} MiB free where {NEEDED_BYTES // 2**20} MiB are needed",
                str(home),
                "free space, or choose another --home",
            )
        yield home


def code_digest() -> str:
    """Digest of the installed code that decides a result; part of the cache's key."""
    root = Path(__file__).resolve().parents[1]
    digest = hashlib.sha256()
    for room in ("components", "config", "models", "pipelines", "serving"):
        for file in sorted((root / room).rglob("*")):
            if file.suffix in (".py", ".tsv", ".yaml", ".html", ".j2") and "__pycache__" not in file.parts:
                digest.update(file.relative_to(root).as_posix().encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()[:16]


def run_local(
    settings: Settings,
    home: Path,
    progress: Progress,
    build: Callable[[Settings], Any] | None = None,
    key: str | None = None,
    **parameters: str,
) -> Run:
    """Run the training pipeline (or what `build` makes of the settings) in `home` and wait for its end.

    `home` is held by `opened_home`; `settings` have been through `with_home`; `parameters` are further ones of the
    pipeline. `key` names the run; None: by its input, so that the same input goes on from what is finished. Raises
    UserError with the failing step's own line where the input is at fault, RuntimeError with the log's address
    otherwise.
    """
    from models.data.ingest import fingerprint
    from pipelines import training

    data_version = fingerprint(settings)
    key = key or hashlib.sha256(f"{settings.digest()} {data_version} {code_digest()}".encode()).hexdigest()[:16]
    folder = home / "runs" / key
    resumed = folder.exists()
    arguments = {"settings": settings.to_json(), "data_version": data_version, "run_key": key, **parameters}
    outputs = execute((build or training.build)(settings), arguments, home, key, progress)
    shutil.rmtree(home / "work", ignore_errors=True)  # what unfinished steps would have gone on from
    report = folder / "report.html"
    shutil.copyfile(outputs["report"].path, report)
    run = Run(key, outputs["gate"], str(report), str(folder / "log.txt"), resumed)
    (folder / "run.json").write_text(json.dumps(asdict(run), indent=1) + "\n", encoding="utf-8")
    make_room(home, settings.local.kept_runs)
    return run


def make_room(home: Path, kept: int) -> None:
    """Remove the steps' artifacts of all but the newest `kept` runs, and the caches of other code than this.

    `home` is held. Nothing that stays refers to what goes: bundles and reports were copied (registry, ``runs``), and a
    cached result whose artifacts are gone counts for KFP as none, so its step runs again.
    """
    runs = [path for path in (home / "kfp").glob("*") if path.is_dir() and not path.name.startswith(GONE)]
    runs.sort(key=lambda path: path.stat().st_mtime, reverse=True)
    ours = code_digest()
    caches = [path for path in (home / "cache").glob("*") if re.fullmatch("[0-9a-f]{16}", path.name)]
    # Under another name first: of a folder that is half removed, by its name a cached result would be believed.
    for path in (*runs[kept:], *(path for path in caches if path.name != ours)):
        with suppress(OSError):
            path.rename(path.with_name(GONE + path.name))
    for place in (home / "kfp", home / "cache"):
        for gone in place.glob(f"{GONE}*"):
            shutil.rmtree(gone, ignore_errors=True)


def execute(pipeline: Any, arguments: Mapping[str, Any], home: Path, key: str, progress: Progress) -> dict[str, Any]:
    """Run a pipeline by `kfp.local`, log and progress in ``home/runs/KEY``; returns its outputs. Raises as above."""
    folder = home / "runs" / key
    folder.mkdir(parents=True, exist_ok=True)
    log, lines = folder / "log.txt", folder / "progress.jsonl"
    lines.write_text("", encoding="utf-8")
    os.environ.update(
        HSCODE_PROGRESS=str(lines.resolve()),
        HSCODE_RUN_PID=str(os.getpid()),
        HSCODE_RUN_ID=key,
        HSCODE_COMMIT=commit(),
        HSCODE_WORK=str((home / "work" / code_digest()).resolve()),
    )
    # Threads of torch that wait for each other sleep: spinning, two trainings on two cores took four times as long.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    last: dict[str, Any] = {}
    try:
        with log.open("a", encoding="utf-8") as out, _followed(lines, progress, last):
            return _run_quietly(_without_retries(pipeline), arguments, home, out)
    except Exception as error:
        raise _explained(error, last, home, log) from error


def _without_retries(pipeline: Any) -> Any:
    """On a cluster a step gets new pods when its node is lost. Here `kfp.local` would start a step again, half a minute
    and a minute later, that has said what is wrong with the user's file."""
    spec = pipeline.pipeline_spec
    for graph in (spec.root, *spec.components.values()):
        for task in graph.dag.tasks.values():
            task.ClearField("retry_policy")
    return pipeline


def _run_quietly(pipeline: Any, arguments: Mapping[str, Any], home: Path, out: Any) -> dict[str, Any]:
    import logging

    with redirect_stdout(out), redirect_stderr(out):
        from kfp import local

        local.init(
            local.SubprocessRunner(use_venv=False),
            pipeline_root=str(home / "kfp"),
            enable_caching=True,
            cache_root=str(home / "cache" / code_digest()),
        )
        root = logging.getLogger()
        before, level = root.handlers[:], root.level
        try:
            return dict(pipeline(**arguments).outputs)
        finally:
            root.handlers[:] = before
            root.setLevel(level)


@contextmanager
def _followed(lines: Path, progress: Progress, last: dict[str, Any]) -> Iterator[None]:
    """Hand each new line of the progress file to `progress`, and keep the newest by step in `last`."""
    over = threading.Event()

    def drain(file: Any) -> None:
        for text in iter(file.readline, ""):
            if text.endswith("\n"):
                line = json.loads(text)
                last[line["step"]] = line
                progress(line)

    def follow() -> None:
        with lines.open(encoding="utf-8") as file:
            while not over.wait(0.2):
                drain(file)
            drain(file)

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _explained(error: Exception, last: Mapping[str, Mapping[str, Any]], home: Path, log: Path) -> Exception:
    if shutil.disk_usage(home).free < 2**20:
        return UserError("no space left", str(home), "free space, then run the same command again: it goes on")
    for line in reversed(list(last.values())):
        if str(line["note"]).startswith("error: "):
            return UserError(f"step {line['step']}: {str(line['note']).removeprefix('error: ')}")
    unfinished = [step for step, line in last.items() if not str(line["note"]).startswith("done")]
    where = f"step {unfinished[-1]}" if unfinished else type(error).__name__
    return RuntimeError(f"{where} failed: {_last_words(log)}; the whole log: {log}")


def _last_words(log: Path) -> str:
    try:
        tail = log.read_text(encoding="utf-8", errors="replace")[-20_000:].splitlines()
    except OSError:
        return "no log could be written"
    words = [line.strip() for line in tail if "Error" in line or "Killed" in line]
    return words[-1] if words else "see its last lines"
