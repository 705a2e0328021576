"""Options that several verbs share, and how they become settings."""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from config.settings import Settings

ConfigOption = Annotated[
    Path | None, typer.Option("--config", metavar="FILE", help="Settings as YAML; see config/default.yaml.")
]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="One setting, as a.b=value; repeatable.")
]
HomeOption = Annotated[Path, typer.Option("--home", metavar="DIR", help="Folder that holds all state.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]


def resolved(config: Path | None, assignments: Iterable[str]) -> "Settings":
    """Settings from defaults < file < environment < `--set`."""
    from config.settings import load_settings

    return load_settings(config, os.environ, assignments)
