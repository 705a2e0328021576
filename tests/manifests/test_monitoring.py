"""manifests/monitoring: rules by promtool, routes by amtool, and every metric asked for is one that something tells."""

import json
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
import yaml
from prometheus_client import CollectorRegistry

from config.settings import Monitor
from serving.control.canary.metrics import Collector as CanaryCollector
from serving.control.monitor.counters import Counters
from serving.control.monitor.versions import Versions
from serving.control.monitor.watch import Watch
from serving.control.monitor.writer import Database
from serving.control.trigger.metrics import Collector as TriggerCollector
from serving.state import open_state
from tests.conftest import missing

FOLDER = Path(__file__).resolve().parents[2] / "manifests" / "monitoring"
RULE_TESTS = ("rules_test.yaml", "rules_week_test.yaml")
LABELS = {"service", "version", "level", "status", "feature", "window"}
OURS = {"hs_canary_finished": {"state"}, "hs_trigger": {"source", "decision"}, "hs_events": {"outcome"}}
OURS |= {"hs_corrections": {"outcome"}, "hs_request_latency_seconds_bucket": {"le"}}
GIVEN_BY_PROMETHEUS = {"ALERTS": {"alertname", "alertstate"}, "process_cpu_seconds_total": {"job"}}


def tool(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        missing(f"{name} is not installed (Debian: prometheus, prometheus-alertmanager)")
    return found or ""


def checked(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, cwd=FOLDER)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_rules_are_valid_and_do_what_their_tests_say() -> None:
    promtool = tool("promtool")
    checked(promtool, "check", "rules", "--lint=all", "--lint-fatal", "rules.yaml")
    checked(promtool, "test", "rules", *RULE_TESTS)


def test_every_alert_has_a_test_in_which_it_fires() -> None:
    fired = {
        case["alertname"]
        for file in RULE_TESTS
        for test in yaml.safe_load((FOLDER / file).read_text())["tests"]
        for case in test["alert_rule_test"]
        if case["exp_alerts"]
    }
    assert fired == {rule["alert"] for rule in rules() if "alert" in rule}


def test_alertmanager_takes_its_configuration_and_routes_by_action() -> None:
    amtool = tool("amtool")
    checked(amtool, "check-config", "alertmanager.yaml")
    for labels, receivers in (("action=retrain", "trigger,people"), ("action=look", "people"), ("", "people")):
        command = [amtool, "config", "routes", "test", "--config.file=alertmanager.yaml", labels or "a=b"]
        assert checked(*command).strip() == receivers


def test_alerts_say_who_acts_and_retrain_only_where_that_helps() -> None:
    actions = {rule["alert"]: rule["labels"]["action"] for rule in rules() if "alert" in rule}
    assert {name for name, action in actions.items() if action == "retrain"} == {
        "HscodeDriftSustained", "HscodeAccuracyBelowFloor", "HscodeModelOld",
    }  # fmt: skip
    assert set(actions.values()) == {"retrain", "look"}


def rules() -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load((FOLDER / "rules.yaml").read_text())["groups"] for rule in group["rules"]]


def dashboard() -> dict[str, Any]:
    return dict(json.loads((FOLDER / "dashboard.json").read_text()))


def queries() -> dict[str, str]:
    """Every query of the dashboard and of the rules, by where it is."""
    panels = {
        f"panel {panel['title']!r} {target['refId']}": target["expr"]
        for panel in dashboard()["panels"]
        for target in panel.get("targets", ())
    }
    noted = {f"annotation {one['name']}": one["expr"] for one in dashboard()["annotations"]["list"]}
    ruled = {f"rule {rule.get('alert') or rule['record']} {i}": rule["expr"] for i, rule in enumerate(rules())}
    return panels | noted | ruled


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Iterator[set[str]]:
    """Names of all series that monitor, canary controller, trigger and predictor tell, with values or without."""
    from serving.predictor import metrics as predictor

    folder = tmp_path_factory.mktemp("told")
    state = open_state(f"sqlite:///{folder}/state.db")
    settings = Monitor()
    counters = Counters(settings.versions)
    Watch(Database(lambda: state), settings, counters, Versions(_settings(), folder))
    others = CollectorRegistry()
    service: Any = SimpleNamespace(state=state, namespace=None, leading=True)
    others.register(CanaryCollector(service))
    others.register(TriggerCollector(service))
    families = [*counters.registry.collect(), *others.collect()]
    families += [one for each in (predictor.REQUESTS, predictor.SECONDS, predictor.ANSWERS) for one in each.collect()]
    ends = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count")}
    yield {family.name + end for family in families for end in ends.get(family.type, ("",))}
    state.close()


