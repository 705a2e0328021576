"""Exact duplicates: which row stays, which label it has, and where sources disagree. Numbers only, no texts."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
EXPERT = 3
"""Rank of labels that experts have corrected (models.data.ingest.KINDS)."""


@dataclass(frozen=True)
class Merged:
    """What became of the rows."""

    keep: npt.NDArray[np.bool_]
    """Shape (rows,): the row that stands for its text."""
    conflicts: int
    """Texts with labels that contradict each other."""
    rows: Ints = field(repr=False)
    """Rows of the texts in conflict, sorted by the kept row of their text, then label."""
    kept_of: Ints = field(repr=False)
    """For each of `rows` the kept row of its text."""
    label: Ints = field(repr=False)
    """For each of `rows` its label."""
    weight: npt.NDArray[np.float32] = field(repr=False)
    """For each of `rows` its weight."""

    def listed(
        self, start: int, stop: int, source: npt.NDArray[np.int32]
    ) -> Iterator[tuple[int, int, list[tuple[int, float, int, list[int]]]]]:
        """Conflicts whose kept row is in start..stop: (kept row, its label, [(label, weight, rows, sources)]).

        Labels come by weight, most first. `source` is the number of each row's source, shape (all rows,).
        """
        at, end = np.searchsorted(self.kept_of, [start, stop])
        while at < end:
            kept = int(self.kept_of[at])
            after = int(np.searchsorted(self.kept_of, kept, side="right"))
            found: dict[int, tuple[float, int, dict[int, None]]] = {}
            chosen = -1
            for i in range(at, after):
                row, label = int(self.rows[i]), int(self.label[i])
                weight, count, sources = found.get(label, (0.0, 0, {}))
                sources[int(source[row])] = None
                found[label] = (weight + float(self.weight[i]), count + 1, sources)
                if row == kept:
                    chosen = label
            ordered = sorted(found.items(), key=lambda item: (item[0] != chosen, -item[1][0], item[0]))
            yield kept, chosen, [(label, weight, count, list(names)) for label, (weight, count, names) in ordered]
            at = after


def merge(
    key: npt.NDArray[np.uint64],
    label: npt.NDArray[np.int32],
    weight: npt.NDArray[np.float32],
    trust: npt.NDArray[np.int8],
    labels: Sequence[str],
) -> Merged:
    """Decide between rows of the same text. All arrays have shape (rows,).

    `key` is the identity of the text, `label` a number into `labels`, `trust` the rank of the label's kind. An expert's
    label (rank EXPERT) wins, whatever stands against it: it was said of this very text. Else the label with the largest
    sum of weights; then the more trusted, then the one with more rows, then the first. A label
    that another one continues (8518 and 851830) does not contradict it: its weight goes to the longer one. The row that
    stays is the winner's with the largest weight, then trust, then the first.
    """
    rows = len(key)
    keep = np.ones(rows, dtype=bool)
    order = np.argsort(key, kind="stable")
    same = np.zeros(rows, dtype=bool)
    same[1:] = key[order][1:] == key[order][:-1]
    repeated = same.copy()
    repeated[:-1] |= same[1:]
    member = order[repeated]
    text = np.cumsum(~same[repeated]) - 1
    del order, same, repeated
    if not len(member):
        empty = np.zeros(0, dtype=np.int64)
        return Merged(keep, 0, empty, empty, empty, np.zeros(0, np.float32))
    own = label[member].astype(np.int64)
    counted = _continued(text, own, weight[member], labels)

    # One entry for each pair of text and label.
    pair_order = np.lexsort((member, counted, text))
    new = _starts(text[pair_order], counted[pair_order])
    first = np.flatnonzero(new)
    pair_text, pair_label = text[pair_order][first], counted[pair_order][first]
    pair_weight = np.add.reduceat(weight[member][pair_order].astype(np.float64), first).round(6)
    pair_trust = np.maximum.reduceat(trust[member][pair_order], first)
    pair_rows = np.diff(np.append(first, len(member)))
    ranks = (member[pair_order][first], -pair_rows, -pair_trust.astype(np.int64), -pair_weight)
    best = np.lexsort((*ranks, pair_trust < EXPERT, pair_text))
    winner = best[_starts(pair_text[best])]
    winning = pair_label[winner]
    contradicted = np.bincount(pair_text) > 1

    # One row for each text, of those that carry the winning label themselves.
    foreign = own != winning[text]
    row_order = np.lexsort((member, -trust[member].astype(np.int64), -weight[member], foreign, text))
    kept = member[row_order[_starts(text[row_order])]]
    keep[member] = False
    keep[kept] = True

    inside = contradicted[text]
    kept_of, listed = kept[text[inside]], member[inside]
    listing = np.lexsort((listed, own[inside], kept_of))
    return Merged(
        keep,
        int(np.count_nonzero(contradicted)),
        listed[listing],
        kept_of[listing],
        own[inside][listing],
        weight[listed[listing]],
    )


def _starts(*columns: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """Where sorted columns begin a new value."""
    new = np.zeros(len(columns[0]), dtype=bool)
    new[:1] = True
    for column in columns:
        new[1:] |= column[1:] != column[:-1]
    return new


def _continued(text: Ints, label: Ints, weight: npt.NDArray[np.float32], labels: Sequence[str]) -> Ints:
    """Labels, with those that a longer label of the same text continues replaced by the heaviest such."""
    length = np.array([len(each) for each in labels])
    short = (length[label] > 0) & (length[label] < 6)
    if not short.any():
        return label
    result = label.copy()
    position = np.flatnonzero(np.isin(text, text[short]))
    for at in np.split(position, np.flatnonzero(np.diff(text[position])) + 1):
        sums: dict[int, float] = {}
        for i in at:
            sums[int(label[i])] = sums.get(int(label[i]), 0.0) + float(weight[i])
        for i in at[short[at]]:
            mine = labels[label[i]]
            longer = [n for n in sums if len(labels[n]) > len(mine) and labels[n].startswith(mine)]
            if longer:
                result[i] = max(longer, key=lambda n: (len(labels[n]), sums[n], -n))
    return result
