"""KServe's `ModelServer` with our REST application, KServe's gRPC servicer, and an end that loses nothing.

On SIGTERM the process keeps answering for up to `drain_seconds`, telling clients to close their connections and
reporting itself not ready; then both listeners close and what was accepted is finished within `grace_seconds`.
"""

import asyncio
import json
import logging
import os
import socket
import time
from concurrent import futures
from pathlib import Path
from types import FrameType
from typing import Any

import uvicorn
from kserve.model_server import ModelServer
from kserve.protocol.grpc.server import GRPCServer

from models.errors import UserError
from serving.predictor import metrics
from serving.predictor.model import HSModel
from serving.predictor.options import Options
from serving.predictor.rest import Rest
from serving.predictor.timeline import Timeline

log = logging.getLogger(__name__)

IDLE_TICKS = 5
"""Tenths of a second without a connection after which draining is over."""


AGENT_SECONDS = 10.0
"""How long KServe's agent is waited for; a pod without one is ready after that."""
FIRST_REQUEST_SECONDS = 1.0
"""How long one who has just connected may take to send the request, when the listener is closed already."""


class PredictorServer(ModelServer):  # type: ignore[misc]
    """One model, one process, one event loop."""

    def __init__(self, options: Options, timeline: Timeline) -> None:
        super().__init__(
            http_port=options.http_port,
            grpc_port=options.grpc_port,
            workers=1,
            enable_grpc=options.grpc_port >= 0,
            enable_latency_logging=False,
        )
        self.options, self.timeline = options, timeline

    def start(self, models: list[HSModel]) -> None:
        """Serve `models` (one) until SIGTERM or SIGINT, then drain."""
        self._register_and_check_atleast_one_model_is_ready(models)
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            runner.run(self._serve_model(models[0]))
        models[0].worker.stop()

    async def _serve_model(self, model: HSModel) -> None:
        options = self.options
        rest = Rest(self.dataplane, model, options.access_log)
        rest.reachable = not options.agent_port
        waiting = asyncio.create_task(_wait_for_agent(rest, options.agent_port))
        server = DrainingServer(
            uvicorn.Config(
                rest,
                host=options.host,
                port=options.http_port,
                http="httptools",
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                timeout_keep_alive=65,  # longer than the gateway's, which then is the one to close
                timeout_graceful_shutdown=round(options.grace_seconds),
                backlog=2048,
            ),
            rest,
            options.drain_seconds,
        )
        listener = _bound(options.host, options.http_port)
        http_port = listener.getsockname()[1]
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        while not server.started:
            if serving.done():
                serving.result()
            await asyncio.sleep(0)
        grpc_port = -1
        if self.enable_grpc:
            self._grpc_server = Grpc(
                options.grpc_port, self.dataplane, self.model_repository_extension, {}, round(options.grace_seconds)
            )
            grpc_port = await self._grpc_server.listen(options.host, 2 * options.limits.body_bytes)
        self.timeline.mark("listening")
        metrics.START.set(self.timeline.marks["listening"])
        log.info(
            "model %s version %s (%s, %s) on http %d, grpc %d; %s",
            model.name, model.version, model.bundle.kind, model.bundle.edition, http_port, grpc_port, self.timeline,
        )  # fmt: skip
        if options.ready_file:
            about = {"http": http_port, "grpc": grpc_port, "pid": os.getpid(), "seconds": self.timeline.marks}
            _write(options.ready_file, about)
        await serving
        waiting.cancel()
        if self._grpc_server is not None:
            await self._grpc_server.stop()
        log.info("drained")


async def _wait_for_agent(rest: Rest, port: int) -> None:
    """Not ready before the pod's agent takes connections.

    KServe puts its agent (the logger's) between Knative's queue-proxy and us, but the queue-proxy still asks us whether
    the pod is ready (kserve/kserve#5569): a request in between gets 502.
    """
    if not port:
        return
    ends = time.monotonic() + AGENT_SECONDS
    while not await _listens(port):
        if time.monotonic() >= ends:
            log.warning("nothing listens on --agent-port %d after %g s: ready without it", port, AGENT_SECONDS)
            break
        await asyncio.sleep(0.02)
    rest.reachable = True


async def _listens(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    return True


class DrainingServer(uvicorn.Server):
    """uvicorn's server, which goes on for a while after the signal to stop."""

    def __init__(self, config: uvicorn.Config, rest: Rest, drain_seconds: float) -> None:
        super().__init__(config)
        self.rest, self.drain_seconds = rest, drain_seconds
        self._ends_at: float | None = None
        self._idle = 0

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Start draining; a second signal ends it."""
        if self._ends_at is None:
            log.info("signal %d: draining for up to %.1f s", sig, self.drain_seconds)
            self.rest.draining = True
            self._ends_at = time.monotonic() + self.drain_seconds
        else:
            self.should_exit = True

    async def on_tick(self, counter: int) -> bool:
        """True when it is time to stop listening; called ten times a second."""
        if self._ends_at is not None:
            self._idle = 0 if self.server_state.connections else self._idle + 1
            if self._idle >= IDLE_TICKS or time.monotonic() >= self._ends_at:
                return True
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop listening without turning away who has connected; then as uvicorn does."""
        for listener in sockets or []:
            listener.listen(0)  # no new ones into the kernel's queue, while the loop takes in those who are there
        await asyncio.sleep(0.1)
        for server in self.servers:
            server.close()
        ends = time.monotonic() + FIRST_REQUEST_SECONDS
        while time.monotonic() < ends and any(_has_asked_nothing(c) for c in self.server_state.connections):
            await asyncio.sleep(0.01)
        await super().shutdown(sockets)


def _has_asked_nothing(connection: Any) -> bool:
    return connection.cycle is None


class Grpc(GRPCServer):  # type: ignore[misc]
    """KServe's gRPC server, on an address and a port of our choice, with its limits said."""

    async def listen(self, host: str, message_bytes: int) -> int:
        """Start; returns the port."""
        from grpc import aio
        from kserve.protocol.grpc import grpc_predict_v2_pb2_grpc
        from kserve.protocol.grpc.interceptors import ExceptionToStatusInterceptor
        from kserve.protocol.grpc.servicer import InferenceServicer

        logging.getLogger("kserve").setLevel(logging.CRITICAL)  # it logs each refused request with a traceback
        self._server = aio.server(
            futures.ThreadPoolExecutor(max_workers=1),
            interceptors=(ExceptionToStatusInterceptor(),),
            options=[("grpc.max_receive_message_length", message_bytes), ("grpc.so_reuseport", 0)],
        )
        grpc_predict_v2_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(
            InferenceServicer(self._data_plane, self._model_repository_extension), self._server
        )
        try:
            port = int(self._server.add_insecure_port(f"{host}:{self._port}"))
        except RuntimeError:
            raise UserError("cannot listen", f"{host}:{self._port}", "choose another --grpc-port") from None
        await self._server.start()
        return port


def _bound(host: str, port: int) -> socket.socket:
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    listener = socket.socket(family, kind, protocol)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(address)
    except OSError as error:
        listener.close()
        raise UserError(f"cannot listen ({error.strerror})", f"{host}:{port}", "choose another --http-port") from None
    return listener


def _loop_factory() -> Any:
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


def _write(path: Path, content: dict[str, Any]) -> None:
    part = path.with_name(path.name + ".part")
    part.write_text(json.dumps(content))
    part.replace(path)
