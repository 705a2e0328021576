"""The local host: a small stand-in for KServe in Knative mode on one machine.

It reads the InferenceServices of its home (`store`), keeps their revisions as processes (`process`), splits requests
(`proxy`) by KServe's rule (`rollout`), sends the logger's events (`logger`) and reports in KServe's words (`service`).
Where it and real KServe differ, real KServe is right; docs/decisions names the differences that are meant.
"""

import asyncio
import contextlib
import errno
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Coroutine, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any

import aiohttp
from aiohttp import web

from models.errors import UserError
from serving.deploy import bundles
from serving.deploy.local import LocalDeployer
from serving.deploy.logger import EVENT_BYTES, EventLogger
from serving.deploy.manifest import Manifest, read_manifest
from serving.deploy.process import Limits, RevisionProcess
from serving.deploy.proxy import Proxy
from serving.deploy.rollout import advance
from serving.deploy.service import RevisionState, Service, record, restored_rollout
from serving.deploy.store import Desired, Store

log = logging.getLogger("hscode.host")

PREDICTOR: tuple[str, ...] = (sys.executable, "-m", "serving.predictor")
"""What the runtime `hscode` is on this machine."""
LOOK_SECONDS = 0.1
"""How often the home is looked at for new manifests."""
DRAIN_SECONDS = 60
"""After `stop`, how long requests under way may take."""


