"""What is sent to the trigger, read and checked: Alertmanager's webhook, CloudEvents, S3 notifications, people.

Each function takes a body and gives `Occasion`s, or raises `BadInput` with one line; a body with one bad entry is
refused whole. Unknown fields are let through: senders grow.
"""

import hashlib
import json
import posixpath
import re
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import unquote_plus

from serving.control.trigger.policy import Source

DATA_ARRIVED = "hs.data.arrived.v1"
MOST_ENTRIES = 1000
"""Alerts or records in one body."""
AHEAD = timedelta(hours=1)
"""How far in the future a sender's time may lie; its clock may be off a little."""
KEY_CHARS, TEXT_CHARS, ADDRESS_CHARS = 200, 1000, 1000


class BadInput(Exception):
    """What is wrong, as one line: the sender gets it with status 400."""


@dataclass(frozen=True)
class Occasion:
    """Something that may start a run. By its key the same one is known again."""

    key: str
    source: Source
    payload: Mapping[str, Any]
    """What is kept of it: people's names and reasons, an alert's labels, addresses of new data."""


def alerts(body: bytes, now: datetime) -> list[Occasion]:
    """Alertmanager's webhook, version 4: one occasion for each firing alert; resolved ones change nothing."""
    message = _object(_parsed(body), "the body")
    if message.get("version") != "4":
        raise BadInput(f"version {message.get('version')!r} is not the webhook's version '4'")
    found = []
    for number, entry in enumerate(_entries(message, "alerts")):
        where = f"alerts[{number}]"
        alert = _object(entry, where)
        status = alert.get("status")
        if status not in ("firing", "resolved"):
            raise BadInput(f"{where}.status is {status!r}, neither 'firing' nor 'resolved'")
        fingerprint = _text(alert, "fingerprint", where, 64)
        if not re.fullmatch(r"[0-9a-f]+", fingerprint):
            raise BadInput(f"{where}.fingerprint is not hexadecimal")
        labels = _strings(alert.get("labels", {}), f"{where}.labels")
        began = _moment(_text(alert, "startsAt", where, 64), f"{where}.startsAt", now)
        if status == "resolved":
            continue
        payload = {
            "alert": labels.get("alertname", ""),
            "labels": labels,
            "annotations": _strings(alert.get("annotations", {}), f"{where}.annotations"),
            "starts_at": began.isoformat(),
        }
        found.append(Occasion(f"alert:{fingerprint}:{began.isoformat()}", "alertmanager", payload))
    return found


def events(headers: Mapping[str, str], body: bytes, prefixes: Sequence[str], now: datetime) -> list[Occasion]:
    """A CloudEvent (binary or structured) of type `DATA_ARRIVED`, or an S3 notification, bare or as a CloudEvent.

    New data may lie under `prefixes` alone.
    """
    lower = {name.lower(): value for name, value in headers.items()}
    kind = lower.get("content-type", "").partition(";")[0].strip().lower()
    if kind.startswith("application/cloudevents-batch"):
        raise BadInput("batches of CloudEvents are not taken; send them one by one")
    if "ce-specversion" not in lower and kind != "application/cloudevents+json":
        return _stored_objects(_object(_parsed(body), "the body"), prefixes, now)
    event = _cloud_event(lower, body)
    data = _object(event.data, "data")
    if "Records" in data or data.get("Event") == "s3:TestEvent":
        return _stored_objects(data, prefixes, now)
    if event["type"] != DATA_ARRIVED:
        raise BadInput(f"events of type {event['type']!r} are not taken; this takes {DATA_ARRIVED} and S3 records")
    if event["time"]:
        _moment(str(event["time"]), "time", now)
    given = data.get("addresses", [data["address"]] if "address" in data else None)
    if not isinstance(given, list) or not given:
        raise BadInput("data.address (one) or data.addresses (a list) must say where the data lies")
    if len(given) > MOST_ENTRIES:
        raise BadInput(f"{len(given)} addresses; {MOST_ENTRIES} are taken at once")
    addresses = [_address(value, f"data.addresses[{n}]", prefixes) for n, value in enumerate(given)]
    key = _key("data", f"{event['source']} {event['id']}")
    return [Occasion(key, "data", {"addresses": addresses, "event_source": event["source"], "id": event["id"]})]


def fired(body: bytes) -> list[Occasion]:
    """A person's wish: ``{"who", "why", "id"?, "dry_run"?}``. With an id the same wish sent again is the same."""
    wish = _object(_parsed(body), "the body")
    unknown = sorted(set(wish) - {"who", "why", "id", "dry_run"})
    if unknown:
        raise BadInput(f"unknown field {unknown[0]!r}; known are who, why, id, dry_run")
    if not isinstance(wish.get("dry_run", False), bool):
        raise BadInput("dry_run is neither true nor false")
    identity = _text(wish, "id", "the body", KEY_CHARS) if "id" in wish else uuid.uuid4().hex
    return [by_person(_text(wish, "who", "the body"), _text(wish, "why", "the body"), identity, wish.get("dry_run"))]


def by_person(who: str, why: str, identity: str, dry_run: bool | None = False) -> Occasion:
    """A person's wish as an occasion."""
    return Occasion(_key("person", identity), "person", {"who": who, "why": why, "dry_run": bool(dry_run)})


