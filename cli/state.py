"""`hscode state`: the database of events, corrections and decisions."""

import json
from pathlib import Path
from typing import Annotated

import typer

from cli.options import ConfigOption, HomeOption, JsonOption, SetOption, settings_of


def register(app: typer.Typer) -> None:
    """Add the group to `app`."""
    group = typer.Typer(no_args_is_help=True, help="The database of events, corrections and decisions.")
    group.command()(migrate)
    app.add_typer(group, name="state")


def migrate(
    check: Annotated[bool, typer.Option("--check", help="Only say whether schema and program agree.")] = False,
    home: HomeOption = Path(".hscode"),
    config: ConfigOption = None,
    set_: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Bring the database's schema to this program's version (on a cluster: a Job before the services)."""
    from serving.state import open_state
    from serving.state.database import migrate as bring

    settings = settings_of(home, config, set_)
    state = open_state(settings.state.url or "", upgrade=not check)
    try:
        revision = bring(state.engine)
        shown = state.engine.url.render_as_string(hide_password=True)
    finally:
        state.close()
    typer.echo(json.dumps({"database": shown, "revision": revision}) if as_json else f"{shown}: revision {revision}")
