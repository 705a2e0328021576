"""The local host's request logger: the same CloudEvents as KServe's, in the same order, on a bounded queue.

KServe 0.20's logger (``pkg/logger``): binary mode; one id for request and answer, the client's ``ce-id`` where it sent
one; the answer only where its status is 200; ``ce-annotations`` a JSON object of the annotations that
``metadataAnnotations`` names; an empty ``ce-endpoint``; the request's content type on both. Its queue holds 100 events
and then blocks the request; this one drops the event instead and counts it.
"""

import asyncio
import contextlib
import json
import logging
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

import aiohttp

from serving.deploy.base import REQUEST_TYPE, RESPONSE_TYPE

log = logging.getLogger("hscode.host")

QUEUE_EVENTS = 1000
QUEUE_BYTES = 64 * 2**20
"""Of the bodies of all events that are not sent yet."""
EVENT_BYTES = 8 * 2**20
"""Of one body, where nothing else is said: as the monitor's `body_bytes`, which refuses a larger one."""
SENDERS = 16
"""Events under way at once. The monitor answers after its commit, which all that wait share."""
TIMEOUT_SECONDS = 5.0


@dataclass(frozen=True)
class Target:
    """Where the events of one revision go, and what they say of it."""

    url: str
    mode: Literal["all", "request", "response"]
    service: str
    namespace: str
    annotations: Mapping[str, str]
    """Those of the revision that `metadataAnnotations` names."""


class EventLogger:
    """Sends events in the background. `sent` and `dropped` count them."""

    def __init__(self, session: aiohttp.ClientSession, event_bytes: int = EVENT_BYTES) -> None:
        self.session, self.event_bytes = session, event_bytes
        self.sent = 0
        self.dropped = 0
        self._queue: asyncio.Queue[tuple[str, dict[str, str], bytes]] = asyncio.Queue(QUEUE_EVENTS)
        self._held = 0
        """Bytes of the bodies that are not sent yet."""
        self._senders: list[asyncio.Task[None]] = []
        self._warned = False

    def start(self) -> None:
        """Start the senders."""
        self._senders = [asyncio.create_task(self._send(), name="logger") for _ in range(SENDERS)]

    async def stop(self) -> None:
        """Send what is queued, for at most a few seconds."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._queue.join(), TIMEOUT_SECONDS)
        for sender in self._senders:
            sender.cancel()

    def request(self, target: Target, headers: Mapping[str, str], body: bytes) -> str:
        """Queue the request's event where the mode asks for it; returns the pair's id."""
        event_id = headers.get("ce-id") or str(uuid.uuid4())
        if target.mode in ("all", "request"):
            self._put(target, REQUEST_TYPE, event_id, headers.get("content-type", ""), body)
        return event_id

    def response(self, target: Target, event_id: str, content_type: str, body: bytes) -> None:
        """Queue the answer's event where the mode asks for it; for answers of status 200 only."""
        if target.mode in ("all", "response"):
            self._put(target, RESPONSE_TYPE, event_id, content_type, body)

    def _put(self, target: Target, event_type: str, event_id: str, content_type: str, body: bytes) -> None:
        if len(body) > self.event_bytes:
            return self._drop(target.url, f"a body of {len(body)} bytes; the limit is {self.event_bytes}")
        if self._held + len(body) > QUEUE_BYTES:
            return self._drop(target.url, f"more than {QUEUE_BYTES} bytes are not sent yet")
        headers = {
            "ce-specversion": "1.0",
            "ce-id": event_id,
            "ce-type": event_type,
            "ce-source": "http://localhost:9081/",
            "ce-time": datetime.now(UTC).isoformat().replace("+00:00", "Z"),
            "ce-inferenceservicename": target.service,
            "ce-namespace": target.namespace,
            "ce-component": "predictor",
            "ce-endpoint": "",
            "ce-metadata": "{}",
        }
        if content_type:
            headers["content-type"] = content_type
        if target.annotations:
            headers["ce-annotations"] = json.dumps(dict(target.annotations), separators=(",", ":"))
        try:
            self._queue.put_nowait((target.url, headers, body))
            self._held += len(body)
        except asyncio.QueueFull:
            self._drop(target.url, "more events than it takes")

    async def _send(self) -> None:
        while True:
            url, headers, body = await self._queue.get()
            try:
                async with self.session.post(
                    url, data=body, headers=headers, timeout=aiohttp.ClientTimeout(TIMEOUT_SECONDS)
                ) as answer:
                    await answer.read()
                    if answer.status < 300:
                        self.sent, self._warned = self.sent + 1, False
                    else:
                        self._drop(url, f"status {answer.status}")
            except (aiohttp.ClientError, TimeoutError, OSError) as error:
                self._drop(url, str(error) or type(error).__name__)
            finally:
                self._held -= len(body)
                self._queue.task_done()

    def _drop(self, url: str, why: str) -> None:
        self.dropped += 1
        if not self._warned:
            log.warning("logger: events for %s are lost: %s", url, why)
            self._warned = True
