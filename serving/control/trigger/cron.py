"""Six-field cron expressions, seconds first, UTC: those that Kubeflow Pipelines and we read alike."""

import re
from datetime import UTC, datetime

from models.errors import UserError

FIELDS = ("second", "minute", "hour", "day of month", "month", "day of week")
_PLAIN = re.compile(r"[0-9*/,?-]+")


def checked(expression: str) -> str:
    """The expression, single-spaced. Raises UserError where it is none of six fields that both sides understand.

    Five fields are refused: Kubeflow Pipelines takes them and reads the first as seconds.
    """
    fields = expression.split()
    if len(fields) == 5:
        raise UserError(
            "five fields; the first of six is the second", f"schedule {expression!r}", f"write: 0 {' '.join(fields)}"
        )
    if len(fields) != len(FIELDS):
        raise UserError(
            f"{len(fields)} fields where {len(FIELDS)} are needed",
            f"schedule {expression!r}",
            f"write {', '.join(FIELDS)}, such as: 0 0 3 * * 1",
        )
    # L, W and # are known on one side only, and 7 for Sunday too.
    for name, value in zip(FIELDS, fields, strict=True):
        known = re.sub(r"(?i)jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec|sun|mon|tue|wed|thu|fri|sat", "", value)
        if not _PLAIN.fullmatch(known or "*"):
            raise UserError(f"{value!r} is no {name}", f"schedule {expression!r}", "use digits, names, * / , -")
    if "7" in re.findall(r"\d+", fields[5]):
        raise UserError("7 is no day of week", f"schedule {expression!r}", "Sunday is 0")
    _simulated(expression, datetime(2000, 1, 1, tzinfo=UTC))
    return " ".join(fields)


def next_after(expression: str, moment: datetime) -> datetime:
    """The first time that is due after `moment`."""
    return _simulated(expression, moment)


def last_until(expression: str, moment: datetime) -> datetime:
    """The last time that was due at or before `moment`."""
    # The simulation leaves out its own start; a microsecond later it does not.
    return _simulated(expression, moment.replace(microsecond=moment.microsecond or 1), reverse=True)


def _simulated(expression: str, moment: datetime, reverse: bool = False) -> datetime:
    from cronsim import CronSim, CronSimError

    try:
        return next(CronSim(expression.replace("?", "*"), moment.astimezone(UTC), reverse=reverse))
    except CronSimError as error:
        raise UserError(str(error)[0].lower() + str(error)[1:], f"schedule {expression!r}") from None
    except StopIteration:
        raise UserError("is never due", f"schedule {expression!r}") from None
