"""Options that several verbs share, and how they become settings."""

import getpass
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from config.settings import Settings
    from serving.registry import Registry
    from serving.state import State

ConfigOption = Annotated[
    Path | None, typer.Option("--config", metavar="FILE", help="Settings as YAML; see config/default.yaml.")
]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="One setting, as a.b=value; repeatable.")
]


def _folder(home: Path) -> Path:
    """The home, which need not be there yet. Raises UserError where it, or what it would lie in, is a file."""
    from models.errors import UserError

    there = next(one for one in (home, *home.absolute().parents) if os.path.exists(one))
    if os.path.isfile(there):
        raise UserError("is not a folder", str(there), "choose another --home")
    return home


HomeOption = Annotated[
    Path, typer.Option("--home", metavar="DIR", callback=_folder, help="Folder that holds all state.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]


def resolved(config: Path | None, assignments: Iterable[str]) -> "Settings":
    """Settings from defaults < file < environment < `--set`."""
    from config.settings import load_settings

    return load_settings(config, os.environ, assignments)


def settings_of(home: Path, config: Path | None, assignments: Iterable[str] | None) -> "Settings":
    """As `resolved`, with what is left open in the home folder."""
    from serving.home import with_home

    return with_home(resolved(config, assignments or ()), home)


def made_home(home: Path) -> Path:
    """The home folder, made where it is not there yet. Raises UserError where it cannot be."""
    from models.errors import made_folder

    return made_folder(home, "choose another --home")


def opened_registry(settings: "Settings") -> "Registry":
    """The registry of settings that have been through `settings_of`; the folder of one in a file is there."""
    from models.errors import made_folder
    from serving.registry import Registry

    uri = settings.registry.uri or ""
    if uri.startswith("sqlite:///"):
        made_folder(Path(uri.removeprefix("sqlite:///")).parent, "choose another --home, or set registry.uri")
    return Registry(uri, settings.registry.model)


@contextmanager
def opened_state(settings: "Settings") -> "Iterator[State]":
    """The database of the settings, closed at the end."""
    from serving.state import open_state

    state = open_state(settings.state.url or "")
    try:
        yield state
    finally:
        state.close()


def who() -> str:
    """The person's name: ``HSCODE_WHO``, else the account's."""
    try:
        return os.environ.get("HSCODE_WHO") or getpass.getuser()
    except (KeyError, OSError):
        return f"uid {os.getuid()}"
