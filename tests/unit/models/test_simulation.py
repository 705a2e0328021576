"""Statistics against formulas and scipy, error rates by simulation, draws by table."""

import numpy as np
import polars as pl
import pytest
from scipy import stats

from models.simulation import analyse, corrected_p, resamples


def draws(means: dict[str, float], runs: int, spread: float, seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {name: mean + rng.normal(0, spread, runs) for name, mean in means.items()}


def test_welch_anova_of_two_models_is_welchs_t_test_squared() -> None:
    scores = draws({"a": 0.5, "b": 0.51}, 12, 0.01, 0)
    test = analyse(scores)["tests"][0]
    t = stats.ttest_ind(scores["a"], scores["b"], equal_var=False)
    assert test["statistic"] == pytest.approx(t.statistic**2, rel=1e-4)
    assert test["p"] == pytest.approx(t.pvalue, rel=1e-4)


def test_pairs_are_those_of_scipys_tukey() -> None:
    scores = draws({"a": 0.50, "b": 0.51, "c": 0.53, "z": 0.49}, 10, 0.01, 1)
    result = analyse(scores)
    names = sorted(scores)
    expected = stats.tukey_hsd(*(scores[name] for name in names))
    bounds = expected.confidence_interval()
    assert len(result["pairs"]) == 6
    for pair in result["pairs"]:
        i, j = names.index(pair["one"]), names.index(pair["other"])
        assert pair["difference"] == pytest.approx(expected.statistic[i, j])
        assert pair["tukey_p"] == pytest.approx(expected.pvalue[i, j], abs=1e-4)
        assert pair["low"] == pytest.approx(bounds.low[i, j], abs=1e-5)
        assert pair["high"] == pytest.approx(bounds.high[i, j], abs=1e-5)
        assert pair["difference"] >= 0


def test_unequal_spread_takes_games_howell() -> None:
    rng = np.random.default_rng(2)
    scores = {
        "calm": 0.5 + rng.normal(0, 0.001, 30),
        "wild": 0.5 + rng.normal(0, 0.03, 30),
        "c": 0.52 + rng.normal(0, 0.001, 30),
    }
    result = analyse(scores)
    assert "refuted" in result["assumptions"][1]
    assert "Games and Howell" in result["assumptions"][1]
    sharp = next(p for p in result["pairs"] if {p["one"], p["other"]} == {"c", "calm"})
    assert sharp["high"] - sharp["low"] < 0.005
    assert sharp["differ"] == (sharp["games_howell_p"] < 0.05) is True


def test_best_model_first_and_a_sentence_that_says_so() -> None:
    clear = analyse(draws({"svc": 0.5, "pool": 0.6, "dnn": 0.45}, 8, 0.005, 3))
    assert [m["model"] for m in clear["models"]] == ["pool", "svc", "dnn"]
    assert "pool is better than each other kind" in clear["summary"]
    near = analyse(draws({"svc": 0.599, "pool": 0.6, "dnn": 0.45}, 8, 0.005, 4))
    assert "cannot be told from" in near["summary"]
    none = analyse(draws(dict.fromkeys("abc", 0.5), 8, 0.005, 5))
    assert "do not differ beyond chance" in none["summary"]


def test_effects_have_the_size_they_were_drawn_with() -> None:
    result = analyse(draws({"a": 0.50, "b": 0.52}, 4000, 0.01, 6))
    assert result["pairs"][0]["hedges_g"] == pytest.approx(2.0, abs=0.1)
    assert result["tests"][0]["effect"] in ("ω² = 0.49", "ω² = 0.50")  # variance between 0.01², within 0.01²
    best = result["best_two"]
    assert best["low"] < 0.02 < best["high"]
    assert best["share_reversed"] == 0


def test_overlap_widens_intervals_and_raises_p() -> None:
    scores = draws({"a": 0.50, "b": 0.508}, 15, 0.01, 7)
    alone, shared = analyse(scores), analyse(scores, overlap=0.2)
    assert shared["pairs"][0]["corrected_p"] > alone["pairs"][0]["corrected_p"]
    width = [r["models"][0]["high"] - r["models"][0]["low"] for r in (alone, shared)]
    assert width[1] / width[0] == pytest.approx(np.sqrt(1 / 15 + 0.2) / np.sqrt(1 / 15))


def test_corrected_p_raises_false_alarms_as_seldom_as_it_says() -> None:
    """Runs that share a part of their chance, as overlapping resamples do: the plain paired test is wrong every third
    time, the corrected one about as often as its 5 %."""
    rng = np.random.default_rng(8)
    overlap, runs = 0.2, 15
    shared = overlap / (1 + overlap)
    alarms = np.zeros(2)
    for _ in range(600):
        own = rng.normal(0, np.sqrt(1 - shared), runs)
        differences = rng.normal(0, np.sqrt(shared)) + own
        alarms += [corrected_p(differences, 0.0) < 0.05, corrected_p(differences, overlap) < 0.05]
    assert alarms[0] / 600 > 0.25
    assert alarms[1] / 600 < 0.075


def test_models_without_any_spread_can_be_compared() -> None:
    result = analyse({"a": [0.5] * 4, "b": [0.4] * 4, "c": [0.4] * 4})
    assert result["models"][0]["model"] == "a"
    assert [p["differ"] for p in result["pairs"]] == [True, True, False]


@pytest.mark.parametrize("scores", [{}, {"a": [1, 2]}, {"a": [1], "b": [1]}, {"a": [1, 2], "b": [1, 2, 3]}])
def test_too_little_to_compare_is_refused(scores: dict[str, list[float]]) -> None:
    with pytest.raises(ValueError, match="at least two models and two runs"):
        analyse(scores)


@pytest.fixture(scope="module")
def part() -> pl.DataFrame:
    rng = np.random.default_rng(0)
    kinds = rng.choice(["given", "nomenclature", "vague"], 1000, p=[0.5, 0.4, 0.1])
    return pl.DataFrame(
        {
            "group": rng.integers(0, 400, 1000),
            "label_kind": kinds,
            "hs6": [None if kind == "vague" else "010121" for kind in kinds],
            "code": [None if kind == "vague" else "010121" for kind in kinds],
        }
    )


def test_resamples_share_no_group_between_training_and_test(part: pl.DataFrame) -> None:
    kinds, groups = part["label_kind"].to_numpy(), part["group"].to_numpy()
    for draw in resamples(part, 5, 0.2, seed=1):
        assert set(kinds[draw.test]) == {"given"}
        assert not set(groups[draw.test]) & set(groups[draw.train])
        assert len(draw.test) == pytest.approx(0.2 * (kinds == "given").sum(), rel=0.25)
        like = (kinds[draw.train] == "given").sum()
        assert draw.overlap == len(draw.test) / like


def test_resamples_differ_and_can_be_drawn_again(part: pl.DataFrame) -> None:
    one, two = resamples(part, 3, 0.2, seed=1), resamples(part, 5, 0.2, seed=1)
    for a, b in zip(one, two, strict=False):
        np.testing.assert_array_equal(a.train, b.train)
    assert len({tuple(draw.test.tolist()) for draw in two}) == 5
    assert all(len(draw.train) == 100 for draw in resamples(part, 2, 0.2, seed=1, rows=100))
