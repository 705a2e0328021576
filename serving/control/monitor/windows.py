"""From the state to figures by version over sliding windows."""

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import numpy as np
from sqlalchemy import bindparam, func, select, update
from sqlalchemy.orm import Session

from config.settings import Monitor
from models.reference import LONGEST, TOKEN_BUCKETS
from serving.control.monitor.drift import Array, Drift, calibration_error, compare, dense
from serving.control.monitor.sketches import Sketch
from serving.control.monitor.versions import Known
from serving.state.corrections import standing
from serving.state.database import State
from serving.state.tables import Answer, Correction, Event
from serving.state.tables import Sketch as SketchRow

FEATURES = ("tokens", "lengths", "scripts", "unknown", "chapters", "confidence")
LEVELS = (2, 4, 6)
_CHUNK = 500


@dataclass(frozen=True)
class Corrected:
    """One corrected answer of a version."""

    confidence: float
    right: bool
    """As long as answer and correction both say: their common length agrees."""
    levels: Mapping[int, bool]
    """Right or wrong at each level that both reach."""


@dataclass
class Seen:
    """A version in its windows."""

    total: Sketch = field(default_factory=Sketch)
    drift: dict[str, Drift] = field(default_factory=dict)
    corrected: list[Corrected] = field(default_factory=list)

    def accuracy(self, level: int) -> tuple[int, int]:
        """(right, all) corrected answers at a level."""
        judged = [one.levels[level] for one in self.corrected if level in one.levels]
        return sum(judged), len(judged)

    def calibration(self, least: int) -> float | None:
        """Calibration error; None for fewer than `least` corrected answers."""
        if len(self.corrected) < least:
            return None
        return calibration_error([c.confidence for c in self.corrected], [c.right for c in self.corrected])


def read_windows(
    state: State, settings: Monitor, now: datetime, known: Callable[[str], Known | None]
) -> dict[str, Seen]:
    """Figures of the versions with traffic in the window or corrected answers, newest traffic first."""
    with state.read() as session:
        parts = _parts(session, settings, now)
        corrected = corrected_answers(session, now - timedelta(days=settings.corrections_days))
    latest = {version: max(by_time) for version, by_time in parts.items()}
    order = sorted(parts, key=lambda version: (latest[version], version), reverse=True)
    order += sorted(set(corrected) - set(order))
    seen: dict[str, Seen] = {}
    for version in order[: settings.versions]:
        found = seen[version] = Seen(corrected=corrected.get(version, []))
        sketches = list(parts.get(version, {}).values())
        for sketch in sketches:
            found.total.add(sketch)
        facts = known(version)
        if facts is not None and facts.reference:
            found.drift = drift_of(sketches, facts.reference, settings.confidence)
    return seen


def _parts(session: Session, settings: Monitor, now: datetime) -> dict[str, dict[datetime, Sketch]]:
    """Sketches by version and begin, summed over writers and services."""
    start = now - timedelta(seconds=settings.window_seconds)
    rows = session.execute(
        select(SketchRow.version, SketchRow.begins_at, SketchRow.counts).where(SketchRow.begins_at >= start)
    )
    parts: dict[str, dict[datetime, Sketch]] = defaultdict(dict)
    for version, begins_at, counts in rows:
        parts[version].setdefault(begins_at, Sketch()).add(Sketch.from_json(counts))
    return parts


def drift_of(parts: Sequence[Sketch], reference: Mapping[str, Any], confidence: float) -> dict[str, Drift]:
    """Drift by feature of a window, given by its parts, from a bundle's reference."""
    rows = float(reference.get("rows", 0))
    lengths = np.asarray(reference.get("lengths", ()), dtype=np.float64)
    words = rows * float(np.dot(lengths, np.arange(len(lengths))))
    found: dict[str, Drift] = {}

    def put(feature: str, counts: Array, shares: Any, size: float) -> None:
        if counts.sum() > 0 and size > 0 and np.sum(shares) > 0:
            found[feature] = compare(counts, shares, size, confidence)

    for feature, cells, size in (
        ("tokens", TOKEN_BUCKETS, words),
        ("lengths", LONGEST + 1, rows),
        ("confidence", 10, rows),
    ):
        if len(reference.get(feature, ())) == cells:
            put(feature, np.array([dense(getattr(part, feature), cells) for part in parts]), reference[feature], size)
    for feature in ("scripts", "chapters"):
        shares = reference.get(feature) or {}
        names = sorted(set(shares).union(*(getattr(part, feature) for part in parts)))
        counts = np.array([[float(getattr(part, feature)[name]) for name in names] for part in parts])
        put(feature, counts, [shares.get(name, 0.0) for name in names], rows)
    if "unknown" in reference:
        unknown = float(reference["unknown"])
        counts = np.array([[float(part.judged - part.unknown), float(part.unknown)] for part in parts])
        put("unknown", counts, [1 - unknown, unknown], words)
    return found


