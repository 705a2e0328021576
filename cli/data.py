"""`hscode data`: rows before they become a model."""

import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.options import ConfigOption, JsonOption, SetOption, resolved

if TYPE_CHECKING:
    from models.data.ingest import IngestReport

group = typer.Typer(help="Rows before they become a model: check.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    """Add the verbs of this file to `app`."""
    app.add_typer(group, name="data")


@group.command()
def check(
    files: Annotated[list[str], typer.Argument(metavar="FILE...", help="csv, parquet or jsonl; path or address.")],
    nomenclature: Annotated[
        str | None, typer.Option(metavar="FILE", help="csv of code, text to check against.")
    ] = None,
    kind: Annotated[str, typer.Option(help="given, corrected, nomenclature or vague (no codes).")] = "given",
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="Keep rows, quarantine and report there.")] = None,
    config: ConfigOption = None,
    set_: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Say what ingest would keep, merge and quarantine, and why."""
    from rich.console import Console

    from models.data.ingest import ingest

    sources = json.dumps([{"path": file, "kind": kind} for file in files])
    assignments = [f"data.sources={sources}", *(set_ or [])]
    if nomenclature is not None:
        assignments.append(f"nomenclature.path={json.dumps(nomenclature)}")
    settings = resolved(config, assignments)
    os.environ.setdefault("HSCODE_PROGRESS", os.devnull)
    with tempfile.TemporaryDirectory(prefix="hscode-check-") as scratch, Console(stderr=True).status("reading"):
        folder = Path(scratch) / "rows" if out is None else out
        report = ingest(settings, folder, "check", legal_texts=False)
        examples = _first_of_each_reason(folder / "quarantine.jsonl", len(report.reasons))
    if as_json:
        result = {**report.to_json(), "quarantine_examples": list(examples.values())}
        typer.echo(json.dumps(result, indent=1, ensure_ascii=False))
    else:
        _print(report, examples, out)


def _first_of_each_reason(path: Path, reasons: int) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    with path.open(encoding="utf-8") as file:
        for line in file:
            if len(found) == reasons:
                break
            refused = json.loads(line)
            found.setdefault(refused["reason"], refused)
    return found


def _print(report: "IngestReport", examples: dict[str, dict[str, Any]], out: Path | None) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console()
    table = Table("source", "read", "kept", "merged", "quarantined")
    for name, counts in report.sources.items():
        table.add_row(name, *(f"{n:,}" for n in (counts.read, counts.kept, counts.merged, counts.quarantined)))
    if len(report.sources) > 1:
        totals = (report.read, report.kept, report.merged, report.quarantined)
        table.add_row("all", *(f"{n:,}" for n in totals))
    console.print(table)
    labels = sum(label != "VAGUE" for label in report.classes)
    typer.echo(f"{labels:,} labels, edition {report.edition}; {report.groups:,} groups of near-duplicates")
    if report.conflicts:
        typer.echo(f"{report.conflicts:,} texts came with contradicting labels")
    for what, count in report.repairs.items():
        typer.echo(f"repaired: {count:,} × {what}")
    for reason, count in report.reasons.items():
        example = examples[reason]
        width = max(60, shutil.get_terminal_size().columns - 60)
        typer.echo(f"quarantined: {count:,} × {reason}, such as row {example['row']}: {example['original'][:width]!r}")
    if out is not None:
        typer.echo(f"rows, quarantine, conflicts and report are in {out}")
