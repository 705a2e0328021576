"""Corrected answers by version: the figures, and how the database is asked for them."""

import random
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import select

from serving.control.monitor.windows import Corrected, _judged, corrected_answers
from serving.state import State, open_state
from serving.state.corrections import standing
from serving.state.events import Given, Request, Response, store_events, text_hash
from serving.state.tables import Answer, Correction, Event
from tests.unit.state.plans import plans_of

T0 = datetime(2026, 3, 1, tzinfo=UTC)
CODES = ("731815", "731816", "7318", "610910", "61", "610990")


@pytest.fixture(params=["sqlite", "postgresql"])
def state(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[State]:
    url = f"sqlite:///{tmp_path}/state.db"
    if request.param == "postgresql":
        make: Callable[[], str] = request.getfixturevalue("postgres")
        url = make()
    opened = open_state(url, upgrade=True)
    fill(opened)
    yield opened
    opened.close()


def fill(state: State, events: int = 400, corrections: int = 60) -> None:
    """Requests of two versions, some without texts; corrections of texts, of answers, and of both."""
    rng = random.Random(3)
    asked, told = [], []
    for number in range(events):
        said = [f"text {rng.randrange(50)}" for _ in range(rng.randint(1, 3))]
        hashes = [text_hash(text) for text in said] if rng.random() < 0.8 else None
        at, version = T0 + timedelta(seconds=number), rng.choice("12")
        statuses = [rng.choice(("answered", "shortened", "unsure")) for _ in said]
        answers = [Given(status, rng.choice(CODES), round(rng.random(), 3)) for status in statuses]
        asked.append(Request(f"e{number}", "hscode", at, "", version, len(said), text_hashes=hashes))
        told.append(Response(f"e{number}", "hscode", at, "", version, answers=answers))
    store_events(state, asked, told)
    with state.write() as session:
        for number in range(corrections):
            answer = f"e{rng.randrange(events)}" if rng.random() < 0.5 else None
            session.add(
                Correction(
                    ce_id=f"c{number}", answer_ce_id=answer, answer_position=rng.randrange(2) if answer else None,
                    text_hash=text_hash(f"text {rng.randrange(60)}"), code=rng.choice(CODES), edition="HS2022",
                    who=f"w{rng.randrange(3)}", said_at=T0, recorded_at=T0 + timedelta(days=number % 2),
                )
            )  # fmt: skip


def by_hand(state: State, since: datetime) -> dict[str, list[Corrected]]:
    """The same of all answers, one by one."""
    with state.read() as session:
        stands = standing(session, since)
        by_id = {(one.answer_ce_id, one.answer_position): one for one in stands.values() if one.answer_ce_id}
        rows = session.execute(select(Answer, Event.ce_id).join(Event).order_by(Answer.at, Answer.position)).all()
    newest: dict[tuple[str, str], Corrected] = {}
    for answer, ce_id in rows:
        one = stands.get(answer.text_hash or "") or by_id.get((ce_id, answer.position))
        if one is not None and answer.status in ("answered", "shortened"):
            newest[(answer.version, one.text_hash)] = _judged(answer, one)
    found: dict[str, list[Corrected]] = {}
    for (version, _), judged in newest.items():
        found.setdefault(version, []).append(judged)
    return found


def told(found: dict[str, list[Corrected]]) -> dict[str, list[str]]:
    return {version: sorted(map(str, each)) for version, each in found.items()}


@pytest.mark.parametrize("since", [T0, T0 + timedelta(days=1)])
def test_each_version_is_judged_by_its_newest_answer_to_each_corrected_text(state: State, since: datetime) -> None:
    with state.read() as session:
        found = corrected_answers(session, since)
    assert set(found) == {"1", "2"}
    assert told(found) == told(by_hand(state, since))


def test_answers_are_found_by_indexes_and_not_as_entities(tmp_path: Path) -> None:
    state = open_state(f"sqlite:///{tmp_path}/state.db")
    fill(state, events=50)
    with plans_of(state) as plans, state.read() as session:
        assert corrected_answers(session, T0)
        assert not [one for one in session.identity_map.values() if isinstance(one, Answer)]
    asked = [step for step in plans if "answers" in step or "events" in step]
    assert asked
    assert all(step.startswith("SEARCH ") for step in asked), plans
    state.close()
