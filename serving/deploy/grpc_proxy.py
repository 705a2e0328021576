"""gRPC in front of the local host's revisions: each unary call is split, waits for a wake and is retried as REST is.

Bytes pass through undecoded. KServe in Knative mode has one port a service, REST or gRPC; the local host has both.
"""

import asyncio
import contextlib
import socket
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import grpc

from models.errors import UserError
from serving.deploy.process import STOP_SECONDS, NotStarted

if TYPE_CHECKING:
    from serving.deploy.proxy import Proxy

LARGEST_MESSAGE_BYTES = 64 * 2**20
OPTIONS = [
    ("grpc.max_receive_message_length", LARGEST_MESSAGE_BYTES),
    ("grpc.max_send_message_length", LARGEST_MESSAGE_BYTES),
    ("grpc.so_reuseport", 0),
]


async def serve_grpc(proxy: "Proxy", address: str, port: int, stack: contextlib.AsyncExitStack) -> int:
    """Listen on `port` (0: any free one) until `stack` closes; returns it. Raises UserError where it is in use."""
    calls = _Calls(proxy)
    server = grpc.aio.server(options=OPTIONS)
    server.add_generic_rpc_handlers((calls,))
    try:
        with socket.create_server((address, port)):  # asked first: gRPC logs a refusal in its own way
            pass
    except OSError as error:
        raise UserError(f"gRPC port {port}: {error.strerror}", address, "choose another with --grpc-port") from None
    listening = server.add_insecure_port(f"{address}:{port}")
    await server.start()
    stack.push_async_callback(calls.close)
    stack.push_async_callback(server.stop, 5)
    return int(listening)


class _Calls(grpc.GenericRpcHandler):  # type: ignore[misc]
    def __init__(self, proxy: "Proxy") -> None:
        self.proxy = proxy
        self.channels: dict[str, grpc.aio.Channel] = {}
        self._closing: set[asyncio.Task[None]] = set()

    def service(self, details: Any) -> Any:
        return grpc.unary_unary_rpc_method_handler(self._forwarder(details.method))

    async def close(self) -> None:
        await asyncio.gather(*(channel.close() for channel in self.channels.values()), *self._closing)

    def _forwarder(self, method: str) -> Callable[[bytes, Any], Any]:
        async def forward(message: bytes, context: Any) -> bytes:
            self.proxy.under_way += 1
            try:
                return await self._call(method, message, context)
            finally:
                self.proxy.under_way -= 1

        return forward

    async def _call(self, method: str, message: bytes, context: Any) -> bytes:
        try:
            service = self.proxy.find("")
        except LookupError as error:
            await context.abort(grpc.StatusCode.NOT_FOUND, str(error))
        headers = [(k, v) for k, v in context.invocation_metadata() if k != "user-agent"]
        started, why = time.monotonic(), "no revision is ready"
        for state in self.proxy.attempts(service):
            timeout = min(state.manifest.predictor.timeout_seconds, context.time_remaining() or 1e9)
            try:
                async with state.process.take(started + timeout) as endpoint:
                    call = self._channel(endpoint.grpc or "").unary_unary(method)(
                        message, metadata=headers, timeout=max(0.001, started + timeout - time.monotonic())
                    )
                    try:
                        answer: bytes = await call
                    except grpc.aio.AioRpcError as error:
                        if error.code() == grpc.StatusCode.UNAVAILABLE and await state.process.ended(endpoint):
                            raise ConnectionError from None
                        await context.abort(error.code(), error.details() or "", error.trailing_metadata() or ())
                    await context.send_initial_metadata(await call.initial_metadata())
                    context.set_trailing_metadata(await call.trailing_metadata())
                    return answer
            except NotStarted as error:
                await context.abort(grpc.StatusCode.UNAVAILABLE, f"revision {state.process.name}: {error}")
            except OSError:
                why = f"revision {state.process.name} went away under the request"
        await context.abort(grpc.StatusCode.UNAVAILABLE, why)
        return b""

    def _channel(self, address: str) -> Any:
        if address not in self.channels:
            self._close_old()
            self.channels[address] = grpc.aio.insecure_channel(address, options=OPTIONS)
        return self.channels[address]

    def _close_old(self) -> None:
        """Close channels to processes that are gone or going, these when their calls are done: each start has a port
        of its own."""
        states = [state for service in self.proxy.services.values() for state in service.revisions.values()]
        used = {state.process.endpoint.grpc for state in states if state.process.endpoint is not None}
        for address in self.channels.keys() - used:
            closing = asyncio.create_task(self.channels.pop(address).close(STOP_SECONDS))
            self._closing.add(closing)
            closing.add_done_callback(self._closing.discard)
