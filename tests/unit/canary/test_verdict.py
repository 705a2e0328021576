"""The verdict by tables, and its whole rule by a small simulation."""

import math
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from scipy import stats

from config.settings import Canary as Policy
from config.settings import CanaryLatency, CanaryQuality
from serving.control.canary.evidence import Arm, Block, Evidence, latency_bin
from serving.control.canary.verdict import (
    STAKES,
    Kind,
    average_harm,
    evaluate,
    judge,
    last_shared,
    measure_names,
    quantile_of,
    required,
    verdict,
)

START = datetime(2025, 3, 1, tzinfo=UTC)
POLICY = Policy(latency=CanaryLatency(budget_seconds=1.0))


def arm(
    requests: int = 1000,
    errors: int = 5,
    seconds: float = 0.05,
    spread: float = 1.0,
    vague: float = 0.1,
    confidence: float = 0.8,
    right: int = 0,
    wrong: int = 0,
    cold: int = 0,
) -> Arm:
    """A stretch of one version: latencies at five places around `seconds`, statuses in fixed shares."""
    made = Arm(requests=requests, errors=errors, right=right, wrong=wrong, cold=cold)
    answered = requests - errors
    warm = answered - cold
    for place, share in ((0.6, 0.3), (0.9, 0.4), (1.2, 0.2), (1.6, 0.06), (2.2, 0.04)):
        index = latency_bin(seconds * place**spread)
        made.latency[index] = made.latency.get(index, 0) + round(warm * share)
    made.status_loss = {10: round(answered * vague), 0: answered - round(answered * vague)}
    made.statuses = {"vague": round(answered * vague), "answered": answered - round(answered * vague)}
    low = int(confidence * 10)
    part = confidence * 10 - low
    made.confidence = {low: answered * (1 - part)} | ({low + 1: answered * part} if part > 1e-9 else {})
    return made


def evidence(
    champion: Arm,
    challenger: Arm,
    percent: int = 50,
    blocks: int = 20,
    step_seconds: float = 4000,
    seconds: float = 4000,
    before: Arm | None = None,
) -> Evidence:
    made = tuple(
        Block(START + timedelta(minutes=i), START + timedelta(minutes=i + 1), percent, champion, challenger)
        for i in range(blocks)
    )
    return Evidence(percent, step_seconds, seconds, made, before or Arm())


GOOD = arm()
LATE = POLICY.deadline_seconds + 1


@pytest.mark.parametrize(
    ("case", "kind", "percent", "says"),
    [
        # A sound challenger
        (evidence(GOOD, GOOD), Kind.CONTINUE, 100, "within all margins"),
        (evidence(Arm(), GOOD, percent=100), Kind.PROMOTE, 100, "errors"),
        (evidence(GOOD, GOOD, percent=5, blocks=3), Kind.CONTINUE, 10, "3000 requests at 5 %"),
        (evidence(GOOD, GOOD, percent=25, blocks=3), Kind.CONTINUE, 50, "without harm"),
        (evidence(GOOD, arm(errors=0, seconds=0.02)), Kind.CONTINUE, 100, "within all margins"),
        # Too early
        (Evidence(5, 0, 0), Kind.CONTINUE, 5, "0 of 100 requests at 5 %"),
        (evidence(GOOD, GOOD, percent=5, step_seconds=10), Kind.CONTINUE, 5, "10 of 300 s"),
        (evidence(GOOD, arm(requests=20, errors=0), percent=5, blocks=2), Kind.CONTINUE, 5, "40 of 100 requests"),
        (evidence(arm(200, 1), arm(200, 1), blocks=2), Kind.CONTINUE, 50, "not yet shown to be within its margin"),
        # Worse
        (evidence(GOOD, arm(errors=30)), Kind.ROLLBACK, 0, "errors worse"),
        (evidence(GOOD, arm(requests=30, errors=30), percent=5, blocks=1), Kind.ROLLBACK, 0, "errors worse"),
        (evidence(GOOD, arm(seconds=0.1)), Kind.ROLLBACK, 0, "latency worse"),
        (evidence(GOOD, arm(vague=0.3)), Kind.ROLLBACK, 0, "status worse"),
        (evidence(GOOD, arm(confidence=0.6)), Kind.ROLLBACK, 0, "confidence worse"),
        (
            evidence(arm(right=80, wrong=20), arm(right=60, wrong=40)),
            Kind.ROLLBACK,
            0,
            "accuracy worse: challenger 60.00% of 2,000, champion 80.00% of 2,000",
        ),
        (evidence(arm(seconds=1.5), arm(seconds=1.5)), Kind.ROLLBACK, 0, "latency_budget worse"),
        (evidence(Arm(), arm(errors=100), percent=100, before=arm(20_000, 60)), Kind.ROLLBACK, 0, "errors worse"),
        # The deadline
        (Evidence(5, LATE, LATE), Kind.ROLLBACK, 0, "too little traffic: not decided in 86400 s"),
        (evidence(GOOD, arm(requests=30, errors=0), 5, 2, LATE, LATE), Kind.ROLLBACK, 0, "too little traffic"),
        (evidence(arm(200, 1), arm(200, 1), 50, 2, LATE, LATE), Kind.ROLLBACK, 0, "not decided in 86400 s: errors"),
        (evidence(GOOD, GOOD, 50, 20, LATE, LATE), Kind.CONTINUE, 100, "within all margins"),
        (evidence(Arm(), arm(10, 0), 100, 2, LATE, LATE, before=GOOD), Kind.ROLLBACK, 0, "too little traffic"),
    ],
)
def test_table(case: Evidence, kind: Kind, percent: int, says: str) -> None:
    found = verdict(case, POLICY)
    assert (found.kind, found.percent) == (kind, percent), found
    assert says in found.reason


