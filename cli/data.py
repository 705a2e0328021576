"""`hscode data`: rows before they become a model."""

import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.options import ConfigOption, HomeOption, JsonOption, SetOption, resolved

if TYPE_CHECKING:
    from models.data.ingest import IngestReport
    from models.hs.migrate import Migration

group = typer.Typer(help="Rows before they become a model: check, sample, fetch, migrate.", no_args_is_help=True)


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


@group.command()
def sample(
    out: Annotated[Path, typer.Option(metavar="FILE", help="csv to write; .gz packs it.")],
    rows: Annotated[int, typer.Option(min=1)] = 12_000,
    seed: Annotated[int, typer.Option(help="Same seed, same rows.")] = 17,
    nomenclature_out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Its own nomenclature: csv of code, text.")
    ] = None,
    shift: Annotated[
        str | None, typer.Option(metavar="KIND", help="A changed world: products, language or codes.")
    ] = None,
    subheadings: Annotated[
        int | None, typer.Option(min=100, help="How many subheadings; more are harder (up to some 1,200).")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Make synthetic rows: real codes, made-up descriptions."""
    from rich.console import Console

    from models.data.sample import SHIFTS, SUBHEADINGS, write_sample
    from models.errors import UserError

    known = next((each for each in SHIFTS if each == shift), None)
    if shift is not None and known is None:
        raise UserError(f"no shift {shift!r}", "--shift", f"one of {', '.join(SHIFTS)}")
    os.environ.setdefault("HSCODE_PROGRESS", os.devnull)
    with Console(stderr=True).status("writing"):
        counts = write_sample(rows, seed, out, nomenclature_out, known, subheadings or SUBHEADINGS)
    if as_json:
        typer.echo(json.dumps({"out": str(out), "rows": rows, "sources": counts, "synthetic": True}, indent=1))
    else:
        by_source = ", ".join(f"{count:,} {name}" for name, count in sorted(counts.items()))
        typer.echo(f"{rows:,} synthetic rows in {out}: {by_source}")


@group.command()
def fetch(
    name: Annotated[str, typer.Argument(help="A public source; without one, they are listed.")] = "",
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="csv to write; NAME.csv unless given.")] = None,
    address: Annotated[str | None, typer.Option(metavar="URL", help="A mirror instead of the source's own.")] = None,
    since: Annotated[
        str | None, typer.Option(metavar="YYYY-MM-DD", help="For dated entries (rulings): the first day.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Fetch public descriptions with codes, and say under which licence."""
    from dataclasses import asdict
    from datetime import date

    from rich.console import Console

    from models.data.fetch import HS2022_IN_FORCE, SOURCES
    from models.data.fetch import fetch as fetch_source
    from models.errors import UserError

    if not name:
        listed = [
            {"name": each.name, "what": each.what, "kind": each.kind, "licence": each.licence, "address": each.address}
            for each in SOURCES.values()
        ]
        if as_json:
            typer.echo(json.dumps(listed, indent=1))
        for each in () if as_json else listed:
            typer.echo(f"{each['name']}: {each['what']}\n  licence: {each['licence']}; from {each['address']}")
        return
    try:
        first = HS2022_IN_FORCE if since is None else date.fromisoformat(since)
    except ValueError:
        raise UserError(f"{since!r} is no date", "--since", "write YYYY-MM-DD") from None
    if name in SOURCES:
        typer.echo(f"licence of {name}: {SOURCES[name].licence}, {SOURCES[name].licence_address}", err=True)
    os.environ.setdefault("HSCODE_PROGRESS", os.devnull)
    with Console(stderr=True).status("fetching"):
        report = fetch_source(name, out or Path(f"{name}.csv"), address, first)
    if as_json:
        typer.echo(json.dumps({**asdict(report), "kind": SOURCES[name].kind}, indent=1))
    else:
        skipped = f" ({report.skipped:,} entries without one clear code left out)" if report.skipped else ""
        typer.echo(f"{report.rows:,} rows in {report.out}{skipped}; kind: {SOURCES[name].kind}")


@group.command()
def migrate(
    data: Annotated[str, typer.Option(metavar="FILE|DIR", help="Rows with old codes, or the folder of an ingest.")],
    to: Annotated[Path, typer.Option(metavar="FILE", help="The new nomenclature: csv of code, text.")],
    correlation: Annotated[Path, typer.Option(metavar="FILE", help="csv of old and new code.")],
    edition: Annotated[str | None, typer.Option(metavar="NAME", help="Name of the new edition.")] = None,
    model: Annotated[
        str | None, typer.Option(metavar="FOLDER|VERSION|ALIAS", help="Also: what it does to this model.")
    ] = None,
    home: HomeOption = Path(".hscode"),
    config: ConfigOption = None,
    set_: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Say what a new edition does to data, labels and a model."""
    from models.data.codes import count_codes
    from models.hs.correlation import load_correlation
    from models.hs.edition import load_edition
    from models.hs.migrate import migration

    new, table = load_edition(to, edition or to.name.partition(".")[0]), load_correlation(correlation)
    classes, model_edition = (None, "") if model is None else _classes_of(model, home, config, set_)
    counts = count_codes(data, resolved(config, set_ or []), lambda code: new.knows(code) or code in table)
    result = migration(counts.codes, new, table, classes, model_edition)
    if as_json:
        extra = {"rows_vague": counts.vague, "rows_refused": counts.refused}
        typer.echo(json.dumps({**result.to_json(), **extra}, indent=1, ensure_ascii=False))
    else:
        _print_migration(result)
        typer.echo(
            f"to train on it: hscode run --data {data} --nomenclature {to} "
            f"--set nomenclature.edition={new.name} --set nomenclature.correlation={correlation}"
        )


def _classes_of(
    reference: str, home: Path, config: Path | None, assignments: list[str] | None
) -> tuple[list[str], str]:
    """Classes and edition of a bundle's folder, or of a version in the registry."""
    from models.errors import UserError

    folder = Path(reference)
    if not folder.is_dir():
        from cli.models import open_registry

        folder = open_registry(home, config, assignments).folder(reference, home / "bundles")
    try:
        labels = json.loads((folder / "labels.json").read_text(encoding="utf-8"))
        return list(labels["classes"]), str(labels["edition"])
    except (OSError, ValueError, KeyError, TypeError):
        raise UserError("holds no model bundle (labels.json)", str(folder)) from None


def _print_migration(result: "Migration") -> None:
    from rich.console import Console
    from rich.table import Table

    from models.hs.migrate import FATES

    console, model = Console(), result.model
    columns = ("rows", "codes", "classes of the model") if model else ("rows", "codes")
    table = Table("old code", *columns, "what that means", title=f"to {result.edition}")
    for fate, meaning in FATES.items():
        numbers = [result.rows_by_fate[fate], result.codes_by_fate[fate], *([model.fates[fate]] if model else [])]
        table.add_row(fate, *(f"{number:,}" for number in numbers), meaning)
    console.print(table)
    for digits, rows in result.rows_shortened.items():
        typer.echo(f"{rows:,} rows are shortened to {digits} digits")
    possible = sum(each.rows_possible > 0 for each in result.new)
    typer.echo(
        f"{len(result.new):,} of {result.subheadings:,} subheadings are new; {possible:,} of them may find examples"
    )
    for change in [each for each in result.changes if each.rows][:10]:
        after = ", ".join(change.successors[:6]) + (" …" if len(change.successors) > 6 else "")
        typer.echo(
            f"  {change.code} {change.fate}: {change.rows:,} rows → {change.becomes or 'refused'} ({after or '-'})"
        )
    if model:
        typer.echo(
            f"the model ({model.classes:,} classes, {model.edition}): {len(model.vanished):,} of its classes vanish, "
            f"{model.uncovered:,} subheadings have no class ({len(model.uncovered_new):,} new ones), "
            f"{model.rows_uncovered:,} rows will carry such a subheading"
        )


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
