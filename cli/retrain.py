"""`hscode retrain`: the retraining pipeline on this machine, as a person starts it or the trigger's local backend."""

import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from cli.options import ConfigOption, HomeOption, JsonOption, SetOption, resolved
from cli.run import DataOption, NomenclatureOption, display, with_data, with_sample


def register(app: typer.Typer) -> None:
    """Add the verb to `app`."""
    app.command()(retrain)


def retrain(
    data: DataOption = None,
    nomenclature: NomenclatureOption = None,
    new_data: Annotated[
        list[str] | None, typer.Option("--new-data", metavar="PATH|URL", help="Further file to train on; repeatable.")
    ] = None,
    since: Annotated[
        str, typer.Option(metavar="MOMENT", help="Take corrections from then on; default: as the settings say.")
    ] = "",
    data_until: Annotated[
        str, typer.Option(metavar="ID", help="Take the data that arrived at the trigger up to this decision.")
    ] = "",
    name: Annotated[str | None, typer.Option(help="Name of the run; default: one with the time in it.")] = None,
    triggered_by: Annotated[str, typer.Option(metavar="KEY", help="What started it.")] = "person",
    home: HomeOption = Path(".hscode"),
    config: ConfigOption = None,
    set_: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Train again on base data, new data and corrections; what passes the gate becomes challenger, for the canary."""
    from models.errors import UserError
    from pipelines import retrain as pipeline
    from pipelines.local import opened_home, run_local
    from pipelines.local_backend import recorded
    from serving.home import with_home
    from serving.registry import RUN_KEY, Registry

    for address in new_data or ():
        if not address.isprintable():
            raise UserError("an address of new data has a control character in it", repr(address))
    settings = resolved(config, with_data(set_ or [], data, nomenclature))
    name = name or f"retrain-{datetime.now(UTC):%Y%m%d-%H%M%S}-person"
    os.environ.setdefault("HSCODE_PROGRESS", os.devnull)
    with recorded(home, name), opened_home(home, wait=True), display(as_json) as progress:
        settings = with_home(with_sample(settings, home), home)
        done = run_local(
            settings,
            home,
            progress,
            pipeline.build,
            key=name,
            triggered_by=triggered_by,
            since=since,
            new_data="\n".join(new_data or ()),
            data_until=data_until,
        )
    registry = Registry(settings.registry.uri or "", settings.registry.model)
    version = next((v for v in registry.versions() if v.tags.get(RUN_KEY) == name), None)
    if as_json:
        found = {"run": name, "gate": done.gate, "version": version.as_dict() if version else None}
        typer.echo(json.dumps({**found, "report": done.report, "log": done.log}, indent=1))
    elif version is None:
        typer.echo(f"The candidate did not pass the gate; the champion goes on serving. Why: {done.report}")
    else:
        typer.echo(f"Version {version.number} ({version.kind}) is {' and '.join(version.aliases) or 'registered'}.")
        typer.echo(f"Report:  {done.report}")
