"""The local host: a small stand-in for KServe in Knative mode on one machine.

It reads the InferenceServices of its home (`store`), keeps their revisions as processes (`process`), splits requests
by KServe's rule (`rollout`), sends the logger's events (`logger`) and reports in KServe's words. Where it and real
KServe differ, real KServe is right; docs/decisions names the differences that are meant.
"""

import asyncio
import contextlib
import errno
import json
import logging
import os
import random
import signal
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web
from yarl import URL

from models.errors import UserError
from serving.deploy import bundles
from serving.deploy.base import STORAGE_ANNOTATION, Traffic
from serving.deploy.logger import EventLogger, Target
from serving.deploy.manifest import Manifest, read_manifest
from serving.deploy.process import Endpoint, Limits, NotStarted, RevisionProcess
from serving.deploy.rollout import Rollout, advance
from serving.deploy.store import Desired, Store

log = logging.getLogger("hscode.host")

PREDICTOR: tuple[str, ...] = (sys.executable, "-m", "serving.predictor")
"""What the runtime `hscode` is on this machine."""
LOOK_SECONDS = 0.1
"""How often the home is looked at for new manifests."""
LARGEST_BODY_BYTES = 64 * 2**20
"""A request is held in memory until it is answered, so that it can be tried again; the predictor's limit is lower."""
ATTEMPTS = 4
"""Processes one request is tried on, when they die under it."""
HOP_BY_HOP = frozenset(
    [
        *("connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "te", "trailer"),
        *("transfer-encoding", "upgrade", "content-length", "host", "expect"),
    ]
)


@dataclass
class Service:
    """One InferenceService as the host holds it."""

    name: str
    manifest: Manifest
    generation: int
    observed: int = 0
    rollout: Rollout = field(default_factory=Rollout)
    next_number: int = 1
    revisions: dict[str, "RevisionState"] = field(default_factory=dict)
    refused: str = ""
    """Why the newest manifest is not followed."""
    written: dict[str, Any] = field(default_factory=dict)
    since: dict[str, tuple[str, str]] = field(default_factory=dict)
    """Condition type → (status, time it became so)."""


@dataclass
class RevisionState:
    """A revision: what it was cut from, its process, and what is known of its readiness."""

    manifest: Manifest
    digest: str
    process: RevisionProcess
    was_ready: bool = False
    """Once ready, a revision stays so in Knative's eyes, also at zero."""


class LocalHost:
    """Serves a home's InferenceServices on ``http://ADDRESS:PORT`` until stopped.

    `port` and `grpc_port` 0 take free ones; `grpc_port` None serves no gRPC. `runtimes` maps a manifest's
    ``model.runtime`` to the command that stands in for that ServingRuntime; it is given the flags of
    ``python -m serving.predictor``. `idle_seconds` is for manifests that say nothing. `logger_url` is for loggers
    without an address, as the default in KServe's ConfigMap.
    """

    def __init__(
        self,
        home: str | Path,
        port: int = 0,
        *,
        grpc_port: int | None = None,
        address: str = "127.0.0.1",
        idle_seconds: float = 60,
        start_seconds: float = 120,
        logger_url: str | None = None,
        runtimes: Mapping[str, Sequence[str]] | None = None,
        seed: int | None = None,
    ) -> None:
        self.store = Store(Path(home))
        self.port, self.grpc_port, self.address = port, grpc_port, address
        self.idle_seconds, self.start_seconds, self.logger_url = idle_seconds, start_seconds, logger_url
        self.runtimes: dict[str, Sequence[str]] = {"": PREDICTOR, "hscode": PREDICTOR, **(runtimes or {})}
        self.services: dict[str, Service] = {}
        self.counts = {"answered": 0, "retried": 0, "failed": 0}
        self._random = random.Random(seed)
        self._stopping = asyncio.Event()
        self._looked: object = None
        self._dirty = asyncio.Event()
        self._stops: set[asyncio.Task[None]] = set()
        self._under_way = 0

    # -- running ------------------------------------------------------------------------------------------------

    @property
    def url(self) -> str:
        """Base address of REST requests."""
        return f"http://{self.address}:{self.port}"

    async def serve(self, started: asyncio.Event | None = None) -> None:
        """Serve until `stop`; sets `started` once it listens. Raises UserError for a port in use or a second host."""
        with self.store.take():
            self.store.announce({"pid": os.getpid()})
            async with contextlib.AsyncExitStack() as stack:
                self._session = await stack.enter_async_context(
                    aiohttp.ClientSession(
                        connector=aiohttp.TCPConnector(limit=0),
                        auto_decompress=False,
                        skip_auto_headers=("User-Agent", "Accept-Encoding", "Accept", "Content-Type"),
                        timeout=aiohttp.ClientTimeout(total=None),
                    )
                )
                self._logger = EventLogger(self._session)
                self._logger.start()
                await self._listen(stack)
                grpc = f"{self.address}:{self.grpc_port}" if self.grpc_port is not None else None
                self.store.announce({"url": self.url, "grpc": grpc, "pid": os.getpid()})
                self._look()
                if started is not None:
                    started.set()
                try:
                    await self._reconcile_until_stopped()
                finally:
                    await self._drain()

    def stop(self) -> None:
        """End `serve`: requests under way are answered, then the processes are stopped."""
        self._stopping.set()

    def run(self) -> None:
        """Serve in this thread until SIGINT or SIGTERM."""

        async def main() -> None:
            loop = asyncio.get_running_loop()
            for number in (signal.SIGINT, signal.SIGTERM):
                loop.add_signal_handler(number, self.stop)
            await self.serve()

        asyncio.run(main())

    async def _listen(self, stack: contextlib.AsyncExitStack) -> None:
        server = web.Server(self._handle, access_log=None)
        runner = web.ServerRunner(server, handle_signals=False)
        await runner.setup()
        stack.push_async_callback(runner.cleanup)
        site = web.TCPSite(runner, self.address, self.port)
        try:
            await site.start()
        except OSError as error:
            raise _port_error(error, self.address, self.port, "--port") from None
        self.port = runner.addresses[0][1]
        if self.grpc_port is not None:
            from serving.deploy.grpc_proxy import serve_grpc

            self.grpc_port = await serve_grpc(self, stack)

    async def _drain(self) -> None:
        deadline = time.monotonic() + 60
        while self._under_way and time.monotonic() < deadline:
            await asyncio.sleep(0.01)
        await self._logger.stop()
        states = [state for service in self.services.values() for state in service.revisions.values()]
        await asyncio.gather(*(state.process.stop() for state in states), *self._stops)

    # -- reconciling --------------------------------------------------------------------------------------------

    async def _reconcile_until_stopped(self) -> None:
        stopped = asyncio.create_task(self._stopping.wait())
        try:
            while not self._stopping.is_set():
                self._dirty.clear()
                self._look()
                for service in list(self.services.values()):
                    self._reconcile(service)
                changed = asyncio.create_task(self._dirty.wait())
                await asyncio.wait((stopped, changed), timeout=LOOK_SECONDS, return_when=asyncio.FIRST_COMPLETED)
                changed.cancel()
        finally:
            stopped.cancel()

    def _look(self) -> None:
        """Take up what was written in the home since the last look."""
        stamp = self.store.stamp()
        if stamp == self._looked:
            return
        for name in self.store.names():
            desired = self.store.desired(name)
            if desired is not None:
                self._adopt(name, desired)
        for name in set(self.services) - set(self.store.names()):
            self._remove(self.services.pop(name))
        self._looked = stamp

    def _adopt(self, name: str, desired: Desired) -> None:
        service = self.services.get(name)
        try:
            manifest = read_manifest(desired.manifest)
            if (manifest.predictor.model.runtime or "") not in self.runtimes:
                raise UserError(
                    f"no runtime {manifest.predictor.model.runtime}",
                    f"InferenceService {name}",
                    f"this host has {', '.join(filter(None, self.runtimes))}",
                )
        except UserError as error:
            log.error("%s", error)
            if service is not None:
                service.refused, service.observed = str(error), desired.generation
            return
        if service is None:
            service = self.services[name] = self._restore(name, manifest, desired)
        service.manifest, service.generation, service.refused = manifest, desired.generation, ""
        newest = service.revisions.get(service.rollout.latest_created)
        if newest is None or newest.digest != manifest.template_digest():
            self._cut(service)
        service.observed = desired.generation

    def _restore(self, name: str, manifest: Manifest, desired: Desired) -> Service:
        """What an earlier host left: revisions and who has how much; processes are started again."""
        service = Service(name, manifest, desired.generation)
        kept = (self.store.status(name) or {}).get("host")
        if kept is None or kept["uid"] != desired.uid:
            return service
        _end_leftovers(kept["pids"])
        service.next_number = kept["next_number"]
        rollout = dict(kept["rollout"])
        rollout["traffic"] = tuple(Traffic(**t) for t in rollout["traffic"])
        service.rollout = Rollout(**rollout)
        for revision, record in kept["revisions"].items():
            state = self._state(service, revision, Manifest.model_validate(record["manifest"]))
            state.was_ready = record["was_ready"]
            service.revisions[revision] = state
            if any(t.revision == revision and t.percent for t in service.rollout.traffic) or (
                revision == service.rollout.latest_created and not state.was_ready
            ):
                state.process.start()
        return service

    def _cut(self, service: Service) -> None:
        revision = f"{service.name}-predictor-{service.next_number:05d}"
        service.next_number += 1
        state = service.revisions[revision] = self._state(service, revision, service.manifest)
        service.rollout = replace(service.rollout, latest_created=revision)
        log.info("revision %s: made for version %s", revision, service.manifest.version or "(none)")
        state.process.start()

    def _state(self, service: Service, revision: str, manifest: Manifest) -> RevisionState:
        predictor = manifest.predictor
        folder = self.store.services / service.name / "revisions" / revision
        process = RevisionProcess(
            name=revision,
            command=(
                *self.runtimes[predictor.model.runtime or ""],
                f"--model-name={service.name}",
                *predictor.model.args,
            ),
            environment={variable.name: variable.value for variable in predictor.model.env},
            folder=folder,
            model=lambda: bundles.fetch(predictor.model.storage_uri, folder / "model"),
            limits=Limits(
                start=self.start_seconds,
                idle=manifest.idle_seconds if manifest.idle_seconds is not None else self.idle_seconds,
            ),
            min_replicas=predictor.min_replicas,
            concurrency=predictor.container_concurrency,
            changed=self._dirty.set,
            grpc=self.grpc_port is not None,
        )
        return RevisionState(manifest, manifest.template_digest(), process)

    def _reconcile(self, service: Service) -> None:
        newest = service.revisions.get(service.rollout.latest_created)
        for state in service.revisions.values():
            state.was_ready = state.was_ready or state.process.ready
        ready = [name for name, state in sorted(service.revisions.items()) if state.was_ready]
        before = service.rollout
        rollout = replace(before, latest_ready=ready[-1] if ready else "")
        service.rollout = advance(rollout, service.manifest.predictor.canary_percent)
        if service.rollout != before:
            shares = ", ".join(f"{t.revision} {t.percent} %" for t in service.rollout.traffic)
            log.info("traffic of %s: %s", service.name, shares or "none")
        routed = {t.revision for t in service.rollout.traffic}
        for name, state in service.revisions.items():
            trying = state is newest and not state.was_ready
            if state.process.running and not state.process.busy and not trying and name not in routed:
                self._stop(state, "no traffic is sent to it")
            elif state.process.idle():
                self._stop(state, "idle")
            elif name in routed and state.process.min_replicas and not state.process.running:
                state.process.start()
        self._forget_old(service, routed)
        self._write(service)

    def _stop(self, state: RevisionState, why: str) -> None:
        log.info("revision %s: scaled to zero (%s)", state.process.name, why)
        task = asyncio.create_task(state.process.stop(), name=f"stop {state.process.name}")
        self._stops.add(task)
        task.add_done_callback(self._stops.discard)

    def _forget_old(self, service: Service, routed: set[str]) -> None:
        rollout = service.rollout
        keep = routed | {rollout.latest_created, rollout.latest_ready}
        keep |= {rollout.latest_rolledout, rollout.previous_rolledout}
        for name in set(service.revisions) - keep:
            state = service.revisions[name]
            if state.process.gone:
                del service.revisions[name]
                bundles.remove(state.process.folder)

    def _remove(self, service: Service) -> None:
        async def remove() -> None:
            await asyncio.gather(*(state.process.stop() for state in service.revisions.values()))
            if self.store.desired(service.name) is None:
                self.store.forget(service.name)

        log.info("service %s: removed", service.name)
        task = asyncio.create_task(remove(), name=f"remove {service.name}")
        self._stops.add(task)
        task.add_done_callback(self._stops.discard)

    # -- reporting ----------------------------------------------------------------------------------------------

    def _write(self, service: Service) -> None:
        rollout = service.rollout
        newest = service.revisions.get(rollout.latest_created)
        served = bool(rollout.traffic)
        configured = newest is not None and newest.was_ready and not service.refused
        why, message = "", service.refused
        if newest is not None and not newest.was_ready and newest.process.reason:
            why = "RevisionFailed"
            message = f'Revision "{rollout.latest_created}" failed with message: {newest.process.reason}'
        conditions = [
            _condition(service, "PredictorConfigurationReady", configured, why, message),
            _condition(service, "PredictorRouteReady", served, "" if served else "RevisionMissing", ""),
            _condition(service, "PredictorReady", configured and served, why, message),
            _condition(service, "Ready", configured and served, why, message),
        ]
        status = {
            "observedGeneration": service.observed,
            "url": f"http://{service.name}.{service.manifest.metadata.namespace}.localhost:{self.port}",
            "conditions": conditions,
            "components": {
                "predictor": {
                    "latestCreatedRevision": rollout.latest_created,
                    "latestReadyRevision": rollout.latest_ready,
                    "latestRolledoutRevision": rollout.latest_rolledout,
                    "previousRolledoutRevision": rollout.previous_rolledout,
                    "traffic": [
                        {"revisionName": t.revision, "percent": t.percent, "latestRevision": t.latest}
                        for t in rollout.traffic
                    ],
                }
            },
        }
        desired = self.store.desired(service.name)
        if desired is None:
            return
        record = {
            "status": status,
            "revisions": {
                name: {
                    "annotations": {
                        **state.manifest.metadata.annotations,
                        STORAGE_ANNOTATION: state.manifest.predictor.model.storage_uri,
                    },
                    "ready": True if state.was_ready else False if state.process.failed else None,
                    "reason": state.process.reason,
                    "replicas": int(state.process.ready),
                    "pid": state.process.endpoint.pid if state.process.endpoint else None,
                    "starts": state.process.starts,
                }
                for name, state in service.revisions.items()
            },
            "host": {
                "uid": desired.uid,
                "next_number": service.next_number,
                "rollout": asdict(rollout),
                "pids": [s.process.endpoint.pid for s in service.revisions.values() if s.process.endpoint],
                "revisions": {
                    name: {
                        "manifest": state.manifest.model_dump(mode="json", by_alias=True),
                        "was_ready": state.was_ready,
                    }
                    for name, state in service.revisions.items()
                },
            },
        }
        if record != service.written:
            self.store.write_status(service.name, record)
            service.written = record

    # -- answering ----------------------------------------------------------------------------------------------

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
        """Revisions to try a request on: by the split first, then, when one dies under it, those that are ready."""
        shares = [t for t in service.rollout.traffic if t.percent]
        if not shares:
            return
        first = self._random.choices(shares, [t.percent for t in shares])[0].revision
        yield service.revisions[first]
        for _ in range(ATTEMPTS - 1):
            self.counts["retried"] += 1
            shares = [t for t in service.rollout.traffic if t.percent]
            alive = [t.revision for t in shares if service.revisions[t.revision].process.ready]
            yield service.revisions[alive[0] if alive else shares[0].revision]

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        self._under_way += 1
        try:
            answer = await self._answer(request)
            self.counts["answered" if answer.status < 500 else "failed"] += 1
            return answer
        finally:
            self._under_way -= 1

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
        started = time.monotonic()
        why = "no revision is ready" + "".join(f": {r}" for r in _reasons(service))
        for state in self.attempts(service):
            timeout = state.manifest.predictor.timeout_seconds
            deadline = started + timeout
            try:
                async with state.process.take(deadline) as endpoint:
                    return await self._forward(request, bytes(body), service, state, endpoint, deadline)
            except NotStarted as error:
                return _error(503, f"revision {state.process.name} is not ready after {timeout:g} s: {error}")
            except TimeoutError:
                return _error(504, f"no answer after {timeout:g} s")
            except (aiohttp.ClientError, OSError) as error:
                why = f"revision {state.process.name} went away under the request ({type(error).__name__})"
                log.warning("%s; trying again", why)
        return _error(503, why)

    async def _forward(
        self,
        request: web.BaseRequest,
        body: bytes,
        service: Service,
        state: RevisionState,
        endpoint: Endpoint,
        deadline: float,
    ) -> web.Response:
        target = self._target(service, state)
        event_id = self._logger.request(target, request.headers, body) if target else ""
        headers = [(k, v) for k, v in request.headers.items() if k.lower() not in HOP_BY_HOP]
        async with asyncio.timeout(max(0.001, deadline - time.monotonic())):
            async with self._session.request(
                request.method,
                URL(endpoint.http + request.raw_path, encoded=True),
                data=body or None,
                headers=headers,
                allow_redirects=False,
            ) as answer:
                content = await answer.read()
        if target and answer.status == 200:
            self._logger.response(target, event_id, request.headers.get("Content-Type", ""), content)
        response = web.Response(status=answer.status, reason=answer.reason, body=content)
        response.headers.clear()
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


def _reasons(service: Service) -> list[str]:
    newest = service.revisions.get(service.rollout.latest_created)
    return [newest.process.reason] if newest is not None and newest.process.reason else []


def _condition(service: Service, name: str, true: bool, reason: str, message: str) -> dict[str, str]:
    status = "True" if true else "False" if reason or message else "Unknown"
    if service.since.get(name, ("", ""))[0] != status:
        service.since[name] = (status, datetime.now(UTC).isoformat(timespec="seconds"))
    condition = {"type": name, "status": status, "lastTransitionTime": service.since[name][1]}
    if not true and reason:
        condition["reason"] = reason
    if not true and message:
        condition["message"] = message
    return condition


def _error(status: int, text: str) -> web.Response:
    body = json.dumps({"error": text}).encode()
    headers = {"Retry-After": "1"} if status == 503 else {}
    return web.Response(status=status, body=body, content_type="application/json", headers=headers)


def _port_error(error: OSError, address: str, port: int, flag: str) -> UserError:
    if error.errno == errno.EADDRINUSE:
        return UserError(f"port {port} on {address} is in use", todo=f"choose another with {flag}")
    return UserError(f"cannot listen on {address}:{port} ({error.strerror})", todo=f"choose another with {flag}")


def _end_leftovers(pids: Sequence[int]) -> None:
    """End processes of a host that was killed, where the kernel did not do it; only predictors of ours."""
    import psutil  # type: ignore[import-untyped]

    for pid in pids:
        with contextlib.suppress(psutil.Error):
            process = psutil.Process(pid)
            if any("--ready-file=" in part for part in process.cmdline()):
                process.terminate()