def test_client_errors_and_cold_starts_are_not_held_against_it() -> None:
    challenger = arm(requests=1400, errors=5, cold=300)
    challenger.client_errors = 400
    found = verdict(evidence(GOOD, challenger), POLICY)
    assert found.kind is Kind.CONTINUE
    assert found.percent == 100


def test_required_corrections_are_waited_for() -> None:
    policy = Policy(quality=CanaryQuality(require_corrections=True))
    without = verdict(evidence(GOOD, GOOD), policy)
    assert (without.percent, "accuracy not yet shown" in without.reason) == (50, True)
    corrected = arm(right=800, wrong=200)
    assert verdict(evidence(corrected, corrected), policy).percent == 100


def test_evidence_at_smaller_shares_does_not_count_for_promotion() -> None:
    """Shown safe at 25 % only: at 50 % it must be shown again, where the load is higher."""
    early = evidence(GOOD, GOOD, percent=25, blocks=30).blocks
    late = evidence(arm(200, 1), arm(200, 1), percent=50, blocks=1).blocks
    found = verdict(Evidence(50, 4000, 9000, early + late), POLICY)
    assert (found.kind, found.percent) == (Kind.CONTINUE, 50)


def test_harm_that_begins_at_a_larger_share_is_not_hidden_by_the_record() -> None:
    early = evidence(GOOD, arm(errors=0), percent=25, blocks=60).blocks
    late = evidence(GOOD, arm(errors=40), percent=50, blocks=3).blocks
    assert verdict(Evidence(50, 4000, 9000, early + late), POLICY).kind is Kind.ROLLBACK


def test_a_rising_error_rate_of_both_is_no_harm() -> None:
    calm = evidence(GOOD, GOOD, percent=5, blocks=20).blocks
    storm = evidence(arm(errors=200), arm(errors=200), percent=50, blocks=20).blocks
    assert verdict(Evidence(50, 4000, 9000, calm + storm), POLICY).kind is Kind.CONTINUE


def test_the_champions_record_before_helps_from_the_first_block() -> None:
    case = evidence(arm(50, 0), arm(50, 3), percent=50, blocks=1)
    known = evidence(arm(50, 0), arm(50, 3), percent=50, blocks=1, before=arm(20_000, 10))
    assert judge(known, POLICY)[0].log_harm > judge(case, POLICY)[0].log_harm


def test_latencies_that_are_all_alike_are_compared() -> None:
    alike = Arm(requests=500, latency={latency_bin(0.05): 500}, status_loss={0: 500}, confidence={9: 500})
    slower = Arm(requests=500, latency={latency_bin(0.1): 500}, status_loss={0: 500}, confidence={9: 500})
    same, worse = judge(evidence(alike, alike), POLICY)[1], judge(evidence(alike, slower), POLICY)[1]
    assert same.log_safe > math.log(20)
    assert worse.log_harm > math.log(20)


