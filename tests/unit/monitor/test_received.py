"""One event: headers and body in, a half or a reason out."""

import base64
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from config.settings import Monitor
from serving.control.monitor.received import Malformed, read_event, redacted
from serving.control.monitor.sketches import Sketch, Told
from serving.predictor.options import Limits
from serving.state.events import Request, Response, text_hash
from tests.serving.monitoring import headers, request, response

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
KIND = "org.kubeflow.serving.inference."


def read(event: dict[str, Any], **settings: Any) -> Any:
    given = {**event["headers"], "ce-time": NOW.isoformat()}
    return read_event(given, event.get("content", b""), Monitor(**settings), NOW)


def test_a_v1_request() -> None:
    found = read(request("a", "steel bolt", "cotton shirt", version="7"))
    assert found.half == Request(
        "a", "hscode", NOW, "shop", "7", instances=2, texts=["steel bolt", "cotton shirt"],
        text_hashes=[text_hash("steel bolt"), text_hash("cotton shirt")],
    )  # fmt: skip
    assert found.texts == ["steel bolt", "cotton shirt"]


@pytest.mark.parametrize(
    ("body", "texts"),
    [
        ({"instances": [{"description": "bolt", "digits": 4}]}, ["bolt"]),
        ({"description": "bolt"}, ["bolt"]),
        ({"inputs": [{"name": "description", "datatype": "BYTES", "shape": [2], "data": ["a", "b"]}]}, ["a", "b"]),
        ({"inputs": [{"name": "description", "datatype": "BYTES", "shape": [1, 2], "data": [["a", "b"]]}]}, ["a", "b"]),
        ({"instances": []}, None),
        ({"instances": [1]}, None),
        ({"inputs": [{"name": "other", "data": ["a"]}]}, None),
        ({"inputs": 3}, None),
        ([1, 2], None),
    ],
)
def test_descriptions_of_either_protocol_and_requests_that_are_the_clients_fault(body: Any, texts: Any) -> None:
    found = read({"headers": headers("a", KIND + "request"), "content": json.dumps(body).encode()})
    assert found.half.client_error == (texts is None)
    assert list(found.texts) == (texts or [])


def enveloped(event: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """As a client sends and gets it that speaks structured CloudEvents; both halves have the request's type."""
    kind = "application/cloudevents+json; charset=utf-8"
    envelope = {"specversion": "1.0", "id": "a", "source": "/shop", "type": "ask", **changes}
    if "data_base64" not in envelope:
        envelope["data"] = json.loads(event["content"])
    return {"headers": {**event["headers"], "content-type": kind}, "content": json.dumps(envelope).encode()}


def test_structured_events_are_read_as_what_is_in_them() -> None:
    asked, told = request("a", "steel bolt"), response("a", "731815")
    assert read(enveloped(asked)).half == read(asked).half
    encoded = base64.b64encode(asked["content"]).decode()
    assert read(enveloped(asked, data_base64=encoded)).half == read(asked).half
    assert read(enveloped(told)).half == read(told).half
    assert read(enveloped(told)).told == read(told).told != []
    assert read(enveloped(asked, data_base64="%")).half.client_error
    assert read(enveloped(asked, id="")).half.client_error
    assert read(enveloped(told, data_base64="%")).half is None


def test_a_request_that_is_too_large_for_the_predictor_is_the_clients_error() -> None:
    padded = request("a", "steel bolt")
    padded["content"] += b" " * (Limits().body_bytes - len(padded["content"]))
    assert not read(padded).half.client_error
    padded["content"] += b" "
    assert read(padded).half.client_error
    padded["headers"]["content-type"] = "application/octet-stream"
    assert read(padded).half.client_error


def test_texts_are_kept_redacted_or_dropped_and_always_named() -> None:
    event = request("a", "shirts, order 2024-118833, to a.b@example.org")
    kept = {keep: read(event, texts=keep).half for keep in ("keep", "redact", "drop")}
    assert kept["keep"].texts == ["shirts, order 2024-118833, to a.b@example.org"]
    assert kept["redact"].texts == ["shirts, order <number>, to <email>"]
    assert kept["drop"].texts is None
    assert len({tuple(half.text_hashes) for half in kept.values()}) == 1


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("12 x 30 cm", "12 x 30 cm"),
        ("tel +44 20 7946 0000", "tel +<number>"),
        ("see https://shop.example.org/x?y=1 now", "see <address> now"),
        ("RR123456785GB", "RR<number>GB"),
    ],
)
def test_redaction(text: str, shown: str) -> None:
    assert redacted(text) == shown


