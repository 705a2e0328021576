"""`hscode corrections`: what experts say is right. It counts at once for monitor and canary, and is trained on."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.options import ConfigOption, HomeOption, JsonOption, SetOption, made_home, opened_state, settings_of
from cli.options import who as account

if TYPE_CHECKING:
    from config.settings import Settings
    from serving.state.corrections import Codes
    from serving.state.tables import Correction

WhoOption = Annotated[str | None, typer.Option("--who", help="Who says so; default: HSCODE_WHO or the account.")]


def register(app: typer.Typer) -> None:
    """Add the group to `app`."""
    group = typer.Typer(no_args_is_help=True, help="What experts say is right: add, import, list, withdraw.")
    group.command()(add)
    group.command("import")(import_)
    group.command("list")(list_)
    group.command()(withdraw)
    app.add_typer(group, name="corrections")


def add(
    code: Annotated[str, typer.Argument(help="The right code: 2, 4 or 6 digits.")],
    text: Annotated[str | None, typer.Option("--text", help="The description.")] = None,
    answer: Annotated[str | None, typer.Option("--answer", metavar="ID", help="Id of the request answered.")] = None,
    position: Annotated[int, typer.Option(min=0, help="Which description of that request.")] = 0,
    why: Annotated[str, typer.Option("--why", help="Reason.")] = "",
    who: WhoOption = None,
    home: HomeOption = Path(".hscode"),
    config: ConfigOption = None,
    set_: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Correct (or confirm) one answer, or all answers to a text."""
    from serving.state.corrections import read_correction, record

    settings = settings_of(home, config, set_)
    given = {
        "code": code,
        "description": text,
        "answer": answer,
        "position": position,
        "who": who or account(),
        "why": why,
    }
    said = read_correction(given, _codes(settings, home))
    with opened_state(settings) as state:
        record(state, [said])
    typer.echo(json.dumps({"id": said.ce_id, "code": said.code}) if as_json else f"{said.ce_id}: {said.code}")


def import_(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="csv, or jsonl with the fields of POST /corrections.")],
    who: WhoOption = None,
    quarantine: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Where bad lines go; default: FILE.quarantine.jsonl.")
    ] = None,
    home: HomeOption = Path(".hscode"),
    config: ConfigOption = None,
    set_: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Record a file's corrections; a line that is wrong goes to a quarantine file with the reason."""
    from serving.state.corrections import import_file

    settings = settings_of(home, config, set_)
    codes = _codes(settings, home)
    aside = quarantine or file.with_name(file.name + ".quarantine.jsonl")
    with opened_state(settings) as state:
        done = import_file(state, file, codes, aside, who or account())
    if as_json:
        typer.echo(json.dumps(done))
        return
    typer.echo(
        f"{done['read']} lines: {done['recorded']} recorded, {done['duplicates']} known, {done['refused']} refused"
    )
    if done["refused"]:
        typer.echo(f"refused lines and why: {aside}")


def list_(
    limit: Annotated[int, typer.Option(min=1, help="At most so many, newest first.")] = 50,
    home: HomeOption = Path(".hscode"),
    config: ConfigOption = None,
    set_: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Corrections, newest first; those that do not stand are marked."""
    from serving.state.corrections import listed

    with opened_state(settings_of(home, config, set_)) as state:
        rows = listed(state, limit=limit)
    if as_json:
        typer.echo(json.dumps([{**_as_dict(row), "stands": stands} for row, stands in rows], indent=1))
        return
    for row, stands in rows:
        mark = "withdrawn" if row.withdrawn_at else "stands" if stands else "outvoted"
        what = row.description or f"answer {row.answer_position} of {row.answer_ce_id}"
        typer.echo(f"{row.ce_id}  {row.code:6}  {mark:9}  {row.who}  {row.said_at:%Y-%m-%d %H:%M}  {what}")
    if not rows:
        typer.echo("There is no correction yet.")


def withdraw(
    correction: Annotated[str, typer.Argument(metavar="ID", help="The correction's id.")],
    who: WhoOption = None,
    home: HomeOption = Path(".hscode"),
    config: ConfigOption = None,
    set_: SetOption = None,
) -> None:
    """Take a correction back; it stays on record."""
    from serving.state.corrections import withdraw as take_back

    with opened_state(settings_of(home, config, set_)) as state:
        row = take_back(state, correction, who or account())
    typer.echo(f"{row.ce_id}: withdrawn by {row.withdrawn_by} at {row.withdrawn_at:%Y-%m-%d %H:%M}")


def _codes(settings: "Settings", home: Path) -> "Codes":
    from serving.control.monitor.versions import codes_in_use

    return codes_in_use(settings, made_home(home) / "cache")


def _as_dict(row: "Correction") -> dict[str, Any]:
    moments = ("said_at", "recorded_at", "withdrawn_at")
    return {
        "id": row.ce_id,
        "code": row.code,
        "description": row.description,
        "answer": row.answer_ce_id,
        "position": row.answer_position,
        "edition": row.edition,
        "who": row.who,
        "why": row.why,
        **{name: value.isoformat() if (value := getattr(row, name)) else None for name in moments},
        "withdrawn_by": row.withdrawn_by,
    }
