"""The monitor over HTTP: events in, corrections in and back, figures out.

``POST /`` (or ``/events``) takes one logged event: 202 once it is on the disk (or was there before), 204 for what is
no inference, 4xx for what is wrong (413: a body too large), 503 with Retry-After while the database is slow or gone.
"""

import asyncio
import contextlib
import json
import logging
import tempfile
from collections.abc import AsyncIterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from prometheus_client import generate_latest
from sqlalchemy import select
from sqlalchemy.exc import DataError, DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from config.settings import Settings
from models.errors import UserError
from serving.control.access import allowed, bearer_token
from serving.control.monitor.counters import Counters
from serving.control.monitor.received import Malformed, read_event
from serving.control.monitor.versions import Versions
from serving.control.monitor.watch import Watch
from serving.control.monitor.writer import GONE, Database, Outcome, Unavailable, Writer
from serving.state import open_state
from serving.state.corrections import Said, read_correction, read_moment, record, withdraw
from serving.state.tables import Answer, Correction

log = logging.getLogger("hscode.monitor")

EVENT_PATHS = ("/", "/events")
CORRECTION_TYPE = "hs.correction.v1"
CORRECTION_BYTES = 1_048_576
CORRECTIONS = 1000
"""Corrections of one request at most; more belong in `hscode corrections import`."""
TOKEN_VARIABLE = "HSCODE_MONITOR_TOKEN"  # noqa: S105 — the variable's name
TOKEN_FILE = "monitor.token"  # noqa: S105 — a file's name
RETRY_SECONDS = 2


class Refusal(Exception):
    """An answer that is no success: HTTP status, one line, how it is counted; `unread`: the body was not read whole."""

    def __init__(self, status: int, reason: str, outcome: str, unread: bool = False) -> None:
        super().__init__(reason)
        self.status, self.reason, self.outcome, self.unread = status, reason, outcome, unread


