"""A predictor of the standard library alone, for tests of what stands before it: same flags, same paths, no model.

Its bundle is a folder with `card.json`: ``{"version", "fault": "none"|"crash"|"error"|"slow"|"worse"|"wrong"}``.
Answers say the version and process. A description ``sleep N`` takes N seconds, ``die`` ends the process without an
answer.
"""

import argparse
import json
import os
import signal
import socket
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any


def serve(arguments: list[str] | None = None) -> None:
    """Answer until SIGTERM."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--model-dir", type=Path, default=Path("/mnt/models"))
    parser.add_argument("--model-name", default="hscode")
    parser.add_argument("--host", default="0.0.0.0")
    parser.add_argument("--http-port", type=int, default=8080)
    parser.add_argument("--grpc-port", type=int, default=-1)
    parser.add_argument("--agent-port", type=int, default=0)
    parser.add_argument("--ready-file", type=Path)
    parser.add_argument("--drain-seconds", type=float, default=0)
    options = parser.parse_args(arguments)
    card = json.loads((options.model_dir / "card.json").read_text())
    fault = card.get("fault", "none")
    if fault == "crash":
        sys.exit("error: this bundle cannot be loaded")

    lock = threading.Lock()
    busy: list[object] = []

    class Handler(BaseHTTPRequestHandler):
        disable_nagle_algorithm = True  # head and body are two writes: 40 ms with it
        protocol_version = "HTTP/1.1"

        def answer(self, status: int, body: dict[str, Any]) -> None:
            data = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.send_header("hs-model-version", str(card["version"]))
            self.end_headers()
            self.wfile.write(data)

        def do_GET(self) -> None:
            ready = not options.agent_port or listens(options.agent_port)
            self.answer(200 if ready else 503, {"ready": ready, "path": self.path})

        def do_POST(self) -> None:
            with lock:
                busy.append(self)
                at_once = len(busy)
            try:
                self.predict(at_once)
            finally:
                with lock:
                    busy.remove(self)

        def predict(self, at_once: int) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            instances = json.loads(body)["instances"]
            for text in instances:
                if text.startswith("sleep "):
                    time.sleep(float(text.split()[1]))
                elif text == "die":
                    os._exit(9)
            if fault == "slow":
                time.sleep(0.3)
            if fault == "error":
                self.answer(500, {"error": "broken on purpose"})
                return
            status = "unsure" if fault == "worse" else "answered"
            code = "851830" if fault == "wrong" else "610910"
            answers = [{"code": code, "confidence": 0.9, "status": status, "text": text} for text in instances]
            model = {"name": options.model_name, "version": str(card["version"]), "edition": "HS2022"}
            self.answer(200, {"predictions": answers, "model": model, "process": os.getpid(), "at_once": at_once})

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer((options.host, options.http_port), Handler)
    server.daemon_threads = True
    signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=server.shutdown).start())
    if options.ready_file:
        part = options.ready_file.with_suffix(".part")
        part.write_text(json.dumps({"http": server.server_port, "grpc": None, "pid": os.getpid()}))
        part.replace(options.ready_file)
    server.serve_forever()


def listens(port: int) -> bool:
    """Whether something takes connections on a port here."""
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True


if __name__ == "__main__":
    serve()