def corrected_answers(session: Session, since: datetime) -> dict[str, list[Corrected]]:
    """By version: its newest answer to each text with a standing correction recorded since, judged by it."""
    corrections = list(standing(session, since).values())
    found: dict[str, list[Corrected]] = defaultdict(list)
    for chunk in (corrections[at : at + _CHUNK] for at in range(0, len(corrections), _CHUNK)):
        by_text = {one.text_hash: one for one in chunk}
        by_id = {(one.answer_ce_id, one.answer_position): one for one in chunk if one.answer_ce_id is not None}
        newest: dict[tuple[str, str], tuple[datetime, Corrected]] = {}
        # Two statements: of an OR over columns of two tables no database makes two looks into indexes.
        for row in session.execute(_NEWEST_OF_TEXTS, {"texts": list(by_text)}):
            newest[(row.version, row.text_hash)] = (row.at, _judged(row, by_text[row.text_hash]))
        for row in session.execute(_OF_REQUESTS, {"ids": list({ce_id for ce_id, _ in by_id})}):
            one = by_id.get((row.ce_id, row.position))
            if one is None or row.text_hash in by_text:
                continue
            key = (row.version, one.text_hash)
            if key not in newest or newest[key][0] <= row.at:
                newest[key] = (row.at, _judged(row, one))
        for (version, _), (_, judged) in newest.items():
            found[version].append(judged)
    return found


def _newest_of_texts() -> Any:
    """Of each version, its newest given answer to each of `texts`."""
    newest_first = (Answer.at.desc(), Answer.event_id.desc(), Answer.position.desc())
    place = func.row_number().over(partition_by=(Answer.version, Answer.text_hash), order_by=newest_first)
    ranked = (
        select(*_FOR_JUDGING, place.label("place"))
        .where(Answer.text_hash.in_(bindparam("texts", expanding=True)), Answer.status.in_(_GIVEN))
        .subquery()
    )
    return select(ranked).where(ranked.c.place == 1)


_GIVEN = ("answered", "shortened")
_FOR_JUDGING = (Answer.version, Answer.text_hash, Answer.at, Answer.code, Answer.confidence)
_NEWEST_OF_TEXTS = _newest_of_texts()
_OF_REQUESTS = (
    select(*_FOR_JUDGING, Answer.position, Event.ce_id)
    .join(Event, Event.id == Answer.event_id)
    .where(Event.ce_id.in_(bindparam("ids", expanding=True)), Answer.status.in_(_GIVEN))
    .order_by(Answer.at)
)


def _judged(answer: Any, correction: Correction) -> Corrected:
    length = min(len(answer.code), len(correction.code))
    levels = {level: answer.code[:level] == correction.code[:level] for level in LEVELS if level <= length}
    return Corrected(answer.confidence, answer.code[:length] == correction.code[:length], levels)


def count_unanswered(state: State, settings: Monitor, now: datetime) -> Counter[str]:
    """Mark requests that waited in vain, each once whatever the replicas; how many of each version."""
    statement = (
        update(Event)
        .where(Event.response_at.is_(None), ~Event.unanswered, Event.request_at.is_not(None))
        .where(Event.request_at < now - timedelta(seconds=settings.answer_seconds), ~Event.client_error)
        .values(unanswered=True)
        .returning(Event.version)
    )
    with state.write() as session:
        return Counter(session.scalars(statement))
