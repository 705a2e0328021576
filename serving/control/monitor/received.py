"""From a logger's request (binary CloudEvent) to one half of an event. Pure; nothing is stored here."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from config.settings import Monitor
from serving.control.monitor.sketches import Told
from serving.deploy.base import REQUEST_TYPE, RESPONSE_TYPE, VERSION_ANNOTATION
from serving.predictor.events import unwrap
from serving.predictor.options import Limits
from serving.predictor.request import Refused, instances_of, read_json
from serving.state.events import Given, Request, Response, text_hash

STATUSES = ("answered", "shortened", "vague", "unsure")

_NAME = re.compile(r"[A-Za-z0-9._-]{0,63}")
_LIMITS = Limits()
_PRIVATE = (
    # From a word's start and never back: else a long word without an @ is read once from each of its letters.
    (re.compile(r"(?<![\w.+-])[\w.+-]++@[\w-]++\.[\w.-]+"), "<email>"),
    (re.compile(r"(?:https?://|www\.)\S+", re.IGNORECASE), "<address>"),
    (re.compile(r"\d(?:[ .-]?\d){3,}"), "<number>"),
)


class Malformed(Exception):
    """An event that is not taken: HTTP `status` and why; `outcome` is how it is counted."""

    def __init__(self, reason: str, outcome: str = "malformed", status: int = 400) -> None:
        super().__init__(reason)
        self.reason, self.outcome, self.status = reason, outcome, status


@dataclass(frozen=True)
class Received:
    """One half, and of it what is counted but not kept."""

    half: Request | Response | None
    """None: well-formed, but no inference (a probe, a list of models): nothing to store."""
    size: int
    """Bytes of the body."""
    texts: Sequence[str] = ()
    """A request's descriptions as sent."""
    told: Sequence[Told] = ()
    """A response's answers."""


def read_event(headers: Mapping[str, str], body: bytes, settings: Monitor, now: datetime) -> Received:
    """Read one event; `headers` have lower-case names. Raises Malformed."""
    kind = headers.get("ce-type", "")
    if headers.get("ce-specversion") != "1.0":
        raise Malformed("not a CloudEvent 1.0 in binary mode (no ce-specversion: 1.0)")
    if kind not in (REQUEST_TYPE, RESPONSE_TYPE):
        raise Malformed(f"type {kind[:80]!r} is not taken here; taken are the inference logger's request and response")
    ce_id, service = headers.get("ce-id", ""), headers.get("ce-inferenceservicename", "")
    if not 0 < len(ce_id) <= 200 or not ce_id.isprintable():
        raise Malformed("ce-id must have 1 to 200 printable characters")
    if not service or not _NAME.fullmatch(service) or not _NAME.fullmatch(headers.get("ce-namespace", "")):
        raise Malformed("ce-inferenceservicename and ce-namespace must be Kubernetes names")
    common: dict[str, Any] = {
        "ce_id": ce_id,
        "service": service,
        "namespace": headers.get("ce-namespace", ""),
        "at": _time(headers.get("ce-time"), settings, now),
    }
    content_type = headers.get("content-type", "")
    if kind == REQUEST_TYPE:
        return _request(common, _version(headers), content_type, body, settings.texts)
    return _response(common, _version(headers), content_type, body)


def redacted(text: str) -> str:
    """Without long numbers, e-mail and web addresses.

    >>> redacted("cotton shirts 12pcs, order 2024-118 33, mail a.b@example.org")
    'cotton shirts 12pcs, order <number>, mail <email>'
    """
    for pattern, name in _PRIVATE:
        text = pattern.sub(name, text)
    return text


def _time(given: str | None, settings: Monitor, now: datetime) -> datetime:
    if not given:
        return now
    try:
        at = datetime.fromisoformat(given)
    except ValueError:
        raise Malformed(f"ce-time {given[:40]!r} is no time") from None
    at = at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)
    if at > now + timedelta(seconds=settings.future_seconds):
        raise Malformed(f"ce-time {given[:40]} lies in the future", "future")
    if at < now - timedelta(days=settings.events_days):
        raise Malformed(f"ce-time {given[:40]} is older than what is kept ({settings.events_days:g} days)", "old")
    return at


def _version(headers: Mapping[str, str]) -> str:
    annotations = headers.get("ce-annotations")
    if not annotations:
        return ""
    try:
        read = read_json(annotations.encode())
    except Refused:
        read = None
    if not isinstance(read, dict):
        raise Malformed("ce-annotations is not a JSON object")
    return _checked_version(read.get(VERSION_ANNOTATION, ""))


def _checked_version(version: Any) -> str:
    if not isinstance(version, str) or not _NAME.fullmatch(version):
        raise Malformed("the version must have at most 63 letters, digits, dots, dashes")
    return version


