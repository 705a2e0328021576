"""A run backend over HTTP that misbehaves as real ones do: run names need not be unique, and answers get lost.

As a program it prints its address and serves (arguments: behaviours). The first POST gets
the first behaviour and so on; the last one stays:

- plain: starts the run and says so
- late: starts the run and answers after the client's deadline
- fails: starts the run and answers 500
- drops: starts the run and closes the connection without an answer
- starts_late: closes the connection, and starts the run a while after that
- down: answers 503 and starts nothing
- refuses: answers 400 and starts nothing

A run has succeeded once its status was asked for `LOOKS` times.
"""

import json
import sys
import threading
import time
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal
from urllib.parse import parse_qs, urlparse

import httpx

from serving.control.trigger.backend import BackendRefused, BackendUnavailable, RunState, Value

DEADLINE = 0.4
"""Seconds that the client waits for an answer."""
LATE = 0.3
"""Seconds after which a run starts that starts late."""
LOOKS = 2


class HttpBackend:
    """`RunBackend` that asks the process below; as with KFP a second submission would be a second run."""

    name: Literal["kfp"] = "kfp"

    def __init__(self, url: str) -> None:
        self._http = httpx.Client(base_url=url, timeout=DEADLINE)

    def _ask(self, method: str, path: str, **given: Any) -> Any:
        try:
            got = self._http.request(method, path, **given)
        except httpx.HTTPError as error:
            raise BackendUnavailable(type(error).__name__) from error
        if got.status_code >= 500:
            raise BackendUnavailable(f"status {got.status_code}")
        if got.status_code >= 400:
            raise BackendRefused(got.text)
        return got.json()

    def find(self, name: str) -> RunState | None:
        found = self._ask("GET", "/runs", params={"name": name})
        return RunState(found[0], name, "running") if found else None

    def submit(self, name: str, parameters: Mapping[str, Value], tags: Mapping[str, str]) -> str:
        asked = {"name": name, "parameters": dict(parameters), "tags": dict(tags)}
        return str(self._ask("POST", "/runs", json=asked))

    def status(self, backend_id: str) -> RunState:
        found = self._ask("GET", f"/runs/{backend_id}")
        return RunState(backend_id, found["name"], found["status"])


class Backend(ThreadingHTTPServer):
    """The server and its runs."""

    daemon_threads = True

    def __init__(self, behaviours: list[str]) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.behaviours, self.lock = behaviours, threading.Lock()
        self.runs: list[dict[str, Any]] = []
        self.posts = 0

    def behaviour(self) -> str:
        with self.lock:
            self.posts += 1
            return self.behaviours.pop(0) if len(self.behaviours) > 1 else self.behaviours[0]

    def start(self, asked: Mapping[str, Any]) -> str:
        with self.lock:
            self.runs.append({**asked, "looks": 0})
            return f"r{len(self.runs)}"


class Handler(BaseHTTPRequestHandler):
    server: Backend

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        behaviour = self.server.behaviour()
        if behaviour in ("down", "refuses"):
            return self._answer(503 if behaviour == "down" else 400, behaviour)
        if behaviour == "starts_late":
            self.close_connection = True
            self.connection.close()
            time.sleep(LATE)
            self.server.start(asked)
            return None
        backend_id = self.server.start(asked)
        if behaviour == "late":
            time.sleep(DEADLINE * 1.5)
        elif behaviour == "fails":
            return self._answer(500, "started, but who knows")
        elif behaviour == "drops":
            self.close_connection = True
            return self.connection.close()
        return self._answer(200, backend_id)

    def do_GET(self) -> None:
        address = urlparse(self.path)
        if address.path == "/count":
            return self._answer(200, {"runs": self.server.runs, "posts": self.server.posts})
        if address.path == "/runs":
            name = parse_qs(address.query)["name"][0]
            with self.server.lock:
                found = [f"r{n}" for n, run in enumerate(self.server.runs, 1) if run["name"] == name]
            return self._answer(200, found)
        run = self.server.runs[int(address.path.removeprefix("/runs/r")) - 1]
        run["looks"] += 1
        status = "succeeded" if run["looks"] >= LOOKS else "running"
        return self._answer(200, {"name": run["name"], "status": status})

    def _answer(self, code: int, content: Any) -> None:
        try:
            body = json.dumps(content).encode()
            self.send_response(code)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)
        except OSError:
            """The client did not wait."""

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""


def main() -> None:
    server = Backend(sys.argv[1:])
    print(f"http://127.0.0.1:{server.server_port}", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
