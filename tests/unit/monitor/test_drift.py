"""Distances and bounds by tables, and their error rates by simulation."""

import math

import numpy as np
import pytest

from serving.control.monitor.drift import (
    NOTHING,
    calibration_error,
    compare,
    design_effect,
    jensen_shannon,
    share_upper,
)


@pytest.mark.parametrize(
    ("p", "q", "bits"),
    [
        ([1, 0], [1, 0], 0.0),
        ([1, 0], [0, 1], 1.0),
        ([0.5, 0.5], [1, 0], 1.5 - 0.75 * math.log2(3)),
        ([0.25] * 4, [0.5, 0.5, 0, 0], 1.5 - 0.75 * math.log2(3)),
    ],
)
def test_divergence_by_hand(p: list[float], q: list[float], bits: float) -> None:
    assert jensen_shannon(p, q) == pytest.approx(bits)
    assert jensen_shannon(q, p) == pytest.approx(bits)


@pytest.mark.parametrize(
    ("good", "total", "upper"),
    [(0, 0, 1.0), (5, 5, 1.0), (0, 10, 1 - 0.05**0.1), (9, 10, 1 - (1 - 0.95 ** (1 / 10))), (50, 100, 0.5864)],
)
def test_upper_bounds_of_a_share(good: int, total: int, upper: float) -> None:
    assert share_upper(good, total, 0.95) == pytest.approx(upper, abs=2e-3)


@pytest.mark.parametrize(
    ("parts", "effect"),
    [
        ([[5, 5], [5, 5]], 1.0),  # as even as can be: never less than 1
        ([[10, 0], [0, 10]], 20.0),  # parts of one kind each: 20 observations tell what one does
        ([[7, 3]], 1.0),  # one part tells nothing of it
        ([[0, 0], [3, 4]], 1.0),
    ],
)
def test_design_effect_by_hand(parts: list[list[int]], effect: float) -> None:
    assert design_effect(parts) == pytest.approx(effect)


def test_what_cannot_be_compared_is_nothing() -> None:
    assert compare(np.zeros((4, 3)), [0.2, 0.3, 0.5], 100, 0.99) == NOTHING
    assert compare([[5, 5, 0]], [0, 0, 0], 100, 0.99) == NOTHING
    assert compare([[1, 0, 0]], [0.2, 0.3, 0.5], 100, 0.99) == NOTHING  # joined to a single cell


def test_two_parts_give_an_estimate_and_no_bound() -> None:
    found = compare([[100, 0], [100, 0]], [0.5, 0.5], 1000, 0.99)
    assert found.ratio > 0.2
    assert found.lower == 0.0


def test_the_bound_lies_below_the_truth_and_nears_it_with_more_texts() -> None:
    rng = np.random.default_rng(3)
    reference = rng.dirichlet(np.full(64, 0.5))
    live = 0.7 * reference + 0.3 * rng.dirichlet(np.full(64, 0.5))
    truth = jensen_shannon(live, reference)
    bounds = []
    for rows in (5, 50, 5000):
        parts = np.array([rng.multinomial(rows, live) for _ in range(20)])
        found = compare(parts, reference, 1e6, 0.99)
        assert found.lower <= found.ratio
        bounds.append(found.lower)
    assert bounds == sorted(bounds)
    assert 0.8 * truth < bounds[-1] < truth * 1.02


REFERENCES = {
    "words": np.random.default_rng(1).dirichlet(np.full(256, 0.3)),
    "lengths": np.array([0.02, 0.2, 0.3, 0.2, 0.12, 0.08, 0.04, 0.02, 0.01, 0.01]),
    "two cells": np.array([0.93, 0.07]),
}


@pytest.mark.parametrize("name", REFERENCES)
@pytest.mark.parametrize(("rows", "repeated"), [(2, 1), (20, 1), (500, 1), (20, 8), (200, 8)])
def test_unshifted_windows_seldom_have_a_bound_above_nothing(name: str, rows: int, repeated: int) -> None:
    """400 windows of 30 parts with `rows` observations each, every one `repeated` times (a text sent again and again).

    At 99 % one in a hundred may; the approximation costs up to two more. Above what alarms (0.05 bits) there is none.
    """
    rng = np.random.default_rng(7)
    truth = REFERENCES[name]
    above = alarms = 0
    for _ in range(400):
        reference = rng.multinomial(3000, truth) / 3000
        parts = np.array([rng.multinomial(rows, truth) * repeated for _ in range(30)])
        lower = compare(parts, reference, 3000, 0.99).lower
        above += lower > 0
        alarms += lower > 0.05
    assert above <= 0.03 * 400 + 4
    assert alarms == 0


def test_ignoring_that_texts_repeat_would_alarm_falsely() -> None:
    """The design effect does work: the same observations as if independent pass for drift."""
    rng = np.random.default_rng(7)
    truth = REFERENCES["words"]
    found = [0, 0]
    for _ in range(50):
        parts = np.array([rng.multinomial(5, truth) * 40 for _ in range(30)])
        mixed = rng.multinomial(int(parts.sum()), parts.sum(axis=0) / parts.sum(), size=1).repeat(30, axis=0) / 30
        found[0] += compare(parts, truth, 1e6, 0.99).lower > 0
        found[1] += compare(mixed, truth, 1e6, 0.99).lower > 0
    assert found[0] <= 3
    assert found[1] == 50


@pytest.mark.parametrize(("gap", "low", "high"), [(0.0, 0.0, 0.03), (0.2, 0.17, 0.23)])
def test_calibration_error_is_that_of_the_truth(gap: float, low: float, high: float) -> None:
    rng = np.random.default_rng(5)
    errors = []
    for _ in range(20):
        sure = rng.uniform(0.5, 1.0, 2000)
        errors.append(calibration_error(sure, rng.random(2000) < sure - gap))
    assert low <= float(np.mean(errors)) <= high


def test_few_answers_do_not_look_miscalibrated_by_chance() -> None:
    rng = np.random.default_rng(5)
    sure = rng.uniform(0.5, 1.0, (200, 50))
    errors = [calibration_error(row, rng.random(50) < row) for row in sure]
    plain = [abs(float(row.mean()) - float((rng.random(50) < row).mean())) for row in sure]
    assert np.mean(np.array(errors) > 0.15) < 0.25
    assert np.mean(plain) > 0.03