def test_a_v1_response_with_levels() -> None:
    found = read(response("a", "851830", "", version="7", confidence=0.65))
    assert isinstance(found.half, Response)
    assert [(given.status, given.code, given.confidence) for given in found.half.answers] == [
        ("answered", "851830", 0.65), ("unsure", "", 0.0),
    ]  # fmt: skip
    assert found.told == [Told("answered", "851830", 0.65, "85", 0.65), Told("unsure", "", 0.0, "85", 0.65)]


def test_a_v2_response_says_the_same() -> None:
    predictions = json.loads(response("a", "851830")["content"])["predictions"]
    columns = {"code": ["851830"], "confidence": [0.9], "status": ["answered"]}
    outputs = [{"name": name, "shape": [1], "datatype": "BYTES", "data": data} for name, data in columns.items()]
    whole = [*outputs, {"name": "answer", "shape": [1], "datatype": "BYTES", "data": [json.dumps(predictions[0])]}]
    for given, sure in ((whole, 0.9), (outputs, None)):
        body = json.dumps({"model_name": "hscode", "model_version": "4", "outputs": given}).encode()
        bare = headers("a", KIND + "response")
        del bare["ce-annotations"]
        found = read({"headers": bare, "content": body})
        assert found.told == [Told("answered", "851830", 0.9, "85", sure)]
        assert found.half.version == "4"


@pytest.mark.parametrize("body", [b"", b"# HELP metrics", b"[]", b'{"name": "hscode", "ready": true}'])
def test_what_is_no_inference_is_nothing_to_store(body: bytes) -> None:
    assert read({"headers": headers("a", KIND + "response"), "content": body}).half is None


def test_times() -> None:
    event = request("a", "x")
    soon, later = NOW + timedelta(seconds=299), NOW + timedelta(seconds=301)
    given = {**event["headers"], "ce-time": soon.isoformat()}
    assert read_event(given, event["content"], Monitor(), NOW).half.at == soon  # type: ignore[union-attr]
    for time, outcome in ((later.isoformat(), "future"), ("2020-01-01T00:00:00Z", "old"), ("soon", "malformed")):
        with pytest.raises(Malformed) as caught:
            read_event({**given, "ce-time": time}, event["content"], Monitor(), NOW)
        assert caught.value.outcome == outcome
    del given["ce-time"]
    assert read_event(given, event["content"], Monitor(), NOW).half.at == NOW  # type: ignore[union-attr]


def test_sketches_add_up_and_survive_json() -> None:
    whole, first, second = Sketch(), Sketch(), Sketch()
    texts = ["steel bolts", "стальной болт", "12 x 3", "word " * 30]
    for part, some in ((first, texts[:2]), (second, texts[2:])):
        part.requests += 1
        part.add_texts(some, {"steel", "bolt"}.__contains__)
        part.add_answers([Told("answered", "731815", 0.8, "73", 0.95), Told("vague", "", 0.0, "", None)])
    whole.requests = 2
    whole.add_texts(texts, {"steel", "bolt"}.__contains__)
    whole.add_answers([Told("answered", "731815", 0.8, "73", 0.95), Told("vague", "", 0.0, "", None)] * 2)
    first.add(Sketch.from_json(json.loads(json.dumps(second.to_json()))))
    assert first == whole
    assert whole.scripts == {"latin": 3, "cyrillic": 1}
    assert (whole.judged, whole.unknown) == (37, 35)
    assert (whole.given, whole.confidence_sum, whole.confidence) == (2, 1.6, {"9": 2})
    assert whole.lengths == {"2": 2, "3": 1, "20": 1}
