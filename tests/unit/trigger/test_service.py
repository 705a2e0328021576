"""The trigger's HTTP side: who may, how much, what is answered, and that what is answered is stored."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import func, select
from starlette.testclient import TestClient

from config.settings import Trigger
from models.errors import UserError
from serving.control.trigger.service import TOKEN_VARIABLE, application, token_of
from serving.control.trigger.submitter import Submitter
from serving.state import SqlLease, State, open_state
from serving.state.tables import TriggerDecision
from tests.serving.trigger_world import alert
from tests.unit.trigger.test_submitter import Memory

TOKEN = "correct horse"
AUTHORISED = {"Authorization": f"Bearer {TOKEN}"}


@pytest.fixture
def state(tmp_path: Path) -> Iterator[State]:
    opened = open_state(f"sqlite:///{tmp_path}/state.db")
    yield opened
    opened.close()


@pytest.fixture
def client(state: State) -> TestClient:
    settings = Trigger(body_bytes=2000, data_prefixes=("s3://lake/",))
    return TestClient(application(Submitter(state, Memory(), SqlLease(state, "trigger"), settings), TOKEN))


def stored(state: State) -> int:
    with state.read() as session:
        return session.scalar(select(func.count()).select_from(TriggerDecision)) or 0


@pytest.mark.parametrize("path", ["/alerts", "/events", "/fire"])
@pytest.mark.parametrize("header", [None, "Bearer wrong", "Bearer", f"Basic {TOKEN}", "Bearer caf\xe9"])
def test_without_the_token_nothing_is_read(client: TestClient, state: State, path: str, header: str | None) -> None:
    headers = {} if header is None else {"Authorization": header.encode("latin-1")}
    got = client.post(path, json=alert(), headers=headers)
    assert got.status_code == 401
    assert got.headers["www-authenticate"] == "Bearer"
    assert stored(state) == 0


def test_alerts_are_stored_once_and_answered_each_time(client: TestClient, state: State) -> None:
    body = alert()
    body["alerts"].append(body["alerts"][0] | {"fingerprint": "cd"})
    assert client.post("/alerts", json=body, headers=AUTHORISED).json() == {"accepted": 2, "known": 0}
    assert client.post("/alerts", json=body, headers=AUTHORISED).json() == {"accepted": 0, "known": 2}
    assert client.post("/alerts", json=alert(status="resolved"), headers=AUTHORISED).status_code == 200
    assert stored(state) == 2


def test_one_bad_alert_and_nothing_of_the_body_is_stored(client: TestClient, state: State) -> None:
    body = alert()
    body["alerts"].append(body["alerts"][0] | {"startsAt": "2999-01-01T00:00:00Z"})
    got = client.post("/alerts", json=body, headers=AUTHORISED)
    assert got.status_code == 400
    assert got.json()["error"].startswith("alerts[1].startsAt lies in the future")
    assert stored(state) == 0


def test_large_bodies_are_refused_whether_announced_or_not(client: TestClient, state: State) -> None:
    for content in (b"x" * 2001, iter([b"x" * 1500, b"x" * 1500])):
        got = client.post("/fire", content=content, headers=AUTHORISED)
        assert got.status_code == 413
        assert "2000 bytes" in got.json()["error"]
    assert stored(state) == 0


def test_events_and_people(client: TestClient, state: State) -> None:
    event = {
        "specversion": "1.0", "id": "1", "source": "lake", "type": "hs.data.arrived.v1",
        "data": {"address": "s3://lake/new.csv"},
    }  # fmt: skip
    headers = AUTHORISED | {"Content-Type": "application/cloudevents+json"}
    assert client.post("/events", json=event, headers=headers).json() == {"accepted": 1, "known": 0}
    wish = {"who": "duty", "why": "'; DROP TABLE runs; --", "id": "7"}
    assert client.post("/fire", json=wish, headers=AUTHORISED).json() == {"accepted": 1, "known": 0}
    assert client.post("/fire", json=wish, headers=AUTHORISED).json() == {"accepted": 0, "known": 1}
    assert stored(state) == 2


def test_without_a_database_503_and_the_sender_sends_again(client: TestClient, state: State) -> None:
    with state.engine.begin() as connection:
        connection.exec_driver_sql("DROP TABLE trigger_decisions")
    got = client.post("/alerts", json=alert(), headers=AUTHORISED)
    assert got.status_code == 503
    assert "send it again" in got.json()["error"]
    assert client.get("/metrics").status_code == 503


def test_metrics_and_probes_need_no_token(client: TestClient) -> None:
    client.post("/alerts", json=alert(), headers=AUTHORISED)
    client.post("/alerts", json={}, headers=AUTHORISED)
    client.post("/alerts", json={})
    text = client.get("/metrics").text
    for line in (
        'hs_trigger_requests_total{status="accepted"} 1.0',
        'hs_trigger_requests_total{status="client_error"} 1.0',
        'hs_trigger_requests_total{status="unauthorised"} 1.0',
        'hs_trigger_waiting{source="alertmanager"} 1.0',
        'hs_runs{status="running"} 0.0',
    ):
        assert line in text
    assert client.get("/healthz").status_code == client.get("/readyz").status_code == 200
    assert client.get("/alerts").status_code == 405
    assert client.get("/nothing").status_code == 404


def test_where_the_token_comes_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(TOKEN_VARIABLE, raising=False)
    with pytest.raises(UserError, match="no bearer token"):
        token_of(Trigger(), None)
    made = token_of(Trigger(), tmp_path)
    assert made == token_of(Trigger(), tmp_path) == (tmp_path / "trigger.token").read_text()
    assert (tmp_path / "trigger.token").stat().st_mode & 0o777 == 0o600
    monkeypatch.setenv(TOKEN_VARIABLE, " of the environment\n")
    assert token_of(Trigger(), tmp_path) == "of the environment"
    file = tmp_path / "given"
    file.write_text("of the file\n")
    assert token_of(Trigger(token_file=str(file)), None) == "of the file"
    file.write_text(" \n")
    with pytest.raises(UserError, match="empty"):
        token_of(Trigger(token_file=str(file)), None)
    with pytest.raises(UserError, match="cannot read"):
        token_of(Trigger(token_file=str(tmp_path / "none")), None)
