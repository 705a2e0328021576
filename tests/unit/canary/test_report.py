"""The report: intervals valid at any time, and the classic view against the libraries it stands on."""

import json
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from scipy import stats

from config.settings import Canary as Policy
from config.settings import CanaryErrors
from serving.control.canary import report
from serving.control.canary.evidence import Arm, Block, Counts, Evidence, counts_of, latency_bin
from serving.control.canary.report import anova, anytime_interval, classic_interval
from serving.state.tables import Canary, CanaryStep

T0 = datetime(2025, 5, 4, 12, tzinfo=UTC)
POLICY = Policy()


def drawn(
    errors: float = 0.02, factor: float = 1.0, right: float = 0.8, confidence: float = 0.7, seed: int = 1, n: int = 300
) -> Arm:
    """One block of one version, drawn."""
    random = np.random.default_rng(seed)
    made = Arm()
    for _ in range(n):
        if random.random() < errors:
            made.requests, made.errors = made.requests + 1, made.errors + 1
            continue
        seconds = float(factor * 0.05 * np.exp(0.4 * random.standard_normal()))
        made.add_answered(seconds, False, ["answered"], [float(np.clip(random.normal(confidence, 0.1), 0, 1))])
    made.right = int(random.binomial(n, right))
    made.wrong = n - made.right
    return made


def evidence(blocks: int = 15, **challenger: float) -> Evidence:
    made = tuple(
        Block(
            T0 + timedelta(minutes=i),
            T0 + timedelta(minutes=i + 1),
            50,
            drawn(seed=2 * i),
            drawn(seed=2 * i + 1, **challenger),  # type: ignore[arg-type]
        )
        for i in range(blocks)
    )
    return Evidence(50, 900, 900, made)


@pytest.mark.parametrize(
    ("name", "changed", "truth"),
    [
        ("errors", {"errors": 0.05}, 0.03),
        ("accuracy", {"right": 0.7}, -0.1),
        ("confidence", {"confidence": 0.6}, -0.1),
        ("latency", {"factor": 1.5}, 1.5),
    ],
)
def test_intervals_hold_the_truth_and_say_which_side(name: str, changed: dict[str, float], truth: float) -> None:
    found = anytime_interval(name, counts_of(evidence(**changed)), POLICY)
    nothing = 1.0 if name == "latency" else 0.0
    assert found.low is not None
    assert found.high is not None
    assert found.low < truth < found.high
    assert not found.low < nothing < found.high


def test_coverage_while_looking_after_every_block() -> None:
    """Of 40 streams the truth is ever left by few: 5 % allowed, 1 in 1,000 chance of more than the limit."""
    random = np.random.default_rng(3)
    runs, blocks, left = 40, 12, 0
    n1 = random.binomial(200, 0.5, (runs, blocks))
    k1, k0 = random.binomial(n1, 0.04), random.binomial(200 - n1, 0.02)
    for i in range(runs):
        pair = (
            np.stack([n1[i] - k1[i], k1[i]], -1).astype(float),
            np.stack([200 - n1[i] - k0[i], k0[i]], -1).astype(float),
        )
        none = (np.zeros((blocks, 2)), np.zeros((blocks, 2)))
        counts = Counts(np.full(blocks, 50.0), pair, none, none, none, none, {"errors": np.zeros(2)})
        found = anytime_interval("errors", counts, POLICY)
        left += (found.low is not None and found.low > 0.02) or (found.high is not None and found.high < 0.02)
    assert left <= int(stats.binom.ppf(0.999, runs, 0.05))


def test_the_classic_interval_is_newcombes_and_the_z_tests() -> None:
    from statsmodels.stats.proportion import confint_proportions_2indep, proportions_ztest

    case = evidence(errors=0.05)
    champion, challenger = case.total("champion"), case.total("challenger")
    found = classic_interval("errors", case, POLICY)
    low, high = confint_proportions_2indep(
        challenger.errors, challenger.requests, champion.errors, champion.requests, method="newcomb", compare="diff"
    )
    _, p = proportions_ztest([challenger.errors, champion.errors], [challenger.requests, champion.requests])
    assert (found.low, found.high, found.p) == (pytest.approx(low), pytest.approx(high), pytest.approx(p))


def test_analysis_of_variance_is_scipys() -> None:
    first, second = np.array([1.0, 2.0, 2.0, 3.0]), np.array([2.0, 3.0, 3.0, 3.0, 5.0])
    found = anova((first, np.ones(4)), (second, np.ones(5)))
    theirs = stats.f_oneway(first, second)
    assert found is not None
    assert found["F"] == pytest.approx(theirs.statistic, abs=1e-4)
    assert found["p"] == pytest.approx(theirs.pvalue, abs=1e-6)
    weighted = anova((np.array([1.0, 2.0, 3.0]), np.array([1.0, 2.0, 1.0])), (second, np.ones(5)))
    assert weighted == found
    assert anova((first[:1], np.ones(1)), (second, np.ones(5))) is None


def rows(policy: Policy = POLICY) -> tuple[Canary, list[CanaryStep]]:
    canary = Canary(
        id=7, namespace="shop", service="hscode", service_uid="u", model="hscode", champion_version="1",
        champion_uri="a", challenger_version="2", challenger_uri="b", policy=policy.model_dump(mode="json"),
        state="stepping", percent=50, reason="so far so good", started_by="the test", started_at=T0,
        deadline_at=T0 + timedelta(days=1),
    )  # fmt: skip
    step = CanaryStep(
        sequence=0, action="start", percent_before=0, percent_after=50, verdict="", reason="started by the test",
        evidence={}, actor="the test", intent_at=T0, done_at=T0 + timedelta(seconds=20),
    )  # fmt: skip
    return canary, [step]


@pytest.mark.parametrize("case", [Evidence(5, 0, 0), evidence(errors=0.05)], ids=["nothing yet", "errs"])
def test_the_report_is_plain_and_readable(case: Evidence) -> None:
    canary, steps = rows()
    found = report.explain(canary, steps, case)
    again = json.loads(json.dumps(found, allow_nan=False))
    assert again == found
    text = report.told(found)
    for part in ("version 2 against 1", "errors:", "valid at any time", "classic", "Analysis of variance", "12:00:20"):
        assert part in text
    assert ("nothing seen" in text) == (not case.blocks)


def test_the_report_computes_the_verdict_again_by_the_canarys_own_policy() -> None:
    strict = Policy(errors=CanaryErrors(margin_ratio=1.0, margin=0.0001))
    case = evidence()
    assert report.explain(*rows(), case)["verdict_now"] == "CONTINUE"
    by_strict = {m["name"]: m for m in report.explain(*rows(strict), case)["measures"]}
    assert by_strict["errors"]["shown_safe"] is False


def test_latencies_are_told_with_their_places() -> None:
    arm = Arm(requests=3, latency={latency_bin(0.05): 2, latency_bin(0.5): 1})
    case = Evidence(50, 1, 1, (Block(T0, T0 + timedelta(minutes=1), 50, arm, arm),))
    seen = report.explain(*rows(), case)["requests"]["champion"]["latency_seconds"]
    assert seen["p50"] == pytest.approx(0.05, rel=0.05)
    assert seen["p99"] == pytest.approx(0.5, rel=0.05)
