"""The way of a request through the local host: which service, which revision, and again where a process dies."""

import asyncio
import json
import logging
import random
import time
from collections.abc import Iterator, Mapping

import aiohttp
from aiohttp import web
from yarl import URL

from serving.deploy.logger import EventLogger, Target
from serving.deploy.process import Endpoint, NotStarted
from serving.deploy.service import RevisionState, Service

log = logging.getLogger("hscode.host")

LARGEST_BODY_BYTES = 64 * 2**20
"""A request is held in memory until it is answered, so that it can be tried again; the predictor's limit is lower."""
ATTEMPTS = 4
"""Processes one request is tried on, when they die under it. An inference changes nothing, so it may run twice."""
SCRAPE_SECONDS = 10.0
"""For a revision's /metrics."""
HOP_BY_HOP = frozenset(
    [
        *("connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "te", "trailer"),
        *("transfer-encoding", "upgrade", "content-length", "host", "expect"),
    ]
)


class Proxy:
    """Answers REST requests from the revisions of `services`, and counts them."""

    def __init__(
        self,
        services: Mapping[str, Service],
        session: aiohttp.ClientSession,
        logger: EventLogger,
        logger_url: str | None,
        seed: int | None,
    ) -> None:
        self.services, self.session, self.logger, self.logger_url = services, session, logger, logger_url
        self.under_way = 0
        self._random = random.Random(seed)

    def find(self, host: str) -> Service:
        """The service that a request's Host names (``NAME-predictor.…``, ``NAME.…``), or the only one there is.

        Raises LookupError that says which exist.
        """
        label = host.split(":")[0].split(".")[0]
        for name in (label.removesuffix("-predictor"), label):
            if name in self.services:
                return self.services[name]
        if len(self.services) == 1:
            return next(iter(self.services.values()))
        known = ", ".join(sorted(self.services)) or "none"
        raise LookupError(f"no InferenceService for host {host!r}; known: {known}")

    def attempts(self, service: Service) -> Iterator[RevisionState]:
        """Revisions to try a request on: by the split first; where one dies under it, those that are ready."""
        shares = service.shares()
        if not shares:
            return
        first = self._random.choices(shares, [entry.percent for entry in shares])[0].revision
        yield service.revisions[first]
        for _ in range(ATTEMPTS - 1):
            routed = [service.revisions[entry.revision] for entry in service.shares()]
            if routed:
                yield next((state for state in routed if state.process.ready), routed[0])

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer one request, whatever it is."""
        self.under_way += 1
        try:
            return await self._answer(request)
        finally:
            self.under_way -= 1

    async def _answer(self, request: web.BaseRequest) -> web.Response:
        try:
            service = self.find(request.headers.get("Host", ""))
        except LookupError as error:
            return _error(404, str(error))
        body = bytearray()
        async for chunk in request.content.iter_any():
            body += chunk
            if len(body) > LARGEST_BODY_BYTES:
                return _error(413, f"the body is larger than {LARGEST_BODY_BYTES} bytes")
        if (request.method, request.path) == ("GET", "/metrics"):
            return await self._scraped(service)
        started = time.monotonic()
        why = await self._first_revision(service)
        for state in self.attempts(service):
            timeout = state.manifest.predictor.timeout_seconds
            try:
                async with asyncio.timeout(timeout), state.process.take(started + timeout) as endpoint:
                    try:
                        return await self._forward(request, bytes(body), service, state, endpoint)
                    except (aiohttp.ClientError, OSError):
                        await state.process.ended(endpoint)
                        raise
            except NotStarted as error:
                return _error(503, f"revision {state.process.name} is not ready after {timeout:g} s: {error}")
            except TimeoutError:
                return _error(504, f"no answer after {timeout:g} s")
            except (aiohttp.ClientError, OSError) as error:
                why = f"revision {state.process.name} went away under the request ({type(error).__name__})"
                log.warning("%s; trying again", why)
        return _error(503, why)

    async def _scraped(self, service: Service) -> web.Response:
        """A running revision's /metrics, by the split; nothing where none runs. It is no traffic: a scrape wakes no
        revision and keeps none awake, as on a cluster, where pods are scraped and not the service."""
        for state in self.attempts(service):
            endpoint = state.process.endpoint
            if endpoint is None:
                continue
            try:
                async with asyncio.timeout(SCRAPE_SECONDS), self.session.get(f"{endpoint.http}/metrics") as answer:
                    return web.Response(
                        status=answer.status,
                        body=await answer.read(),
                        headers={"Content-Type": answer.headers.get("Content-Type", "text/plain")},
                    )
            except (aiohttp.ClientError, OSError, TimeoutError):
                continue
        return web.Response(text="")

    async def _first_revision(self, service: Service) -> str:
        """Wait until a service just made has its first ready revision; returns why it has none, or nothing."""
        deadline = time.monotonic() + service.manifest.predictor.timeout_seconds
        while not service.shares():
            newest = service.newest
            failed = newest is not None and newest.process.failed
            if failed or time.monotonic() > deadline:
                return f"no revision is ready: {newest.process.reason if newest is not None else 'none is made'}"
            await asyncio.sleep(0.02)
        return ""

    async def _forward(
        self, request: web.BaseRequest, body: bytes, service: Service, state: RevisionState, endpoint: Endpoint
    ) -> web.Response:
        target = self._target(service, state)
        event_id = self.logger.request(target, request.headers, body) if target else ""
        async with self.session.request(
            request.method,
            URL(endpoint.http + request.raw_path, encoded=True),
            data=body or None,
            headers=[(key, value) for key, value in request.headers.items() if key.lower() not in HOP_BY_HOP],
            allow_redirects=False,
        ) as answer:
            content = await answer.read()
        if target and answer.status == 200:
            self.logger.response(target, event_id, request.headers.get("Content-Type", ""), content)
        response = web.Response(status=answer.status, reason=answer.reason, body=content)
        response.headers.clear()
        response.headers["Server"] = "hscode"
        for key, value in answer.headers.items():
            if key.lower() not in HOP_BY_HOP:
                response.headers.add(key, value)
        return response

    def _target(self, service: Service, state: RevisionState) -> Target | None:
        spec = state.manifest.predictor.logger
        url = (spec.url or self.logger_url) if spec is not None else None
        if spec is None or url is None:
            return None
        annotations = state.manifest.metadata.annotations
        return Target(
            url=url,
            mode=spec.mode,
            service=service.name,
            namespace=state.manifest.metadata.namespace,
            annotations={key: annotations[key] for key in spec.metadata_annotations if key in annotations},
        )


def _error(status: int, text: str) -> web.Response:
    headers = {"Retry-After": "1"} if status == 503 else {}
    body = json.dumps({"error": text}).encode()
    return web.Response(status=status, body=body, content_type="application/json", headers=headers)