def test_the_verdict_is_a_function_of_its_arguments() -> None:
    case = evidence(GOOD, arm(errors=8))
    assert verdict(case, POLICY).to_json() == verdict(case, POLICY).to_json()


def test_names_and_stakes_agree() -> None:
    for proxies in (True, False):
        for budget in (None, 1.0):
            policy = Policy(latency=CanaryLatency(budget_seconds=budget), quality=CanaryQuality(proxies=proxies))
            assert set(measure_names(policy)) <= set(STAKES)
            assert "accuracy" not in required(policy)
    assert sum(STAKES.values()) == pytest.approx(1.0)
    assert average_harm({"errors": np.array(0.0), "latency": np.array(0.0)}) == pytest.approx(0.0)
    assert last_shared(POLICY) == 50


def test_quantile_of_a_histogram() -> None:
    assert quantile_of({}, 0.95) is None
    exact = quantile_of({latency_bin(0.05): 95, latency_bin(5.0): 5}, 0.95)
    assert exact == pytest.approx(0.05, rel=0.045)


def simulate(runs: int, error_rate: float, wrong: float, blocks: int = 40) -> list[Kind]:
    """Verdicts at the first block that ends it, of canaries at 50 %, by the product's own arrays."""
    from serving.control.canary.evidence import LATENCY_BINS, SHARE_BINS, Counts

    random = np.random.default_rng(11)
    policy = Policy(steps=(50, 100), latency=CanaryLatency(budget_seconds=None), quality=CanaryQuality(proxies=False))
    n1 = random.binomial(900, 0.5, (runs, blocks))
    n0 = 900 - n1
    sides = {
        name: tuple(
            np.stack([n - k, k], -1).astype(float)
            for n, k in ((n1, random.binomial(n1, rates[0])), (n0, random.binomial(n0, rates[1])))
        )
        for name, rates in (("errors", (error_rate, 0.01)), ("accuracy", (wrong, 0.2)))
    }
    empty = {"latency": LATENCY_BINS, "status": SHARE_BINS, "confidence": SHARE_BINS}
    counts = Counts(
        percent=np.full(blocks, 50.0),
        before={name: np.zeros(size) for name, size in {**empty, "errors": 2, "accuracy": 2}.items()},
        errors=sides["errors"],  # type: ignore[arg-type]
        accuracy=sides["accuracy"],  # type: ignore[arg-type]
        **{name: (np.zeros((1, 1, size)), np.zeros((1, 1, size))) for name, size in empty.items()},  # type: ignore[arg-type]
    )
    logs = evaluate(counts, policy, ("errors", "accuracy"))
    harm = average_harm({name: side[0] for name, side in logs.items()}) >= math.log(20)
    safe = np.all([side[1] >= math.log(20) for side in logs.values()], axis=0)
    found = []
    for bad, good in zip(harm, safe, strict=True):
        first_bad = int(bad.argmax()) if bad.any() else blocks
        first_good = int(good.argmax()) if good.any() else blocks
        if first_bad == first_good == blocks:
            found.append(Kind.CONTINUE)
        else:
            found.append(Kind.ROLLBACK if first_bad <= first_good else Kind.PROMOTE)
    return found


def test_error_rates_of_the_whole_rule() -> None:
    """300 canaries each; a rate of 5 % gives more than 28 hits with a chance of about 1 in 1,000."""
    limit = int(stats.binom.ppf(0.999, 300, 0.05))
    assert simulate(300, 0.01, 0.2).count(Kind.ROLLBACK) <= limit
    assert simulate(300, 0.01 * 1.25 + 0.002, 0.2).count(Kind.PROMOTE) <= limit
    assert simulate(300, 0.01, 0.22).count(Kind.PROMOTE) <= limit


def test_power_of_the_whole_rule() -> None:
    assert simulate(100, 0.03, 0.2).count(Kind.ROLLBACK) >= 97
    assert simulate(100, 0.01, 0.3).count(Kind.ROLLBACK) >= 97
    assert simulate(100, 0.01, 0.2).count(Kind.PROMOTE) >= 75
