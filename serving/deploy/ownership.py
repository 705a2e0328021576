"""Server-side apply needs the whole of what a manager owns; this reads it back from an object's `managedFields`."""

import copy
import json
from collections.abc import Mapping
from typing import Any


def owned(service: Mapping[str, Any], manager: str) -> dict[str, Any]:
    """The part of `service` that `manager` last applied; at least ``{"metadata": {}, "spec": {"predictor": {}}}``."""
    fields: Mapping[str, Any] = {}
    for entry in service["metadata"].get("managedFields", []):
        if entry["manager"] == manager and entry["operation"] == "Apply" and not entry.get("subresource"):
            fields = entry["fieldsV1"]
    part: dict[str, Any] = copy.deepcopy(_pick(service, fields)) if fields else {}
    part.setdefault("metadata", {})
    part.setdefault("spec", {}).setdefault("predictor", {})
    return part


def same_fields(service: Mapping[str, Any], shape: Mapping[str, Any]) -> dict[str, Any]:
    """The values that `service` has for the fields of `shape`; fields it has not are left out."""
    part = {}
    for key, inner in shape.items():
        if key in service:
            both = isinstance(inner, Mapping) and isinstance(service[key], Mapping)
            part[key] = same_fields(service[key], inner) if both else copy.deepcopy(service[key])
    return part


def _pick(value: Any, fields: Mapping[str, Any]) -> Any:
    """`fields` is a fieldsV1 set: ``f:NAME`` of a mapping, ``k:{...}`` and ``v:VALUE`` of a list, empty for a leaf."""
    inner = {key: under for key, under in fields.items() if key != "."}
    if isinstance(value, Mapping):
        if not inner and "." not in fields and value:
            return value  # owned as a whole
        names = {key[2:]: under for key, under in inner.items() if key.startswith("f:")}
        return {name: _pick(value[name], under) for name, under in names.items() if name in value}
    if isinstance(value, list) and inner:
        picked = []
        for item in value:
            for key, under in inner.items():
                kind, _, text = key.partition(":")
                wanted = json.loads(text)
                if kind == "v" and item == wanted:
                    picked.append(item)
                elif kind == "k" and all(item.get(name) == part for name, part in wanted.items()):
                    picked.append(_pick(item, under))
        return picked
    return value
