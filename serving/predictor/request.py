"""What is asked, read from any protocol into one form: a list of instances, checked against the limits."""

from collections.abc import Mapping, Sequence
from typing import Any, NotRequired, TypedDict

from serving.predictor.options import Limits

DIGITS = (2, 4, 6)
FIELDS = ("description", "digits", "limit")


class Instance(TypedDict):
    """One description and what is wanted of it."""

    description: str
    digits: NotRequired[int]
    limit: NotRequired[int]


class Refused(Exception):
    """A request that is not answered: HTTP `status`, one line that says why, and for 503 when to come again."""

    def __init__(self, status: int, reason: str, retry_after: int | None = None) -> None:
        super().__init__(reason)
        self.status, self.reason, self.retry_after = status, reason, retry_after


def read_json(body: bytes | bytearray | memoryview) -> Any:
    """The JSON of a body, whatever its content type said; 400 where it is none."""
    import orjson

    if not body:
        raise Refused(400, 'the body is empty; send {"instances": ["..."]}')
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise Refused(400, f"the body is not JSON: {error}") from None


def instances_of(payload: Any, limits: Limits) -> list[Instance]:
    """Instances of a v1 body: ``{"instances": [...]}``, or one instance object alone; 4xx with what is wrong where."""
    if not isinstance(payload, Mapping):
        raise Refused(400, f'the body must be a JSON object with "instances", not {_kind(payload)}')
    if "instances" not in payload:
        if "description" in payload:
            return [_instance(payload, "the instance", limits)]
        raise Refused(400, '"instances" is missing; send {"instances": ["..."]}')
    given = payload["instances"]
    if not isinstance(given, list):
        raise Refused(400, f'"instances" must be a list, not {_kind(given)}')
    _check_count(len(given), limits)
    return [
        {"description": _text(one, f"instances[{i}]", limits)}
        if isinstance(one, str)
        else _instance(one, f"instances[{i}]", limits)
        for i, one in enumerate(given)
    ]


def instances_from_columns(
    descriptions: Sequence[str | bytes], digits: Sequence[Any], limit: Sequence[Any], limits: Limits
) -> list[Instance]:
    """Instances of a v2 request: `digits` and `limit` are empty, have one value for all, or one for each."""
    _check_count(len(descriptions), limits)
    out: list[Instance] = []
    for i, text in enumerate(descriptions):
        if isinstance(text, bytes):
            try:
                text = text.decode()
            except UnicodeDecodeError:
                raise Refused(400, f"description[{i}] is not UTF-8") from None
        row: dict[str, Any] = {"description": text}
        for name, column in (("digits", digits), ("limit", limit)):
            if len(column) not in (0, 1, len(descriptions)):
                raise Refused(400, f'"{name}" has {len(column)} values for {len(descriptions)} descriptions')
            if len(column):
                row[name] = column[i if len(column) > 1 else 0]
        out.append(_instance(row, f"description[{i}]", limits))
    return out


def _check_count(count: int, limits: Limits) -> None:
    if not count:
        raise Refused(400, "there are no instances")
    if count > limits.instances:
        raise Refused(400, f"{count} instances; the limit is {limits.instances} a request")


def _text(text: str, where: str, limits: Limits) -> str:
    if len(text) > limits.text_chars:
        raise Refused(400, f"{where} has {len(text)} characters; the limit is {limits.text_chars}")
    return text


def _instance(one: Any, where: str, limits: Limits) -> Instance:
    if not isinstance(one, Mapping):
        raise Refused(400, f'{where} must be a string or an object with "description", not {_kind(one)}')
    for key in one:
        if key not in FIELDS:
            raise Refused(400, f"{where} has an unknown field {str(key)[:40]!r}; known are {', '.join(FIELDS)}")
    text = one.get("description")
    if not isinstance(text, str):
        raise Refused(400, f'{where} must have a string "description"')
    out: Instance = {"description": _text(text, where, limits)}
    digits = one.get("digits")
    if digits is not None:
        if isinstance(digits, (bool, str)) or digits not in DIGITS:
            raise Refused(400, f'"digits" of {where} must be 2, 4 or 6')
        out["digits"] = int(digits)
    limit = one.get("limit")
    if limit is not None:
        whole = isinstance(limit, int) or (isinstance(limit, float) and limit.is_integer())
        if isinstance(limit, bool) or not whole or not 1 <= limit <= limits.candidates:
            raise Refused(400, f'"limit" of {where} must be 1 to {limits.candidates}')
        out["limit"] = int(limit)
    return out


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "a string", bool: "a boolean", int: "a number", float: "a number"}
    return names.get(type(value), "null" if value is None else type(value).__name__)
