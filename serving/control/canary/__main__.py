"""The canary controller as a service: ``python -m serving.control.canary``.

Settings come from the environment (``HSCODE__STATE__URL``, ``HSCODE__REGISTRY__URI``, ``HSCODE__DEPLOY__TARGET``, …);
with ``--home`` what they leave open lies in that folder. Ends on SIGTERM and gives its lease back.
"""

import argparse
import logging
import os
import signal
import sys
import threading
from pathlib import Path

from config.settings import Settings, load_settings
from models.errors import UserError
from serving.control.canary.controller import Controller
from serving.control.canary.metrics import serve_metrics
from serving.deploy import open_deployer
from serving.home import with_home
from serving.registry import CHAMPION, Registry
from serving.state import Lease, SqlLease, open_state

log = logging.getLogger("hscode.canary")


def build(settings: Settings) -> Controller:
    """The controller of the settings' target: its lease lies where the target's other controllers look."""
    kind, _, place = (settings.deploy.target or "").partition(":")
    deployer = open_deployer(settings.deploy.target)
    state = open_state(settings.state.url or "")
    lease: Lease
    if kind == "kserve":
        from serving.control.canary.leader import KubernetesLease

        lease = KubernetesLease(place, "hscode-canary", settings.canary.lease_seconds)
    else:
        lease = SqlLease(state, "canary", settings.canary.lease_seconds)
    return Controller(
        state,
        deployer,
        Registry(settings.registry.uri or "", settings.registry.model),
        lease,
        settings.canary,
        service=settings.deploy.name,
        model=settings.registry.model,
        namespace=place if kind == "kserve" else None,
    )


def main(arguments: list[str] | None = None) -> None:
    """Run until SIGTERM or SIGINT."""
    parser = argparse.ArgumentParser(prog="python -m serving.control.canary", description=__doc__)
    parser.add_argument("--home", type=Path, help="folder that holds what the settings leave open")
    parser.add_argument("--config", type=Path, help="settings as YAML")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="one setting")
    parser.add_argument("--port", type=int, default=9102, help="port of /metrics and /healthz; 0 any; -1 none")
    parser.add_argument("--address", default="0.0.0.0", help="address of that port")  # noqa: S104 — a pod's own
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(message)s")
    logging.getLogger("alembic").setLevel(logging.WARNING)
    # It asks the registry for aliases and tags only; MLflow would wait for two minutes, longer than /healthz does.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    try:
        settings = load_settings(options.config, os.environ, options.set)
        if options.home is not None:
            settings = with_home(settings, options.home)
        for what, value in (("state.url", settings.state.url), ("registry.uri", settings.registry.uri)):
            if not value:
                raise UserError(f"setting {what} is missing", todo="set it, or --home")
        controller = build(settings)
    except UserError as error:
        sys.stderr.write(f"canary controller: {error}\n")
        sys.exit(2)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    if options.port >= 0:
        serve_metrics(controller, options.address, options.port)
    log.info("canary controller %s of %s", controller.lease.holder, settings.deploy.target)
    try:
        # Loads MLflow now rather than in the middle of a promotion, where it would outlast the lease.
        controller.versions.find(CHAMPION)
    except Exception as error:
        log.warning("the registry does not answer yet: %s", error)
    controller.run(stop)
    log.info("canary controller ended")


if __name__ == "__main__":
    main()
