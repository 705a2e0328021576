"""The monitor's process with real databases: what it acknowledged is stored, what is wrong is refused and counted."""

import json
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from sqlalchemy import func, select

from serving.state import State, open_state
from serving.state.events import text_hash
from serving.state.tables import Answer, Correction, Event
from serving.state.tables import Sketch as SketchRow
from tests.conftest import running_postgres
from tests.serving.monitoring import TOKEN, Monitor, headers, request, response, running_monitor

pytestmark = pytest.mark.slow
QUICK = ("monitor.refresh_seconds=0.2", "monitor.answer_seconds=1")
BEARER = {"Authorization": f"Bearer {TOKEN}"}


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "postgresql":
        make: Callable[[], str] = request.getfixturevalue("postgres")
        return make()
    return f"sqlite:///{tmp_path}/state.db"


@pytest.fixture
def state(url: str) -> Iterator[State]:
    opened = open_state(url, upgrade=True)
    yield opened
    opened.close()


@pytest.fixture
def nomenclature(tmp_path: Path) -> str:
    file = tmp_path / "nomenclature.csv"
    file.write_text("code,text\n851830,Headphones\n851840,Amplifiers\n610910,T-shirts\n")
    return f"nomenclature.path={file}"


def metric(monitor: Monitor, name: str, **labels: str) -> float | None:
    text = httpx.get(f"{monitor.url}/metrics").raise_for_status().text
    for line in text.splitlines():
        found = re.fullmatch(rf"{name}(?:\{{(.*)\}})? (\S+)", line)
        if found and all(f'{key}="{value}"' in (found[1] or "") for key, value in labels.items()):
            return float(found[2])
    return None


def until(what: str, done: Callable[[], Any], seconds: float = 30) -> Any:
    ends = time.monotonic() + seconds
    while not (found := done()):
        assert time.monotonic() < ends, f"not reached in time: {what}"
        time.sleep(0.05)
    return found


def test_pairs_in_any_order_are_stored_counted_and_told(url: str, state: State) -> None:
    with running_monitor(url, *QUICK) as monitor, httpx.Client(base_url=monitor.url) as client:
        until("the database", lambda: client.get("/readyz").status_code == 200)
        assert client.post("/", **request("a", "steel bolt 2024-118833", "cotton shirt")).status_code == 202
        assert client.post("/", **response("a", "731815", "610910")).status_code == 202
        assert client.post("/events", **response("late", "851830", version="2")).status_code == 202
        assert client.post("/", **request("late", "headphones", version="2")).status_code == 202
        assert client.post("/", **request("never", "no answer comes")).status_code == 202
        broken = {"headers": headers("wrong", "org.kubeflow.serving.inference.request"), "content": b"{broken"}
        assert client.post("/", **broken).status_code == 202
        for again in (request("a", "other"), response("a", "851840"), request("late", "other")):
            assert client.post("/", **again).status_code == 202
        assert client.post("/", headers=headers("probe", "org.kubeflow.serving.inference.request")).status_code == 204
        until("the error", lambda: metric(monitor, "hs_requests_total", version="1", status="error"))
        counted = [
            ("hs_events_total", {"outcome": "stored"}, 6),
            ("hs_events_total", {"outcome": "duplicate"}, 3),
            ("hs_events_total", {"outcome": "ignored"}, 1),
            ("hs_requests_total", {"version": "1", "status": "ok"}, 1),
            ("hs_requests_total", {"version": "1", "status": "client_error"}, 1),
            ("hs_requests_total", {"version": "1", "status": "error"}, 1),
            ("hs_requests_total", {"version": "2", "status": "ok"}, 1),
            ("hs_answers_total", {"version": "1", "status": "answered"}, 2),
            ("hs_request_latency_seconds_count", {"version": "1"}, 1),
        ]
        for name, labels, value in counted:
            assert metric(monitor, name, **labels) == value, (name, labels)
        assert metric(monitor, "hs_confidence_ratio", version="1") == pytest.approx(0.9)
    with state.read() as session:
        rows = {row.ce_id: row for row in session.scalars(select(Event))}
        assert sorted(rows) == ["a", "late", "never", "wrong"]
        assert rows["a"].texts == ["steel bolt <number>", "cotton shirt"]
        assert rows["a"].text_hashes == [text_hash("steel bolt 2024-118833"), text_hash("cotton shirt")]
        assert rows["never"].unanswered
        assert not rows["a"].unanswered
        assert session.scalars(select(Answer.code).order_by(Answer.code)).all() == ["610910", "731815", "851830"]
        sketches = [row.counts for row in session.scalars(select(SketchRow).where(SketchRow.version == "1"))]
        assert sum(counts["requests"] for counts in sketches) == 3
        assert sum(counts.get("texts", 0) for counts in sketches) == 3


