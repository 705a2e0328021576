"""`hscode run` and `hscode compile`: the training pipeline on this machine, or as files for a cluster."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.options import ConfigOption, HomeOption, JsonOption, SetOption, resolved

if TYPE_CHECKING:
    from config.settings import Settings

QUESTIONS = ("ladies cotton t-shirt", "stainless steel vacuum flask 500 ml", "wooden dining chair, upholstered")
"""What `run --ask` asks: goods that any nomenclature has."""

DataOption = Annotated[
    list[str] | None, typer.Option("--data", metavar="PATH|URL", help="File with descriptions and codes; repeatable.")
]
NomenclatureOption = Annotated[
    str | None, typer.Option(metavar="PATH", help="csv with the edition's codes and legal texts (code, text).")
]


def register(app: typer.Typer) -> None:
    """Add the verbs of this file to `app`."""
    app.command()(run)
    app.command("compile")(compile_)


def with_data(assignments: list[str], data: list[str] | None, nomenclature: str | None) -> list[str]:
    """`--data` and `--nomenclature` as settings."""
    if data:
        assignments = [*assignments, "data.sources=" + json.dumps([{"path": path} for path in data])]
    if nomenclature:
        assignments = [*assignments, "nomenclature.path=" + json.dumps(nomenclature)]
    return assignments


def run(
    data: DataOption = None,
    nomenclature: NomenclatureOption = None,
    config: ConfigOption = None,
    set_: SetOption = None,
    home: HomeOption = Path(".hscode"),
    ask: Annotated[bool, typer.Option("--ask", help="Then start the local host and ask three questions.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Run the pipeline here: ingest, embed, train, compare, gate, register, deploy.

    Stopped and started again with the same input it goes on from what is finished.
    """
    from pipelines.local import opened_home, run_local
    from serving.home import with_home
    from serving.registry import Registry

    settings = resolved(config, with_data(set_ or [], data, nomenclature))
    os.environ.setdefault("HSCODE_PROGRESS", os.devnull)
    with opened_home(home), display(as_json) as progress:
        settings = with_home(with_sample(settings, home), home)
        done = run_local(settings, home, progress)
    registry = Registry(settings.registry.uri or "", settings.registry.model)
    version = next((v for v in registry.versions() if v.tags.get("run_key") == done.id), None)
    answers = _asked(home) if ask and version else []
    if as_json:
        result = {
            "run": done.id,
            "gate": done.gate,
            "version": version.as_dict() if version else None,
            "report": done.report,
            "log": done.log,
            "answers": answers,
        }
        typer.echo(json.dumps(result, indent=1))
        return
    if version is None:
        typer.echo(f"The candidate did not pass the gate; the champion goes on serving. Why: {done.report}")
        return
    typer.echo(f"Version {version.number} ({version.kind}) is {' and '.join(version.aliases) or 'registered'}.")
    typer.echo(f"Why this one: {version.tags.get('reason', '')}")
    for answer in answers:
        typer.echo(f"  {answer['question']!r} -> {answer['text']}")
    where = "" if home == Path(".hscode") else f" --home {home}"
    typer.echo(f"Report:  {done.report}")
    typer.echo(f"Serve:   hscode serve{where}")
    typer.echo(f'Ask:     hscode predict "ladies cotton t-shirt"{where}')


