"""What a row's raw code becomes: a label of the edition, or the reason why it is none."""

from dataclasses import dataclass
from typing import Any

from models.hs.codes import normalise_code
from models.hs.correlation import Correlation
from models.hs.edition import Edition, Place, chapter_title

VAGUE = "VAGUE"
"""What a code column, a report and a conflict call the label of a text that is too vague for any code."""

_REMEMBERED = 500_000


@dataclass(frozen=True, slots=True)
class Label:
    """A raw code, read."""

    code: str = ""
    """Digits as given; four or two where only so much is certain; empty for vague."""
    hs6: str | None = None
    """Six digits of the edition; None for shorter and vague labels."""
    number: int = 0
    """Number of the label (six, four or two digits) in `Labels.names`; 0 is vague."""
    entry: int = 0
    """Place in `Labels.entries`."""
    reason: str = ""
    """Why it is refused; empty where it is not."""
    repair: str = ""
    """What was repaired."""


class Labels:
    """Reads raw codes against an edition (None: any chapter that exists) and numbers the labels as they come."""

    def __init__(self, edition: Edition | None, correlation: Correlation) -> None:
        self._edition, self._correlation = edition, correlation
        self._known: dict[Any, Label] = {}
        self._numbers: dict[str, int] = {"": 0}
        self.entries: list[Label] = [Label()]
        """Every accepted reading, vague first."""

    @property
    def names(self) -> list[str]:
        """Label by number; the empty one is vague."""
        return list(self._numbers)

    def read(self, raw: Any) -> Label:
        """The label of a raw code, whatever a file has there."""
        try:
            known = self._known.get(raw)
        except TypeError:
            return self._read(str(raw))
        if known is None:
            if len(self._known) > _REMEMBERED:
                self._known.clear()
            known = self._known[raw] = self._read(raw)
        return known

    def _read(self, raw: Any) -> Label:
        if isinstance(raw, str) and raw.strip().upper() == VAGUE:
            return self.entries[0]
        edition = self._edition
        digits, said = normalise_code(raw, edition.knows if edition else _chapter_exists)
        if digits is None:
            return Label(reason=said)
        place = edition.place(digits) if edition else _place_by_chapter(digits)
        if place.code is not None:
            return self._accepted(digits, place.code, said)
        if len(digits) >= 6:
            code, how, _ = self._correlation.resolve(digits[:6])
            if how == "deleted" or (code is None and how == "split"):
                return Label(reason="code retired, and no single chapter took it over")
            if code is not None and (edition is None or edition.knows(code)):
                done = "shortened to what its successors share" if how == "split" else "mapped to its successor"
                return self._accepted(digits, code, f"retired code {done}")
        return Label(reason=f"code not in {edition.name}" if edition else "code of no chapter")

    def _accepted(self, digits: str, label: str, repair: str) -> Label:
        number = self._numbers.setdefault(label, len(self._numbers))
        whole = len(label) == 6
        entry = Label(digits if whole else label, label if whole else None, number, len(self.entries), repair=repair)
        self.entries.append(entry)
        return entry


def _chapter_exists(code: str) -> bool:
    return bool(chapter_title(code[:2]))


def _place_by_chapter(digits: str) -> Place:
    if not _chapter_exists(digits):
        return Place(None, "unknown")
    if len(digits) >= 6:
        return Place(digits[:6], "subheading")
    return Place(digits, "heading" if len(digits) == 4 else "chapter")
