"""`hscode models`: the registry's versions, their aliases and the way back from each."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.options import ConfigOption, HomeOption, JsonOption, SetOption, opened_registry, settings_of

if TYPE_CHECKING:
    from config.settings import Settings
    from serving.registry import Registry, Version

group = typer.Typer(help="Versions in the registry: list, show, promote, rollback, lineage.", no_args_is_help=True)
Reference = Annotated[str, typer.Argument(metavar="VERSION|ALIAS", help="Number, champion or challenger.")]


def register(app: typer.Typer) -> None:
    """Add the verbs of this file to `app`."""
    app.add_typer(group, name="models")


def open_registry(home: Path, config: Path | None = None, assignments: list[str] | None = None) -> "Registry":
    """The registry that the settings name, or the one in the home folder."""
    return opened_registry(settings_of(home, config, assignments))


def _print(versions: "list[Version]", as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps([version.as_dict() for version in versions], indent=1))
        return
    from rich.console import Console
    from rich.table import Table

    names = ("trader.hs2.top1", "trader.hs4.top1", "trader.hs6.top1")
    table = Table(
        "version", "aliases", "kind", "created", "HS2", "HS4", "HS6", "data", caption="top-1, trader-style test rows"
    )
    for version in versions:
        scores = [f"{version.scores[name]:.1%}" if name in version.scores else "" for name in names]
        created = f"{version.created:%Y-%m-%d %H:%M}"
        aliases, data = ", ".join(version.aliases), version.tags.get("data_hash", "")[:12]
        table.add_row(version.number, aliases, version.kind, created, *scores, data)
    Console().print(table)


@group.command("list")
def list_(
    home: HomeOption = Path(".hscode"), config: ConfigOption = None, set_: SetOption = None, as_json: JsonOption = False
) -> None:
    """All versions, newest first."""
    _print(open_registry(home, config, set_).versions(), as_json)


@group.command()
def show(
    reference: Reference,
    home: HomeOption = Path(".hscode"),
    config: ConfigOption = None,
    set_: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """One version with all its tags and scores."""
    version = open_registry(home, config, set_).resolve(reference).as_dict()
    if as_json:
        typer.echo(json.dumps(version, indent=1))
        return
    for key, value in version.items():
        if isinstance(value, dict):
            for name, inner in value.items():
                typer.echo(f"{key}.{name}: {inner}")
        else:
            typer.echo(f"{key}: {', '.join(value) if isinstance(value, list) else value}")


@group.command()
def promote(
    reference: Reference,
    home: HomeOption = Path(".hscode"),
    config: ConfigOption = None,
    set_: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Serve this version from now on and make it champion. It skips the canary: for people who know why."""
    _serve(reference, home, config, set_, as_json)


@group.command()
def rollback(
    home: HomeOption = Path(".hscode"), config: ConfigOption = None, set_: SetOption = None, as_json: JsonOption = False
) -> None:
    """Serve the version that the champion replaced, and make it champion again."""
    registry = open_registry(home, config, set_)
    _serve(registry.replaced_by_champion().number, home, config, set_, as_json)


@group.command()
def lineage(
    reference: Reference,
    home: HomeOption = Path(".hscode"),
    config: ConfigOption = None,
    set_: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """The way back from a version (as an answer names it): alert, run, data, settings, commit, canary and verdict."""
    registry = open_registry(home, config, set_)
    found = registry.lineage(reference)
    _add_decisions(found, registry.model, settings_of(home, config, set_))
    if as_json:
        typer.echo(json.dumps(found, indent=1))
        return
    depth = 0
    while found:
        for key, value in found.items():
            if key != "parent" and value not in (None, [], ""):
                typer.echo("  " * depth + f"{key}: {_shown(value)}")
        found = found["parent"]
        depth += 1


def _add_decisions(found: dict[str, Any], model: str, settings: "Settings") -> None:
    """What the database knows of each version of a lineage: its triggers, its run, its canary."""
    from serving.control.trigger import journal
    from serving.state import open_state

    url = settings.state.url or ""
    if url.startswith("sqlite:///") and not Path(url.removeprefix("sqlite:///")).exists():
        return
    state = open_state(url)
    try:
        version: dict[str, Any] | None = found
        while version:
            version.update(journal.lineage(state, version["run_key"], version["version"], model))
            version = version["parent"]
    finally:
        state.close()


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return "; ".join(f"{key} {_shown(inner)}" for key, inner in value.items() if inner not in (None, ""))
    return ", ".join(map(_shown, value)) if isinstance(value, list) else str(value)


def _serve(reference: str, home: Path, config: Path | None, assignments: list[str] | None, as_json: bool) -> None:
    from serving.handover import make_champion

    settings = settings_of(home, config, assignments)
    opened_registry(settings)
    _print([make_champion(settings, reference)], as_json)
