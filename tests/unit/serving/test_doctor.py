"""The doctor on homes and answers that are right and wrong in known ways."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from typer import Typer
from typer.testing import CliRunner

from cli.doctor import register
from config.settings import Settings
from models.errors import UserError
from serving.deploy.base import read_status
from serving.doctor import Addresses, Finding, examine, service_seen
from serving.home import with_home
from serving.state import SqlLease, open_state
from serving.state.events import Request, store_events


@contextmanager
def answering(answers: dict[str, Any]) -> Iterator[str]:
    """A server with fixed answers by path."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            answer = answers.get(self.path)
            self.send_response(200 if answer is not None else 503)
            self.end_headers()
            self.wfile.write((answer if isinstance(answer, str) else json.dumps(answer)).encode())

        def log_message(self, format: str, *args: object) -> None:
            """Quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()


def found(
    home: Path, addresses: Addresses = Addresses(), runs: Callable[[], str] = lambda: "local answers"
) -> dict[str, Finding]:
    settings = with_home(Settings(), home)
    return {finding.arrow: finding for finding in examine(settings, addresses, runs)}


@pytest.fixture
def home(tmp_path: Path) -> Path:
    open_state(f"sqlite:///{tmp_path}/state.db").close()
    return tmp_path


def test_a_new_home_has_nothing_broken(home: Path) -> None:
    seen = found(home)
    assert not [finding for finding in seen.values() if finding.works is False], seen
    assert seen["all → database"].seen == "sqlite, schema current, 0 events, 0 corrections"
    assert seen["logger → monitor → database"].works is None


def test_each_broken_arrow_says_what_to_do_and_the_rest_is_still_looked_at(tmp_path: Path) -> None:
    def runs() -> str:
        raise UserError("no answer", "http://nowhere")

    seen = found(tmp_path, runs=runs)
    database = seen["all → database"]
    assert (database.works, "hscode state migrate" in database.todo) == (False, True)
    assert seen["trigger → pipelines"].works is False
    assert seen["all → registry"].works is True


def test_events_without_a_version_and_a_living_lease_are_seen(home: Path) -> None:
    state = open_state(f"sqlite:///{home}/state.db")
    store_events(state, [Request("e1", "hscode", datetime.now(UTC), "default", "")], [])
    lease = SqlLease(state, "trigger", 60, "somebody")
    assert lease.hold()
    state.close()
    seen = found(home)
    assert seen["logger → monitor → database"].works is False
    assert "metadataAnnotations" in seen["logger → monitor → database"].seen
    assert seen["trigger → database"] == Finding("trigger → database", True, "somebody submits")


@pytest.mark.parametrize(
    ("health", "receiver", "works"), [("up", "trigger", True), ("down", "people", False)], ids=["right", "wrong"]
)
def test_what_prometheus_and_alertmanager_say(home: Path, health: str, receiver: str, works: bool) -> None:
    rule = {"name": "HscodeDriftSustained", "health": "ok" if works else "err", "state": "firing"}
    targets = [{"labels": {"job": f"hscode-{part}"}, "health": "up"} for part in ("monitor", "canary")]
    targets.append({"labels": {"job": "hscode-trigger"}, "health": health})
    notices = {"notifications": 3, "notifications_failed": 0 if works else 3}
    counters = [
        f'alertmanager_{name}_total{{integration="{kind}",receiver_name="x"}} {number}'
        for name, number in notices.items()
        for kind, number in (("email", 0), ("webhook", number))
    ]
    answers = {
        "/readyz": {} if works else None,
        "/api/v1/targets?state=active": {"data": {"activeTargets": targets}},
        "/api/v1/rules": {"data": {"groups": [{"rules": [rule]}]}},
        "/api/v1/alertmanagers": {"data": {"activeAlertmanagers": [{"url": "http://a/alerts"}] if works else []}},
        "/api/v2/status": {"config": {"original": f"receivers: [{{name: {receiver}}}]"}},
        "/metrics": "\n".join(counters) + "\n",
    }
    with answering(answers) as url:
        seen = found(home, Addresses(url, url, url, url))
    asked = [arrow for arrow in seen if arrow.startswith(("→", "Prometheus", "Alertmanager"))]
    assert len(asked) == 7
    for arrow in asked:
        assert seen[arrow].works is works, seen[arrow]
        assert bool(seen[arrow].todo) is not works
    if works:
        assert seen["Prometheus rules"].seen == "1 rules; firing: HscodeDriftSustained"
        assert seen["Alertmanager → trigger"].seen == "3 notices sent, 0 not taken"
    else:
        assert seen["Prometheus → monitor, trigger, canary"].seen == "nothing of trigger is up"


def test_an_alertmanager_that_sent_nothing_yet_is_neither_good_nor_bad(home: Path) -> None:
    with answering({"/metrics": 'alertmanager_notifications_total{integration="webhook"} 0\n'}) as url:
        assert found(home, Addresses(alertmanager=url))["Alertmanager → trigger"].works is None


def test_a_service_without_a_way_is_broken_with_kubectls_words(home: Path) -> None:
    seen = found(home, Addresses(closed={"hscode-monitor": "no pod", "hscode-postgres.hscode": "no endpoints"}))
    assert (seen["→ monitor"].works, seen["→ monitor"].seen, bool(seen["→ monitor"].todo)) == (False, "no pod", True)
    assert seen["→ hscode-postgres.hscode"].works is False
    assert seen["→ trigger"].works is None


def test_prometheus_and_alertmanager_may_be_anothers_but_no_other_service(home: Path) -> None:
    parts = ("monitor", "trigger", "prometheus", "alertmanager")
    missing = {f"hscode-{part}": "NotFound" for part in parts}
    seen = found(home, Addresses(closed=missing, absent=frozenset(missing)))
    assert [seen[f"→ {part}"].works for part in parts[:2]] == [False, False]
    theirs = [finding for arrow, finding in seen.items() if arrow.startswith(("Prometheus", "Alertmanager"))]
    assert {finding.works for finding in theirs} == {None}
    assert ["--prometheus URL" in finding.seen for finding in theirs] == [True, True, True, False, False]
    with answering({"/api/v1/alertmanagers": {"data": {"activeAlertmanagers": [{"url": "http://a"}]}}}) as url:
        given = found(home, Addresses(prometheus=url, closed=missing, absent=frozenset(missing)))
    assert given["Prometheus → Alertmanager"].works is True


def test_a_service_that_waits_for_its_first_model_is_not_broken() -> None:
    """As KServe reports what `manifests/base/serving` makes, before and after a model came and failed."""
    condition = {"type": "Ready", "status": "False", "reason": "RevisionMissing", "message": "no revision"}
    service: dict[str, Any] = {
        "metadata": {"name": "hscode", "namespace": "hscode"},
        "spec": {"predictor": {"model": {"runtime": "hscode"}}},
        "status": {"conditions": [condition]},
    }
    works, seen = service_seen(read_status(service, {}, 1))
    assert (works, "no model yet" in seen) == (None, True)
    service["spec"]["predictor"]["model"]["storageUri"] = "s3://models/1"
    works, seen = service_seen(read_status(service, {}, 1))
    assert (works, "RevisionMissing" in seen) == (False, True)


def test_the_command_line_ends_with_1_where_something_is_broken(home: Path) -> None:
    runner, app = CliRunner(), Typer()
    register(app)
    app.callback()(lambda: None)
    good = runner.invoke(app, ["doctor", "--home", str(home)])
    assert (good.exit_code, "broken" in good.stdout) == (0, False), good.stdout
    bad = runner.invoke(app, ["doctor", "--home", str(home), "--monitor", "http://127.0.0.1:1", "--json"])
    assert bad.exit_code == 1
    (broken,) = [finding for finding in json.loads(bad.stdout) if finding["works"] is False]
    assert broken["arrow"] == "→ monitor"
