"""`hscode trigger`: what starts a retraining by itself, and what was decided."""

import json
import sys
import uuid
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.options import ConfigOption, HomeOption, JsonOption, SetOption, made_home, opened_state, settings_of, who

if TYPE_CHECKING:
    from serving.state.tables import Run, TriggerDecision


def register(app: typer.Typer) -> None:
    """Add the group to `app`."""
    group = typer.Typer(no_args_is_help=True, help="What starts a retraining by itself: serve, fire, list.")
    for verb in (serve, fire):
        group.command()(verb)
    group.command("list")(list_)
    app.add_typer(group, name="trigger")


def serve(
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0: any free one.")] = 8080,
    address: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    home: HomeOption = Path(".hscode"),
    config: ConfigOption = None,
    set_: SetOption = None,
) -> None:
    """Take alerts, news of data and people's wishes, decide, and start retrainings, until Ctrl-C."""
    import logging

    from pipelines.backends import backend_of
    from serving.control.trigger.service import serve as serve_http
    from serving.control.trigger.service import token_of
    from serving.control.trigger.submitter import Submitter
    from serving.state import SqlLease

    settings = settings_of(home, config, set_)
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(message)s")
    for noisy in ("alembic", "httpx"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    with opened_state(settings) as state:
        token = token_of(settings.trigger, made_home(home))
        lease = SqlLease(state, "trigger", settings.trigger.lease_seconds)
        submitter = Submitter(state, backend_of(settings, home), lease, settings.trigger)
        serve_http(submitter, token, address, port, lambda url: typer.echo(f"Trigger: {url}"))


def fire(
    why: Annotated[str, typer.Option("--why", help="Reason, kept with the run.")],
    identity: Annotated[
        str | None, typer.Option("--id", help="The same id fired again is the same wish; default: a new one.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be decided.")] = False,
    url: Annotated[
        str | None, typer.Option(metavar="URL", help="Address of the trigger; default: its database.")
    ] = None,
    home: HomeOption = Path(".hscode"),
    config: ConfigOption = None,
    set_: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Ask for a retraining; the trigger decides at its next look (`hscode trigger list`)."""
    from models.errors import UserError
    from serving.control.trigger import inputs, journal

    settings = settings_of(home, config, set_)
    wish = {"who": who(), "why": why, "id": identity or uuid.uuid4().hex, "dry_run": dry_run}
    try:
        (occasion,) = inputs.fired(json.dumps(wish).encode())
    except inputs.BadInput as error:
        raise UserError(str(error)) from None
    if url is not None:
        import httpx

        from serving.control.trigger.service import token_of

        headers = {"Authorization": f"Bearer {token_of(settings.trigger, home)}"}
        try:
            got = httpx.post(f"{url.rstrip('/')}/fire", json=wish, headers=headers, timeout=30)
        except httpx.HTTPError as error:
            raise UserError(f"the trigger does not answer ({type(error).__name__})", url) from None
        if not got.is_success:
            raise UserError(f"status {got.status_code}: {got.text[:300]}", url)
        new = got.json()["accepted"]
    else:
        with opened_state(settings) as state:
            new = journal.accept(state, [occasion], datetime.now(UTC))
    if as_json:
        typer.echo(json.dumps({"key": occasion.key, "new": bool(new)}))
    else:
        typer.echo(f"{occasion.key} is {'recorded' if new else 'known already'}; the trigger decides at its next look.")


def list_(
    most: Annotated[int, typer.Option("--last", min=1, help="How many, newest first.")] = 20,
    home: HomeOption = Path(".hscode"),
    config: ConfigOption = None,
    set_: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """What happened, what was decided and why, and what became of the runs; newest first."""
    from serving.control.trigger import journal

    with opened_state(settings_of(home, config, set_)) as state, state.read() as session:
        found = [_as_dict(decision, run) for decision, run in journal.listing(session, most)]
    if as_json:
        typer.echo(json.dumps(found, indent=1))
        return
    if not found:
        typer.echo("Nothing happened yet.")
    for each in found:
        run = f"  {each['run']}: {each['status']} {each['error']}".rstrip() if each["run"] else ""
        typer.echo(
            f"{each['received_at'][:19]}  {each['decision']:8} {each['key']} ({each['deliveries']} times)  "
            f"{each['reason']}{run}"
        )


def _as_dict(decision: "TriggerDecision", run: "Run | None") -> dict[str, Any]:
    return {
        "id": decision.id,
        "key": decision.key,
        "source": decision.source,
        "payload": decision.payload,
        "deliveries": decision.deliveries,
        "received_at": decision.received_at.isoformat(),
        "decision": decision.decision or "waiting",
        "reason": decision.reason,
        "run": decision.run_name,
        "status": run.status if run else None,
        "error": run.error if run else "",
        "backend": run.backend if run else None,
        "backend_id": run.backend_id if run else None,
    }
