"""CloudEvents in and out, in binary and in structured mode: a Knative Trigger can call the predictor.

The answer to an event is an event: same mode, same id (so that a repeated delivery gives the same id again), type
``io.kserve.inference.response`` (or the environment's ``CE_TYPE``, as in KServe), data the same JSON as without events.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from serving.predictor.request import Refused, read_json

STRUCTURED = "application/cloudevents+json"
BATCH = "application/cloudevents-batch+json"
REQUIRED = ("id", "source", "type", "specversion")


@dataclass(frozen=True)
class Event:
    """What of a request's event its answer needs."""

    id: str
    structured: bool


def unwrap(headers: Mapping[str, str], body: bytes) -> tuple[bytes | object, Event | None]:
    """The request's data, and its event where it is one.

    Data are bytes where they still are JSON text, else the parsed value. 400 for a broken event, 415 for a batch.
    """
    content_type = headers.get("content-type", "").partition(";")[0].strip().lower()
    if content_type == BATCH:
        raise Refused(415, "batches of events are not taken; send one event with several instances")
    if content_type == STRUCTURED:
        envelope = read_json(body)
        if not isinstance(envelope, dict):
            raise Refused(400, "a structured CloudEvent is a JSON object")
        event = _event(envelope, structured=True)
        if "data_base64" in envelope:
            return _decoded(envelope["data_base64"]), event
        if "data" not in envelope:
            raise Refused(400, "the CloudEvent has no data")
        return envelope["data"], event
    if "ce-specversion" in headers:
        return body, _event({name[3:]: value for name, value in headers.items() if name[:3] == "ce-"}, structured=False)
    return body, None


def wrap(event: Event, body: bytes, model: Mapping[str, str]) -> tuple[dict[str, str], bytes]:
    """Headers and body of the answering event; `body` is the JSON answer, `model` its name, version and edition."""
    attributes = {
        "specversion": "1.0",
        "id": event.id,
        "source": os.environ.get("CE_SOURCE") or f"io.kserve.inference.{model['name']}",
        "type": os.environ.get("CE_TYPE") or "io.kserve.inference.response",
        "time": datetime.now(UTC).isoformat().replace("+00:00", "Z"),
        "hsmodelversion": model["version"],
        "hsmodeledition": model["edition"],
    }
    if not event.structured:
        return {f"ce-{name}": _percent(value) for name, value in attributes.items()} | {
            "content-type": "application/json"
        }, body
    import orjson

    envelope = {**attributes, "datacontenttype": "application/json", "data": orjson.Fragment(body)}
    return {"content-type": STRUCTURED}, orjson.dumps(envelope)


def _event(attributes: Mapping[str, object], structured: bool) -> Event:
    for name in REQUIRED:
        value = attributes.get(name)
        if not isinstance(value, str) or not value:
            raise Refused(400, f"the CloudEvent has no {name}")
    if attributes["specversion"] != "1.0":
        raise Refused(400, f"CloudEvents {str(attributes['specversion'])[:10]} are not known; send 1.0")
    identifier = str(attributes["id"])
    if not structured and "%" in identifier:
        from urllib.parse import unquote

        identifier = unquote(identifier)
    return Event(identifier, structured)


def _percent(value: str) -> str:
    """Header values are printable ASCII; the rest is percent-encoded (CloudEvents HTTP binding, 3.1.3.2)."""
    from urllib.parse import quote

    return quote(value, safe=" !#$&'()*+,-./:;<=>?@[]^_`{|}~")


def _decoded(data: object) -> bytes:
    import base64

    if not isinstance(data, str):
        raise Refused(400, "data_base64 of the CloudEvent must be a string")
    try:
        return base64.b64decode(data, validate=True)
    except ValueError:
        raise Refused(400, "data_base64 of the CloudEvent is not base64") from None
