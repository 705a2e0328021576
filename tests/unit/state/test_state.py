"""The schema, its migrations and the lease, on SQLite and on a real PostgreSQL."""

import subprocess
import sys
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
from sqlalchemy import func, inspect, select, text
from sqlalchemy.exc import IntegrityError, OperationalError
from sqlalchemy.orm.exc import StaleDataError

from models.errors import UserError
from serving.state import SqlLease, State, open_state
from serving.state.database import MIGRATIONS, migrate, schema_difference
from serving.state.events import Given, Request, Response, store_events, text_hash
from serving.state.tables import Answer, Base, Canary, Event

NOW = datetime(2025, 1, 2, 3, 4, 5, 678901, UTC)


def canary(**changes: object) -> Canary:
    values: dict[str, object] = {
        "service": "hscode", "service_uid": "u", "model": "hscode", "champion_version": "1", "challenger_version": "2",
        "champion_uri": "s3://b/1", "challenger_uri": "s3://b/2", "policy": {}, "state": "starting", "percent": 0,
        "started_at": NOW, "deadline_at": NOW + timedelta(hours=1),
    }  # fmt: skip
    return Canary(**{**values, **changes})


def test_migrations_and_tables_agree(state: State) -> None:
    assert schema_difference(state.engine) == []
    assert set(inspect(state.engine).get_table_names()) == {*Base.metadata.tables, "alembic_version"}


def test_the_agreement_test_can_fail(state: State) -> None:
    with state.engine.begin() as connection:
        connection.execute(text("ALTER TABLE runs ADD COLUMN surplus INTEGER"))
    assert schema_difference(state.engine)


def test_sqlite_is_in_wal_with_full_sync_and_foreign_keys(tmp_path: Path) -> None:
    state = open_state(f"sqlite:///{tmp_path}/state.db")
    with state.engine.connect() as connection:
        found = [
            connection.execute(text(f"PRAGMA {name}")).scalar()
            for name in ("journal_mode", "synchronous", "foreign_keys")
        ]
    assert found == ["wal", 2, 1]


def test_postgresql_refuses_an_older_schema_and_says_what_to_run(postgres: Callable[[], str]) -> None:
    url = postgres()
    with pytest.raises(UserError, match=r"schema is missing.*hscode state migrate"):
        open_state(url)
    open_state(url, upgrade=True).close()
    open_state(url).close()


def test_a_server_that_became_a_standby_is_left(postgres: Callable[[], str]) -> None:
    state = open_state(postgres(), upgrade=True)
    with state.write() as session:
        session.execute(text("SET default_transaction_read_only = on"))  # Until this connection ends.
    with pytest.raises(OperationalError, match="read-only"), state.write() as session:
        session.add(canary())
    with state.write() as session:
        session.add(canary())
    state.close()


def test_a_standby_alone_is_one_line(postgres: Callable[[], str]) -> None:
    url = postgres()
    state = open_state(url, upgrade=True)
    with state.engine.connect() as connection:
        connection.execute(text(f"ALTER DATABASE {state.engine.url.database} SET default_transaction_read_only = on"))
        connection.commit()
    state.close()
    with pytest.raises(UserError, match=r"cannot reach the database \(.*read-only"):
        open_state(url)