@pytest.mark.parametrize("point", ["monitor-before-commit:3", "monitor-after-commit:3", "kill"])
def test_after_kill_9_all_that_was_acknowledged_is_stored(url: str, state: State, point: str) -> None:
    acknowledged: set[str] = set()
    stopped = threading.Event()
    crash = {} if point == "kill" else {"HSCODE_CRASH_AT": point}
    with running_monitor(url, *QUICK, environment=crash) as monitor:

        def send(number: int) -> None:
            with httpx.Client(base_url=monitor.url, timeout=10) as client:
                for i in range(100_000):
                    ce_id = f"{number}-{i}"
                    try:
                        asked = client.post("/", **request(ce_id, f"text {i}")).status_code
                        told = client.post("/", **response(ce_id, "851830")).status_code
                    except httpx.HTTPError:
                        return
                    if (asked, told) == (202, 202):
                        acknowledged.add(ce_id)
                    if stopped.is_set():
                        return

        with ThreadPoolExecutor(8) as pool:
            done = [pool.submit(send, number) for number in range(8)]
            if point == "kill":
                until("some events", lambda: len(acknowledged) > 200)
                monitor.kill()
            else:
                until("its death", lambda: monitor.process.poll() is not None)
            stopped.set()
            for one in done:
                one.result()
    with state.read() as session:
        pairs = select(Event.ce_id).where(Event.request_at.is_not(None), Event.response_at.is_not(None))
        stored = set(session.scalars(pairs))
        texts = sum(row.counts.get("texts", 0) for row in session.scalars(select(SketchRow)))
        requests = session.scalar(select(func.count()).where(Event.request_at.is_not(None)))
    assert acknowledged <= stored
    assert texts == requests
    if point == "kill":
        assert len(acknowledged) > 200


def test_two_replicas_on_one_postgresql_count_a_doubled_stream_once(postgres: Callable[[], str]) -> None:
    url = postgres()
    state = open_state(url, upgrade=True)
    with running_monitor(url, *QUICK) as first, running_monitor(url, *QUICK) as second:

        def send(number: int) -> None:
            with httpx.Client(timeout=30) as client:
                for i in range(100):
                    monitor = (first, second)[(number + i) % 2]
                    for event in (response(f"e{i}", "851830"), request(f"e{i}", f"text {i}")):
                        assert client.post(monitor.url, **event).status_code == 202

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(send, range(4)))
        stored = [metric(monitor, "hs_events_total", outcome="stored") or 0 for monitor in (first, second)]
        oks = [metric(monitor, "hs_requests_total", version="1", status="ok") or 0 for monitor in (first, second)]
    with state.read() as session:
        sketches = [row.counts for row in session.scalars(select(SketchRow))]
        answers = session.scalar(select(func.count()).select_from(Answer))
    state.close()
    assert (sum(stored), sum(oks), answers) == (200, 100, 100)
    assert [sum(counts.get(name, 0) for counts in sketches) for name in ("texts", "answers")] == [100, 100]


BAD = [
    ({"headers": {"content-type": "application/json"}, "content": b"{}"}, 400, "malformed"),
    ({"headers": headers("x", "other.type")}, 400, "malformed"),
    (request("x" * 201, "text"), 400, "malformed"),
    (request("x", "text", **{"ce-time": "yesterday"}), 400, "malformed"),
    (request("x", "text", **{"ce-time": (datetime.now(UTC) + timedelta(hours=1)).isoformat()}), 400, "future"),
    (request("x", "text", **{"ce-time": "1999-01-01T00:00:00Z"}), 400, "old"),
    (request("x", "text", **{"ce-annotations": "no json"}), 400, "malformed"),
    (request("x", "text", **{"ce-annotations": json.dumps({"hscode/version": "1; DROP TABLE"})}), 400, "malformed"),
    (request("x", "text", **{"ce-inferenceservicename": ""}), 400, "malformed"),
    (response("x", "85183O"), 400, "malformed"),
    (response("x", "8518301234"), 400, "malformed"),
    (response("x", "851830", confidence=7.0), 400, "malformed"),
    (
        {"headers": headers("x", "org.kubeflow.serving.inference.request"), "content": b"x" * 10_000_000},
        413,
        "too_large",
    ),
]


