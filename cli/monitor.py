"""`hscode monitor`: the service that takes logged events and corrections and tells Prometheus what it sees."""

from pathlib import Path
from typing import Annotated

import typer

from cli.options import ConfigOption, HomeOption, SetOption


def register(app: typer.Typer) -> None:
    """Add the verb to `app`."""
    app.command()(monitor)


def monitor(
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0: any free one.")] = 8080,
    address: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    ready_file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Written once it listens: its port and process.")
    ] = None,
    home: HomeOption = Path(".hscode"),
    config: ConfigOption = None,
    set_: SetOption = None,
) -> None:
    """Take events and corrections until Ctrl-C; /metrics is for Prometheus."""
    from serving.control.monitor.__main__ import main

    arguments = ["--home", str(home), "--port", str(port), "--address", address]
    arguments += ["--config", str(config)] if config else []
    arguments += ["--ready-file", str(ready_file)] if ready_file else []
    main(arguments + [part for one in set_ or [] for part in ("--set", one)])