class LocalHost:
    """Serves a home's InferenceServices on ``http://ADDRESS:PORT`` until stopped.

    `port` and `grpc_port` 0 take free ones; `grpc_port` None serves no gRPC. `runtimes` maps a manifest's
    ``model.runtime`` to the command that stands in for that ServingRuntime; it is given the flags of
    ``python -m serving.predictor``. `idle_seconds` is for manifests that say nothing. `logger_url` is for loggers
    without an address, as the default in KServe's ConfigMap; a body of more than `event_bytes` is not sent. `seed`
    makes the split repeatable.

    As a context manager it serves in a thread, and is entered once what is recorded in the home is ready.
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
        event_bytes: int = EVENT_BYTES,
        runtimes: Mapping[str, Sequence[str]] | None = None,
        seed: int | None = None,
    ) -> None:
        self.store = Store(Path(home))
        self.port, self.grpc_port, self.address = port, grpc_port, address
        self.idle_seconds, self.start_seconds, self.logger_url = idle_seconds, start_seconds, logger_url
        self.event_bytes = event_bytes
        self.runtimes: dict[str, Sequence[str]] = {"": PREDICTOR, "hscode": PREDICTOR, **(runtimes or {})}
        self.services: dict[str, Service] = {}
        self._seed = seed
        self._looked: object = None
        self._troubles: dict[str, str] = {}
        """What the file system refused, by what for; said once each."""
        self._background: set[asyncio.Task[None]] = set()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._proxy: Proxy | None = None

    # -- running ------------------------------------------------------------------------------------------------

    @property
    def url(self) -> str:
        """Base address of REST requests."""
        return f"http://{self.address}:{self.port}"

    @property
    def under_way(self) -> int:
        """Requests accepted and not yet answered."""
        return self._proxy.under_way if self._proxy is not None else 0

    async def serve(self) -> None:
        """Serve until `stop`. Raises UserError for a port in use and where another host has the home."""
        self._loop, self._stopping, self._dirty = asyncio.get_running_loop(), asyncio.Event(), asyncio.Event()
        async with contextlib.AsyncExitStack() as stack:
            stack.enter_context(self.store.take())
            session = await stack.enter_async_context(
                aiohttp.ClientSession(
                    connector=aiohttp.TCPConnector(limit=0),
                    auto_decompress=False,
                    skip_auto_headers=("User-Agent", "Accept-Encoding", "Accept", "Content-Type"),
                    timeout=aiohttp.ClientTimeout(total=None),
                )
            )
            logger = EventLogger(session, self.event_bytes)
            logger.start()
            proxy = self._proxy = Proxy(self.services, session, logger, self.logger_url, self._seed)
            await self._listen(stack, proxy)
            self._look()
            grpc = f"{self.address}:{self.grpc_port}" if self.grpc_port is not None else None
            self.store.announce({"url": self.url, "grpc": grpc, "pid": os.getpid()})
            try:
                await self._reconcile_until_stopped()
            finally:
                await self._drain(proxy, logger)

    def stop(self) -> None:
        """End `serve`, from any thread: requests under way are answered, then the processes are stopped."""
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # it has ended already
                self._loop.call_soon_threadsafe(self._stopping.set)

    def run(self) -> None:
        """Serve in this thread until SIGINT or SIGTERM."""

        async def main() -> None:
            loop = asyncio.get_running_loop()
            for number in (signal.SIGINT, signal.SIGTERM):
                loop.add_signal_handler(number, self.stop)
            await self.serve()

        asyncio.run(main())

    def __enter__(self) -> "LocalHost":
        failed: list[BaseException] = []

        def serve() -> None:
            try:
                asyncio.run(self.serve())
            except BaseException as error:
                failed.append(error)

        self._thread = threading.Thread(target=serve, name="local host")
        self._thread.start()
        try:
            while self.store.host() is None or "url" not in (self.store.host() or {}):
                self._thread.join(0.01)
                if failed:
                    raise failed[0]
            deployer = LocalDeployer(self.store.home)
            for name in self.store.names():
                deployer.wait(name, self.start_seconds)
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        if self._thread is not None:
            self._thread.join()

    async def _listen(self, stack: contextlib.AsyncExitStack, proxy: Proxy) -> None:
        runner = web.ServerRunner(web.Server(proxy.handle, access_log=None), handle_signals=False)
        await runner.setup()
        stack.push_async_callback(runner.cleanup)
        try:
            await web.TCPSite(runner, self.address, self.port).start()
        except OSError as error:
            used = error.errno == errno.EADDRINUSE
            what = f"port {self.port} is in use" if used else f"cannot listen on port {self.port} ({error.strerror})"
            raise UserError(what, self.address, "choose another with --port") from None
        self.port = runner.addresses[0][1]
        if self.grpc_port is not None:
            # Revisions are forked and exec at once; gRPC's own fork handlers would only warn of it.
            os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
            from serving.deploy.grpc_proxy import serve_grpc

            self.grpc_port = await serve_grpc(proxy, self.address, self.grpc_port, stack)

    async def _drain(self, proxy: Proxy, logger: EventLogger) -> None:
        deadline = time.monotonic() + DRAIN_SECONDS
        while proxy.under_way and time.monotonic() < deadline:
            await asyncio.sleep(0.01)
        await logger.stop()
        states = [state for service in self.services.values() for state in service.revisions.values()]
        await asyncio.gather(*(state.process.stop() for state in states), *self._background)

    # -- reconciling --------------------------------------------------------------------------------------------

    async def _reconcile_until_stopped(self) -> None:
        stopped = asyncio.create_task(self._stopping.wait())
        try:
            while not self._stopping.is_set():
                self._dirty.clear()
                with self._going_on("the home's manifests"):
                    self._look()
                for service in self.services.values():
                    with self._going_on(f"service {service.name}"):
                        self._reconcile(service)
                changed = asyncio.create_task(self._dirty.wait())
                await asyncio.wait((stopped, changed), timeout=LOOK_SECONDS, return_when=asyncio.FIRST_COMPLETED)
                changed.cancel()
        finally:
            stopped.cancel()

    @contextlib.contextmanager
    def _going_on(self, what: str) -> Iterator[None]:
        """A full disk or a file that cannot be read must not end serving: said once, and tried again at each look."""
        try:
            yield
        except OSError as error:
            why = error.strerror or str(error)
            if self._troubles.get(what) != why:
                log.error("%s: %s; trying again", what, error)
            self._troubles[what] = why
        else:
            if self._troubles.pop(what, None):
                log.info("%s: in order again", what)

    def _look(self) -> None:
        """Take up what was written in the home since the last look."""
        stamp = self.store.stamp()
        if stamp == self._looked:
            return
        names = self.store.names()
        for name in names:
            desired = self.store.desired(name)
            held = self.services.get(name)
            if held is not None and (desired is None or desired.uid != held.uid):
                self._remove(self.services.pop(name))
            if desired is not None:
                self._adopt(name, desired)
        for name in set(self.services) - set(names):
            self._remove(self.services.pop(name))
        self._looked = stamp

    def _adopt(self, name: str, desired: Desired) -> None:
        service = self.services.get(name)
        try:
            manifest = self._known(desired)
        except UserError as error:
            log.error("%s", error)
            if service is not None:
                service.refused, service.observed = str(error), desired.generation
            return
        if service is None:
            service = self.services[name] = self._restore(name, manifest, desired)
        service.manifest, service.observed, service.refused = manifest, desired.generation, ""
        if service.newest is None or service.newest.digest != manifest.template_digest():
            self._cut(service)

    def _known(self, desired: Desired) -> Manifest:
        manifest = read_manifest(desired.manifest)
        runtime = manifest.predictor.model.runtime or ""
        if runtime not in self.runtimes:
            known = ", ".join(sorted(filter(None, self.runtimes)))
            raise UserError(f"no runtime {runtime}", f"InferenceService {manifest.metadata.name}", f"known: {known}")
        return manifest

    def _restore(self, name: str, manifest: Manifest, desired: Desired) -> Service:
        """What an earlier host left: revisions and who has how much; those with a share are started again."""
        service = Service(name, manifest, desired.uid)
        kept = (self.store.status(name) or {}).get("host")
        if kept is None or kept["uid"] != desired.uid:
            return service
        _end_leftovers(kept["pids"])
        service.next_number = kept["next_number"]
        service.rollout = restored_rollout(kept)
        for revision, entry in kept["revisions"].items():
            state = self._state(service, revision, Manifest.model_validate(entry["manifest"]))
            state.was_ready = entry["was_ready"]
            service.revisions[revision] = state
        for entry in service.shares():
            service.revisions[entry.revision].process.start()
        if service.newest is not None and not service.newest.was_ready:
            service.newest.process.start()
        return service

    def _cut(self, service: Service) -> None:
        revision = f"{service.name}-predictor-{service.next_number:05d}"
        service.next_number += 1
        state = service.revisions[revision] = self._state(service, revision, service.manifest)
        service.rollout = replace(service.rollout, latest_created=revision)
        log.info("revision %s: made for version %s", revision, service.manifest.version or "(none)")
        state.process.start()

    def _state(self, service: Service, revision: str, manifest: Manifest) -> RevisionState:
        model = manifest.predictor.model
        folder = self.store.services / service.name / "revisions" / revision
        idle = manifest.idle_seconds
        process = RevisionProcess(
            name=revision,
            command=(*self.runtimes[model.runtime or ""], f"--model-name={service.name}", *model.args),
            environment={variable.name: variable.value for variable in model.env},
            model=lambda: bundles.fetch(model.storage_uri, folder / "model"),
            folder=folder,
            limits=Limits(start=self.start_seconds, idle=self.idle_seconds if idle is None else idle),
            min_replicas=manifest.predictor.min_replicas,
            concurrency=manifest.predictor.container_concurrency,
            changed=self._dirty.set,
            grpc=self.grpc_port is not None,
        )
        return RevisionState(manifest, manifest.template_digest(), process)

    def _reconcile(self, service: Service) -> None:
        for state in service.revisions.values():
            state.was_ready = state.was_ready or state.process.ready
        ready = [name for name, state in sorted(service.revisions.items()) if state.was_ready]
        before = service.rollout
        after = replace(before, latest_ready=ready[-1] if ready else "")
        service.rollout = advance(after, service.manifest.predictor.canary_percent)
        if service.rollout.traffic != before.traffic:
            shares = ", ".join(f"{entry.revision} {entry.percent} %" for entry in service.rollout.traffic)
            log.info("traffic of %s: %s", service.name, shares)
        routed = {entry.revision for entry in service.rollout.traffic}
        for name, state in service.revisions.items():
            first_start = state is service.newest and not state.was_ready
            if state.process.running and not state.process.busy and not first_start and name not in routed:
                self._scale_to_zero(state, "it has no traffic")
            elif state.process.idle():
                self._scale_to_zero(state, "idle")
            elif name in routed and state.process.min_replicas and not state.process.running:
                state.process.start()
        self._forget_old(service)
        now = record(service, self.port)
        if now != service.written and self.store.desired(service.name) is not None:
            self.store.write_status(service.name, now)
            service.written = now

    def _scale_to_zero(self, state: RevisionState, why: str) -> None:
        log.info("revision %s: scaled to zero (%s)", state.process.name, why)
        self._later(state.process.stop(), f"stop {state.process.name}")

    def _forget_old(self, service: Service) -> None:
        rollout = service.rollout
        keep = {entry.revision for entry in rollout.traffic}
        keep |= {rollout.latest_created, rollout.latest_ready, rollout.latest_rolledout, rollout.previous_rolledout}
        for name in set(service.revisions) - keep:
            if service.revisions[name].process.gone:
                bundles.remove(service.revisions.pop(name).process.folder)

    def _remove(self, service: Service) -> None:
        async def remove() -> None:
            await asyncio.gather(*(state.process.stop() for state in service.revisions.values()))
            if self.store.desired(service.name) is None:
                self.store.forget(service.name)

        log.info("service %s: removed", service.name)
        self._later(remove(), f"remove {service.name}")

    def _later(self, work: Coroutine[Any, Any, None], name: str) -> None:
        task = asyncio.create_task(work, name=name)
        self._background.add(task)
        task.add_done_callback(self._background.discard)


def _end_leftovers(pids: Sequence[int]) -> None:
    """End processes of a host that was killed, where the kernel did not do it; only predictors of ours."""
    import psutil  # type: ignore[import-untyped]

    for pid in pids:
        with contextlib.suppress(psutil.Error):
            process = psutil.Process(pid)
            if any("--ready-file=" in part for part in process.cmdline()):
                process.terminate()
