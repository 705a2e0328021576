"""What a new edition does: to data with the old edition's codes, and to a model that answers in them."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from models.errors import UserError
from models.hs.correlation import Correlation
from models.hs.edition import Edition

Fate = Literal["kept", "narrowed", "reused", "renumbered", "split", "lost"]
FATES: dict[Fate, str] = {
    "kept": "same code, same goods",
    "narrowed": "same code, but part of its goods moved to others: labels stay, to be looked at",
    "reused": "the code exists in both editions for other goods: labels stay, to be looked at",
    "renumbered": "retired, one successor: labels are mapped",
    "split": "retired, several successors: labels are shortened to what these share",
    "lost": "retired without a successor in the table, or in no edition: rows are refused",
}
"""What becomes of an old code, in the order of a report, as ingest does it."""


@dataclass(frozen=True)
class Change:
    """An old code that is not simply kept."""

    code: str
    fate: Fate
    becomes: str | None
    """Label of its rows in the new edition: six digits, four or two; None where its rows are refused."""
    successors: tuple[str, ...]
    rows: int
    """Rows of the data that carry it."""
    answered: bool
    """Whether the model has a class for it."""


@dataclass(frozen=True)
class NewCode:
    """A code that only the new edition has."""

    code: str
    text: str
    parents: tuple[str, ...]
    """Old codes whose goods it took over."""
    rows_sure: int
    """Rows that ingest will give to it: those of parents with this one successor."""
    rows_possible: int
    """Rows of all its parents: among them its examples are."""


@dataclass(frozen=True)
class ModelEffect:
    """What it does to a model."""

    edition: str
    classes: int
    fates: dict[Fate, int]
    """Its classes by fate."""
    vanished: tuple[str, ...]
    """Its classes that are no code of the new edition: renumbered, split and lost ones."""
    uncovered: int
    """Subheadings of the new edition that it has no class for."""
    uncovered_new: tuple[str, ...]
    """Of these, the ones that are new."""
    rows_uncovered: int
    """Rows of the data that will carry a subheading it cannot answer."""


@dataclass(frozen=True)
class Migration:
    """The whole answer. Rows count the data's rows with a readable code."""

    edition: str
    subheadings: int
    rows: int
    rows_by_fate: dict[Fate, int]
    codes_by_fate: dict[Fate, int]
    """Codes of data, table and model by fate."""
    rows_shortened: dict[int, int]
    """Rows whose label gets shorter, by its new number of digits."""
    changes: tuple[Change, ...]
    """Every code that is not simply kept, most rows first."""
    new: tuple[NewCode, ...]
    model: ModelEffect | None

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        return asdict(self)


def migration(
    rows: Mapping[str, int],
    edition: Edition,
    correlation: Correlation,
    classes: Sequence[str] | None = None,
    model_edition: str = "",
) -> Migration:
    """What `edition` does to `rows` (old code of six, four or two digits → rows) and to a model's `classes`.

    Old codes are those of table, data and model. Raises UserError where the table does not lead to this edition.
    """
    _refuse_foreign(correlation, edition)
    answered = {code for code in classes or () if code}
    old = sorted({*rows, *correlation.mapping, *answered})
    became = {code: _fate(code, edition, correlation) for code in old}
    by_fate: Counter[Fate] = Counter()
    codes_by_fate: Counter[Fate] = Counter()
    shortened: Counter[int] = Counter()
    changes = []
    for code, (fate, label, successors) in became.items():
        count = rows.get(code, 0)
        by_fate[fate] += count
        codes_by_fate[fate] += 1
        if label is not None and len(label) < min(len(code), 6) and fate == "split":
            shortened[len(label)] += count
        if fate != "kept":
            changes.append(Change(code, fate, label, successors, count, code in answered))
    changes.sort(key=lambda change: (-change.rows, change.code))
    known = set(correlation.mapping) | (answered if model_edition != edition.name else set())
    new = _new_codes(rows, edition, correlation, became, known)
    return Migration(
        edition.name,
        len(edition.texts),
        sum(rows.values()),
        {fate: by_fate[fate] for fate in FATES},
        {fate: codes_by_fate[fate] for fate in FATES},
        {digits: shortened[digits] for digits in (4, 2) if shortened[digits]},
        tuple(changes),
        new,
        _model_effect(rows, edition, became, answered, model_edition, new) if classes is not None else None,
    )


_Became = tuple[Fate, str | None, tuple[str, ...]]


def _fate(code: str, edition: Edition, correlation: Correlation) -> _Became:
    """As ingest labels it: a code that exists stays, the table is asked for the others."""
    resolved = correlation.resolve(code)
    if len(code) == 6 and edition.valid(code):
        moved = {"narrowed": "narrowed", "renumbered": "reused", "split": "reused", "deleted": "reused"}
        fate: Any = moved.get(resolved.how, "kept")
        return fate, code, resolved.successors
    if resolved.code is not None and edition.knows(resolved.code):
        return ("renumbered" if resolved.how == "renumbered" else "split"), resolved.code, resolved.successors
    # A heading filled up with zeros is still that heading.
    place = edition.place(code)
    return ("kept" if place.code else "lost"), place.code, resolved.successors


def _new_codes(
    rows: Mapping[str, int],
    edition: Edition,
    correlation: Correlation,
    became: Mapping[str, _Became],
    old: set[str],
) -> tuple[NewCode, ...]:
    parents: dict[str, list[str]] = {}
    for code, successors in correlation.mapping.items():
        for successor in successors:
            parents.setdefault(successor, []).append(code)
    new = []
    for code in edition.texts:
        if code in old:
            continue
        own = tuple(sorted(parents.get(code, ())))
        sure = sum(rows.get(parent, 0) for parent in own if became[parent][1] == code)
        new.append(NewCode(code, edition.text(code), own, sure, sum(rows.get(parent, 0) for parent in own)))
    return tuple(new)


def _model_effect(
    rows: Mapping[str, int],
    edition: Edition,
    became: Mapping[str, _Became],
    answered: set[str],
    model_edition: str,
    new: Sequence[NewCode],
) -> ModelEffect:
    fates = Counter(became[code][0] for code in answered)
    vanished = tuple(sorted(code for code in answered if not edition.valid(code)))
    uncovered = [code for code in edition.texts if code not in answered]
    return ModelEffect(
        model_edition,
        len(answered),
        {fate: fates[fate] for fate in FATES},
        vanished,
        len(uncovered),
        tuple(each.code for each in new if each.code not in answered),
        sum(
            count
            for code, count in rows.items()
            if (label := became[code][1]) is not None and len(label) == 6 and label not in answered
        ),
    )


def _refuse_foreign(correlation: Correlation, edition: Edition) -> None:
    successors = {code for new in correlation.mapping.values() for code in new}
    unknown = sorted(code for code in successors if not edition.valid(code))
    # A table read the wrong way round has some 2 % of its codes outside; a right one has none.
    if successors and len(unknown) > 0.01 * len(successors):
        raise UserError(
            f"the correlation table does not lead to {edition.name}: {len(unknown):,} of its {len(successors):,} new "
            f"codes are not in it, such as {unknown[0]}",
            todo="its first column must be the old code, its second the new one",
        )
