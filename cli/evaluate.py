"""`hscode evaluate`: a model's figures on any labelled file."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.options import ConfigOption, HomeOption, JsonOption, SetOption, resolved
from cli.predict import ModelOption, opened

if TYPE_CHECKING:
    from models.data.labelled import Labelled


def register(app: typer.Typer) -> None:
    """Add the verb of this file to `app`."""
    app.command()(evaluate)


def evaluate(
    data: Annotated[str, typer.Option("--data", metavar="FILE", help="Labelled rows: csv, parquet or jsonl.")],
    model: ModelOption = "champion",
    report: Annotated[
        Path | None, typer.Option("--report", metavar="FILE", help="Write the figures as a page.")
    ] = None,
    config: ConfigOption = None,
    set_: SetOption = None,
    home: HomeOption = Path(".hscode"),
    as_json: JsonOption = False,
) -> None:
    """Measure a model on the labelled rows of FILE: every row counts, none is merged.

    Columns are found as in `hscode run` (description, code). Labels of two or four digits count at those levels.
    """
    from models import evaluation
    from models.data.labelled import edition_of, read_labelled

    settings = resolved(config, set_ or [])
    bundle = opened(model, config, set_ or [], home)
    rows = read_labelled(data, settings, edition_of(bundle.edition, bundle.texts))
    texts = rows.frame["description"].to_list()
    measured = evaluation.evaluate(
        bundle.levels,
        bundle.probabilities(texts),
        rows.frame,
        bundle.thresholds,
        None,
        informative=bundle.informative(texts),
    )
    about = {"name": bundle.name, "version": bundle.version, "kind": bundle.kind, "edition": bundle.edition}
    if report is not None:
        from models.report import Content, render

        facts = {"data": data, "model": f"{bundle.name} version {bundle.version}", "edition": bundle.edition}
        render(Content({bundle.kind: measured}, title=f"{bundle.kind} on {Path(data).name}", facts=facts), report)
    if as_json:
        typer.echo(json.dumps({"model": about, "data": data, "refused": rows.refused, "metrics": measured}))
        return
    _print(measured, rows, about, report)


def _print(measured: dict[str, Any], rows: "Labelled", about: dict[str, str], report: Path | None) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(
        "rows of", "level", title=f"{about['kind']} version {about['version']}, {about['edition']}; shares in %"
    )
    for column in ("rows", "classes", "top-1", "95 %", "top-3", "top-5", "macro-F1", "ECE"):
        table.add_column(column, justify="right")
    named = {**measured["groups"], **(measured["sources"] if len(measured["sources"]) > 1 else {})}
    for name, group in named.items():
        for digits, level in group["levels"].items():
            if level["rows"]:
                top = level["top1"]
                shares = [f"{100 * level[key]['value']:.1f}" for key in ("top1", "top3", "top5")]
                table.add_row(
                    name if digits == "2" else "",
                    f"HS{digits}",
                    f"{level['rows']:,}",
                    f"{level['classes']:,}",
                    shares[0],
                    f"{100 * top['low']:.1f}-{100 * top['high']:.1f}",
                    *shares[1:],
                    f"{100 * level['macro_f1']:.1f}",
                    f"{level['ece']:.3f}",
                )
        table.add_section()
    console = Console()
    console.print(table)
    for name, group in measured["groups"].items():
        answers = group["answers"]
        given = ", ".join(f"{100 * answers['at'][d]['share']:.1f} % at {d} digits" for d in ("6", "4", "2"))
        right = answers["precision"]
        said = "none to judge"
        if right:
            said = f"{100 * right['value']:.1f} % of them right ({100 * right['low']:.1f}-{100 * right['high']:.1f})"
        console.print(f"{name}: {100 * answers['given']['value']:.1f} % answered ({given}); {said}.")
    if measured["vague"]:
        vague = measured["vague"]
        console.print(f"vague texts: {vague['rows']:,}, {100 * vague['not_answered']['value']:.1f} % not answered.")
    for reason, count in sorted(rows.refused.items(), key=lambda item: -item[1]):
        console.print(f"not judged: {count:,} rows, {reason}.")
    if report is not None:
        console.print(f"page: {report}")
