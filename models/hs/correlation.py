"""Correlation tables: what the codes of an older edition became in a newer one."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple

from models.errors import UserError
from models.hs.codes import common_prefix, normalise_code
from models.hs.edition import read_csv

How = Literal["kept", "narrowed", "renumbered", "split", "deleted", "unknown"]


class Resolution(NamedTuple):
    """What an old subheading is in the new edition."""

    code: str | None
    """Six digits, or four or two where only that much is certain; None where nothing is."""
    how: How
    """kept: same code. narrowed: same code, but part of its goods moved to others. renumbered: one other code.
    split: several other codes, shortened to what they share. deleted: no successor. unknown: not in the table."""
    successors: tuple[str, ...] = ()
    """All codes that took over goods of the old one."""


@dataclass(frozen=True)
class Correlation:
    """Old six-digit code → the new ones, sorted."""

    mapping: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def __contains__(self, hs6: object) -> bool:
        return hs6 in self.mapping

    def resolve(self, hs6: str) -> Resolution:
        """What `hs6` is in the new edition.

        >>> Correlation({"851770": ("851771", "851779")}).resolve("851770")
        Resolution(code='8517', how='split', successors=('851771', '851779'))
        """
        if hs6 not in self.mapping:
            return Resolution(None, "unknown")
        successors = self.mapping[hs6]
        if not successors:
            return Resolution(None, "deleted")
        if hs6 in successors:
            return Resolution(hs6, "kept" if len(successors) == 1 else "narrowed", successors)
        if len(successors) == 1:
            return Resolution(successors[0], "renumbered", successors)
        return Resolution(common_prefix(successors), "split", successors)


def correlation_of(pairs: Iterable[tuple[str, str]]) -> Correlation:
    """From pairs of six-digit old and new code; an empty new code says that the old one has no successor."""
    successors: dict[str, set[str]] = {}
    for old, new in pairs:
        successors.setdefault(old, set()).update([new] if new else [])
    return Correlation({old: tuple(sorted(new)) for old, new in sorted(successors.items())})


def load_correlation(path: str | Path) -> Correlation:
    """Read a csv (plain or .gz) whose first two columns are old and new six-digit code, with one header line.

    Raises UserError naming the row for what is no code, and for a file that cannot be read.
    """
    path = Path(path)
    header, rows = read_csv(path, "correlation table")
    if len(header) < 2:
        raise UserError("the correlation table has one column", str(path), "two are needed: old code, new code")
    if header[0].replace(".", "").isdigit():
        raise UserError("the correlation table has no header line", str(path), "add one, such as hs2017,hs2022")
    pairs = []
    for number, row in rows:
        if len(row) < 2:
            raise UserError(f"row {number} has one column of two", str(path))
        pairs.append((_six(row[0], number, path), _six(row[1], number, path) if row[1].strip() else ""))
    if not pairs:
        raise UserError("the correlation table has no rows", str(path))
    return correlation_of(pairs)


def _six(raw: str, number: int, path: Path) -> str:
    # All codes of such a table have six digits, so five can only be a lost leading zero.
    digits, reason = normalise_code(raw, lambda code: len(code) == 6)
    if digits is None or len(digits) != 6:
        raise UserError(f"row {number}, code {raw[:40]!r}: {reason or 'not six digits'}", str(path))
    return digits