def test_what_is_wrong_is_refused_in_one_line_counted_and_not_stored_half(url: str, state: State) -> None:
    with running_monitor(url, *QUICK) as monitor:
        expected: dict[str, int] = {}
        for event, status, outcome in BAD:
            answer = httpx.post(monitor.url, **event)
            assert answer.status_code == status, answer.text
            assert "\n" not in answer.json()["error"]
            expected[outcome] = expected.get(outcome, 0) + 1
        chunked = httpx.post(
            monitor.url,
            headers=headers("x", "org.kubeflow.serving.inference.request"),
            content=iter([b"x" * 1_000_000] * 10),
        )
        assert chunked.status_code == 413
        for outcome, count in expected.items():
            assert metric(monitor, "hs_events_total", outcome=outcome) == count + (outcome == "too_large")
        assert httpx.get(f"{monitor.url}/other").status_code == 404
    with state.read() as session:
        assert session.scalar(select(func.count()).select_from(Event)) == 0


def test_hostile_texts_are_stored_as_text(url: str, state: State) -> None:
    texts = ["'); DROP TABLE events; --", "nul \0 within", "\N{PILE OF POO} snow", "a" * 2000, ""]
    with running_monitor(url, "monitor.texts=keep") as monitor:
        assert httpx.post(monitor.url, **request("sql' OR 1=1 --", *texts)).status_code == 202
        lone = {"headers": headers("lone", "org.kubeflow.serving.inference.request")}
        assert httpx.post(monitor.url, content=b'{"instances": ["\\ud800"]}', **lone).status_code == 202
    with state.read() as session:
        rows = {row.ce_id: row for row in session.scalars(select(Event))}
    assert rows["sql' OR 1=1 --"].texts == [text.replace("\0", "\ufffd") for text in texts]
    assert rows["lone"].client_error