class Service:
    """All parts of one monitor process. With `home` a token is made there where none is given."""

    def __init__(self, settings: Settings, home: Path | None = None) -> None:
        self.settings = settings.monitor
        self._folder = tempfile.TemporaryDirectory(prefix="hs-monitor-")
        made = home / TOKEN_FILE if home is not None else None
        self.token = bearer_token(self.settings.token_file, TOKEN_VARIABLE, made)
        self.counters = Counters(self.settings.versions)
        self.database = Database(lambda: open_state(settings.state.url or ""))
        self.versions = Versions(settings, Path(self._folder.name))
        self.writer = Writer(self.database, self.settings, self.counters, self.versions.knows)
        self.watch = Watch(self.database, self.settings, self.counters, self.versions)
        self._bytes = 0
        """Of bodies being read or waiting for their commit."""

    def app(self) -> ASGIApp:
        """The ASGI application. Events come in by the shortest way, all else through Starlette."""
        pages = Starlette(
            routes=[
                Route("/corrections", self._correct, methods=["POST"]),
                Route("/corrections/{id:path}", self._withdraw, methods=["DELETE"]),
                Route("/metrics", self._metrics),
                Route("/healthz", self._healthz),
                Route("/readyz", self._readyz),
            ],
            lifespan=self._lifespan,
        )

        async def application(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] == "http" and scope["method"] == "POST" and scope["path"] in EVENT_PATHS:
                await self._event(scope, receive, send)
            else:
                await pages(scope, receive, send)

        return application

    @contextlib.asynccontextmanager
    async def _lifespan(self, _app: Starlette) -> AsyncIterator[None]:
        self.writer.start()
        self.watch.start()
        try:
            yield
        finally:
            await asyncio.to_thread(self.writer.stop)
            await asyncio.to_thread(self.watch.stop)
            self.versions.close()
            self.database.close()
            self._folder.cleanup()

    # -- events -------------------------------------------------------------------------------------------------

    async def _event(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        unread = False
        try:
            status, outcome, said = await self._take(headers, receive)
        except Refusal as refusal:
            status, outcome, said, unread = refusal.status, refusal.outcome, refusal.reason, refusal.unread
        self.counters.events.labels(outcome).inc()
        body = json.dumps({"error": said}).encode() if said else b""
        answer = [(b"content-length", str(len(body)).encode())]
        if body:
            answer.append((b"content-type", b"application/json"))
        if status == 503:
            answer.append((b"retry-after", str(RETRY_SECONDS).encode()))
        if unread:
            # The rest of the body is not read, so the connection cannot be used again.
            answer.append((b"connection", b"close"))
        await send({"type": "http.response.start", "status": status, "headers": answer})
        await send({"type": "http.response.body", "body": body})

    async def _take(self, headers: Mapping[str, str], receive: Receive) -> tuple[int, str, str]:
        """(status, outcome, what is wrong) of one event. Raises Refusal."""
        limit = self.settings.body_bytes
        length = headers.get("content-length", "")
        if length.isdigit() and int(length) > limit:
            raise Refusal(413, f"the body has {length} bytes; the limit is {limit}", "too_large", unread=True)
        held = 0
        done: asyncio.Future[Outcome] | None = None
        try:
            body = bytearray()
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise Refusal(400, "the connection ended within the body", "malformed")
                chunk = message.get("body", b"")
                held += len(chunk)
                self._bytes += len(chunk)
                if held > limit:
                    raise Refusal(413, f"the body is larger than {limit} bytes", "too_large", unread=True)
                if self._bytes > self.settings.queue_bytes:
                    raise Refusal(503, f"{self._bytes} bytes of events wait already", "refused", unread=True)
                body += chunk
                if not message.get("more_body"):
                    break
            received = read_event(headers, bytes(body), self.settings, datetime.now(UTC))
            if received.half is None:
                return 204, "ignored", ""
            done = self.writer.put(received)
            done.add_done_callback(lambda _: self._release(held))
            async with asyncio.timeout(self.settings.commit_seconds):
                outcome = await asyncio.shield(done)
            if isinstance(outcome, Malformed):
                return outcome.status, outcome.outcome, outcome.reason
            if isinstance(outcome, Unavailable):
                return 503, outcome.outcome, outcome.reason
            return 202, "stored" if outcome else "duplicate", ""
        except Malformed as error:
            raise Refusal(error.status, error.reason, error.outcome) from None
        except Unavailable as error:
            raise Refusal(503, error.reason, error.outcome) from None
        except TimeoutError:
            why = self.database.problem or f"the database did not commit within {self.settings.commit_seconds:g} s"
            raise Refusal(503, f"{why}; it may be stored all the same", "slow") from None
        finally:
            if done is None:
                self._release(held)

    def _release(self, held: int) -> None:
        self._bytes -= held

    # -- corrections --------------------------------------------------------------------------------------------

    async def _correct(self, request: Request) -> Response:
        try:
            self._authorise(request)
            body = await _body(request, CORRECTION_BYTES)
            said, many = self._read(request, body)
            done = await asyncio.to_thread(record, self.database.state(), said)
            versions = await asyncio.to_thread(self._versions_meant, done.recorded)
        except UserError as error:
            return self._refused(400, str(error))
        except Refusal as refusal:
            return self._refused(refusal.status, refusal.reason)
        except Unavailable as error:
            return self._refused(503, str(error))
        except (DBAPIError, PoolTimeout) as error:
            return self._not_done(error)
        for version in versions:
            self.counters.of(self.counters.corrections, version, "recorded").inc()
        self.counters.corrections.labels("unknown", "duplicate").inc(len(done.duplicates))
        ids = [one.ce_id for one in said]
        told = {"ids": ids, "recorded": len(done.recorded), "duplicates": len(done.duplicates)}
        return JSONResponse(told if many else {"id": ids[0], **told}, 201 if done.recorded else 200)

    def _authorise(self, request: Request) -> None:
        if self.token is None:
            raise Refusal(403, f"no token is set (monitor.token_file or {TOKEN_VARIABLE})", "refused")
        if not allowed(request.headers.get("authorization"), self.token):
            raise Refusal(401, "a valid bearer token is needed", "refused")

    def _read(self, request: Request, body: bytes) -> tuple[list[Said], bool]:
        """The corrections of a body, and whether it was a list. Raises UserError, Refusal."""
        codes = self.versions.codes
        if codes is None:
            raise Refusal(503, "no edition is known yet: no champion in the registry, no nomenclature.path", "refused")
        event_type = request.headers.get("ce-type")
        if event_type is not None or request.headers.get("content-type", "").startswith("application/cloudevents"):
            from cloudevents.exceptions import GenericException
            from cloudevents.http import from_http

            try:
                event = from_http(dict(request.headers), body)
            except (GenericException, ValueError) as error:
                raise UserError(f"not a CloudEvent ({str(error)[:120]})") from None
            if event["type"] != CORRECTION_TYPE:
                raise UserError(f"type {str(event['type'])[:80]!r} is not taken", todo=f"send {CORRECTION_TYPE}")
            at = read_moment(event["time"], "time") if event.get("time") else None
            data = event.data if isinstance(event.data, (dict, list)) else _json(event.data or b"")
            return [read_correction(data, codes, ce_id=str(event["id"]), said_at=at)], False
        given = _json(body)
        if not isinstance(given, list):
            return [read_correction(given, codes)], False
        if not 0 < len(given) <= CORRECTIONS:
            raise UserError(f"{len(given)} corrections in one request", todo=f"send 1 to {CORRECTIONS}")
        said = []
        for i, one in enumerate(given):
            try:
                said.append(read_correction(one, codes))
            except UserError as error:
                raise UserError(str(error), f"corrections[{i}]", "none was recorded") from None
        return said, True

    def _versions_meant(self, ids: tuple[str, ...]) -> list[str]:
        """For each recorded correction, the version of the newest answer to its text."""
        found = []
        with self.database.state().read() as session:
            for ce_id in ids:
                name = select(Correction.text_hash).where(Correction.ce_id == ce_id).scalar_subquery()
                query = select(Answer.version).where(Answer.text_hash == name).order_by(Answer.at.desc()).limit(1)
                found.append(session.scalar(query) or "")
        return found

    async def _withdraw(self, request: Request) -> Response:
        try:
            self._authorise(request)
            who = request.query_params.get("who", "").strip()
            if not who or "\0" in who:
                raise UserError("who withdraws it is missing", todo="DELETE /corrections/ID?who=NAME")
            name = request.path_params["id"]
            if not name.isprintable():
                raise UserError(f"{name[:80]!r} is no correction's id")
            row = await asyncio.to_thread(withdraw, self.database.state(), name, who)
        except UserError as error:
            return self._refused(404 if "no such correction" in str(error) else 400, str(error))
        except Refusal as refusal:
            return self._refused(refusal.status, refusal.reason)
        except Unavailable as error:
            return self._refused(503, str(error))
        except (DBAPIError, PoolTimeout) as error:
            return self._not_done(error)
        self.counters.corrections.labels("unknown", "withdrawn").inc()
        withdrawn = row.withdrawn_at.isoformat() if row.withdrawn_at else None
        return JSONResponse({"id": row.ce_id, "withdrawn_at": withdrawn, "withdrawn_by": row.withdrawn_by})

    def _not_done(self, error: DBAPIError | PoolTimeout) -> Response:
        """What the database did not do: because it is gone, because of what was sent, or for a reason of its own."""
        if isinstance(error, GONE):
            return self._refused(503, str(self.database.failed(error)))
        if isinstance(error, DataError):
            return self._refused(400, f"the database takes no such value ({type(error).__name__})")
        log.error("a correction was not stored", exc_info=error)
        return self._refused(503, f"the database refused it ({type(error).__name__})")

    def _refused(self, status: int, reason: str) -> Response:
        self.counters.corrections.labels("unknown", "refused").inc()
        headers = {"Retry-After": str(RETRY_SECONDS)} if status == 503 else {}
        if status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        return JSONResponse({"error": reason}, status, headers)

    # -- figures ------------------------------------------------------------------------------------------------

    async def _metrics(self, _request: Request) -> Response:
        return Response(generate_latest(self.counters.registry), media_type="text/plain; version=0.0.4; charset=utf-8")

    async def _healthz(self, _request: Request) -> Response:
        alive = self.writer.alive and self.watch.alive
        return PlainTextResponse("ok\n" if alive else "a thread has ended\n", 200 if alive else 503)

    async def _readyz(self, _request: Request) -> Response:
        problem = self.database.problem
        return PlainTextResponse(f"{problem}\n" if problem else "ok\n", 503 if problem else 200)


async def _body(request: Request, limit: int) -> bytes:
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > limit:
            raise Refusal(413, f"the body is larger than {limit} bytes", "refused")
    return bytes(body)


def _json(body: bytes | str) -> Any:
    from serving.predictor.request import Refused, read_json

    try:
        return read_json(body.encode() if isinstance(body, str) else body)
    except Refused as error:
        raise UserError(str(error)) from None
