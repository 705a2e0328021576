"""What senders send: read, or refused in one line with nothing taken."""

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.control.trigger import inputs
from serving.control.trigger.inputs import BadInput, Occasion

NOW = datetime(2026, 1, 15, 12, 0, tzinfo=UTC)
TIME = "2026-01-15T11:00:00Z"
LAKE = ("s3://lake/in/",)
ALERT = {
    "status": "firing", "labels": {"alertname": "Drift", "version": "3"}, "annotations": {"summary": "s"},
    "startsAt": "2026-01-15T11:00:00.123456789+01:00", "endsAt": "0001-01-01T00:00:00Z", "fingerprint": "ab12",
}  # fmt: skip
RECORD = {
    "eventName": "ObjectCreated:Put", "eventTime": "2026-01-15T11:00:00.000Z",
    "s3": {"bucket": {"name": "lake"}, "object": {"key": "in/more+rows%2B1.csv", "sequencer": "A1"}},
}  # fmt: skip
BINARY = {
    "ce-specversion": "1.0", "ce-id": "1", "ce-source": "lake", "ce-type": "hs.data.arrived.v1",
    "content-type": "application/json", "ce-time": TIME,
}  # fmt: skip


def body(value: Any) -> bytes:
    return json.dumps(value).encode()


def webhook(*alerts: Any, **changes: Any) -> bytes:
    return body({"version": "4", "groupKey": "{}", "status": "firing", "alerts": list(alerts), **changes})


def structured(**changes: Any) -> bytes:
    data = {"address": "s3://lake/in/a.csv"}
    known = {"specversion": "1.0", "id": "1", "source": "lake", "type": "hs.data.arrived.v1", "time": TIME}
    return body(known | {"data": data} | changes)


def event(headers: dict[str, str], content: bytes) -> list[Occasion]:
    return inputs.events(headers, content, LAKE, NOW)


STRUCTURED = {"content-type": "application/cloudevents+json; charset=utf-8"}


def test_an_alert_is_known_by_fingerprint_and_start_whatever_its_zone_says() -> None:
    (found,) = inputs.alerts(webhook(ALERT), NOW)
    assert found.key == "alert:ab12:2026-01-15T10:00:00.123456+00:00"
    assert (found.source, found.payload["alert"]) == ("alertmanager", "Drift")
    (same,) = inputs.alerts(webhook(ALERT | {"startsAt": "2026-01-15T10:00:00.123456Z", "labels": {}}), NOW)
    assert same.key == found.key


def test_resolved_alerts_change_nothing() -> None:
    assert inputs.alerts(webhook(ALERT | {"status": "resolved"}, status="resolved"), NOW) == []
    assert len(inputs.alerts(webhook(ALERT, ALERT | {"status": "resolved", "fingerprint": "cd"}), NOW)) == 1


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "not JSON"),
        (b"\xff\xfe", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b'{"version": NaN}', "NaN is not JSON"),
        (body([1]), "the body is not an object"),
        (webhook(ALERT, version="3"), "version '3'"),
        (webhook(alerts={}), "alerts is not a list"),
        (webhook(*[ALERT] * 1001), "1001 entries"),
        (webhook(ALERT, "x"), r"alerts\[1\] is not an object"),
        (webhook(ALERT | {"status": "maybe"}), "neither 'firing' nor 'resolved'"),
        (webhook(ALERT | {"fingerprint": "'; DROP TABLE runs; --"}), "not hexadecimal"),
        (webhook({k: v for k, v in ALERT.items() if k != "fingerprint"}), "fingerprint is not a text"),
        (webhook(ALERT | {"startsAt": "yesterday"}), "not a time"),
        (webhook(ALERT | {"startsAt": "2026-01-15T14:00:00Z"}), "lies in the future"),
        (webhook(ALERT | {"labels": {"a": 1}}), "not an object of texts"),
        (webhook(ALERT | {"labels": {"a": "\0"}}), "NUL"),
        (b'{"version": "\\ud800"}', "not JSON"),
    ],
)
def test_bad_alerts(content: bytes, says: str) -> None:
    with pytest.raises(BadInput, match=says) as caught:
        inputs.alerts(content, NOW)
    assert "\n" not in str(caught.value)


def test_new_data_as_cloudevents_of_both_modes_is_the_same() -> None:
    (binary,) = event(BINARY, body({"addresses": ["s3://lake/in/a.csv"]}))
    (whole,) = event(STRUCTURED, structured())
    assert (binary.key, binary.source, binary.payload) == (whole.key, whole.source, whole.payload)
    assert binary.payload["addresses"] == ["s3://lake/in/a.csv"]
    assert len(event(STRUCTURED, structured(id="x" * 900))[0].key) <= inputs.KEY_CHARS


