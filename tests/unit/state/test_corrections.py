"""Corrections: what is taken, which of several stands, and that they count at once; on both databases."""

import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from config.settings import Canary as Policy
from models.errors import UserError
from models.hs.edition import Edition
from serving.control.canary.blocks import arm_between
from serving.control.monitor.windows import corrected_answers
from serving.state import State, open_state
from serving.state.corrections import (
    Recorded,
    import_file,
    listed,
    read_correction,
    record,
    training_rows,
    withdraw,
)
from serving.state.events import Given, Request, Response, store_events, text_hash
from serving.state.tables import Canary

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
EDITION = Edition("HS2022", {"851830": "Headphones", "851840": "Amplifiers", "010121": "Horses"})


@pytest.fixture(params=["sqlite", "postgresql"])
def state(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[State]:
    if request.param == "postgresql":
        make: Callable[[], str] = request.getfixturevalue("postgres")
        opened = open_state(make(), upgrade=True)
    else:
        opened = open_state(f"sqlite:///{tmp_path}/state.db")
    yield opened
    opened.close()


def say(state: State, text: str, code: str, who: str = "a", minutes: int = 0, **more: Any) -> str:
    at = NOW + timedelta(minutes=minutes)
    said = read_correction({"description": text, "code": code, "who": who, **more}, EDITION, said_at=at, now=at)
    record(state, [said], at)
    return said.ce_id


def serve(state: State, ce_id: str, text: str, code: str, version: str = "1", keep: bool = True) -> None:
    asked = Request(
        ce_id,
        "hscode",
        NOW,
        "shop",
        version,
        instances=1,
        texts=[text] if keep else None,
        text_hashes=[text_hash(text)],
    )
    store_events(
        state, [asked], [Response(ce_id, "hscode", NOW, "shop", version, answers=(Given("answered", code, 0.9),))]
    )


def right_wrong(state: State, version: str = "1") -> tuple[int, int]:
    with state.read() as session:
        judged = corrected_answers(session, NOW - timedelta(days=1)).get(version, [])
    return sum(one.right for one in judged), sum(not one.right for one in judged)


@pytest.mark.parametrize(
    ("written", "read"),
    [("8518.30", "851830"), ("8518300000", "851830"), ("101.21", "010121"), ("85", "85"), ("8518", "8518")],
)
def test_codes_are_read_as_people_write_them(written: str, read: str) -> None:
    assert read_correction({"description": "x", "code": written, "who": "a"}, EDITION).code == read


def test_the_last_word_of_each_person_and_the_most_persons_decide(state: State) -> None:
    serve(state, "e", "wireless headphones", "851840")
    say(state, "wireless headphones", "851840", "a", 0)
    assert right_wrong(state) == (1, 0)
    say(state, "Wireless  HEADPHONES", "851830", "b", 1)
    assert right_wrong(state) == (0, 1)  # a tie: the newest
    third = say(state, "wireless headphones", "851840", "c", 2)
    say(state, "wireless headphones", "851830", "b", 3)  # b again: still one person
    assert right_wrong(state) == (1, 0)
    say(state, "wireless headphones", "851830", "a", 4)  # a changes sides
    assert right_wrong(state) == (0, 1)
    assert [row["code"] for row in training_rows(state)] == ["851830"]
    assert [stands for _, stands in listed(state)] == [True, False, False, False, False]
    assert withdraw(state, third, "c").withdrawn_by == "c"
    assert withdraw(state, third, "someone else").withdrawn_by == "c"
    with pytest.raises(UserError, match="no such correction"):
        withdraw(state, "none", "c")


def test_a_correction_sent_twice_counts_once(state: State) -> None:
    said = read_correction({"description": "x", "code": "851830", "who": "a", "id": "one"}, EDITION)
    other = read_correction({"description": "y", "code": "851830", "who": "a", "id": "two"}, EDITION)
    assert record(state, [said, said]).recorded == ("one",)
    assert record(state, [said, other]) == Recorded(("two",), ("one",))
    assert len(listed(state)) == 2


def test_by_the_answers_id(state: State) -> None:
    serve(state, "e", "wireless headphones", "851840")
    serve(state, "f", "secret", "851840", keep=False)
    for answer in ("e", "f"):
        said = read_correction({"answer": answer, "code": "851830", "who": "a"}, EDITION)
        record(state, [said], NOW)
    assert right_wrong(state) == (0, 2)
    # Where texts are not kept there is nothing to train on.
    assert [(row["description"], row["source"], row["label_kind"]) for row in training_rows(state)] == [
        ("wireless headphones", "corrections", "corrected")
    ]
    unknown = read_correction({"answer": "none", "code": "851830", "who": "a"}, EDITION)
    with pytest.raises(UserError, match='give the "description" too'):
        record(state, [said, unknown])
    assert len(listed(state)) == 2


def test_they_count_at_once_in_the_canarys_evidence(state: State) -> None:
    canary = Canary(namespace="shop", service="hscode", first_seen_at=NOW - timedelta(hours=1))
    end = NOW + timedelta(hours=1)
    serve(state, "e", "wireless headphones", "851840", "1")
    serve(state, "f", "wireless headphones", "851830", "2")
    say(state, "wireless headphones", "851830", minutes=1)
    taken_back = say(state, "wireless headphones", "851840", "b", minutes=2)

    def told(version: str) -> tuple[int, int]:
        with state.read() as session:
            arm = arm_between(session, canary, version, NOW - timedelta(hours=1), end, Policy())
        return arm.right, arm.wrong

    assert (told("1"), told("2")) == ((1, 0), (0, 1))
    withdraw(state, taken_back, "b")
    assert (told("1"), told("2")) == ((0, 1), (1, 0))


def test_training_rows_since(state: State) -> None:
    say(state, "old", "851840", minutes=0)
    say(state, "both", "851840", "a", minutes=0)
    say(state, "both", "851840", "b", minutes=1)
    say(state, "both", "851830", "c", minutes=20)
    rows = training_rows(state, NOW + timedelta(minutes=10))
    # What was said before has its say: two against one.
    assert [(row["description"], row["code"]) for row in rows] == [("both", "851840")]
    assert len(training_rows(state)) == 2


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_a_file_is_recorded_or_quarantined_line_by_line(state: State, tmp_path: Path, kind: str) -> None:
    lines = [
        {"description": "wireless headphones", "code": "8518.30", "who": "a", "why": "looked"},
        {"description": "horse", "code": "101.21", "who": "", "why": ""},
        {"description": "wrong", "code": "999999", "who": "a", "why": ""},
        {"description": "", "code": "851830", "who": "a", "why": ""},
    ]
    file, aside = tmp_path / f"corrections.{kind}", tmp_path / "aside.jsonl"
    if kind == "csv":
        rows = [",".join(lines[0]), *(",".join(line.values()) for line in lines)]
    else:
        rows = [*map(json.dumps, lines), "{broken"]
    file.write_text("\n".join(rows) + "\n", encoding="utf-8")
    done = import_file(state, file, EDITION, aside, "an importer")
    broken = kind == "jsonl"
    assert done == {"read": 4 + broken, "recorded": 2, "duplicates": 0, "refused": 2 + broken}
    refused = [json.loads(line) for line in aside.read_text().splitlines()]
    assert [line["line"] for line in refused] == ([4, 5] if kind == "csv" else [3, 4, 5])
    assert "does not exist in edition HS2022" in refused[0]["reason"]
    assert refused[0]["original"]["description"] == "wrong"
    again = import_file(state, file, EDITION, aside, "an importer")
    assert (again["recorded"], again["duplicates"]) == (0, 2)
    assert {row.who for row, _ in listed(state)} == {"a", "an importer"}


def test_one_line_with_an_unknown_answer_does_not_take_the_others_with_it(state: State, tmp_path: Path) -> None:
    file = tmp_path / "corrections.jsonl"
    lines = [
        {"description": "x", "code": "851830"},
        {"answer": "none", "code": "851830"},
        {"description": "y", "code": "85"},
    ]
    file.write_text("\n".join(map(json.dumps, lines)))
    done = import_file(state, file, EDITION, tmp_path / "aside.jsonl", "a")
    assert done == {"read": 3, "recorded": 2, "duplicates": 0, "refused": 1}


def test_a_file_that_is_not_there_is_one_line(state: State, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be read"):
        import_file(state, tmp_path / "none.csv", EDITION, tmp_path / "aside", "a")


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.csv", "", "no corrections in it"),
        ("a.csv", "description,code\n", "no corrections in it"),
        ("a.jsonl", "\n", "no corrections in it"),
        ("a.csv", "text;hs\nbolt;731815\n", "its columns are text;hs; needed are code, and description or answer"),
        ("a.csv", "who,code\nme,731815\n", "needed are code, and description or answer"),
        ("a.csv", "description,code\nbolt,999999\nnut,1\n", "none of 2 lines could be taken (line 2: code '999999'"),
        ("a.jsonl", "{broken\n", "none of 1 lines could be taken (line 1: not a JSON object)"),
    ],
)
def test_a_file_of_which_nothing_can_be_taken_is_one_line(
    state: State, tmp_path: Path, name: str, content: str, says: str
) -> None:
    file, aside = tmp_path / name, tmp_path / "aside.jsonl"
    file.write_text(content)
    with pytest.raises(UserError) as refused:
        import_file(state, file, EDITION, aside, "a")
    assert says in str(refused.value)
    assert "\n" not in str(refused.value)
    assert listed(state) == []
    assert aside.exists() == ("lines could be taken" in says)