def _settings() -> Any:
    from config.settings import Settings

    return Settings()


def test_every_metric_asked_for_exists(told: set[str]) -> None:
    recorded = {rule["record"] for rule in rules() if "record" in rule}
    assert "hs_drift_lower_ratio" in told
    assert len(queries()) > 40
    for where, expression in queries().items():
        bare = re.sub(r'"[^"]*"', '""', expression)
        asked = set(re.findall(r"\b(?:hs_\w+|hs:[\w:]+|process_\w+|ALERTS)\b", bare))
        assert asked, where
        assert asked <= told | recorded | set(GIVEN_BY_PROMETHEUS), (where, asked - told - recorded)


def test_every_label_asked_for_exists() -> None:
    for where, expression in queries().items():
        for name, matchers in re.findall(r"(\w+)\{([^}]*)\}", expression):
            known = LABELS | GIVEN_BY_PROMETHEUS.get(name, set())
            known |= {label for start, more in OURS.items() if name.startswith(start) for label in more}
            assert set(re.findall(r"(\w+)\s*=", matchers)) <= known, where
        grouped = [part for found in re.findall(r"\bby \(([^)]*)\)", expression) for part in found.split(", ")]
        allowed = LABELS | {"state", "source", "decision", "outcome", "le", "job", "alertname"}
        assert set(grouped) <= allowed, where


def test_the_dashboard_shows_what_it_must() -> None:
    shown = json.dumps(dashboard())
    for name in (
        "hs_canary_percent",
        "hs_requests_total",
        "hs_drift_lower_ratio",
        "hs_canary_finished_total",
        "hs_runs",
    ):
        assert name in shown
    rows = [panel["title"] for panel in dashboard()["panels"] if panel["type"] == "row"]
    assert rows == ["Champion and challenger", "Traffic", "Drift and quality", "Verdicts and runs", "Cost"]
    places = [tuple(panel["gridPos"].values()) for panel in dashboard()["panels"]]
    assert len(set(places)) == len(places)


@pytest.mark.slow
def test_a_real_prometheus_scrapes_the_monitor_and_answers_every_query(tmp_path: Path) -> None:
    from tests.serving.monitoring import request, response, running_monitor

    prometheus = tool("prometheus")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with running_monitor(f"sqlite:///{tmp_path}/state.db", "monitor.refresh_seconds=0.2") as monitor:
        for event in (request("a", "headphones"), response("a", "851830")):
            assert httpx.post(monitor.url, **event).status_code == 202
        config = {
            "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
            "rule_files": [str(FOLDER / "rules.yaml")],
            "scrape_configs": [
                {"job_name": "hscode-monitor", "static_configs": [{"targets": [monitor.url.removeprefix("http://")]}]}
            ],
        }
        (tmp_path / "prometheus.yml").write_text(yaml.safe_dump(config))
        command = [prometheus, f"--config.file={tmp_path}/prometheus.yml", f"--storage.tsdb.path={tmp_path}/tsdb"]
        with open(tmp_path / "log", "wb") as log:
            process = subprocess.Popen([*command, f"--web.listen-address=127.0.0.1:{port}"], stdout=log, stderr=log)
        try:
            with httpx.Client(base_url=f"http://127.0.0.1:{port}") as client:

                def ask(expression: str) -> list[Any]:
                    answer = client.get("/api/v1/query", params={"query": expression.replace("$cpu_hour", "0.035")})
                    assert answer.json()["status"] == "success", (expression, answer.text)
                    return list(answer.json()["data"]["result"])

                ends = time.monotonic() + 50
                found: list[Any] = []
                while not found:
                    assert process.poll() is None, (tmp_path / "log").read_text()
                    assert time.monotonic() < ends, "Prometheus told nothing of the monitor"
                    try:
                        found = ask('hs_requests_total{version="1", status="ok"} == 1')
                    except (httpx.TransportError, ValueError):  # not listening, or "Service Unavailable"
                        time.sleep(0.1)
                assert found[0]["metric"]["job"] == "hscode-monitor"
                for expression in queries().values():
                    ask(expression)
                assert ask("hs_confidence_ratio")[0]["value"][1] == "0.9"
        finally:
            process.terminate()
            process.wait(30)
