"""What a predictor process is told: flags, with the environment as their default."""

import argparse
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

PREFIX = "HSCODE_"
"""Environment variables are this and the flag's name: ``HSCODE_MAX_INSTANCES=64``."""


@dataclass(frozen=True)
class Limits:
    """What one request may ask for, and how much may wait."""

    body_bytes: int = 1_048_576
    """Bytes of a request body: 500 descriptions of 2,000 characters."""
    instances: int = 500
    """Instances of one request: about a second of work; more belongs in `hscode predict` or several requests."""
    explained: int = 10
    """Instances of one request for explanations: each is up to 49 texts to compute, so this is `instances` again."""
    text_chars: int = 2000
    """Characters of one description; ingest cuts there too."""
    waiting: int = 1000
    """Instances accepted and not yet answered, one to explain counted as the texts computed for it. Past it 503: a
    longer line only makes every answer late."""
    candidates: int = 20
    """Highest `limit` of an instance."""

    @property
    def most_explained(self) -> int:
        """Instances of one request for explanations: never more than of another."""
        return min(self.explained, self.instances)


@dataclass(frozen=True)
class Options:
    """One process: one model, its ports, its limits."""

    model_dir: Path
    """Folder of the bundle (KServe: /mnt/models)."""
    model_name: str
    """Name in paths and answers."""
    host: str
    """Address that both ports listen on."""
    http_port: int
    """0: any free port, told in `ready_file`."""
    grpc_port: int
    """0: any free port; -1: no gRPC."""
    agent_port: int
    """Port of KServe's agent in the same pod, without which no request gets here: ready once it listens. 0: none."""
    version: str | None
    """Overrides the version of the bundle's card."""
    threads: int
    """Threads of ONNX Runtime in one run. 1: several requests at once use the processors better."""
    engine_threads: int
    """Requests (or batches of them) computed at once; 0: one for each processor, at most 4."""
    batch_rows: int
    """Most instances that are computed in one go."""
    drain_seconds: float
    """After SIGTERM: how long requests are still taken while clients move away."""
    grace_seconds: float
    """After that: how long accepted requests may take."""
    ready_file: Path | None
    """Written once it listens: {"http", "grpc", "pid", "seconds": {begun, loaded, imported, listening}}."""
    access_log: bool
    """A line for each request."""
    limits: Limits


def parse(arguments: Sequence[str] | None = None) -> Options:
    """Read the flags; the environment and then the defaults stand in for what is missing."""
    parser = argparse.ArgumentParser(
        prog="python -m serving.predictor",
        description="Answers from a model bundle: KServe v1 and v2 over REST, v2 over gRPC, CloudEvents.",
        allow_abbrev=False,
    )
    limits = Limits()

    def add(name: str, kind: type, default: object, text: str, *more: str) -> None:
        flags = [f"--{name}", *more] + ([f"--{name.replace('-', '_')}"] if "-" in name else [])
        value = os.environ.get(PREFIX + name.upper().replace("-", "_"), default)
        parser.add_argument(*flags, dest=name.replace("-", "_"), type=kind, default=value, help=text)

    add("model-dir", Path, "/mnt/models", "folder of the bundle")
    add("model-name", str, "hscode", "name in paths and answers", "--name")
    add("host", str, "0.0.0.0", "address to listen on")  # noqa: S104 - a pod's port is reached from outside
    add("http-port", int, 8080, "REST port; 0: any free one")
    add("grpc-port", int, 8081, "gRPC port; 0: any free one; -1: none")
    add("agent-port", int, 0, "ready once the pod's KServe agent listens on this port; 0: not waited for")
    add("version", str, None, "version to report instead of the bundle's")
    add("threads", int, 1, "threads of ONNX Runtime in one run")
    add("engine-threads", int, 0, "batches computed at once; 0: one for each processor, at most 4")
    add("batch-rows", int, 64, "most instances computed in one go")
    add("drain-seconds", float, 3.0, "after SIGTERM: still taking requests, while clients move away")
    add("grace-seconds", float, 30.0, "after draining: for requests under way")
    add("ready-file", Path, None, "file written once it listens, with the ports")
    add("max-body-bytes", int, limits.body_bytes, "largest request body")
    add("max-instances", int, limits.instances, "most instances of a request")
    add("max-explained", int, limits.explained, "most instances of a request for explanations")
    add("max-text-chars", int, limits.text_chars, "longest description")
    add("max-waiting", int, limits.waiting, "most instances accepted and unanswered")
    parser.add_argument("--access-log", action="store_true", help="a log line for each request")
    given = parser.parse_args(arguments)
    return Options(
        model_dir=given.model_dir,
        model_name=given.model_name,
        host=given.host,
        http_port=given.http_port,
        grpc_port=given.grpc_port,
        agent_port=given.agent_port,
        version=given.version,
        threads=given.threads,
        engine_threads=given.engine_threads,
        batch_rows=given.batch_rows,
        drain_seconds=given.drain_seconds,
        grace_seconds=given.grace_seconds,
        ready_file=given.ready_file,
        access_log=given.access_log,
        limits=Limits(
            body_bytes=given.max_body_bytes,
            instances=given.max_instances,
            explained=given.max_explained,
            text_chars=given.max_text_chars,
            waiting=given.max_waiting,
        ),
    )
