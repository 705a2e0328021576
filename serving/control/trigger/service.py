"""The trigger over HTTP: what happened is on the disk before it is answered; the submitter works beside it.

POST /alerts (Alertmanager), POST /events (CloudEvents, S3 notifications), POST /fire (people), each with the bearer
token; GET /metrics, /healthz, /readyz without.
"""

import logging
import threading
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from config.settings import Trigger
from models.errors import UserError
from serving.control.access import allowed, bearer_token
from serving.control.trigger import inputs, journal
from serving.control.trigger.inputs import BadInput, Occasion
from serving.control.trigger.metrics import Collector
from serving.control.trigger.submitter import Submitter, utc_now

log = logging.getLogger("hscode.trigger")

TOKEN_VARIABLE = "HSCODE_TRIGGER_TOKEN"  # noqa: S105 — a variable's name
TOKEN_FILE = "trigger.token"  # noqa: S105 — a file's name


def token_of(settings: Trigger, home: Path | None) -> str:
    """The bearer token: of the settings' file, else of the environment, else made once in the home folder (0600)."""
    token = bearer_token(settings.token_file, TOKEN_VARIABLE, None if home is None else home / TOKEN_FILE)
    if token is None:
        raise UserError("no bearer token", "trigger", f"set trigger.token_file or {TOKEN_VARIABLE}")
    return token


def application(submitter: Submitter, token: str, now: Callable[[], datetime] = utc_now) -> Starlette:
    """The routes. They accept only; `submitter` is woken, and run by whoever serves."""
    from prometheus_client import CollectorRegistry, Counter, generate_latest

    settings, state = submitter.settings, submitter.state
    registry = CollectorRegistry()
    registry.register(Collector(submitter, now))
    requests = Counter("hs_trigger_requests", "Requests by how they were answered", ["status"], registry=registry)

    async def answered(
        request: Request, read: Callable[[bytes], Sequence[Occasion]]
    ) -> tuple[int, str, dict[str, Any]]:
        if not allowed(request.headers.get("authorization"), token):
            return 401, "unauthorised", {"error": "the bearer token is missing or wrong"}
        body = bytearray()
        async for chunk in request.stream():
            body += chunk
            if len(body) > settings.body_bytes:
                return 413, "client_error", {"error": f"the body is larger than {settings.body_bytes} bytes"}
        try:
            occasions = await run_in_threadpool(read, bytes(body))
        except BadInput as error:
            return 400, "client_error", {"error": str(error)}
        try:
            new = await run_in_threadpool(journal.accept, state, occasions, now())
        except (SQLAlchemyError, OSError) as error:
            log.warning("not accepted: %s", error)
            return 503, "unavailable", {"error": "the database does not answer; send it again"}
        submitter.wake.set()
        return 200, "accepted", {"accepted": new, "known": len(occasions) - new}

    def route(path: str, read: Callable[[Request, bytes], Sequence[Occasion]]) -> Route:
        async def endpoint(request: Request) -> Response:
            code, status, content = await answered(request, lambda body: read(request, body))
            requests.labels(status).inc()
            if code >= 400:
                log.info("%s: %d: %s", path, code, content["error"])
            headers = {"WWW-Authenticate": "Bearer"} if code == 401 else {}
            if code == 413:
                headers["Connection"] = "close"
            return JSONResponse(content, code, headers)

        return Route(path, endpoint, methods=["POST"])

    def metrics(_: Request) -> Response:
        try:
            return PlainTextResponse(generate_latest(registry), media_type="text/plain; version=0.0.4")
        except SQLAlchemyError as error:
            return PlainTextResponse(f"{type(error).__name__}\n", 503)

    def healthz(_: Request) -> Response:
        # A look may hang for as long as the backend's deadlines; it is not restarted for that.
        since = submitter.since_look()
        alive = since < 300 + 3 * max(settings.lease_seconds, settings.look_seconds)
        return PlainTextResponse("ok\n" if alive else f"no look for {since:.0f} s\n", 200 if alive else 503)

    def readyz(_: Request) -> Response:
        try:
            with state.read() as session:
                session.execute(text("SELECT 1"))
        except (SQLAlchemyError, OSError) as error:
            return PlainTextResponse(f"database: {type(error).__name__}\n", 503)
        return PlainTextResponse("ok\n")

    return Starlette(
        routes=[
            route("/alerts", lambda _, body: inputs.alerts(body, now())),
            route("/events", lambda request, body: inputs.events(request.headers, body, settings.data_prefixes, now())),
            route("/fire", lambda _, body: inputs.fired(body)),
            Route("/metrics", metrics),
            Route("/healthz", healthz),
            Route("/readyz", readyz),
        ]
    )


def serve(submitter: Submitter, token: str, host: str, port: int, started: Callable[[str], None]) -> None:
    """Serve until SIGTERM or SIGINT; `started` gets the address once it listens. `port` 0: any."""
    import uvicorn

    class Server(uvicorn.Server):
        async def startup(self, sockets: Any = None) -> None:
            await super().startup(sockets)
            if self.started:
                found = self.servers[0].sockets[0].getsockname()
                started(f"http://{found[0]}:{found[1]}")

    stop = threading.Event()
    thread = threading.Thread(target=submitter.run, args=(stop,), name="submitter", daemon=True)
    config = uvicorn.Config(
        application(submitter, token), host=host, port=port, log_config=None, access_log=False, lifespan="off",
        timeout_graceful_shutdown=10, server_header=False,
    )  # fmt: skip
    thread.start()
    try:
        Server(config).run()
    finally:
        stop.set()
        submitter.wake.set()
        thread.join(10)
