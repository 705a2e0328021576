from collections import defaultdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.data.merge import EXPERT, Merged, merge

LABELS = ["", "8518", "851830", "851840", "610910"]


def merged(rows: list[tuple[int, int, float, int]]) -> Merged:
    """Of (text, label number, weight, trust)."""
    columns = list(zip(*rows, strict=True)) or [(), (), (), ()]
    kinds = (np.uint64, np.int32, np.float32, np.int8)
    return merge(*(np.array(column, dtype=kind) for column, kind in zip(columns, kinds, strict=True)), LABELS)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("rows", "kept", "conflicts"),
    [
        ([], [], 0),
        ([(1, 2, 1, 2), (2, 3, 1, 2)], [0, 1], 0),
        ([(1, 2, 1, 2), (1, 2, 1, 2)], [0], 0),
        # The larger sum of weights wins; of the winner's rows the heaviest stays, then the first.
        ([(1, 2, 1, 2), (1, 4, 2, 2), (1, 2, 1.5, 2), (1, 2, 1.5, 2)], [2], 1),
        ([(1, 2, 1, 2), (1, 4, 3, 2)], [1], 1),
        # Equal weight: the more trusted kind, then more rows, then the first.
        ([(1, 0, 1, 0), (1, 2, 1, 2)], [1], 1),
        ([(1, 2, 2, 2), (1, 4, 1, 2), (1, 4, 1, 2)], [1], 1),
        ([(1, 4, 1, 2), (1, 2, 1, 2)], [0], 1),
        # What an expert said of a text wins over any weight; of two such the heavier.
        ([(1, 2, 9, 2), (1, 4, 1, 3)], [1], 1),
        ([(1, 2, 1, 3), (1, 4, 2, 3), (1, 3, 9, 2)], [1], 1),
        # A shorter label does not contradict a longer one that continues it, and counts for it.
        ([(1, 1, 5, 2), (1, 2, 1, 2)], [1], 0),
        ([(1, 1, 2, 2), (1, 2, 1, 2), (1, 4, 2.5, 2)], [1], 1),
        ([(1, 1, 2, 2), (1, 4, 1, 2)], [0], 1),
        ([(1, 0, 1, 0), (1, 1, 1, 2)], [1], 1),
    ],
)
def test_one_row_stays_for_each_text(rows: list[tuple[int, int, float, int]], kept: list[int], conflicts: int) -> None:
    result = merged(rows)
    assert np.flatnonzero(result.keep).tolist() == kept
    assert result.conflicts == conflicts


def test_conflicts_are_listed_by_kept_row() -> None:
    result = merged([(7, 2, 1, 2), (5, 3, 1, 2), (7, 4, 3, 2), (5, 3, 1, 2), (7, 2, 1, 2), (9, 2, 1, 2), (9, 0, 2, 0)])
    source = np.array([0, 0, 1, 0, 2, 0, 1], dtype=np.int32)
    expected = [(2, 4, [(4, 3.0, 1, [1]), (2, 2.0, 2, [0, 2])]), (6, 0, [(0, 2.0, 1, [1]), (2, 1.0, 1, [0])])]
    assert list(result.listed(0, 7, source)) == expected
    assert list(result.listed(0, 4, source)) + list(result.listed(4, 7, source)) == expected


ROW = st.tuples(st.integers(0, 4), st.integers(0, 4), st.sampled_from([0.0, 0.5, 1.0, 2.0]), st.integers(0, 3))


@settings(deadline=None)
@given(st.lists(ROW, max_size=25))
def test_as_the_plain_way_decides(rows: list[tuple[int, int, float, int]]) -> None:
    """The same rule, row by row in plain Python."""
    by_text: dict[int, list[int]] = defaultdict(list)
    for i, row in enumerate(rows):
        by_text[row[0]].append(i)
    kept, conflicts = [], 0
    for members in by_text.values():
        sums: dict[int, float] = defaultdict(float)
        for i in members:
            sums[rows[i][1]] += rows[i][2]

        def counted(label: int, sums: dict[int, float] = sums) -> int:
            mine = LABELS[label]
            longer = [n for n in sums if mine and len(LABELS[n]) > len(mine) and LABELS[n].startswith(mine)]
            return max(longer, key=lambda n: (sums[n], -n)) if longer else label

        votes: dict[int, list[int]] = defaultdict(list)
        for i in members:
            votes[counted(rows[i][1])].append(i)
        conflicts += len(votes) > 1
        winner = min(
            votes,
            key=lambda n: (
                all(rows[i][3] < EXPERT for i in votes[n]),
                -sum(rows[i][2] for i in votes[n]),
                -max(rows[i][3] for i in votes[n]),
                -len(votes[n]),
                votes[n][0],
            ),
        )
        own = [i for i in members if rows[i][1] == winner]
        kept.append(min(own, key=lambda i: (-rows[i][2], -rows[i][3], i)))
    result = merged(rows)
    assert np.flatnonzero(result.keep).tolist() == sorted(kept)
    assert result.conflicts == conflicts
    listed = [row for row, _, _ in result.listed(0, len(rows), np.zeros(len(rows), dtype=np.int32))]
    assert len(listed) == conflicts
    assert set(listed) <= set(kept)
