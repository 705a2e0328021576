"""The clients: descriptions over REST at a steady rate; and experts, who say the right code for a share of answers."""

import threading
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from random import Random
from typing import Any, Self

import httpx

from config.settings import Loop
from models.data.sample import LabelledText

SENDERS = 8
CORRECTIONS = 500
"""Corrections of one request."""


@dataclass(frozen=True)
class Outcome:
    """One request."""

    at: datetime
    version: str
    """Version that answered; empty where none did."""
    right: bool | None
    """Whether the first candidate is the right six-digit code; None for a text without one, and without an answer."""


class Stream:
    """Sends `before` round and round until `shift`, then `after`. `outcomes`, `corrections` and `troubles` grow."""

    def __init__(
        self,
        predict: str,
        corrections: str,
        token: str,
        before: Sequence[LabelledText],
        after: Sequence[LabelledText],
        settings: Loop,
    ) -> None:
        self._predict, self._corrections, self._settings = predict, corrections, settings
        self._rows, self._after = before, after
        self._client = httpx.Client(timeout=30, limits=httpx.Limits(max_connections=SENDERS + 2))
        self._headers = {"Authorization": f"Bearer {token}"}
        self._lock, self._stop, self._random = threading.Lock(), threading.Event(), Random(17)
        self._sent, self._said, self._due = 0, list[dict[str, Any]](), time.monotonic()
        self.outcomes: list[Outcome] = []
        self.corrections = 0
        """Corrections taken by the monitor."""
        self.troubles: list[str] = []
        """Requests without an answer, corrections not taken."""
        senders = [threading.Thread(target=self._send, name=f"sender {n}", daemon=True) for n in range(SENDERS)]
        self._threads = [*senders, threading.Thread(target=self._correct, name="experts", daemon=True)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()
        self._client.close()

    def shift(self) -> None:
        """From the next request on the world has changed."""
        with self._lock:
            self._rows, self._sent = self._after, 0

    def _next(self) -> tuple[LabelledText, float]:
        """The next text and when it is due; what a slow service held up is not sent all at once later."""
        with self._lock:
            row = self._rows[self._sent % len(self._rows)]
            self._sent += 1
            self._due = max(self._due + 1 / self._settings.rate, time.monotonic() - 1)
            return row, self._due

    def _send(self) -> None:
        while True:
            row, due = self._next()
            if self._stop.wait(max(0.0, due - time.monotonic())):
                return
            at, name = datetime.now(UTC), str(uuid.uuid4())
            try:
                got = self._client.post(
                    self._predict, json={"instances": [row.description]}, headers={"ce-id": name}
                ).raise_for_status()
                told = got.json()
            except (httpx.HTTPError, ValueError) as error:
                self.troubles.append(f"{type(error).__name__}: {error}")
                self.outcomes.append(Outcome(at, "", None))
                continue
            first = next(iter(told["predictions"][0]["candidates"]), {"code": ""})
            right = first["code"] == row.hs6 if row.hs6 else None
            self.outcomes.append(Outcome(at, told["model"]["version"], right))
            with self._lock:
                if row.hs6 and self._random.random() < self._settings.corrected:
                    said = {"answer": name, "position": 0, "description": row.description, "code": row.hs6}
                    self._said.append({**said, "who": "loop", "why": "the code is known"})

    def _correct(self) -> None:
        while not self._stop.wait(1):
            with self._lock:
                said, self._said = self._said[:CORRECTIONS], self._said[CORRECTIONS:]
            if not said:
                continue
            try:
                got = self._client.post(self._corrections, json=said, headers=self._headers)
            except httpx.HTTPError as error:
                self.troubles.append(f"corrections: {type(error).__name__}: {error}")
                continue
            if got.is_success:
                self.corrections += got.json()["recorded"]
            else:
                self.troubles.append(f"corrections: status {got.status_code}: {got.text[:200]}")