def by_schedule(cron: str, due: datetime) -> Occasion:
    """A time of the schedule: its key is the time, so any number of replicas make it one."""
    return Occasion(f"schedule:{due.isoformat()}", "schedule", {"cron": cron, "due": due.isoformat()})


def _stored_objects(message: Mapping[str, Any], prefixes: Sequence[str], now: datetime) -> list[Occasion]:
    if message.get("Event") == "s3:TestEvent":
        return []
    found = []
    for number, entry in enumerate(_entries(message, "Records")):
        where = f"Records[{number}]"
        record = _object(entry, where)
        name = _text(record, "eventName", where).removeprefix("s3:")
        if not name.startswith("ObjectCreated:"):
            continue
        s3 = _object(record.get("s3"), f"{where}.s3")
        bucket = _text(_object(s3.get("bucket"), f"{where}.s3.bucket"), "name", f"{where}.s3.bucket", 63)
        stored = _object(s3.get("object"), f"{where}.s3.object")
        path = unquote_plus(_text(stored, "key", f"{where}.s3.object", 3000))
        if "eventTime" in record:
            _moment(_text(record, "eventTime", where), f"{where}.eventTime", now)
        address = _address(f"s3://{bucket}/{path}", f"{where}.s3.object.key", prefixes)
        version = stored.get("versionId") or stored.get("sequencer") or stored.get("eTag") or ""
        found.append(Occasion(_key("object", f"{address} {version}"), "object_store", {"addresses": [address]}))
    return found


def _cloud_event(headers: Mapping[str, str], body: bytes) -> Any:
    from cloudevents.exceptions import GenericException
    from cloudevents.http import from_http

    try:
        event = from_http(headers, body, data_unmarshaller=_parsed)
        for name in ("id", "source", "type"):
            if not isinstance(event[name], str) or not 0 < len(event[name]) <= TEXT_CHARS:
                raise BadInput(f"{name} is not a text of 1 to {TEXT_CHARS} characters")
    except (GenericException, KeyError, TypeError, ValueError, AttributeError) as error:
        told = str(error.__cause__ or error).splitlines() or [type(error).__name__]
        raise BadInput(f"not a CloudEvent ({told[0][:200]})") from None
    return event


def _address(value: Any, where: str, prefixes: Sequence[str]) -> str:
    if not isinstance(value, str) or not 0 < len(value) <= ADDRESS_CHARS:
        raise BadInput(f"{where} is not a text of 1 to {ADDRESS_CHARS} characters")
    if not value.isprintable() or value != value.strip():
        raise BadInput(f"{where} has a control character or a blank at its end: {value!r}")
    scheme, separator, path = value.rpartition("://")
    plain = f"{scheme}{separator}{posixpath.normpath(path)}" == value
    if not plain or not any(value.startswith(prefix) for prefix in prefixes):
        raise BadInput(f"{where} is not under one of trigger.data_prefixes: {value!r}")
    return value


def _parsed(body: bytes | str | None) -> Any:
    def refused(name: str) -> None:
        raise ValueError(f"{name} is not JSON")

    try:
        value = json.loads(body or b"", parse_constant=refused)
        text = json.dumps(value, ensure_ascii=False)
        text.encode()
    except (ValueError, RecursionError) as error:
        raise BadInput(f"not JSON ({(str(error).splitlines() or ['nested too deep'])[0]})") from None
    if "\\u0000" in text:
        raise BadInput("a text has a NUL character in it")
    return value


def _object(value: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise BadInput(f"{where} is not an object")
    return value


def _entries(message: Mapping[str, Any], name: str) -> Sequence[Any]:
    value = message.get(name)
    if not isinstance(value, list):
        raise BadInput(f"{name} is not a list")
    if len(value) > MOST_ENTRIES:
        raise BadInput(f"{name} has {len(value)} entries; {MOST_ENTRIES} are taken at once")
    return value


def _text(given: Mapping[str, Any], name: str, where: str, most: int = TEXT_CHARS) -> str:
    value = given.get(name)
    if not isinstance(value, str) or not 0 < len(value.strip()) <= most or len(value) > most:
        raise BadInput(f"{where}.{name} is not a text of 1 to {most} characters")
    return value


def _strings(value: Any, where: str) -> dict[str, str]:
    if not isinstance(value, dict) or not all(isinstance(each, str) for each in value.values()):
        raise BadInput(f"{where} is not an object of texts")
    return value


def _moment(value: str, where: str, now: datetime) -> datetime:
    try:
        moment = datetime.fromisoformat(value).astimezone(UTC)
    except (ValueError, OverflowError):
        raise BadInput(f"{where} is not a time: {value!r}") from None
    if moment > now + AHEAD:
        raise BadInput(f"{where} lies in the future: {value!r}")
    return moment


def _key(kind: str, identity: str) -> str:
    """The key as it is read, or by its digest where it would be too long."""
    key = f"{kind}:{identity}"
    return key if len(key) <= KEY_CHARS else f"{kind}:{hashlib.sha256(identity.encode()).hexdigest()}"