def compile_(
    out: Annotated[Path, typer.Option(help="Folder to write to.")] = Path("dist/pipelines"),
    image: Annotated[str | None, typer.Option(help="Image of the training steps.")] = None,
    config: ConfigOption = None,
    set_: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write the pipelines as KFP IR YAML and as Kubernetes-native Pipeline and PipelineVersion manifests."""
    from pipelines.compile import compile_all

    written = compile_all(resolved(config, set_ or []), out, image)
    typer.echo(json.dumps([str(p) for p in written], indent=1) if as_json else "\n".join(map(str, written)))


def with_sample(settings: "Settings", home: Path) -> "Settings":
    """Where no source is named: the shipped synthetic sample and its nomenclature, generated into the home folder."""
    if settings.data.sources:
        return settings
    from config.settings import Source
    from models.data.sample import write_sample

    rows = settings.data.sample_rows
    file = home / "sample" / f"synthetic-{rows}.csv"
    nomenclature = home / "sample" / f"synthetic-{rows}-nomenclature.csv"
    if not (file.exists() and nomenclature.exists()):
        file.parent.mkdir(parents=True, exist_ok=True)
        write_sample(rows, 17, file.with_suffix(".new"), nomenclature.with_suffix(".new"))
        nomenclature.with_suffix(".new").rename(nomenclature)
        file.with_suffix(".new").rename(file)
    data = settings.data.model_copy(update={"sources": (Source(path=str(file)),)})
    named = settings.nomenclature.model_copy(update={"path": settings.nomenclature.path or str(nomenclature)})
    return settings.model_copy(update={"data": data, "nomenclature": named})


class display:
    """Shows the steps' progress on a terminal; quiet elsewhere."""

    def __init__(self, quiet: bool) -> None:
        from rich.console import Console

        console = Console(stderr=True)
        self.shown = console.is_terminal and not quiet
        if self.shown:
            from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

            columns = (TextColumn("{task.description:<20}"), BarColumn(), TimeElapsedColumn())
            self.bars = Progress(*columns, TextColumn("{task.fields[note]}"), console=console)
            self.tasks: dict[str, TaskID] = {}

    def __enter__(self) -> Any:
        if self.shown:
            self.bars.start()
        return self.update

    def __exit__(self, *_: object) -> None:
        if self.shown:
            self.bars.stop()

    def update(self, line: Mapping[str, Any]) -> None:
        if not self.shown:
            return
        step, total, done, note = line["step"], line["total"], line["done"], line["note"]
        if step not in self.tasks:
            self.tasks[step] = self.bars.add_task(step, total=None, note="")
        self.bars.update(self.tasks[step], total=total, completed=done, note=note)
        if total is not None and done >= total and note.startswith("done"):
            self.bars.stop_task(self.tasks[step])


def _asked(home: Path) -> list[dict[str, Any]]:
    """Ask QUESTIONS over REST: of the local host that runs on `home`, else of one started for that."""
    import httpx

    with _host(home) as url:
        got = httpx.post(f"{url}/v1/models/hscode:predict", json={"instances": list(QUESTIONS)}, timeout=120)
    got.raise_for_status()
    return [
        {"question": question, "prediction": prediction, "text": told(prediction)}
        for question, prediction in zip(QUESTIONS, got.json()["predictions"], strict=True)
    ]


@contextmanager
def _host(home: Path) -> Iterator[str]:
    from serving.deploy.local import LocalDeployer

    deployer = LocalDeployer(home)
    if deployer.url is not None:
        yield deployer.url
        return
    command = [sys.executable, "-m", "cli.main", "serve", "--port", "0", "--home", str(home)]
    host = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    try:
        while deployer.url is None:
            if host.poll() is not None:
                raise RuntimeError(
                    f"the local host did not start: {(host.stderr.read() if host.stderr else '')[-500:]}"
                )
            time.sleep(0.05)
        yield deployer.url
    finally:
        host.terminate()
        host.wait()


def told(prediction: Mapping[str, Any]) -> str:
    """One prediction as a line for people."""
    best = prediction["candidates"][0] if prediction["candidates"] else {"code": "-", "confidence": 0.0, "text": ""}
    if prediction["status"] in ("answered", "shortened"):
        return f"{prediction['code']} ({prediction['status']}, {prediction['confidence']:.0%}) {best['text']}"[:160]
    return f"{prediction['status']}; nearest {best['code']} ({best['confidence']:.0%}) {best['text']}"[:160]
