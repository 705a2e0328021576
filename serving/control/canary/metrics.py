"""What the controller tells Prometheus and the kubelet."""

import sys
import time
from collections.abc import Iterable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import TYPE_CHECKING, Any

from sqlalchemy import func, select

from serving.control.canary import journal
from serving.state.tables import Canary

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric

    from serving.control.canary.controller import Controller


class Collector:
    """Reads the state at each scrape, so that every replica tells the same."""

    def __init__(self, controller: "Controller") -> None:
        self.controller = controller

    def collect(self) -> "Iterable[Metric]":
        """hs_canary_percent, hs_canary_harm_evidence_log, hs_canary_finished_total, hs_canary_leader."""
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        percent = GaugeMetricFamily(
            "hs_canary_percent", "Share of traffic wanted for an undecided challenger", labels=("service", "version")
        )
        evidence = GaugeMetricFamily(
            "hs_canary_harm_evidence_log", "Log of the evidence that it is worse", labels=("service", "version")
        )
        finished = CounterMetricFamily("hs_canary_finished", "Canaries by how they ended", labels=("service", "state"))
        leader = GaugeMetricFamily("hs_canary_leader", "Whether this controller leads")
        leader.add_metric((), float(self.controller.leading))
        with self.controller.state.read() as session:
            for row in journal.undecided(session, self.controller.namespace):
                percent.add_metric((row.service, row.challenger_version), row.percent)
                evidence.add_metric((row.service, row.challenger_version), (row.latest or {}).get("log_harm", 0.0))
            ended = (
                select(Canary.service, Canary.state, func.count())
                .where(Canary.finished_at.is_not(None))
                .group_by(Canary.service, Canary.state)
            )
            for service, state, count in session.execute(ended):
                finished.add_metric((service, state), count)
        return (percent, evidence, finished, leader)


class _Server(ThreadingHTTPServer):
    """One that says nothing of a scraper which went away before it had its answer."""

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


def serve_metrics(controller: "Controller", address: str, port: int) -> int:
    """Answer /metrics and /healthz in the background; returns the port.

    /healthz is 200 while the controller goes round (a leader or not, the database there or not).
    """
    from prometheus_client import CollectorRegistry, generate_latest

    registry = CollectorRegistry()
    registry.register(Collector(controller))
    patience = 3 * max(controller.policy.lease_seconds, controller.policy.look_seconds)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path == "/healthz":
                since = time.monotonic() - controller.looked_at
                code, body = (200, b"ok\n") if since < patience else (503, f"no look for {since:.0f} s\n".encode())
            elif self.path == "/metrics":
                try:
                    code, body = 200, generate_latest(registry)
                except Exception as error:
                    code, body = 503, f"{type(error).__name__}\n".encode()
            else:
                code, body = 404, b"/metrics or /healthz\n"
            self.send_response(code)
            self.send_header("Content-Type", "text/plain; version=0.0.4")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Quiet."""

    server = _Server((address, port), Handler)
    Thread(target=server.serve_forever, name="metrics", daemon=True).start()
    return int(server.server_address[1])
