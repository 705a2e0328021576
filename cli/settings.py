"""`hscode settings`: what a run would use, with the reason of each value."""

import json

import typer

from cli.options import ConfigOption, JsonOption, SetOption, resolved


def register(app: typer.Typer) -> None:
    """Add the verbs of this file to `app`."""
    app.command()(settings)


def settings(config: ConfigOption = None, set_: SetOption = None, as_json: JsonOption = False) -> None:
    """Print the resolved settings as documented YAML, to start a file of your own from."""
    from config.render import as_yaml

    tree = resolved(config, set_ or [])
    typer.echo(json.dumps(tree.model_dump(mode="json"), indent=1) if as_json else as_yaml(tree), nl=as_json)
