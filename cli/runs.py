"""`hscode runs`: what was started, how it went, and what came of it; on Kubeflow Pipelines or on this machine."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.options import ConfigOption, HomeOption, JsonOption, SetOption, opened_registry, settings_of

if TYPE_CHECKING:
    from pipelines.backends import Runs
    from serving.control.trigger.backend import RunState

RunArgument = Annotated[str, typer.Argument(metavar="NAME|ID", help="Name of the run, or the id the backend gave it.")]


def register(app: typer.Typer) -> None:
    """Add the group to `app`."""
    group = typer.Typer(no_args_is_help=True, help="Pipeline runs: list, show, artifacts.")
    group.command("list")(list_)
    group.command()(show)
    group.command()(artifacts)
    app.add_typer(group, name="runs")


def list_(
    most: Annotated[int, typer.Option("--last", min=1, max=100, help="How many, newest first.")] = 20,
    home: HomeOption = Path(".hscode"),
    config: ConfigOption = None,
    set_: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """The newest runs."""
    from pipelines.backends import asked, runs_of

    with asked():
        found = runs_of(settings_of(home, config, set_), home).listed(most)
    if as_json:
        typer.echo(json.dumps([_as_dict(state) for state in found], indent=1))
        return
    if not found:
        typer.echo("There was no run yet.")
    for state in found:
        typer.echo(
            f"{_at(state.started_at)}  {state.status:9}  {state.name}  {state.backend_id}  {state.error}".rstrip()
        )


def show(
    run: RunArgument,
    log: Annotated[bool, typer.Option("--log", help="The failed step's log too.")] = False,
    home: HomeOption = Path(".hscode"),
    config: ConfigOption = None,
    set_: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """One run: its steps, and why it failed where it did."""
    from pipelines.backends import asked, runs_of

    runs = runs_of(settings_of(home, config, set_), home)
    with asked():
        state, steps = runs.progress(_state(runs, run).backend_id)
        step, text = runs.failed_step(state.backend_id) if log else ("", "")
    if as_json:
        typer.echo(json.dumps({**_as_dict(state), "steps": steps, **({"log": text} if log else {})}, indent=1))
        return
    typer.echo(f"{state.name} ({state.backend_id} on {runs.name}): {state.status}")
    typer.echo(f"  from {_at(state.started_at)} to {_at(state.finished_at)}")
    for name, status in steps.items():
        typer.echo(f"  {name}: {status}")
    if state.error:
        typer.echo(f"  {state.error}")
    for line in text.splitlines():
        typer.echo(f"  {step} | {line}")


def artifacts(
    run: RunArgument,
    home: HomeOption = Path(".hscode"),
    config: ConfigOption = None,
    set_: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """What a run left: the registered version with its bundle and report, and where its steps' artifacts lie.

    From the registry, not from KFP: its API lists no artifacts.
    """
    from pipelines.backends import asked, runs_of
    from serving.registry import RUN_KEY

    settings = settings_of(home, config, set_)
    runs = runs_of(settings, home)
    with asked():
        state = _state(runs, run)
    registry = opened_registry(settings)
    known = (state.name, state.backend_id)
    version = next(
        (v for v in registry.versions() if v.tags.get(RUN_KEY) in known or v.tags.get("pipeline_run") in known), None
    )
    found: dict[str, Any] = {"run": state.name, "id": state.backend_id, "steps": runs.artifacts(state)}
    if version is not None:
        files = registry.client.list_artifacts(version.run_id)
        address = version.source.rsplit("/", 1)[0]
        found |= {"version": version.number, "bundle": version.source}
        found["report"] = next((f"{address}/{one.path}" for one in files if one.path.startswith("report")), None)
    if as_json:
        typer.echo(json.dumps(found, indent=1))
        return
    for key, value in found.items():
        typer.echo(f"{key}: {value}")
    if version is None:
        typer.echo("No version came of it.")


def _state(runs: "Runs", run: str) -> "RunState":
    return runs.find(run) or runs.status(run)


def _as_dict(state: "RunState") -> dict[str, Any]:
    moments = {"started_at": state.started_at, "finished_at": state.finished_at}
    return asdict(state) | {name: moment.isoformat() if moment else None for name, moment in moments.items()}


def _at(moment: Any) -> str:
    return moment.isoformat(timespec="seconds") if moment else "-" * 25
