"""`hscode schedule`: the recurring retraining, on Kubeflow Pipelines or here."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.options import ConfigOption, HomeOption, JsonOption, SetOption, opened_state, settings_of

if TYPE_CHECKING:
    from serving.control.trigger.backend import Schedules, ScheduleState


def register(app: typer.Typer) -> None:
    """Add the group to `app`."""
    group = typer.Typer(no_args_is_help=True, help="The recurring retraining: set, show, remove.")
    group.command("set")(set_schedule)
    group.command()(show)
    group.command()(remove)
    app.add_typer(group, name="schedule")


def set_schedule(
    cron: Annotated[str, typer.Argument(metavar="CRON", help='Six fields, seconds first, UTC: "0 0 3 * * 1".')],
    home: HomeOption = Path(".hscode"),
    config: ConfigOption = None,
    set_: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Retrain by this schedule from now on. What falls due while it is down is not run late."""
    from serving.control.trigger.cron import checked

    expression = checked(cron)
    with _schedules(home, config, set_) as schedules:
        _say(schedules.set_schedule(expression), as_json)


def show(
    home: HomeOption = Path(".hscode"), config: ConfigOption = None, set_: SetOption = None, as_json: JsonOption = False
) -> None:
    """The schedule as it is set."""
    with _schedules(home, config, set_) as schedules:
        _say(schedules.show(), as_json)


def remove(
    home: HomeOption = Path(".hscode"), config: ConfigOption = None, set_: SetOption = None, as_json: JsonOption = False
) -> None:
    """Retrain by schedule no more."""
    with _schedules(home, config, set_) as schedules:
        removed = schedules.remove()
    if as_json:
        typer.echo(json.dumps({"removed": removed}))
    else:
        typer.echo("The schedule is removed." if removed else "There was no schedule.")


@contextmanager
def _schedules(home: Path, config: Path | None, assignments: list[str] | None) -> "Iterator[Schedules]":
    from pipelines.backends import asked, schedules_of

    settings = settings_of(home, config, assignments)
    with opened_state(settings) as state, asked():
        yield schedules_of(settings, state)


def _say(found: "ScheduleState | None", as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(asdict(found) if found else None, indent=1, default=lambda moment: moment.isoformat()))
    elif found is None:
        typer.echo("There is no schedule.")
    else:
        due = f"; next at {found.next_at.isoformat(timespec='seconds')}" if found.next_at else ""
        typer.echo(f"{found.cron} UTC ({'enabled' if found.enabled else 'disabled'}){due}")