def test_s3_notifications_bare_and_as_cloudevents() -> None:
    message = {"Records": [RECORD, RECORD | {"eventName": "ObjectRemoved:Delete"}]}
    (found,) = event({"content-type": "application/json"}, body(message))
    assert found.payload == {"addresses": ["s3://lake/in/more rows+1.csv"]}
    assert found.source == "object_store"
    (wrapped,) = event(STRUCTURED, structured(type="com.amazonaws.s3", data=message))
    assert wrapped.key == found.key
    (again,) = event({}, body({"Records": [RECORD | {"eventName": "s3:ObjectCreated:Copy"}]}))
    assert again.key == found.key
    assert event({}, body({"Service": "Amazon S3", "Event": "s3:TestEvent", "Bucket": "lake"})) == []


@pytest.mark.parametrize(
    ("headers", "content", "says"),
    [
        (STRUCTURED, b"{", "not a CloudEvent"),
        (STRUCTURED, body([]), "not a CloudEvent"),
        (STRUCTURED, body({"specversion": "1.0"}), "not a CloudEvent"),
        (STRUCTURED, structured(specversion="0.1"), "not a CloudEvent"),
        (STRUCTURED, structured(id=7), "id is not a text"),
        (STRUCTURED, structured(type="hs.correction.v1"), "not taken"),
        (STRUCTURED, structured(time="2027-01-01T00:00:00Z"), "future"),
        (STRUCTURED, structured(data={}), "must say where"),
        (STRUCTURED, structured(data={"addresses": [1]}), "not a text"),
        (STRUCTURED, structured(data={"address": "s3://lake/other/a.csv"}), "data_prefixes"),
        (STRUCTURED, structured(data={"address": "s3://lake/in/../a.csv"}), "data_prefixes"),
        (STRUCTURED, structured(data={"address": "/etc/passwd"}), "data_prefixes"),
        (STRUCTURED, structured(data={"address": "s3://lake/in/a\n.csv"}), "control character"),
        (STRUCTURED, structured(data={"addresses": ["s3://lake/in/a"] * 1001}), "1001 addresses"),
        ({"content-type": "application/cloudevents-batch+json"}, b"[]", "one by one"),
        ({}, body({"records": []}), "Records is not a list"),
        ({}, body({"Records": [{"eventName": "ObjectCreated:Put"}]}), "s3 is not an object"),
        (BINARY | {"ce-specversion": "9"}, b"{}", "not a CloudEvent"),
        (BINARY, b"", "not an object|not a CloudEvent"),
    ],
)
def test_bad_events(headers: dict[str, str], content: bytes, says: str) -> None:
    with pytest.raises(BadInput, match=says) as caught:
        event(headers, content)
    assert "\n" not in str(caught.value)


def test_without_prefixes_no_data_is_taken() -> None:
    with pytest.raises(BadInput, match="data_prefixes"):
        inputs.events(STRUCTURED, structured(), (), NOW)


def test_people() -> None:
    (one,) = inputs.fired(body({"who": "duty", "why": "tariff changed", "id": "t-1"}))
    assert (one.key, one.payload["who"], one.payload["dry_run"]) == ("person:t-1", "duty", False)
    keys = {inputs.fired(body({"who": "duty", "why": "w"}))[0].key for _ in range(2)}
    assert len(keys) == 2
    for wrong in ({"who": "", "why": "w"}, {"why": "w"}, {"who": "a", "why": "w", "force": 1}, {"who": "a", "why": 1}):
        with pytest.raises(BadInput):
            inputs.fired(body(wrong))
    with pytest.raises(BadInput, match="dry_run"):
        inputs.fired(body({"who": "a", "why": "w", "dry_run": "yes"}))


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=12,
)
MESSAGES = JSON | st.fixed_dictionaries(
    {}, optional={"version": st.just("4"), "alerts": JSON, "Records": JSON, "data": JSON, "id": JSON, "type": JSON}
)


@given(st.binary(max_size=60) | MESSAGES.map(body), st.sampled_from([{}, STRUCTURED, BINARY]))
def test_anything_is_read_or_refused_in_one_line(content: bytes, headers: dict[str, str]) -> None:
    for read in (lambda: inputs.alerts(content, NOW), lambda: event(headers, content), lambda: inputs.fired(content)):
        said = ""
        found: list[Occasion] = []
        try:
            found = read()
        except BadInput as error:
            said = str(error)
        assert "\n" not in said
        assert all(len(each.key) <= inputs.KEY_CHARS for each in found)
