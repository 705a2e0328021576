"""`hscode models diff A B`: what one version gets right that another does not."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.models import group
from cli.options import ConfigOption, HomeOption, JsonOption, SetOption, resolved
from cli.predict import opened

if TYPE_CHECKING:
    from models.gate import Verdict


def register(app: typer.Typer) -> None:
    """Add the verb of this file to the group `models`."""
    group.command("diff")(diff)


def diff(
    champion: Annotated[str, typer.Argument(metavar="A", help="Version, alias or folder: what is there.")],
    candidate: Annotated[str, typer.Argument(metavar="B", help="Version, alias or folder: what would replace it.")],
    data: Annotated[str, typer.Option("--data", metavar="FILE", help="Labelled rows: csv, parquet or jsonl.")],
    shown: Annotated[int, typer.Option("--list", min=0, help="Gained and lost descriptions listed.")] = 10,
    config: ConfigOption = None,
    set_: SetOption = None,
    home: HomeOption = Path(".hscode"),
    as_json: JsonOption = False,
) -> None:
    """Judge B against A on the labelled rows of FILE as the gate would: differences with intervals, rows gained and
    lost."""
    from models.comparison import compare

    settings = resolved(config, set_ or [])
    old, new = (opened(one, config, set_ or [], home) for one in (champion, candidate))
    verdict = compare(new, old, data, settings)
    if as_json:
        typer.echo(json.dumps(verdict.as_dict(), ensure_ascii=False))
        return
    _print(verdict, f"{old.kind} version {old.version}", f"{new.kind} version {new.version}", shown)


def _print(verdict: "Verdict", old: str, new: str, shown: int) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console()
    table = Table("what", title=f"A: {old}. B: {new}")
    for column in ("A", "B", "B - A", "95 %", "allowed"):
        table.add_column(column, justify="right")
    for check in verdict.checks:
        top = check.what.endswith("top-1")
        scale, places = (100.0, 1) if top else (1.0, 3 if check.champion is not None else 1)
        figures = [
            f"{scale * value:.{places}f}" if value is not None else "" for value in (check.champion, check.candidate)
        ]
        interval = ""
        if check.low is not None and check.high is not None:
            interval = f"{scale * check.low:+.{places}f} to {scale * check.high:+.{places}f}"
        allowed = f"{-100 * check.allowed:.1f}" if top else f"{check.allowed:g}"
        table.add_row(check.what, *figures, f"{scale * check.delta:+.{places}f}", interval, allowed)
    console.print(table)
    for change in verdict.changes.values():
        for name in ("gained", "lost"):
            console.print(f"{name}: {change[name]['rows']:,} rows")
            for line in change[name]["listed"][:shown]:
                console.print(f"  {_line(line)}", markup=False, highlight=False)
    console.print(verdict.reason)


def _line(line: dict[str, Any]) -> str:
    return f"{line['code']}: {line['description'][:70]} (A {line['champion']}, B {line['candidate']})"
