"""`hscode canary`: a challenger's way to all traffic or back. The controller acts; these verbs ask it and show."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.options import ConfigOption, HomeOption, JsonOption, SetOption, opened_registry, opened_state, settings_of, who

if TYPE_CHECKING:
    from config.settings import Settings
    from serving.state.tables import Canary

IdArgument = Annotated[
    int | None, typer.Argument(metavar="[CANARY]", help="Number of the canary; default: the newest.")
]
WhyOption = Annotated[str, typer.Option("--why", help="Reason, kept with the decision.")]


def register(app: typer.Typer) -> None:
    """Add the group to `app`."""
    group = typer.Typer(no_args_is_help=True, help="Canary of a challenger: start, watch, explain, promote, abort.")
    for verb in (start, status, history, explain, promote, abort, controller):
        group.command()(verb)
    app.add_typer(group, name="canary")


def start(
    version: Annotated[str, typer.Argument(metavar="VERSION|ALIAS", help="The challenger.")] = "challenger",
    home: HomeOption = Path(".hscode"),
    config: ConfigOption = None,
    set_: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Give a registered version a share of traffic and let the evidence decide."""
    from datetime import UTC, datetime

    from serving.control.canary import journal
    from serving.control.canary.plan import Model
    from serving.deploy import open_deployer
    from serving.deploy.manifest import storage_uri
    from serving.registry import RUN_KEY

    settings = settings_of(home, config, set_)
    challenger = opened_registry(settings).resolve(version)
    service = open_deployer(settings.deploy.target).status(settings.deploy.name)
    with opened_state(settings) as state:
        number = journal.start(
            state,
            service,
            Model(storage_uri(challenger.source), challenger.number),
            settings.canary,
            model=settings.registry.model,
            who=who(),
            now=datetime.now(UTC),
            run_name=challenger.tags.get(RUN_KEY),
        )
        with state.read() as session:
            row = journal.find(session, number)
    _say(row, as_json, f"Canary {number} of version {challenger.number} is recorded; the controller starts it.")


def status(
    home: HomeOption = Path(".hscode"), config: ConfigOption = None, set_: SetOption = None, as_json: JsonOption = False
) -> None:
    """The newest canary: where it stands and what it waits for."""
    from serving.control.canary import journal

    with opened_state(settings_of(home, config, set_)) as state, state.read() as session:
        row = journal.find(session)
    latest = row.latest or {}
    _say(row, as_json, f"now: {latest.get('reason', 'no block of evidence has closed yet')}")


def history(
    home: HomeOption = Path(".hscode"), config: ConfigOption = None, set_: SetOption = None, as_json: JsonOption = False
) -> None:
    """All canaries, newest first."""
    from sqlalchemy import select

    from serving.state.tables import Canary

    with opened_state(settings_of(home, config, set_)) as state, state.read() as session:
        rows = list(session.scalars(select(Canary).order_by(Canary.id.desc())))
    if as_json:
        typer.echo(json.dumps([_as_dict(row) for row in rows], indent=1))
        return
    if not rows:
        typer.echo("There was no canary yet.")
    for row in rows:
        ended = row.finished_at.isoformat(timespec="seconds") if row.finished_at else "undecided"
        typer.echo(
            f"{row.id:4d}  {row.champion_version} -> {row.challenger_version}  {row.state:12} {row.percent:3d} %  "
            f"{row.started_at.isoformat(timespec='seconds')}  {ended}  {row.reason}"
        )


def explain(
    canary: IdArgument = None,
    home: HomeOption = Path(".hscode"),
    config: ConfigOption = None,
    set_: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Every decision with its evidence, the intervals, and the classic fixed-sample tests beside them."""
    from datetime import UTC, datetime

    from serving.control.canary import journal, report
    from serving.control.canary.blocks import blocks_of
    from serving.control.canary.controller import evidence_of

    with opened_state(settings_of(home, config, set_)) as state, state.read() as session:
        row = journal.find(session, canary)
        steps, blocks = journal.steps_of(session, row.id), blocks_of(session, row.id)
    found = report.explain(row, steps, evidence_of(row, blocks, row.finished_at or datetime.now(UTC)))
    typer.echo(json.dumps(found, indent=1) if as_json else report.told(found))


def promote(
    canary: IdArgument = None,
    why: WhyOption = "",
    home: HomeOption = Path(".hscode"),
    config: ConfigOption = None,
    set_: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Give the challenger all traffic now, whatever the evidence says."""
    _ask("promote", canary, why, settings_of(home, config, set_), as_json)


def abort(
    canary: IdArgument = None,
    why: WhyOption = "",
    home: HomeOption = Path(".hscode"),
    config: ConfigOption = None,
    set_: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Take all traffic from the challenger and put the old model back."""
    _ask("abort", canary, why, settings_of(home, config, set_), as_json)


def controller(
    port: Annotated[int, typer.Option(min=-1, max=65535, help="/metrics and /healthz; 0: any; -1: none.")] = -1,
    home: HomeOption = Path(".hscode"),
    config: ConfigOption = None,
    set_: SetOption = None,
) -> None:
    """Run the controller here until Ctrl-C (on a cluster it is a Deployment)."""
    from serving.control.canary.__main__ import main

    arguments = ["--home", str(home), "--port", str(port), "--address", "127.0.0.1"]
    arguments += ["--config", str(config)] if config else []
    main(arguments + [part for one in set_ or [] for part in ("--set", one)])


def _ask(verb: str, canary: int | None, why: str, settings: "Settings", as_json: bool) -> None:
    from serving.control.canary import journal

    with opened_state(settings) as state:
        row = journal.ask(state, canary, verb, who(), why)
    _say(row, as_json, f"asked the controller to {verb}; it does so at its next look")


def _say(row: "Canary", as_json: bool, note: str) -> None:
    if as_json:
        typer.echo(json.dumps(_as_dict(row), indent=1))
        return
    typer.echo(
        f"Canary {row.id}: version {row.challenger_version} against {row.champion_version}, {row.state} "
        f"at {row.percent} %: {row.reason}"
    )
    if row.finished_at is None:
        typer.echo(f"  {note}")
        typer.echo(f"  deadline {row.deadline_at.isoformat(timespec='seconds')}")


def _as_dict(row: "Canary") -> dict[str, Any]:
    moments = ("started_at", "first_seen_at", "step_since", "deadline_at", "finished_at")
    return {
        "canary": row.id,
        "service": row.service,
        "namespace": row.namespace,
        "champion": row.champion_version,
        "challenger": row.challenger_version,
        "state": row.state,
        "percent": row.percent,
        "reason": row.reason,
        "command": row.command,
        "latest": row.latest,
        "started_by": row.started_by,
        "run": row.run_name,
        **{name: value.isoformat() if (value := getattr(row, name)) else None for name in moments},
    }
