"""What a request may be, and what its refusal says; events; flags."""

from pathlib import Path
from typing import Any

import pytest

from serving.predictor import events, options
from serving.predictor.options import Limits
from serving.predictor.request import Refused, instances_from_columns, instances_of, read_json

LIMITS = Limits(instances=3, text_chars=10)


def test_strings_and_objects_become_instances() -> None:
    payload = {
        "instances": ["a", {"description": "b", "digits": 4.0, "limit": 3.0}, {"description": "", "digits": None}]
    }
    assert instances_of(payload, LIMITS) == [
        {"description": "a"},
        {"description": "b", "digits": 4, "limit": 3},
        {"description": ""},
    ]
    assert instances_of({"description": "a"}, LIMITS) == [{"description": "a"}]


def test_columns_have_one_value_for_all_or_one_for_each() -> None:
    assert instances_from_columns([b"a", "b"], [2], [], LIMITS) == [
        {"description": "a", "digits": 2},
        {"description": "b", "digits": 2},
    ]
    assert instances_from_columns(["a", "b"], [2, 6], [1, 20], LIMITS)[1] == {
        "description": "b",
        "digits": 6,
        "limit": 20,
    }
    with pytest.raises(Refused, match="3 values for 2 descriptions"):
        instances_from_columns(["a", "b"], [2, 2, 2], [], LIMITS)


@pytest.mark.parametrize(
    ("payload", "says"),
    [
        (None, "null"),
        ([], "a list"),
        ({"instances": ["a"] * 4}, "4 instances; the limit is 3"),
        ({"instances": ["a" * 11]}, "11 characters; the limit is 10"),
        ({"instances": [{"description": "a" * 11}]}, "the limit is 10"),
        ({"instances": [{"description": "a", "digits": "6"}]}, "2, 4 or 6"),
        ({"instances": [{"description": "a", "limit": 1.5}]}, "1 to 20"),
        ({"instances": [{"text": "a"}]}, "'text'"),
        ({"instances": [[]]}, "not a list"),
    ],
)
def test_refusals_name_what_is_wrong(payload: Any, says: str) -> None:
    with pytest.raises(Refused) as refused:
        instances_of(payload, LIMITS)
    assert refused.value.status == 400
    assert says in refused.value.reason


@pytest.mark.parametrize("body", [b"", b"{", b"\xff", b'{"a": NaN}', b'{"a": "\\ud800"}'])
def test_what_is_no_json_is_refused(body: bytes) -> None:
    with pytest.raises(Refused):
        read_json(body)


EVENT = {"ce-specversion": "1.0", "ce-id": "a%20b", "ce-source": "s", "ce-type": "t"}
MODEL = {"name": "m", "version": "1", "edition": "HS 2022 é"}


def test_no_event_stays_none() -> None:
    assert events.unwrap({"content-type": "application/json"}, b"x") == (b"x", None)


def test_a_binary_event_is_answered_by_one() -> None:
    data, event = events.unwrap(EVENT, b"body")
    assert data == b"body"
    assert event == events.Event("a b", structured=False)
    headers, body = events.wrap(event, b"{}", MODEL)
    assert body == b"{}"
    assert (headers["ce-id"], headers["ce-hsmodeledition"]) == ("a b", "HS 2022 %C3%A9")
    assert headers["content-type"] == "application/json"


def test_a_structured_event_keeps_the_answers_bytes_and_base64_is_read() -> None:
    body = b'{"specversion":"1.0","id":"1","source":"s","type":"t","data_base64":"e30="}'
    data, event = events.unwrap({"content-type": "Application/CloudEvents+JSON; charset=utf-8"}, body)
    assert data == b"{}"
    assert event is not None
    headers, answer = events.wrap(event, b'{"b":1,"a":2}', MODEL)
    assert headers == {"content-type": "application/cloudevents+json"}
    assert b'"data":{"b":1,"a":2}' in answer


def test_type_and_source_of_answers_are_the_environments_as_in_kserve(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CE_TYPE", "mine")
    monkeypatch.setenv("CE_SOURCE", "here")
    headers, _ = events.wrap(events.Event("1", structured=False), b"", MODEL)
    assert (headers["ce-type"], headers["ce-source"]) == ("mine", "here")


@pytest.mark.parametrize(
    ("missing", "value"), [("ce-id", None), ("ce-source", ""), ("ce-type", None), ("ce-specversion", "2.0")]
)
def test_broken_events_are_refused(missing: str, value: str | None) -> None:
    headers = {k: v for k, v in EVENT.items() if k != missing} | ({missing: value} if value is not None else {})
    with pytest.raises(Refused):
        events.unwrap(headers, b"{}")


def test_flags_in_both_spellings_and_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HSCODE_MAX_INSTANCES", "7")
    monkeypatch.setenv("HSCODE_HTTP_PORT", "1")
    given = options.parse(["--model_dir=/m", "--model-name", "x", "--http_port", "0", "--grpc-port=-1"])
    assert (given.model_dir, given.model_name, given.http_port, given.grpc_port) == (Path("/m"), "x", 0, -1)
    assert (given.limits.instances, given.limits.most_explained) == (7, 7)
    assert options.parse(["--max-explained=3"]).limits.most_explained == 3
    assert options.parse(["--name", "y"]).model_name == "y"
