"""Parts of the local host by themselves: the logger's bounds, a revision that cannot be started, channels."""

import asyncio
import logging
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import aiohttp
import grpc
import pytest

from serving.deploy import logger as logger_module
from serving.deploy.grpc_proxy import _Calls
from serving.deploy.logger import EventLogger, Target
from serving.deploy.process import Endpoint, Limits, RevisionProcess
from tests.serving.places import STUB, receiver, write_stub_bundle


async def until(what: str, holds: Callable[[], Any]) -> None:
    ends = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < ends, what
        await asyncio.sleep(0.01)


# -- the logger ----------------------------------------------------------------------------------------------------


def test_the_loggers_line_is_bounded_in_bytes_and_free_again_when_sent(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(logger_module, "QUEUE_BYTES", 250)

    async def main(url: str) -> None:
        target = Target(url, "all", "hscode", "default", {})
        async with aiohttp.ClientSession() as session:
            logger = EventLogger(session, event_bytes=100)
            logger.request(target, {}, b"a" * 101)
            assert logger.dropped == 1, "larger than the monitor takes"
            for _ in range(3):
                logger.request(target, {}, b"b" * 100)
            assert logger.dropped == 2, "the third does not fit"
            logger.response(target, "1", "", b"c" * 50)
            assert logger.dropped == 2, "a smaller one does"
            logger.start()
            await until("what fitted is sent", lambda: logger.sent == 3)
            logger.request(target, {}, b"d" * 100)
            await until("there is room again", lambda: logger.sent == 4)
            await logger.stop()
            assert logger.dropped == 2

    with receiver() as taken, caplog.at_level(logging.WARNING, "hscode.host"):
        asyncio.run(main(taken.url))
    assert [record.getMessage().partition("lost: ")[2] for record in caplog.records] == [
        "a body of 101 bytes; the limit is 100"
    ]


# -- a revision ----------------------------------------------------------------------------------------------------


def revision(folder: Path, model: Callable[[], Path]) -> RevisionProcess:
    command = (sys.executable, str(STUB))
    return RevisionProcess("r1", command, {}, model, folder, Limits(), 1, 0, changed=lambda: None)


@pytest.mark.parametrize("where", ["folder", "log", "model"])
def test_a_start_that_the_file_system_refuses_says_why_and_is_tried_again(tmp_path: Path, where: str) -> None:
    bundle, folder = write_stub_bundle(tmp_path / "bundle", "1"), tmp_path / "revisions" / "r1"
    in_the_way = {"folder": folder.parent, "log": folder / "log", "model": tmp_path / "away"}[where]
    if where == "folder":
        in_the_way.write_text("")
    else:
        in_the_way.mkdir(parents=True)

    def model() -> Path:
        if where == "model" and in_the_way.exists():
            raise OSError(28, "No space left on device")
        return bundle

    async def main() -> None:
        process = revision(folder, model)
        process.start()
        await until("it has failed", lambda: process.failed)
        assert process.reason.startswith("cannot start: [Errno ")
        if where == "folder":
            in_the_way.unlink()
        else:
            in_the_way.rmdir()
        await until("it is ready", lambda: process.ready)
        await process.stop()
        assert process.gone

    asyncio.run(main())


# -- gRPC ----------------------------------------------------------------------------------------------------------


def test_a_channel_lives_as_long_as_the_process_behind_it_and_its_calls() -> None:
    async def main() -> None:
        begun, go_on = asyncio.Event(), asyncio.Event()

        async def answer(message: bytes, context: Any) -> bytes:
            begun.set()
            await go_on.wait()
            return message + b" answered"

        class Handler(grpc.GenericRpcHandler):  # type: ignore[misc]
            def service(self, details: Any) -> Any:
                return grpc.unary_unary_rpc_method_handler(answer)

        server = grpc.aio.server()
        server.add_generic_rpc_handlers((Handler(),))
        first = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
        await server.start()
        process = SimpleNamespace(endpoint=Endpoint("http://x", first, 1))
        service = SimpleNamespace(revisions={"r1": SimpleNamespace(process=process)})
        calls = _Calls(SimpleNamespace(services={"hscode": service}))  # type: ignore[arg-type]
        under_way = asyncio.ensure_future(calls._channel(first).unary_unary("/a/b")(b"asked"))
        await begun.wait()
        for port in range(1, 5):
            process.endpoint = Endpoint("http://x", f"127.0.0.1:{port}", 1)
            calls._channel(process.endpoint.grpc or "")
            assert list(calls.channels) == [process.endpoint.grpc]
        go_on.set()
        assert await under_way == b"asked answered"
        await calls.close()
        await server.stop(None)

    asyncio.run(main())
