"""`hscode serve`: the local host with the champion; `hscode deployments`: what is deployed and how it is."""

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.options import ConfigOption, HomeOption, JsonOption, SetOption, made_home, opened_registry, settings_of

if TYPE_CHECKING:
    from config.settings import Settings
    from serving.deploy import Status


def register(app: typer.Typer) -> None:
    """Add the verbs of this file to `app`."""
    app.command()(serve)
    app.command()(deployments)


def serve(
    port: Annotated[int, typer.Option(min=0, max=65535, help="REST port; 0: any free one.")] = 8080,
    grpc_port: Annotated[int, typer.Option(min=-1, max=65535, help="gRPC port; 0: any free one; -1: none.")] = 8081,
    address: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    idle: Annotated[
        float, typer.Option(min=0, metavar="SECONDS", help="Without a request, until scaled to zero.")
    ] = 60,
    logger_url: Annotated[
        str | None, typer.Option("--monitor", metavar="URL", help="Where copies of requests and answers go.")
    ] = None,
    model: Annotated[
        str | None, typer.Option(metavar="VERSION|ALIAS", help="Serve this version from now on with all traffic.")
    ] = None,
    home: HomeOption = Path(".hscode"),
    config: ConfigOption = None,
    set_: SetOption = None,
) -> None:
    """Serve the home's deployments (at first the champion) over KServe v1, v2 and gRPC until Ctrl-C."""
    import logging
    import threading

    from serving.deploy.host import LocalHost

    settings = settings_of(home, config, set_)
    host = LocalHost(
        made_home(home),
        port,
        grpc_port=None if grpc_port < 0 else grpc_port,
        address=address,
        idle_seconds=idle,
        logger_url=logger_url,
        event_bytes=settings.monitor.body_bytes,
    )
    _record(settings, model, known=bool(host.store.names()))
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    logging.getLogger().setLevel(logging.WARNING)
    logging.getLogger("hscode.host").setLevel(logging.INFO)
    threading.Thread(target=_say_when_ready, args=(home, settings.deploy.name), daemon=True).start()
    host.run()


def deployments(
    home: HomeOption = Path(".hscode"), config: ConfigOption = None, set_: SetOption = None, as_json: JsonOption = False
) -> None:
    """What is deployed where the settings say: model, traffic, readiness and reasons."""
    from serving.deploy import open_deployer

    settings = settings_of(home, config, set_)
    status = open_deployer(settings.deploy.target).status(settings.deploy.name)
    typer.echo(json.dumps(asdict(status), indent=1) if as_json else "\n".join(_lines(status)))


def _record(settings: "Settings", model: str | None, known: bool) -> None:
    """Write what to serve into the home: `model` where it is given, the champion where nothing is recorded yet."""
    from serving.deploy import deploy_version
    from serving.registry import CHAMPION

    if known and model is None:
        return
    deploy_version(settings, opened_registry(settings).resolve(model or CHAMPION))


def _say_when_ready(home: Path, name: str) -> None:
    import os
    import time

    from models.errors import UserError
    from serving.deploy.local import LocalDeployer

    deployer = LocalDeployer(home)
    try:
        while (deployer.store.host() or {}).get("pid") != os.getpid() or deployer.url is None:
            time.sleep(0.05)
        status = deployer.wait(name, 300)
    except UserError as error:
        typer.echo(f"hscode: {error}", err=True)
        return
    newest = status.revision(status.latest_ready)
    grpc = (deployer.store.host() or {}).get("grpc")
    typer.echo(f"Serving {name} version {newest.version if newest else '?'} on {deployer.url}", nl=False)
    typer.echo(f", gRPC on {grpc}" if grpc else "")
    body = '{"instances": ["ladies cotton t-shirt"]}'
    typer.echo(f"Ask: curl {deployer.url}/v1/models/{name}:predict -d '{body}'")
    typer.echo("Ctrl-C stops; what is deployed is kept.")
    sys.stdout.flush()


def _lines(status: "Status") -> list[str]:
    lines = [f"{status.namespace}/{status.name}: {'ready' if status.ready else 'not ready'}, {status.url or 'no url'}"]
    lines.append(f"asked for: version {status.version or '?'} from {status.storage_uri}")
    if status.canary_percent is not None:
        lines.append(f"canary: {status.canary_percent} %")
    for revision in status.revisions:
        state = {True: "ready", False: f"failed: {revision.reason}", None: revision.reason or "starting"}[
            revision.ready
        ]
        lines.append(f"  {revision.name}  version {revision.version}  {status.percent(revision.name)} %  {state}")
    return lines + [f"  {reason}" for reason in status.reasons]
