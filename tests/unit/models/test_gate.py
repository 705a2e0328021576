"""The gate by tables, and its error rates by simulation."""

import json

import numpy as np
import pytest

from config.settings import Gate as Limits
from models.answer import Levels
from models.evaluation import outcomes
from models.gate import Evidence, Side, gate, paired_bootstrap

LEVELS = Levels([f"{c:02d}{h:02d}{s:02d}" for c in (1, 2, 3, 4) for h in (1, 2) for s in (10, 20, 30)])
LIMITS = Limits()


def side(right: np.ndarray, codes: list[str], confidence: float | np.ndarray = 0.9) -> Side:
    """A model that is right at all levels where `right`, else in the wrong chapter; `confidence` in its best class."""
    truth = LEVELS.indices(codes, 6)
    best = np.where(right, truth, (truth + 6) % 24)
    p = np.full((len(codes), 24), 1.0) * ((1 - np.asarray(confidence)) / 23 * np.ones(len(codes)))[:, None]
    p[np.arange(len(codes)), best] = confidence
    return Side(LEVELS, outcomes(LEVELS, p, codes))


def evidence(
    candidate: np.ndarray, champion: np.ndarray, name: str = "test", confidence: tuple[float, float] = (0.9, 0.9)
) -> Evidence:
    codes = [LEVELS.classes[i % 24] for i in range(len(candidate))]
    texts = [f"text {i}" for i in range(len(codes))]
    return Evidence(name, texts, codes, side(candidate, codes, confidence[0]), side(champion, codes, confidence[1]))


def shares(rows: int, candidate: float, champion: float) -> tuple[np.ndarray, np.ndarray]:
    index = np.arange(rows)
    return index < candidate * rows, index < champion * rows


@pytest.mark.parametrize(
    ("candidate", "champion", "passed"),
    [(0.5, 0.5, True), (0.6, 0.5, True), (0.49, 0.5, True), (0.46, 0.5, False), (0.3, 0.5, False)],
)
def test_allowed_losses(candidate: float, champion: float, passed: bool) -> None:
    verdict = gate([evidence(*shares(1000, candidate, champion), confidence=(candidate, champion))], None, LIMITS)
    assert verdict.passed is passed
    assert ("is stopped" in verdict.reason) is not passed


def test_one_failing_reference_set_is_enough_and_is_named() -> None:
    good = evidence(*shares(1000, 0.6, 0.5), confidence=(0.6, 0.5))
    bad = evidence(*shares(400, 0.4, 0.5), name="tariff-office", confidence=(0.4, 0.5))
    verdict = gate([good, bad], None, LIMITS)
    assert not verdict.passed
    assert "HS6 top-1 on tariff-office falls from 50.0% to 40.0%" in verdict.reason
    assert " on test " not in verdict.reason


def test_a_small_set_cannot_stop_by_one_row() -> None:
    candidate, champion = np.ones(20, dtype=bool), np.ones(20, dtype=bool)
    candidate[3], champion[7] = False, False
    candidate[4] = False
    assert gate([evidence(candidate, champion)], None, LIMITS).passed


def test_intervals_hold_the_delta_and_gained_and_lost_rows_are_listed() -> None:
    rng = np.random.default_rng(0)
    candidate, champion = rng.random(500) < 0.55, rng.random(500) < 0.5
    verdict = gate([evidence(candidate, champion)], None, LIMITS)
    check = next(c for c in verdict.checks if c.what == "HS6 top-1")
    assert check.delta == pytest.approx(candidate.mean() - champion.mean())
    assert check.low is not None
    assert check.high is not None
    assert check.low < check.delta < check.high
    changes = verdict.changes["test"]
    assert changes["gained"]["rows"] == (candidate & ~champion).sum()
    assert changes["lost"]["rows"] == (champion & ~candidate).sum()
    line = changes["gained"]["listed"][0]
    assert line["candidate"] == line["code"] != line["champion"]
    assert len(changes["gained"]["listed"]) == LIMITS.listed
    assert json.loads(json.dumps(verdict.as_dict()))["passed"] is verdict.passed


def test_worse_calibration_stops() -> None:
    same = shares(1000, 0.6, 0.6)
    assert gate([evidence(*same, confidence=(0.6, 0.6))], None, LIMITS).passed
    verdict = gate([evidence(*same, confidence=(0.75, 0.6))], None, LIMITS)
    assert not verdict.passed
    assert "calibration error on test grows from 0.0" in verdict.reason


@pytest.mark.parametrize(("latency", "passed"), [(None, True), (50.0, True), (50.1, False)])
def test_latency_budget(latency: float | None, passed: bool) -> None:
    assert gate([evidence(*shares(100, 0.5, 0.5), confidence=(0.5, 0.5))], latency, LIMITS).passed is passed


def test_the_first_model_has_no_champion_to_beat() -> None:
    verdict = gate([], 3.0, LIMITS)
    assert verdict.passed
    assert verdict.reason == "There is no champion to compare with; an answer takes 3.0 ms of 50."
    assert not gate([], 80.0, LIMITS).passed


def test_same_evidence_same_verdict() -> None:
    rng = np.random.default_rng(4)
    one = evidence(rng.random(300) < 0.5, rng.random(300) < 0.5)
    assert gate([one], 1.0, LIMITS) == gate([one], 1.0, LIMITS)


def test_rows_of_one_group_are_no_independent_evidence() -> None:
    rng = np.random.default_rng(1)
    difference = np.repeat(rng.normal(0, 1, 50), 10)
    alone = paired_bootstrap(difference, None, 2000, 17).std()
    grouped = paired_bootstrap(difference, list(np.repeat(np.arange(50), 10)), 2000, 17).std()
    assert grouped == pytest.approx(alone * np.sqrt(10), rel=0.15)
    assert grouped == pytest.approx(difference.std() / np.sqrt(50), rel=0.15)


def test_error_rates() -> None:
    """Two retrainings of one kind, 640 rows, a tenth of the rows decided otherwise: equal models pass, a loss of 6
    points is stopped."""
    rng = np.random.default_rng(9)

    def passes(loss: float) -> bool:
        champion = rng.random(640) < 0.6
        flip = rng.random(640)
        candidate = np.where(champion, flip >= 0.05 / 0.6 + loss / 0.6, flip < 0.05 / 0.4)
        return gate([evidence(candidate, champion, confidence=(0.6, 0.6))], None, QUICK).passed

    assert np.mean([passes(0.0) for _ in range(100)]) >= 0.95
    assert np.mean([passes(0.06) for _ in range(100)]) <= 0.05


QUICK = LIMITS.model_copy(update={"resamples": 300, "allowed_calibration": 1.0})
