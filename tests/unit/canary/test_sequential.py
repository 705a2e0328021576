"""The two-sample e-processes: what the theory promises, checked exactly where it can be and by simulation elsewhere."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import optimize, stats

from serving.control.canary.sequential import (
    BINARY,
    HARM_ODDS,
    HARM_WEIGHTS,
    SAFE_WEIGHTS,
    Array,
    Boundary,
    log_evidence,
    log_safe,
    project,
    running_mean,
    shift_odds,
)

means = st.floats(0.001, 0.999)
boundaries = st.builds(Boundary, st.floats(0.5, 2.0), st.floats(-0.1, 0.2))


def divergence(a: float, x: float) -> float:
    return a * math.log(a / x) + (1 - a) * math.log((1 - a) / (1 - x))


@settings(max_examples=60, deadline=None)
@given(means, means, st.integers(1, 500), st.integers(1, 500), boundaries)
def test_the_projection_is_the_nearest_point_of_the_line(
    a1: float, a0: float, n1: int, n0: int, line: Boundary
) -> None:
    low = max(1e-9, (1e-9 - line.slack) / line.ratio)
    high = min(1 - 1e-9, (1 - 1e-9 - line.slack) / line.ratio)
    ours1, ours0 = project(np.array([a1]), np.array([a0]), np.array([float(n1)]), np.array([float(n0)]), line)

    def distance(x: float) -> float:
        u = min(max(line.ratio * x + line.slack, 1e-9), 1 - 1e-9)
        return n1 * divergence(a1, u) + n0 * divergence(a0, x)

    assert ours1[0] == pytest.approx(min(max(line.ratio * ours0[0] + line.slack, 1e-9), 1 - 1e-9))
    theirs = optimize.minimize_scalar(distance, bounds=(low, high), method="bounded", options={"xatol": 1e-12})
    assert distance(float(ours0[0])) <= theirs.fun + 1e-6 * max(1.0, abs(theirs.fun))


def expectation(
    harm: bool, t1: float, t0: float, n1: int, n0: int, line: Boundary, mean: float, stakes: tuple[Array, Array]
) -> float:
    """Exact expected e-value of one block of n1 and n0 Bernoulli outcomes."""
    total = 0.0
    outcomes = list(itertools.product(range(n1 + 1), range(n0 + 1)))
    for k1, k0 in outcomes:
        challenger, champion = np.array([[float(n1 - k1), float(k1)]]), np.array([[float(n0 - k0), float(k0)]])
        if harm:
            log = log_evidence(challenger, champion, BINARY, line, np.array([mean]), *stakes)
        else:
            log = log_safe(challenger, champion, BINARY, line, np.array([mean]))
        total += stats.binom.pmf(k1, n1, t1) * stats.binom.pmf(k0, n0, t0) * math.exp(log[0])
    return float(total)


@settings(max_examples=30, deadline=None)
@given(means, means, st.integers(1, 4), st.integers(1, 4), st.floats(0.8, 1.6), st.floats(0.0, 0.1), st.booleans())
def test_under_the_null_the_expected_evidence_is_at_most_one(
    t0: float, guess: float, n1: int, n0: int, ratio: float, slack: float, harm: bool
) -> None:
    line = Boundary(ratio, slack)
    on_line = min(1.0, ratio * t0 + slack)
    # Where the line lies above 1 no challenger is worse by the margin.
    assume(harm or ratio * t0 + slack <= 1)
    for part in (1.0, 0.6):
        t1 = on_line * part if harm else on_line + (1 - on_line) * (1 - part)
        found = expectation(harm, t1, t0, n1, n0, line, min(max(guess, 1e-5), 1 - 1e-5), (HARM_ODDS, HARM_WEIGHTS))
        assert found <= 1 + 1e-7


def test_under_the_alternative_it_grows() -> None:
    line = Boundary(1.0, 0.0)
    stakes = (HARM_ODDS, HARM_WEIGHTS)
    assert expectation(True, 0.6, 0.1, 5, 5, line, 0.1, stakes) > 1.5
    assert expectation(False, 0.1, 0.1, 5, 5, Boundary(1.0, 0.4), 0.1, stakes) > 1.5


def test_means_of_bounded_outcomes_are_tested_too() -> None:
    """Three-valued outcomes on the line: the mean of the evidence over all outcomes of a block is at most one."""
    values = np.array([0.0, 0.5, 1.0])
    challenger_law, champion_law = np.array([0.5, 0.3, 0.2]), np.array([0.6, 0.1, 0.3])
    line = Boundary(1.0, float(challenger_law @ values - champion_law @ values))
    total = 0.0
    for first, second, other in itertools.product(range(3), repeat=3):
        challenger = np.array([np.eye(3)[first] + np.eye(3)[second]])
        champion = np.array([np.eye(3)[other]])
        log = log_evidence(challenger, champion, values, line, np.array([0.4]))
        total += challenger_law[first] * challenger_law[second] * champion_law[other] * math.exp(log[0])
    assert total <= 1 + 1e-9


def simulated(t1: float, t0: Array, runs: int, share: float = 0.5, size: int = 200) -> tuple[Array, Array, Array]:
    """Counts of both sides and the running mean; t0 by block."""
    random = np.random.default_rng(7)
    n1 = random.binomial(size, share, (runs, len(t0)))
    n0 = size - n1
    k1, k0 = random.binomial(n1, np.minimum(t1 * t0, 1.0)), random.binomial(n0, t0)
    mean = running_mean(k0.astype(float), n0.astype(float), 0.01, (0.0, 0.0))
    return np.stack([n1 - k1, k1], -1).astype(float), np.stack([n0 - k0, k0], -1).astype(float), mean


def at_most(hits: int, runs: int, share: float) -> bool:
    """Whether so many hits are compatible with a rate of `share` (exact one-sided test at 1 in 1,000)."""
    return bool(stats.binom.sf(hits - 1, runs, share) > 0.001)


DRIFTING = np.concatenate([np.full(60, 0.01), np.full(30, 0.15), np.full(60, 0.02)])
"""Errors that rise fifteen-fold for a while, for both versions."""


@pytest.mark.parametrize("starts", [(0,), (0, 40, 90)])
def test_looked_at_after_every_block_equal_versions_are_seldom_found_worse(starts: tuple[int, ...]) -> None:
    challenger, champion, mean = simulated(1.0, DRIFTING, 400)
    logs = log_evidence(challenger, champion, BINARY, Boundary(1.0, 0.0), mean, starts=starts)
    hits = int((logs.max(axis=1) >= math.log(20)).sum())
    assert at_most(hits, 400, 0.05), hits


def test_looked_at_after_every_block_a_version_at_the_margin_is_seldom_found_safe() -> None:
    challenger, champion, mean = simulated(1.5, DRIFTING, 400)
    logs = log_safe(challenger, champion, BINARY, Boundary(1.5, 0.0), mean)
    hits = int((logs.max(axis=1) >= math.log(20)).sum())
    assert at_most(hits, 400, 0.05), hits


def test_a_peeked_z_test_fails_the_same_check() -> None:
    """The check can fail: the classic test, looked at after every block, is wrong far more often than 5 %."""
    challenger, champion, _ = simulated(1.0, DRIFTING, 400)
    k1, n1 = np.cumsum(challenger[..., 1], 1), np.cumsum(challenger.sum(-1), 1)
    k0, n0 = np.cumsum(champion[..., 1], 1), np.cumsum(champion.sum(-1), 1)
    both = (k1 + k0) / (n1 + n0)
    with np.errstate(divide="ignore", invalid="ignore"):
        z = (k1 / n1 - k0 / n0) / np.sqrt(both * (1 - both) * (1 / n1 + 1 / n0))
    hits = int((np.nan_to_num(z).max(axis=1) > stats.norm.ppf(0.95)).sum())
    assert not at_most(hits, 400, 0.05), hits


def test_doubled_errors_are_found() -> None:
    challenger, champion, mean = simulated(2.0, np.full(100, 0.01), 100)
    logs = log_evidence(challenger, champion, BINARY, Boundary(1.0, 0.0), mean)
    assert int((logs.max(axis=1) >= math.log(20)).sum()) >= 95


def test_harm_that_begins_late_is_found_because_a_part_of_the_stake_starts_late() -> None:
    good = simulated(0.5, np.full(100, 0.02), 50)
    bad = simulated(3.0, np.full(20, 0.02), 50)
    challenger, champion = (np.concatenate([good[i], bad[i]], axis=1) for i in (0, 1))
    mean = running_mean(champion[..., 1], champion.sum(-1), 0.01, (0.0, 0.0))
    line = Boundary(1.0, 0.0)
    once = log_evidence(challenger, champion, BINARY, line, mean)[:, -1] >= math.log(20)
    again = log_evidence(challenger, champion, BINARY, line, mean, starts=(0, 100))[:, -1] >= math.log(20)
    assert int(once.sum()) < 10
    assert int(again.sum()) > 45


def test_later_blocks_do_not_change_earlier_evidence() -> None:
    challenger, champion, mean = simulated(1.3, DRIFTING, 3)
    line = Boundary(1.0, 0.0)
    whole = log_evidence(challenger, champion, BINARY, line, mean)
    part = log_evidence(challenger[:, :70], champion[:, :70], BINARY, line, mean[:, :70])
    np.testing.assert_allclose(part, whole[:, :70])


def test_nothing_seen_is_no_evidence() -> None:
    none = np.zeros((3, 2))
    mean = running_mean(none[:, 1], none.sum(-1), 0.01, (0.0, 0.0))
    for line in (Boundary(1.0, 0.0), Boundary(0.0, 0.05)):
        np.testing.assert_allclose(log_evidence(none, none, BINARY, line, mean), 0.0, atol=1e-12)
        np.testing.assert_allclose(log_safe(none, none, BINARY, line, mean), 0.0, atol=1e-12)


def test_extreme_counts_stay_finite() -> None:
    for bad1, bad0 in ((1e6, 0.0), (0.0, 1e6), (1e6, 1e6)):
        challenger, champion = np.array([[1e6 - bad1, bad1]]), np.array([[1e6 - bad0, bad0]])
        for line in (Boundary(1.0, 0.0), Boundary(1.25, 0.002), Boundary(0.0, 0.05), Boundary(1.0, 0.5)):
            mean = np.array([0.5])
            assert np.isfinite(log_evidence(challenger, champion, BINARY, line, mean)).all()
            assert np.isfinite(log_safe(challenger, champion, BINARY, line, mean)).all()


def test_the_stakes_are_whole() -> None:
    assert HARM_WEIGHTS.sum() == pytest.approx(1.0)
    assert SAFE_WEIGHTS.sum() == pytest.approx(1.0)
    assert shift_odds(np.array([0.2]), 4.0)[0] == pytest.approx(0.5)