def test_a_newer_schema_is_refused(url: str) -> None:
    state = open_state(url, upgrade=True)
    with state.engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    state.close()
    for upgrade in (True, False):
        with pytest.raises(UserError, match="9999 is newer than this program"):
            open_state(url, upgrade=upgrade)


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("mysql://root@host/x", "SQLite or PostgreSQL"),
        ("nonsense", "not a database address"),
        ("postgresql://u:secret@127.0.0.1:1/x", "cannot reach the database"),
    ],
)
def test_a_bad_address_is_one_line_without_the_password(url: str, says: str) -> None:
    with pytest.raises(UserError, match=says) as caught:
        open_state(url)
    assert "secret" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_eight_at_once_migrate_once(url: str) -> None:
    problems: list[Exception] = []

    def start() -> None:
        try:
            open_state(url, upgrade=True).close()
        except Exception as error:
            problems.append(error)

    threads = [threading.Thread(target=start) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert problems == []


def test_migrate_gives_the_newest_revision(url: str) -> None:
    state = open_state(url, upgrade=True)
    newest = sorted((MIGRATIONS / "versions").glob("0*.py"))[-1].name[:4]
    assert migrate(state.engine) == newest


def test_times_keep_their_moment_and_naive_ones_are_refused(state: State) -> None:
    east = NOW.astimezone(timezone(timedelta(hours=9)))
    with state.write() as session:
        session.add(canary(started_at=east))
    with state.read() as session:
        assert session.scalars(select(Canary.started_at)).one() == NOW
    with pytest.raises(Exception, match="naive datetime"), state.write() as session:
        session.add(canary(service="other", started_at=NOW.replace(tzinfo=None)))


def test_one_undecided_canary_a_service(state: State) -> None:
    with state.write() as session:
        session.add(canary(finished_at=NOW))
        session.add(canary())
        session.add(canary(service="other"))
    with pytest.raises(IntegrityError), state.write() as session:
        session.add(canary())


def test_of_two_writers_of_one_canary_the_later_fails(state: State) -> None:
    with state.write() as session:
        session.add(canary())
    with state.read() as first, state.read() as second:
        mine, other = first.scalars(select(Canary)).one(), second.scalars(select(Canary)).one()

    def step(row: Canary) -> None:
        with state.write() as session:
            session.add(row)
            row.percent = 5

    step(mine)
    with pytest.raises(StaleDataError):
        step(other)


def test_a_raised_write_leaves_nothing(state: State) -> None:
    def fail() -> None:
        with state.write() as session:
            session.add(canary())
            session.flush()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    with state.read() as session:
        assert session.scalar(select(func.count()).select_from(Canary)) == 0


def request(ce_id: str, **changes: object) -> Request:
    return Request(**{"ce_id": ce_id, "service": "hscode", "version": "1", "at": NOW, **changes})  # type: ignore[arg-type]


def response(ce_id: str, **changes: object) -> Response:
    late = NOW + timedelta(milliseconds=12)
    return Response(**{"ce_id": ce_id, "service": "hscode", "version": "1", "at": late, **changes})  # type: ignore[arg-type]


def test_pairs_are_made_in_either_order_and_duplicates_counted(state: State) -> None:
    hashes = [text_hash("Steel  BOLT"), text_hash("cotton shirt")]
    assert hashes[0] == text_hash("steel bolt")
    answers = (Given("answered", "731815", 0.9), Given("shortened", "6109", 0.6))
    first = store_events(state, [request("a", text_hashes=hashes, instances=2), request("a")], [response("b")])
    assert (first.requests, first.responses, first.duplicates, first.paired) == (1, 1, 1, 0)
    second = store_events(state, [request("b", text_hashes=["h"])], [response("a", answers=answers)])
    assert (second.requests, second.responses, second.duplicates, second.paired) == (1, 1, 0, 2)
    again = store_events(state, [request("a"), request("b")], [response("a", answers=answers)])
    assert (again.requests, again.responses, again.duplicates, again.paired) == (0, 0, 3, 0)
    with state.read() as session:
        events = session.scalars(select(Event).order_by(Event.ce_id)).all()
        rows = session.execute(select(Answer.position, Answer.code, Answer.text_hash).order_by(Answer.position)).all()
    assert [(event.ce_id, event.request_at, event.response_at) for event in events] == [
        ("a", NOW, NOW + timedelta(milliseconds=12)),
        ("b", NOW, NOW + timedelta(milliseconds=12)),
    ]
    assert [tuple(row) for row in rows] == [(0, "731815", hashes[0]), (1, "6109", hashes[1])]


def test_answers_of_a_response_that_came_first_learn_their_text(state: State) -> None:
    store_events(state, [], [response("a", answers=(Given("answered", "731815", 0.9),), version="")])
    store_events(state, [request("a", text_hashes=["h"], version="7", cold=True)], [])
    with state.read() as session:
        assert session.scalars(select(Answer.text_hash)).one() == "h"
        event = session.scalars(select(Event)).one()
    assert (event.version, event.cold) == ("7", True)


def test_many_storers_of_the_same_events_store_each_half_once(state: State) -> None:
    ids = [f"e{number}" for number in range(200)]
    totals: list[int] = []

    def store(offset: int) -> None:
        turned = ids[offset:] + ids[:offset]
        done = store_events(state, [request(name) for name in turned], [response(name) for name in reversed(turned)])
        totals.append(done.requests + done.responses)

    threads = [threading.Thread(target=store, args=(50 * number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(totals) == 400
    with state.read() as session:
        paired = select(func.count()).where(Event.request_at.is_not(None), Event.response_at.is_not(None))
        assert session.scalar(paired) == 200


def test_a_lease_has_one_holder_and_a_growing_token(state: State) -> None:
    first, second = SqlLease(state, "canary", 30), SqlLease(state, "canary", 30)
    assert first.hold()
    assert first.token == 1
    assert not second.hold()
    assert second.token is None
    assert first.hold()
    assert first.token == 1
    first.release()
    assert second.hold()
    assert second.token == 2
    assert not first.hold()
    second.release()
    first.release()


def test_a_lease_that_ran_out_is_taken(state: State) -> None:
    assert SqlLease(state, "canary", -1).hold()
    assert SqlLease(state, "canary", 30).hold()
    assert not SqlLease(state, "canary", 30).hold()


TRY_LEASE = """
import sys
from serving.state import SqlLease, open_state
state = open_state(sys.argv[1])
print("ready", flush=True)
sys.stdin.readline()
print(SqlLease(state, "race", 60).hold())
"""


@pytest.mark.slow
def test_of_six_processes_one_gets_the_lease(url: str) -> None:
    open_state(url, upgrade=True).close()
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", TRY_LEASE, url], text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        for _ in range(6)
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    won = [process.communicate(timeout=60)[0].strip() for process in processes]
    assert sorted(won) == ["False"] * 5 + ["True"]
