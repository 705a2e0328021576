"""`hscode predict`: codes for texts, or for a file."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.options import (
    ConfigOption,
    HomeOption,
    JsonOption,
    SetOption,
    made_home,
    opened_registry,
    resolved,
    settings_of,
)
from models.errors import UserError

if TYPE_CHECKING:
    from models.bundle import Bundle
    from serving.predictor.batch import BatchReport

ModelOption = Annotated[
    str, typer.Option("--model", metavar="ALIAS|VERSION|FOLDER", help="Which model answers.", show_default=True)
]


def register(app: typer.Typer) -> None:
    """Add the verb of this file to `app`."""
    app.command()(predict)


def predict(
    texts: Annotated[list[str] | None, typer.Argument(metavar="[TEXT]...", help="Descriptions of goods.")] = None,
    source: Annotated[Path | None, typer.Option("--input", metavar="FILE", help="csv, tsv, jsonl or parquet.")] = None,
    out: Annotated[Path | None, typer.Option("--output", metavar="FILE", help="Same kinds; all columns kept.")] = None,
    column: Annotated[str | None, typer.Option(help="Column with the description.")] = None,
    encoding: Annotated[str, typer.Option(help="Encoding of a text file.")] = "utf-8",
    digits: Annotated[int, typer.Option(help="Longest code wanted: 2, 4 or 6.")] = 6,
    candidates: Annotated[int, typer.Option(min=1, max=20, help="Candidates listed.")] = 5,
    model: ModelOption = "champion",
    config: ConfigOption = None,
    set_: SetOption = None,
    home: HomeOption = Path(".hscode"),
    as_json: JsonOption = False,
) -> None:
    """Give HS codes for TEXTs, or for every row of a file.

    A file's rows come out in their order with all their columns; a row that cannot be answered says why in hs_error.
    Stopped and started again, a long file goes on from what is finished.
    """
    if digits not in (2, 4, 6):
        raise UserError(f"--digits {digits} is not 2, 4 or 6")
    if (source is None) != (out is None):
        raise UserError("--input and --output go together")
    if bool(texts) == (source is not None):
        raise UserError("nothing to predict", todo='write hscode predict "ladies cotton t-shirt", or --input FILE')
    bundle = opened(model, config, set_ or [], home)
    if source is None or out is None:
        _texts(bundle, texts or [], digits, candidates, as_json)
        return
    from serving.predictor.batch import Question, predict_file

    question = Question(column=column, digits=digits, candidates=candidates, encoding=encoding)
    with _Bar(source, quiet=as_json) as bar:
        report = predict_file(bundle, source, out, question, progress=bar)
    _reported(report, out, as_json)


def opened(model: str, config: Path | None, assignments: list[str], home: Path) -> "Bundle":
    """The bundle that `model` names: a folder, else a version or alias of the registry of settings and home."""
    import os

    from models.bundle import Bundle

    threads = os.cpu_count() or 1
    if (Path(model) / "card.json").is_file():
        return Bundle.load(Path(model), threads=threads)
    if "/" in model or model.startswith("."):
        raise UserError("no model bundle there", model)
    if resolved(config, assignments).registry.uri is None and not (home / "mlflow.db").exists():
        raise UserError("no model here yet", str(home), "train one with: hscode run, or name its --home")
    registry = opened_registry(settings_of(home, config, assignments))
    return Bundle.load(registry.folder(model, made_home(home) / "bundles"), threads=threads)


def _texts(bundle: "Bundle", texts: list[str], digits: int, candidates: int, as_json: bool) -> None:
    answers = bundle.answer(texts, digits=digits, limit=candidates)
    if as_json:
        model = {"name": bundle.name, "version": bundle.version, "edition": bundle.edition}
        typer.echo(json.dumps({"predictions": answers, "model": model}, ensure_ascii=False))
        return
    for text, answer in zip(texts, answers, strict=True):
        typer.echo(f"{text}: {_sentence(answer)}")
        for candidate in answer["candidates"]:
            typer.echo(f"    {candidate['code']:<6}  {candidate['confidence']:7.2%}  {candidate['text'][:90]}".rstrip())
    typer.echo(f"(model {bundle.name} version {bundle.version}, {bundle.edition})")


def _sentence(answer: dict[str, Any]) -> str:
    if answer["status"] == "vague":
        return "too vague for a code"
    if answer["status"] == "unsure":
        return "no code is sure enough"
    short = " (a longer code is not sure enough)" if answer["status"] == "shortened" else ""
    return f"{answer['code']} at {answer['confidence']:.0%}{short}"


def _reported(report: "BatchReport", out: Path, as_json: bool) -> None:
    if as_json:
        from dataclasses import asdict

        typer.echo(json.dumps({**asdict(report), "output": str(out)}))
        return
    shares = ", ".join(f"{n:,} {status}" for status, n in sorted(report.statuses.items(), key=lambda kv: -kv[1]))
    typer.echo(f"{report.rows:,} rows: {shares or 'none answered'} (version {report.version}) -> {out}")
    if report.failed:
        typer.echo(f"{report.failed:,} rows without an answer; why is in their column hs_error:", err=True)
        for problem in report.problems:
            typer.echo(f"  row {problem['row']}: {problem['reason']}", err=True)


class _Bar:
    """A progress bar on a terminal, nothing elsewhere."""

    def __init__(self, source: Path, quiet: bool) -> None:
        from rich.console import Console

        console = Console(stderr=True)
        self.bar: Any = None
        if console.is_terminal and not quiet:
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

            from serving.predictor.files import rows_about

            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
            self.bar = Progress(*columns, console=console)
            self.task = self.bar.add_task(source.name, total=rows_about(source) if source.is_file() else None)

    def __enter__(self) -> "_Bar":
        if self.bar:
            self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.bar:
            self.bar.stop()

    def __call__(self, rows: int) -> None:
        if self.bar:
            self.bar.update(self.task, completed=rows)
