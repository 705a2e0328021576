"""`hscode doctor`: does every arrow of the loop work, what was seen, what to do."""

import dataclasses
import json
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer

from cli.options import ConfigOption, HomeOption, JsonOption, SetOption, settings_of

Address = Annotated[str | None, typer.Option(metavar="URL", help="Its address from here; default: not asked.")]


def register(app: typer.Typer) -> None:
    """Add the verb to `app`."""
    app.command()(doctor)


def doctor(
    cluster: Annotated[
        str | None,
        typer.Option(
            metavar="NAMESPACE",
            help="Look at the installation there by kubectl: settings, addresses and ways are its own.",
        ),
    ] = None,
    monitor: Address = None,
    trigger: Address = None,
    prometheus: Address = None,
    alertmanager: Address = None,
    home: HomeOption = Path(".hscode"),
    config: ConfigOption = None,
    set_: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Walk the loop's arrows: ok, broken with what to do, or unseen from here. Ends with 1 where one is broken."""
    from pipelines.backends import backend_of
    from serving.doctor import SERVICES, Addresses, examine
    from serving.home import with_home
    from serving.installation import opened

    findings = []
    with ExitStack() as ways:
        addresses = Addresses(monitor, trigger, prometheus, alertmanager)
        if cluster is None:
            settings = settings_of(home, config, set_)
        else:
            installation = ways.enter_context(opened(cluster, [f"hscode-{name}" for name in SERVICES], set_ or ()))
            settings = with_home(installation.settings, home)
            seen = {name: installation.ways.get(f"hscode-{name}") for name in SERVICES}
            given = {name: address for name, address in dataclasses.asdict(addresses).items() if address}
            addresses = Addresses(**{**seen, "closed": installation.closed, "absent": installation.absent, **given})

        def runs() -> str:
            backend = backend_of(settings, home)
            backend.find("doctor")
            return f"{backend.name} answers"

        for finding in examine(settings, addresses, runs):
            findings.append(finding)
            if not as_json:
                mark = {True: "ok", False: "broken", None: "unseen"}[finding.works]
                typer.echo(f"{mark:7} {finding.arrow}: {finding.seen}")
                if finding.todo:
                    typer.echo(f"        do: {finding.todo}")
    if as_json:
        typer.echo(json.dumps([dataclasses.asdict(finding) for finding in findings], indent=1))
    raise typer.Exit(1 if any(finding.works is False for finding in findings) else 0)
