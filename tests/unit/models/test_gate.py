"""The gate by tables, and its error rates by simulation."""

import json
from dataclasses import replace

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
    candidate: np.ndarray,
    champion: np.ndarray,
    name: str = "test",
    confidence: tuple[float | np.ndarray, float | np.ndarray] = (0.9, 0.9),
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
    assert "calibration error on test grows from 0.000 to 0.1" in verdict.reason


def calibrated(rng: np.random.Generator, log_odds: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What is right, and a confidence that says it truly."""
    sure = np.maximum(1 / (1 + np.exp(-log_odds)), 0.1)
    return rng.random(len(sure)) < sure, sure


def stopped(rng: np.random.Generator, rows: int, spread: float = 1.5, factor: float = 1.0) -> bool:
    """Whether a candidate is stopped whose log-odds are `factor` times what is true of it, against an honest champion,
    four rows in five decided alike; `spread` is the deviation of the candidate's true log-odds."""
    true = rng.normal(0, 1.5, rows)
    champion, sure = calibrated(rng, true)
    own, other = calibrated(rng, rng.normal(0, spread, rows))
    alike = (rng.random(rows) < 0.8) & (spread == 1.5)
    right, said = np.where(alike, champion, own), np.where(alike, sure, other)
    said = 1 / (1 + np.exp(-factor * np.log(said / (1 - said))))
    verdict = gate([evidence(right, champion, confidence=(np.maximum(said, 0.1), sure))], None, CALIBRATION_ALONE)
    return not verdict.passed


@pytest.mark.parametrize("spread", [1.5, 0.7])
def test_chance_on_a_hundred_rows_seldom_stops_an_honest_candidate(spread: float) -> None:
    """One in five at most, as `confidence` says; less sharp a candidate than its champion, too."""
    rng = np.random.default_rng(5)
    assert np.mean([stopped(rng, 100, spread) for _ in range(100)]) <= 1 - LIMITS.confidence


@pytest.mark.parametrize(("rows", "share"), [(100, 0.5), (400, 0.75)])
def test_a_candidate_that_is_far_too_sure_is_stopped(rows: int, share: float) -> None:
    rng = np.random.default_rng(6)
    assert np.mean([stopped(rng, rows, factor=2.0) for _ in range(60)]) >= share


def test_calibration_is_judged_by_groups() -> None:
    """A text sent ten times and wrong each time is one mistake, not ten."""
    right = np.arange(100) >= 10
    alone = evidence(right, np.ones(100, dtype=bool), confidence=(0.95, 0.95))
    grouped = replace(alone, groups=[max(i, 9) for i in range(100)])
    widths = []
    for one in (alone, grouped):
        check = next(c for c in gate([one], None, CALIBRATION_ALONE).checks if c.what == "HS6 calibration error")
        assert check.low is not None
        assert check.high is not None
        widths.append(check.high - check.low)
    assert widths[1] > 2 * widths[0]


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
        return gate([replace(evidence(candidate, champion), calibrated=False)], None, QUICK).passed

    assert np.mean([passes(0.0) for _ in range(100)]) >= 0.95
    assert np.mean([passes(0.06) for _ in range(100)]) <= 0.05


CALIBRATION_ALONE = LIMITS.model_copy(update={"resamples": 200, "allowed_loss": (1.0, 1.0, 1.0)})
QUICK = LIMITS.model_copy(update={"resamples": 300})
