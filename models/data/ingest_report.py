"""The page that says what ingest found: one file, nothing loaded from elsewhere."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from importlib import resources
from typing import TYPE_CHECKING, Any

from models.hs.edition import Edition, chapter_title

if TYPE_CHECKING:
    from models.data.ingest import IngestReport

_STEPS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)


def render(
    report: "IngestReport",
    edition: Edition,
    examples: Mapping[str, Sequence[tuple[str, int, str]]],
    conflicts: Sequence[Mapping[str, Any]],
    group_sizes: Mapping[int, int],
    groups: Sequence[tuple[str, int]],
) -> str:
    """HTML of a finished ingest.

    `examples`: reason → (file, row, original) of some quarantined rows. `conflicts`: some lines of conflicts.jsonl.
    `group_sizes`: rows of a group → number of such groups. `groups`: first text and rows of the largest groups.
    """
    from jinja2 import Environment

    labels = {label: count for label, count in report.classes.items() if label != "VAGUE"}
    chapters: Counter[str] = Counter()
    for label, count in labels.items():
        chapters[label[:2]] += count
    template = Environment(autoescape=True, trim_blocks=True).from_string(
        (resources.files("models.data") / "ingest.html").read_text(encoding="utf-8")
    )
    return template.render(
        report=report,
        facts=[
            ("rows read", report.read),
            ("kept", report.kept),
            ("merged", report.merged),
            ("quarantined", report.quarantined),
            ("labels", len(labels)),
            ("texts with contradicting labels", report.conflicts),
            ("groups of near-duplicates", report.groups),
        ],
        examples=examples,
        sizes=_binned(Counter(labels.values())),
        largest=[(f"{label} {_short(edition.text(label))}", count) for label, count in list(labels.items())[:15]],
        chapters=[(f"{chapter} {chapter_title(chapter)}", count) for chapter, count in sorted(chapters.items())],
        conflicts=conflicts,
        group_sizes=_binned(group_sizes),
        groups=groups,
    )


def _binned(counts: Mapping[int, int]) -> list[tuple[str, int]]:
    """Counts by value → counts by a range of values, empty ranges between filled ones included."""
    bins = [0] * (len(_STEPS) + 1)
    for value, count in counts.items():
        bins[_first(i for i, step in enumerate(_STEPS) if value <= step)] += count
    names = [str(step) if step <= 2 else f"{_STEPS[i - 1] + 1} to {step}" for i, step in enumerate(_STEPS)]
    rows = list(zip([*names, f"more than {_STEPS[-1]}"], bins, strict=True))
    while len(rows) > 1 and not rows[-1][1]:
        rows.pop()
    return rows


def _first(found: Iterable[int]) -> int:
    return next(iter(found), len(_STEPS))


def _short(text: str) -> str:
    return text if len(text) <= 70 else text[:69] + "…"