def test_without_its_database_it_says_so_and_holds_little(postgres_server: Path, postgres: Callable[[], str]) -> None:
    """A database that is there, is taken away, and comes back (a role that may not log in meanwhile)."""
    import psycopg

    url = postgres()
    open_state(url, upgrade=True).close()
    name = url.split("@/")[1].split("?")[0]

    def admin(statement: str) -> None:
        with psycopg.connect(
            host=str(postgres_server), user="hscode", dbname="postgres", autocommit=True
        ) as connection:
            connection.execute(statement)  # type: ignore[arg-type]

    limits = ("monitor.queue_bytes=1000000", "monitor.queue_events=100", "monitor.commit_seconds=2")
    with running_monitor(url, *QUICK, *limits) as monitor:
        process = psutil.Process(monitor.process.pid)
        assert httpx.post(monitor.url, **request("before", "text")).status_code == 202
        before = process.memory_info().rss
        admin(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
        admin(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'")
        big = "x" * 1900
        with ThreadPoolExecutor(16) as pool, httpx.Client(timeout=30) as client:
            answers = list(
                pool.map(lambda i: client.post(monitor.url, **request(f"gone-{i}", *[f"{big}{i}"] * 50)), range(400))
            )
        assert {answer.status_code for answer in answers} == {503}
        assert all(answer.headers["retry-after"] for answer in answers)
        assert any("the database does not answer" in answer.json()["error"] for answer in answers)
        assert httpx.get(f"{monitor.url}/healthz").status_code == 200
        assert "does not answer" in until(
            "not ready", lambda: (r := httpx.get(f"{monitor.url}/readyz")).status_code == 503 and r.text
        )
        # 400 bodies of 100 kB came; a megabyte of them may be held at a time.
        assert process.memory_info().rss - before < 30e6
        admin(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")
        assert until("again", lambda: httpx.post(monitor.url, **request("after", "text")).status_code == 202)
    state = open_state(url)
    with state.read() as session:
        stored = set(session.scalars(select(Event.ce_id)))
    state.close()
    assert {"before", "after"} <= stored


def test_its_database_becomes_a_standby_and_is_one_no_more() -> None:
    import psycopg

    with running_postgres() as folder:
        url = f"postgresql+psycopg://hscode@/postgres?host={folder}"
        open_state(url, upgrade=True).close()

        def read_only(value: str) -> None:
            writes = "-c default_transaction_read_only=off"
            with psycopg.connect(
                host=str(folder), user="hscode", dbname="postgres", autocommit=True, options=writes
            ) as connection:
                connection.execute(f"ALTER SYSTEM SET default_transaction_read_only = {value}")  # type: ignore[arg-type]
                connection.execute("SELECT pg_reload_conf()")

        with running_monitor(url, *QUICK) as monitor:
            assert httpx.post(monitor.url, **request("before", "text")).status_code == 202
            read_only("on")
            until("refused", lambda: httpx.post(monitor.url, **request("x", "text"), timeout=20).status_code == 503)
            answer = httpx.post(monitor.url, **request("meanwhile", "text"), timeout=20)
            assert answer.status_code == 503
            assert "the database does not answer" in answer.json()["error"]
            read_only("off")
            until("taken", lambda: httpx.post(monitor.url, **request("after", "text"), timeout=20).status_code == 202)


def test_it_starts_before_its_database(tmp_path: Path) -> None:
    with running_monitor(f"postgresql+psycopg://u@/x?host={tmp_path}") as monitor:
        answer = httpx.post(monitor.url, **request("a", "text"), timeout=20)
        assert answer.status_code == 503
        assert "the database does not answer" in answer.json()["error"]
        assert httpx.get(f"{monitor.url}/healthz").status_code == 200


def test_a_locked_database_is_slow_not_lost(tmp_path: Path) -> None:
    import sqlite3

    url = f"sqlite:///{tmp_path}/state.db"
    open_state(url).close()
    with running_monitor(url, "monitor.commit_seconds=2") as monitor:
        assert httpx.post(monitor.url, **request("a", "text")).status_code == 202
        other = sqlite3.connect(tmp_path / "state.db", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        answer = httpx.post(monitor.url, **request("b", "text"), timeout=20)
        assert answer.status_code == 503
        assert "did not commit within" in answer.json()["error"]
        other.execute("ROLLBACK")
        # Sent again as told: stored once, whether the first one came through or not.
        until("again", lambda: httpx.post(monitor.url, **request("b", "text"), timeout=20).status_code == 202)
    state = open_state(url)
    with state.read() as session:
        assert session.scalar(select(func.count()).select_from(Event)) == 2
    state.close()


def test_corrections_count_at_once_and_can_be_withdrawn(url: str, state: State, nomenclature: str) -> None:
    with running_monitor(url, *QUICK, nomenclature) as monitor, httpx.Client(base_url=monitor.url) as client:
        client.post("/", **request("a", "wireless headphones", "cotton shirt"))
        client.post("/", **response("a", "851840", "610910"))
        right = {"answer": "a", "position": 1, "code": "6109.10", "who": "an expert", "why": "confirmed"}
        made = client.post("/corrections", json=right, headers=BEARER)
        assert (made.status_code, made.json()["recorded"]) == (201, 1)
        event = {"ce-id": "c1", "ce-type": "hs.correction.v1", "ce-source": "/desk", "ce-specversion": "1.0"}
        wrong = {"description": "Wireless  HEADPHONES", "code": "851830", "who": "an expert"}
        for status in (201, 200):
            sent = client.post("/corrections", json=wrong, headers={**BEARER, **event})
            assert (sent.status_code, sent.json()["id"]) == (status, "c1")
        until("accuracy", lambda: metric(monitor, "hs_accuracy_ratio", version="1", level="6") == 0.5)
        assert metric(monitor, "hs_accuracy_ratio", version="1", level="2") == 1.0
        assert 0.9 < (metric(monitor, "hs_accuracy_upper_ratio", version="1", level="6") or 0) < 1
        assert metric(monitor, "hs_corrections_total", version="1", outcome="recorded") == 2
        assert metric(monitor, "hs_corrections_total", outcome="duplicate") == 1
        assert client.delete("/corrections/c1", headers=BEARER).status_code == 400
        gone = client.delete("/corrections/c1", params={"who": "an expert"}, headers=BEARER)
        assert gone.json()["withdrawn_by"] == "an expert"
        until("without it", lambda: metric(monitor, "hs_accuracy_ratio", version="1", level="6") == 1.0)
    with state.read() as session:
        assert session.scalar(select(func.count()).select_from(Correction)) == 2


def test_bad_corrections_and_tokens_are_refused_whole(url: str, state: State, nomenclature: str) -> None:
    good = {"description": "headphones", "code": "851830", "who": "an expert"}
    with running_monitor(url, *QUICK, nomenclature) as monitor, httpx.Client(base_url=monitor.url) as client:
        until("the database", lambda: client.get("/readyz").status_code == 200)
        for authorization in ("", "Bearer", "Bearer wrong", f"Basic {TOKEN}", f"Bearer {TOKEN}x"):
            for answer in (
                client.post("/corrections", json=good, headers={"Authorization": authorization}),
                client.delete("/corrections/x?who=y", headers={"Authorization": authorization}),
            ):
                assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
        bad: list[tuple[Any, str]] = [
            ({**good, "code": "999999"}, "does not exist in edition HS2022"),
            ({**good, "code": 851830}, "must be a string"),
            ({**good, "edition": "HS2017"}, "edition HS2017 are not taken"),
            ({**good, "who": ""}, '"who" is missing'),
            ({"code": "851830", "who": "x"}, "neither"),
            ({**good, "extra": 1}, "unknown field 'extra'"),
            ({**good, "said_at": "2999-01-01T00:00:00Z"}, "future"),
            ({**good, "description": "a\0b"}, "no text"),
            ({"answer": "unknown", "code": "851830", "who": "x"}, "no answer 0 of 'unknown' is stored"),
            ([good, {**good, "code": "000000"}], "corrections[1]"),
            ([], "0 corrections"),
            ("text", "a JSON object"),
        ]
        for body, says in bad:
            answer = client.post("/corrections", json=body, headers=BEARER)
            assert answer.status_code == 400
            assert says in answer.json()["error"]
        assert client.post("/corrections", content=b"{", headers=BEARER).status_code == 400
        assert client.post("/corrections", content=b"x" * 10_000_000, headers=BEARER).status_code == 413
        event = {"ce-id": "c", "ce-type": "other", "ce-source": "/", "ce-specversion": "1.0"}
        assert client.post("/corrections", json=good, headers={**BEARER, **event}).status_code == 400
        assert client.delete("/corrections/none?who=x", headers=BEARER).status_code == 404
        structured = {**BEARER, "content-type": "application/cloudevents+json"}
        envelope = {"specversion": "1.0", "id": "e", "source": "/", "type": "hs.correction.v1", "data": good}
        for change, says in (
            ({"id": "a\0b"}, '"id" holds characters that are no text'),
            ({"id": "a\ud800"}, '"id" holds characters that are no text'),
            ({"id": "x" * 201}, '"id" has 201 characters'),
            ({"time": "yesterday"}, "\"time\" 'yesterday' is no time"),
            ({"time": "0001-01-01T00:00:00+14:00"}, "is no time"),
        ):
            answer = client.post("/corrections", content=json.dumps({**envelope, **change}), headers=structured)
            assert (answer.status_code, says in answer.text.replace('\\"', '"')) == (400, True), answer.text
        answer = client.delete("/corrections/%00?who=x", headers=BEARER)
        assert (answer.status_code, answer.json()["error"]) == (400, "'\\x00' is no correction's id")
        assert client.get("/readyz").status_code == 200
        hostile = {**good, "description": "'); DROP TABLE corrections; --", "why": "' OR 1=1"}
        assert client.post("/corrections", json=hostile, headers=BEARER).status_code == 201
        assert (metric(monitor, "hs_corrections_total", outcome="refused") or 0) >= len(bad) + 10
    with state.read() as session:
        assert session.scalars(select(Correction.description)).all() == ["'); DROP TABLE corrections; --"]


def test_wrong_settings_end_it_with_one_line(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "serving.control.monitor"]
    for more, says in (
        ([], "setting state.url is missing"),
        (["--home", str(tmp_path), "--set", f"monitor.token_file={tmp_path}/none"], "cannot read the bearer token"),
    ):
        done = subprocess.run([*command, *more], capture_output=True, text=True, timeout=60)
        assert (done.returncode, len(done.stderr.strip().splitlines())) == (2, 1)
        assert says in done.stderr