def _request(common: dict[str, Any], version: str, content_type: str, body: bytes, keep: str) -> Received:
    if not body:
        return Received(None, 0)
    texts = _descriptions(body, content_type)
    if texts is None:
        return Received(Request(**common, version=version, client_error=True), len(body))
    hashes = [text_hash(text) for text in texts]
    kept: list[str] | None = None
    if keep != "drop":
        # PostgreSQL's JSON takes no NUL.
        kept = [(redacted(text) if keep == "redact" else text).replace("\0", "\ufffd") for text in texts]
    request = Request(**common, version=version, instances=len(texts), texts=kept, text_hashes=hashes)
    return Received(request, len(body), texts=texts)


def _descriptions(body: bytes, content_type: str) -> list[str] | None:
    """The texts of a v1 or v2 request; None where it is the client's error."""
    if len(body) > _LIMITS.body_bytes:
        return None
    try:
        payload = _payload(body, content_type)
        if isinstance(payload, dict) and "inputs" in payload:
            return _from_v2(payload)
        return [instance["description"] for instance in instances_of(payload, _LIMITS)]
    except Refused:
        # A v2 request with its tensors behind the JSON header is right, but its texts are not read here.
        return [] if content_type.startswith("application/octet-stream") else None


def _payload(body: bytes, content_type: str) -> Any:
    """The JSON that was sent, without the envelope of a structured CloudEvent. Raises Refused as the predictor does.

    KServe's logger puts the request's content type on both halves, and an answer comes as its request did.
    """
    data, _ = unwrap({"content-type": content_type}, body)
    return read_json(data) if isinstance(data, bytes) else data


def _from_v2(payload: Mapping[str, Any]) -> list[str] | None:
    inputs = payload["inputs"]
    for tensor in inputs if isinstance(inputs, list) else ():
        if isinstance(tensor, dict) and tensor.get("name") == "description":
            values = tensor.get("data")
            while isinstance(values, list) and values and isinstance(values[0], list):
                values = [element for row in values if isinstance(row, list) for element in row]
            if isinstance(values, list) and values and all(isinstance(value, str) for value in values):
                return values if len(values) <= _LIMITS.instances else None
    return None


def _response(common: dict[str, Any], version: str, content_type: str, body: bytes) -> Received:
    if not body:
        return Received(None, 0)
    try:
        payload = _payload(body, content_type)
    except Refused:
        return Received(None, len(body))
    if not isinstance(payload, dict):
        return Received(None, len(body))
    if "predictions" in payload:
        said = [_told(answer) for answer in _listed(payload["predictions"], "predictions")]
        model = payload.get("model")
        told_version = model.get("version", "") if isinstance(model, dict) else ""
    elif "outputs" in payload:
        said = _told_v2(payload)
        told_version = payload.get("model_version") or ""
    elif "explanations" in payload:
        return Received(Response(**common, version=version), len(body))
    else:
        return Received(None, len(body))
    answers = [Given(told.status, told.code, told.confidence) for told in said]
    half = Response(**common, version=version or _checked_version(told_version), answers=answers)
    return Received(half, len(body), told=said)


def _listed(value: Any, name: str) -> list[Any]:
    if not isinstance(value, list):
        raise Malformed(f'"{name}" is not a list')
    return value


def _told(answer: Any) -> Told:
    if not isinstance(answer, dict):
        raise Malformed("an answer is not an object")
    levels = answer.get("levels")
    chapter, sure = "", None
    if isinstance(levels, dict):
        best = levels.get("2")
        chapter = _code(best.get("code", "")) if isinstance(best, dict) else ""
        deepest = levels.get("6")
        sure = _probability(deepest.get("confidence", 0.0)) if isinstance(deepest, dict) else None
    code = _code(answer.get("code", ""))
    return Told(
        _status(answer.get("status")), code, _probability(answer.get("confidence", 0.0)), chapter or code[:2], sure
    )


def _told_v2(payload: Mapping[str, Any]) -> list[Told]:
    columns: dict[str, list[Any]] = {}
    for tensor in _listed(payload["outputs"], "outputs"):
        if isinstance(tensor, dict) and isinstance(tensor.get("data"), list):
            columns[str(tensor.get("name"))] = tensor["data"]
    if "answer" in columns:
        try:
            return [_told(read_json(str(answer).encode())) for answer in columns["answer"]]
        except Refused:
            raise Malformed('output "answer" is not JSON') from None
    try:
        rows = zip(columns["status"], columns["code"], columns["confidence"], strict=True)
        return [Told(_status(s), _code(c), _probability(p), _code(c)[:2], None) for s, c, p in rows]
    except (KeyError, ValueError):
        return []


def _status(value: Any) -> str:
    if value not in STATUSES:
        raise Malformed(f"status {str(value)[:40]!r} is none of {', '.join(STATUSES)}")
    return str(value)


def _code(value: Any) -> str:
    if (
        not isinstance(value, str)
        or len(value) not in (0, 2, 4, 6)
        or not (value.isascii() and (value or "0").isdigit())
    ):
        raise Malformed(f"code {str(value)[:40]!r} is no code of 2, 4 or 6 digits")
    return value


def _probability(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 1 + 1e-6:
        raise Malformed(f"confidence {str(value)[:40]!r} is not in [0, 1]")
    return float(min(value, 1.0))
