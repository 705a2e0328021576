"""`hscode submit`: start a pipeline where the settings say that runs happen, and wait for it if asked to."""

import json
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.options import ConfigOption, HomeOption, JsonOption, SetOption, settings_of, who
from cli.run import DataOption, NomenclatureOption, with_data

if TYPE_CHECKING:
    from pipelines.backends import Runs
    from serving.control.trigger.backend import RunState

PIPELINES = ("training", "retrain", "batch")
FAILED, STILL_RUNNING = 1, 3
LOG_LINES = 40


def register(app: typer.Typer) -> None:
    """Add the verb to `app`."""
    app.command()(submit)


def submit(
    pipeline: Annotated[str, typer.Option(help="training, retrain or batch.")] = "training",
    parameter: Annotated[
        list[str] | None,
        typer.Option("--parameter", "-p", metavar="NAME=VALUE", help="A parameter of the pipeline; repeatable."),
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="Name of the run; the same name is never started twice. Default: a new one.")
    ] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Wait for its end; the exit code says how it ended.")] = False,
    timeout: Annotated[float, typer.Option(metavar="SECONDS", min=1, help="How long to wait at most.")] = 86_400,
    data: DataOption = None,
    nomenclature: NomenclatureOption = None,
    home: HomeOption = Path(".hscode"),
    config: ConfigOption = None,
    set_: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Start a pipeline on Kubeflow Pipelines (setting kfp.endpoint); without one, a retraining here in the background.

    Exit codes: 0 submitted or, with --wait, succeeded; 1 the run failed; 2 not started; 3 still running at the timeout.
    """
    from models.errors import UserError
    from pipelines.backends import asked, runs_of

    if pipeline not in PIPELINES:
        raise UserError(f"no pipeline {pipeline}", todo=f"choose {', '.join(PIPELINES)}")
    parameters = {"triggered_by": f"person:{who()}"} if pipeline != "batch" else {}
    for given in parameter or []:
        key, equals, value = given.partition("=")
        if not equals:
            raise UserError(f"--parameter {given!r} has no '='", todo="write --parameter name=value")
        parameters[key.strip()] = value
    settings = settings_of(home, config, with_data(set_ or [], data, nomenclature))
    runs = runs_of(settings, home, pipeline)
    name = name or f"{pipeline}-{datetime.now(UTC):%Y%m%d-%H%M%S-%f}-person"
    with asked():
        backend_id = runs.submit(name, parameters, {"submitted_by": who()})
    if not as_json:
        typer.echo(f"{name}: {backend_id} on {runs.name}", err=wait)
    state = _waited(runs, backend_id, timeout, settings.kfp.poll_seconds) if wait else None
    if as_json:
        told = {"run": name, "id": backend_id, "backend": runs.name}
        if state is not None:
            told |= {"status": state.status, "error": state.error}
        typer.echo(json.dumps(told, indent=1))
    elif state is not None:
        typer.echo(f"{name}: {state.status}{': ' + state.error if state.error else ''}")
    if state is not None and state.status != "succeeded":
        raise typer.Exit(FAILED if state.status == "failed" else STILL_RUNNING)


def _waited(runs: "Runs", backend_id: str, timeout: float, every: float) -> "RunState":
    """Poll until the end or the timeout; tells each change of a step. A server that is away for a while is asked on."""
    from serving.control.trigger.backend import BackendUnavailable

    ends, away = time.monotonic() + timeout, ""
    seen: dict[str, str] = {}
    while True:
        try:
            state, steps = runs.progress(backend_id)
        except BackendUnavailable as error:
            if str(error) != away:
                away = str(error)
                sys.stderr.write(f"{away}; asking on\n")
            steps, state = {}, None
        for step, status in steps.items():
            if seen.get(step) != status:
                seen[step] = status
                sys.stderr.write(f"{datetime.now():%H:%M:%S} {step}: {status}\n")
        if state is not None and state.status in ("succeeded", "failed"):
            if state.status == "failed":
                step, text = runs.failed_step(backend_id)
                lines = text.splitlines()[-LOG_LINES:]
                sys.stderr.write("".join(f"{step} | {line}\n" for line in lines))
            return state
        left = ends - time.monotonic()
        if left <= 0:
            if state is None:
                from models.errors import UserError

                raise UserError(away, todo=f"look later: hscode runs show {backend_id}")
            return state
        time.sleep(min(every, left))
