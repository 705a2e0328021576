"""From events and corrections in the state to blocks, on SQLite and PostgreSQL."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy.orm import Session

from config.settings import Canary as Policy
from serving.control.canary.blocks import arm_between, blocks_of, ended_blocks
from serving.control.canary.evidence import Arm, add_share, latency_bin, latency_edge
from serving.state import State, open_state
from serving.state.events import Given, Request, Response, store_events, text_hash
from serving.state.tables import Canary, CanaryStep, Correction
from tests.unit.state.plans import plans_of

T0 = datetime(2025, 5, 4, 12, tzinfo=UTC)
POLICY = Policy(block_seconds=60, settle_seconds=30)


def at(seconds: float) -> datetime:
    return T0 + timedelta(seconds=seconds)


@pytest.fixture(params=["sqlite", "postgresql"])
def state(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[State]:
    url = f"sqlite:///{tmp_path}/state.db"
    if request.param == "postgresql":
        make: Callable[[], str] = request.getfixturevalue("postgres")
        url = make()
    opened = open_state(url, upgrade=True)
    yield opened
    opened.close()


def canary() -> Canary:
    return Canary(
        namespace="shop",
        service="hscode",
        service_uid="u",
        model="hscode",
        champion_version="1",
        champion_uri="a",
        challenger_version="2",
        challenger_uri="b",
        policy=POLICY.model_dump(mode="json"),
        state="stepping",
        percent=5,
        reason="",
        started_at=T0,
        first_seen_at=T0,
        step_since=T0,
        deadline_at=at(9000),
    )


def pair(
    ce_id: str,
    begun: float,
    took: float | None = 0.05,
    version: str = "1",
    answers: tuple[Given, ...] = (Given("answered", "731815", 0.9),),
    texts: tuple[str, ...] = ("bolt",),
    **changes: object,
) -> tuple[Request, Response | None]:
    asked = Request(
        ce_id,
        "hscode",
        at(begun),
        "shop",
        version,
        len(texts),
        text_hashes=[text_hash(t) for t in texts],
        **changes,  # type: ignore[arg-type]
    )
    told = None if took is None else Response(ce_id, "hscode", at(begun + took), "shop", version, answers=answers)
    return asked, told


def store(state: State, *pairs: tuple[Request, Response | None]) -> None:
    store_events(state, [asked for asked, _ in pairs], [told for _, told in pairs if told is not None])


def seen(state: State, version: str = "1", start: float = 0, end: float = 60, row: Canary | None = None) -> Arm:
    with state.read() as session:
        return arm_between(session, row or canary(), version, at(start), at(end), POLICY)


def test_requests_are_counted_by_version_service_and_time(state: State) -> None:
    store(
        state,
        pair("warm", -1),
        pair("a", 0),
        pair("b", 59.9),
        pair("c", 60),
        pair("d", 10, version="2"),
        pair("e", 10, took=None),
        pair("f", 10, took=None, client_error=True),
    )
    store_events(
        state, [Request("g", "hscode", at(10), "elsewhere", "1"), Request("h", "other", at(10), "shop", "1")], []
    )
    found = seen(state)
    assert (found.requests, found.errors, found.client_errors, found.answered) == (4, 1, 1, 2)
    assert found.latency == {latency_bin(0.05): 2}
    assert found.statuses == {"answered": 2}
    assert found.confidence == {9: 2.0}
    assert seen(state, "2").requests == 1


def test_a_response_without_its_request_is_an_answer_of_unknown_time(state: State) -> None:
    store_events(state, [], [Response("x", "hscode", at(5), "shop", "1", answers=(Given("vague", "", 0.2),))])
    found = seen(state)
    assert (found.requests, found.errors, found.latency, found.status_loss) == (1, 0, {}, {10: 1.0})


def test_a_request_of_many_descriptions_is_one_outcome(state: State) -> None:
    answers = (Given("answered", "1", 1.0), Given("shortened", "2", 0.5), Given("unsure", "", 0.0))
    store(state, pair("a", 1, answers=answers, texts=("x", "y", "z")))
    found = seen(state)
    assert found.status_loss == {5: 1.0}
    assert found.confidence == {5: 1.0}
    assert found.statuses == {"answered": 1, "shortened": 1, "unsure": 1}


def test_requests_that_wait_for_a_start_are_cold(state: State) -> None:
    """After a minute of silence the first request wakes the version; those before its answer wait with it."""
    store(
        state,
        pair("before", -100),
        pair("first", 0, took=2.0),
        pair("second", 1.5, took=0.5),
        pair("third", 2.5),
        pair("flagged", 3, cold=True),
        pair("later", 55),
        pair("soon", 58),
    )
    found = seen(state)
    assert found.cold == 3
    assert found.latency == {latency_bin(0.05): 3}
    assert seen(state, start=60, end=120).requests == 0


def correct(
    session: Session, ce_id: str, code: str, recorded: float, text: str = "bolt", answer: str | None = None
) -> None:
    session.add(
        Correction(
            ce_id=ce_id,
            answer_ce_id=answer,
            answer_position=0 if answer else None,
            text_hash=text_hash(text),
            code=code,
            edition="HS2022",
            who="an expert",
            said_at=at(recorded),
            recorded_at=at(recorded),
        )
    )


def test_corrections_count_when_recorded_each_text_once_and_the_last_word_stands(state: State) -> None:
    store(
        state,
        pair("a", 1),
        pair("b", 2, version="2", answers=(Given("answered", "731816", 0.9),)),
        pair("c", 3, texts=("shirt",), answers=(Given("shortened", "6109", 0.9),)),
        pair("d", 4, texts=("thing",), answers=(Given("unsure", "", 0.1),)),
    )
    with state.write() as session:
        correct(session, "k1", "999999", 70)
        correct(session, "k2", "731815", 80)
        correct(session, "k3", "610910", 90, "shirt", answer="c")
        correct(session, "k4", "610910", 91, "thing")
        correct(session, "k5", "610910", 92, "never asked")
        correct(session, "k6", "731816", 130)
    with state.write() as session:
        late = Correction(
            ce_id="k7",
            text_hash=text_hash("shirt"),
            code="1",
            edition="e",
            who="w",
            said_at=at(95),
            recorded_at=at(95),
            withdrawn_at=at(96),
        )
        session.add(late)
    assert (seen(state, "1", 60, 120).right, seen(state, "1", 60, 120).wrong) == (2, 0)
    assert (seen(state, "2", 60, 120).right, seen(state, "2", 60, 120).wrong) == (0, 1)
    assert seen(state, "1", 0, 60).right == 0
    # The text was spoken of before: its second correction is no second outcome.
    assert (seen(state, "2", 120, 180).right, seen(state, "2", 120, 180).wrong) == (0, 0)


def test_blocks_follow_without_gaps_are_cut_at_steps_and_wait_until_settled(state: State) -> None:
    store(state, *(pair(f"e{i}", i, version="2" if i % 10 == 0 else "1") for i in range(400)))
    row = canary()
    with state.write() as session:
        session.add(row)
        session.flush()
        for sequence, (percent, done) in enumerate(((5, 0), (10, 90))):
            session.add(
                CanaryStep(
                    canary_id=row.id,
                    sequence=sequence,
                    action="step",
                    percent_before=0,
                    percent_after=percent,
                    evidence={},
                    actor="test",
                    intent_at=at(done - 1),
                    done_at=at(done),
                )
            )
    row.percent = 10
    with state.write() as session:
        assert ended_blocks(session, row, POLICY, at(89)) == []
        first = ended_blocks(session, row, POLICY, at(200))
        assert ended_blocks(session, row, POLICY, at(200))[0].counts == first[0].counts
        session.add_all(first)
    with state.write() as session:
        session.add_all(ended_blocks(session, row, POLICY, at(400)))
        blocks = blocks_of(session, row.id)
    edges = [((b.opened_at - T0).total_seconds(), (b.closed_at - T0).total_seconds(), b.percent) for b in blocks]
    assert edges == [(0, 60, 5), (60, 90, 5), (90, 150, 10), (150, 210, 10), (210, 270, 10), (270, 330, 10)]
    assert [b.champion.requests + b.challenger.requests for b in blocks] == [60, 30, 60, 60, 60, 60]
    assert [b.challenger.requests for b in blocks] == [6, 3, 6, 6, 6, 6]


def test_an_arm_survives_json_and_adds_up() -> None:
    one = Arm()
    one.add_answered(0.123, False, ["answered"], [0.75])
    one.add_answered(None, True, ["vague"], [])
    assert Arm.from_json(one.to_json()) == one
    both = one + one
    assert (both.requests, both.cold, both.statuses) == (4, 2, {"answered": 2, "vague": 2})
    assert both.confidence == {7: 1.0, 8: 1.0}


@pytest.mark.parametrize("seconds", [0.0001, 0.001, 0.0123, 0.5, 1.0, 64.0])
def test_latency_bins_hold_what_is_up_to_their_edge(seconds: float) -> None:
    index = latency_bin(seconds)
    assert seconds <= latency_edge(index) * (1 + 1e-9)
    assert index == 0 or seconds > latency_edge(index - 1)
    assert latency_bin(latency_edge(index)) == index


@pytest.mark.parametrize("share", [0.0, 0.05, 0.33, 0.999, 1.0, -2.0, 7.0])
def test_a_share_keeps_its_mean(share: float) -> None:
    histogram: dict[int, float] = {}
    add_share(histogram, share)
    mean = sum(index / 10 * weight for index, weight in histogram.items())
    assert sum(histogram.values()) == pytest.approx(1.0)
    assert mean == pytest.approx(min(1.0, max(0.0, share)))


def test_corrected_answers_are_found_by_indexes(tmp_path: Path) -> None:
    state = open_state(f"sqlite:///{tmp_path}/state.db")
    store(state, *(pair(f"e{number}", number) for number in range(30)))
    with state.write() as session:
        correct(session, "k", "731815", 70)
        for number in range(500):
            correct(session, f"t{number}", "731815", 70, f"thing {number}")
            correct(session, f"a{number}", "731815", 71, f"other {number}", answer=f"e{number}")
    with plans_of(state) as plans:
        assert seen(state, "1", 60, 120).right == 31
    # The last two statements; those before are of all events and answers of the block.
    asked = [step for step in plans if "answers" in step or "events" in step][-4:]
    assert all(step.startswith("SEARCH ") for step in asked), plans
    assert not [step for step in asked if "version=?" in step or "service=?" in step], plans
    state.close()
