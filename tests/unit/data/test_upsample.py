import numpy as np
import pytest

from models.data.upsample import upsample

LABELS = np.repeat(np.arange(4), [100, 25, 4, 1])


def sizes(rows: np.ndarray) -> list[int]:
    return np.bincount(LABELS[rows], minlength=4).tolist()


@pytest.mark.parametrize(
    ("alpha", "expected"), [(0, [100, 25, 4, 1]), (0.5, [100, 50, 20, 10]), (1, [100, 100, 100, 100])]
)
def test_class_sizes(alpha: float, expected: list[int]) -> None:
    rows = upsample(LABELS, None, alpha, seed=1)
    assert sizes(rows) == expected
    assert rows[: len(LABELS)].tolist() == list(range(len(LABELS)))


def test_rows_of_a_class_are_repeated_evenly() -> None:
    copies = np.bincount(upsample(LABELS, None, 1, seed=1))
    for label in range(4):
        own = copies[label == LABELS]
        assert own.max() - own.min() <= 1


def test_rows_are_repeated_by_weight_and_those_of_weight_zero_not() -> None:
    labels, weights = np.array([0] * 30 + [1] * 3), np.array([1.0] * 30 + [2.0, 1.0, 0.0])
    copies = np.bincount(upsample(labels, weights, 1, seed=1))[30:]
    assert copies.tolist() == [19, 10, 1]
    only_zero = np.array([1.0] * 30 + [0.0] * 3)
    assert np.bincount(upsample(labels, only_zero, 1, seed=1))[30:].tolist() == [1, 1, 1]


def test_the_seed_decides() -> None:
    labels = np.repeat(np.arange(50), np.arange(1, 51))
    assert np.array_equal(upsample(labels, None, 0.5, 1), upsample(labels, None, 0.5, 1))
    assert not np.array_equal(upsample(labels, None, 0.5, 1), upsample(labels, None, 0.5, 2))


def test_nothing_to_do() -> None:
    assert upsample(np.zeros(0, dtype=np.int64), None, 0.5, 1).tolist() == []
    assert upsample(np.zeros(3, dtype=np.int64), None, 1, 1).tolist() == [0, 1, 2]
