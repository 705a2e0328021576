"""The monitor as a service: ``python -m serving.control.monitor``.

Settings come from the environment (``HSCODE__STATE__URL``, ``HSCODE__REGISTRY__URI``, ``HSCODE__MONITOR__…``); with
``--home`` what they leave open lies in that folder. Ends on SIGTERM when what it took is stored.
"""

import argparse
import gc
import json
import logging
import os
import socket
import sys
from pathlib import Path

from config.settings import Settings, load_settings
from models.errors import UserError
from serving.control.monitor.service import Service
from serving.home import with_home

log = logging.getLogger("hscode.monitor")

GRACE_SECONDS = 20
CONNECTIONS = 1000
"""Requests under way at most; past them 503."""


def serve(
    settings: Settings, address: str, port: int, ready_file: Path | None = None, home: Path | None = None
) -> None:
    """Serve until SIGTERM or SIGINT. Raises UserError for a port in use and a token that cannot be read.

    `port` 0 takes a free one; `ready_file` gets ``{"port", "pid"}`` once it listens.
    """
    import uvicorn

    service = Service(settings, home)
    try:
        listener = socket.create_server((address, port), backlog=1024, reuse_port=False)
    except OSError as error:
        raise UserError(f"cannot listen ({error.strerror})", f"{address}:{port}", "choose another --port") from None
    config = uvicorn.Config(
        service.app(),
        log_level="warning",
        access_log=False,
        limit_concurrency=CONNECTIONS,
        timeout_graceful_shutdown=GRACE_SECONDS,
        server_header=False,
        proxy_headers=False,
    )
    taken = listener.getsockname()[1]
    log.info("monitor on http://%s:%d", address, taken)
    if ready_file is not None:
        new = ready_file.with_suffix(".new")
        new.write_text(json.dumps({"port": taken, "pid": os.getpid()}), encoding="utf-8")
        new.rename(ready_file)
    # What is loaded by now stays: else each full collection walks it, some 50 ms in which no event is taken.
    gc.collect()
    gc.freeze()
    uvicorn.Server(config).run(sockets=[listener])


def main(arguments: list[str] | None = None) -> None:
    """Run until SIGTERM or SIGINT."""
    parser = argparse.ArgumentParser(prog="python -m serving.control.monitor", description=__doc__)
    parser.add_argument("--home", type=Path, help="folder that holds what the settings leave open")
    parser.add_argument("--config", type=Path, help="settings as YAML")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="one setting")
    parser.add_argument("--port", type=int, default=8080, help="0: any free one")
    parser.add_argument("--address", default="0.0.0.0", help="address to listen on")  # noqa: S104 — a pod's own
    parser.add_argument("--ready-file", type=Path, help="written once it listens")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(message)s")
    for noisy in ("alembic", "httpx"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    try:
        settings = load_settings(options.config, os.environ, options.set)
        if options.home is not None:
            settings = with_home(settings, options.home)
        if not settings.state.url:
            raise UserError("setting state.url is missing", todo="set it, or --home")
        serve(settings, options.address, options.port, options.ready_file, options.home)
    except UserError as error:
        sys.stderr.write(f"monitor: {error}\n")
        sys.exit(2)


if __name__ == "__main__":
    main()
