"""When requests come: read from a csv, or drawn from one of three shapes. Pure but for the reading."""

import csv
import math
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from models.errors import UserError

Floats = npt.NDArray[np.float64]
Shape = Literal["diurnal", "bursty", "flat"]
SHAPES: tuple[Shape, ...] = get_args(Shape)
DAY = 86_400.0
NIGHT = 0.02
"""Rate in the dead of night as a share of noon's, in the shape `diurnal`: brokers sleep, integrations do not quite."""
BURST_SECONDS, PAUSE_SECONDS = 30.0, 270.0
"""Mean length of a burst and of the silence after it, in the shape `bursty`; both exponential. The rate in a burst is
ten times the mean: a file of declarations that someone's system sends one by one."""
EPOCH = 1e8
"""Numbers of `at` from here on are Unix time (1973 and later) rather than seconds from the trace's start."""


@dataclass(frozen=True)
class Trace:
    """Requests in the order they come."""

    name: str
    """Shape or file."""
    at: Floats
    """Seconds from the start, rising, shape (requests,)."""
    texts: npt.NDArray[np.int64]
    """Descriptions in each request, at least 1, shape (requests,)."""
    seconds: float
    """Length of the trace; replicas are paid for so long at least."""
    latency_ms: Floats | None = None
    """What was observed, where the file has a column `latency_ms` (NaN: failed); for `choice.compare`."""


def draw(shape: Shape, rate: float, seconds: float, random: np.random.Generator) -> Trace:
    """A Poisson process with `rate` requests a second on average over `seconds`.

    *flat*: the same all the time. *diurnal*: a raised cosine with its low at midnight and its peak at noon, begun at
    midnight. *bursty*: on and off (`BURST_SECONDS`, `PAUSE_SECONDS`).
    """
    if shape == "flat":
        edges, rates = np.array([0.0, seconds]), np.array([rate])
    elif shape == "diurnal":
        edges = np.linspace(0, seconds, max(2, math.ceil(seconds / 60) + 1))
        middle = (edges[:-1] + edges[1:]) / 2
        height = NIGHT + (1 - NIGHT) * (1 - np.cos(2 * np.pi * middle / DAY)) / 2
        rates = rate * height / ((1 + NIGHT) / 2)
    else:
        pairs = max(8, math.ceil(3 * seconds / (BURST_SECONDS + PAUSE_SECONDS)) + 8)
        pauses, bursts = random.exponential(PAUSE_SECONDS, pairs), random.exponential(BURST_SECONDS, pairs)
        edges = np.concatenate(([0.0], np.cumsum(np.column_stack((pauses, bursts)).ravel())))
        edges = np.append(edges[edges < seconds], seconds)
        rates = np.where(np.arange(len(edges) - 1) % 2 == 1, rate * (1 + PAUSE_SECONDS / BURST_SECONDS), 0.0)
    expected = np.concatenate(([0.0], np.cumsum(rates * np.diff(edges))))
    count = int(random.poisson(expected[-1]))
    # Given their number, a Poisson process's points are independent draws from its rate.
    at = np.interp(np.sort(random.uniform(0, expected[-1], count)), expected, edges)
    if not count:
        raise UserError(f"{shape} at {rate:g}/s for {seconds:g} s has no request", todo="raise --rate or --duration")
    return Trace(shape, at, np.ones(count, np.int64), seconds)


def read(path: Path) -> Trace:
    """The requests of a csv with column `at` and optional `texts`, `latency_ms`; unsorted rows are sorted.

    `at` holds seconds from the start, Unix time, or ISO 8601 timestamps (without a zone: UTC); of the last two the
    first request's is taken off. Raises UserError naming row and column.
    """
    name = str(path)
    at: list[float] = []
    texts: list[int] = []
    latency: list[float] = []
    stamps = False
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = csv.DictReader(file)
            columns = rows.fieldnames or []
            if "at" not in columns:
                raise UserError("no column 'at'" if columns else "empty", name, "give a csv with a column at (seconds)")
            has_texts, has_latency = "texts" in columns, "latency_ms" in columns
            for row in rows:
                where = f"{name}, line {rows.line_num}"
                value, stamp = _time(row["at"], where)
                if at and stamp != stamps:
                    raise UserError("column at mixes numbers and timestamps", where)
                stamps = stamp
                at.append(value)
                texts.append(_texts(row["texts"], where) if has_texts else 1)
                if has_latency:
                    latency.append(_latency(row["latency_ms"], where))
    except OSError as error:
        raise UserError(f"cannot read the trace ({error.strerror})", name) from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"not a csv in UTF-8 ({error})", name) from None
    if not at:
        raise UserError("no requests in the trace", name)
    times = np.array(at)
    order = np.argsort(times, kind="stable")
    times = times[order]
    if stamps or times[0] >= EPOCH:
        times = times - times[0]
    observed = np.array(latency)[order] if latency else None
    return Trace(name, times, np.array(texts)[order], float(times[-1]), observed)


def _time(text: str | None, where: str) -> tuple[float, bool]:
    """Seconds, and whether a timestamp said them."""
    text = (text or "").strip()
    try:
        value = float(text)
    except ValueError:
        try:
            stamp = datetime.fromisoformat(text)
        except ValueError:
            raise UserError(f"at is {text!r}", where, "write seconds or an ISO 8601 timestamp") from None
        return (stamp if stamp.tzinfo else stamp.replace(tzinfo=UTC)).timestamp(), True
    if not math.isfinite(value) or value < 0:
        raise UserError(f"at is {text}", where, "times are finite and not negative")
    return value, False


def _texts(text: str | None, where: str) -> int:
    try:
        count = int(text or "")
    except ValueError:
        count = 0
    if count < 1:
        raise UserError(f"texts is {text!r}", where, "write how many descriptions the request has, 1 or more")
    return count


def _latency(text: str | None, where: str) -> float:
    """Milliseconds; empty: the request failed."""
    if not (text or "").strip():
        return math.nan
    try:
        value = float(text or "")
    except ValueError:
        value = -1.0
    if not math.isfinite(value) or value < 0:
        raise UserError(f"latency_ms is {text!r}", where, "write milliseconds, or nothing where the request failed")
    return value
