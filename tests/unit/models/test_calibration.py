import numpy as np
import pytest

from models.answer import Levels
from models.calibration import ece, fit_temperature, reliability, softmax, wilson

LEVELS = Levels([f"{c:02d}{h:02d}{s:02d}" for c in (1, 2, 3) for h in (1, 2) for s in (1, 2, 3)] + [""], vague=18)


def draw(temperature: float, rows: int = 4000) -> tuple[np.ndarray, list[str]]:
    """Logits whose true probabilities are softmax(logits / temperature), and codes drawn from these."""
    rng = np.random.default_rng(11)
    logits = rng.normal(0, 3, (rows, 19))
    p = softmax(logits, temperature)
    return logits, [LEVELS.classes[i] for i in (p.cumsum(axis=1) > rng.random((rows, 1))).argmax(axis=1)]


@pytest.mark.parametrize("temperature", [0.3, 1.0, 2.5])
def test_the_true_temperature_is_found(temperature: float) -> None:
    logits, codes = draw(temperature)
    assert fit_temperature(logits, codes, LEVELS) == pytest.approx(temperature, rel=0.06)


def test_labels_of_two_and_four_digits_count_where_they_reach() -> None:
    logits, codes = draw(1.7)
    short = [code[: (2, 4, 6)[i % 3]] for i, code in enumerate(codes)]
    assert fit_temperature(logits, short, LEVELS) == pytest.approx(1.7, rel=0.1)


def test_weight_zero_is_as_if_the_row_were_not_there() -> None:
    logits, codes = draw(1.0, 600)
    weights = np.repeat([1.0, 0.0], 300)
    spoilt = codes[:300] + codes[299::-1]
    alone = fit_temperature(logits[:300], codes[:300], LEVELS)
    assert fit_temperature(logits, spoilt, LEVELS, weights) == pytest.approx(alone, rel=1e-3)


def test_without_a_known_label_the_temperature_is_one() -> None:
    assert fit_temperature(np.zeros((2, 18)), ["990101", None], Levels(LEVELS.classes[:18])) == 1.0


def test_calibration_error_is_small_where_calibrated_and_the_gap_where_not() -> None:
    rng = np.random.default_rng(3)
    confidence = rng.random(20_000)
    right = rng.random(20_000) < confidence
    assert (ece(confidence, right) or 1) < 0.015
    assert ece(np.full(1000, 0.9), rng.random(1000) < 0.6) == pytest.approx(0.3, abs=0.04)
    assert ece(np.zeros(0), np.zeros(0, dtype=bool)) is None


def test_reliability_table_keeps_every_row() -> None:
    rng = np.random.default_rng(4)
    table = reliability(rng.random(101), rng.random(101) < 0.5, bins=15)
    assert sum(b["rows"] for b in table) == 101
    assert [b["confidence"] for b in table] == sorted(b["confidence"] for b in table)
    assert all(b["low"] <= b["accuracy"] <= b["high"] for b in table)
    assert len(reliability(np.array([0.5]), np.array([True]))) == 1
    assert len(reliability(np.full(100, 0.5), np.arange(100) < 50)) == 1


@pytest.mark.parametrize(
    ("hits", "rows", "low", "high"), [(0, 10, 0.0, 0.2775), (90, 100, 0.8256, 0.9448), (0, 0, 0.0, 1.0)]
)
def test_wilson_interval(hits: int, rows: int, low: float, high: float) -> None:
    assert wilson(hits, rows) == pytest.approx((low, high), abs=1e-3)


def test_softmax_of_large_logits_is_finite() -> None:
    p = softmax(np.array([[1e4, 0.0, -1e4]]))
    assert np.isfinite(p).all()
    assert p.sum() == pytest.approx(1)
