"""`select` by tables, and its error rate by simulation of models with known true scores."""

import numpy as np
import pytest

from models.answer import Levels
from models.evaluation import outcomes
from models.selection import row_scores, select


def runs(rng: np.random.Generator, means: dict[str, float], units: int, spread: float) -> dict[str, np.ndarray]:
    """Scores with a part shared by all models of a unit (its difficulty) and a part of their own."""
    shared = rng.normal(0, 2 * spread, units)
    return {kind: mean + shared + rng.normal(0, spread, units) for kind, mean in means.items()}


def test_equal_scores_take_the_cheaper() -> None:
    scores = runs(np.random.default_rng(0), {"svc": 0.5, "pool": 0.501}, 30, 0.005)
    chosen = select(scores, {"svc": 1.0, "pool": 9.0}, margin=0.01)
    assert chosen.kind == "svc"
    assert chosen.reason.startswith("svc (")
    assert "within the margin of 1.0" in chosen.reason
    assert "costs 1.00 where pool" in chosen.reason


def test_a_clearly_better_model_is_taken_whatever_it_costs() -> None:
    scores = runs(np.random.default_rng(0), {"svc": 0.46, "pool": 0.50}, 30, 0.005)
    chosen = select(scores, {"svc": 1.0, "pool": 9.0}, margin=0.01)
    assert chosen.kind == "pool"
    assert [c.kind for c in chosen.contenders] == ["pool", "svc"]
    assert [c.eligible for c in chosen.contenders] == [True, False]
    assert "no cheaper model is shown to be within" in chosen.reason


def test_little_evidence_keeps_the_best_mean() -> None:
    chosen = select({"svc": [0.50, 0.52], "pool": [0.505, 0.53]}, {"svc": 1.0, "pool": 9.0}, margin=0.005)
    assert chosen.kind == "pool"


def test_best_and_cheapest() -> None:
    chosen = select({"a": [0.6, 0.61, 0.6], "b": [0.5, 0.52, 0.5]}, {"a": 1.0, "b": 2.0})
    assert chosen.kind == "a"
    assert "no model costs less" in chosen.reason


def test_one_model_and_one_unit() -> None:
    assert select({"a": [0.6]}, {"a": 1.0}).kind == "a"
    assert select({"a": [0.6], "b": [0.59]}, {"a": 2.0, "b": 1.0}, margin=0.5).kind == "a"


def test_ties_in_cost_go_to_the_better_mean_then_to_the_name() -> None:
    scores = {"b": [0.60, 0.61], "a": [0.60, 0.61], "c": [0.59, 0.60]}
    assert select(scores, dict.fromkeys(scores, 1.0), margin=0.1).kind == "a"


def test_order_of_the_models_does_not_matter() -> None:
    scores = runs(np.random.default_rng(3), {"a": 0.5, "b": 0.505, "c": 0.49}, 20, 0.01)
    costs = {"a": 3.0, "b": 2.0, "c": 1.0}
    assert select(scores, costs) == select(dict(reversed(scores.items())), costs)


def test_overlapping_resamples_count_for_less() -> None:
    scores = runs(np.random.default_rng(5), {"cheap": 0.5, "dear": 0.5}, 30, 0.006)
    costs = {"cheap": 1.0, "dear": 2.0}
    assert select(scores, costs, margin=0.005).kind == "cheap"
    bound = {c.kind: c.at_most for c in select(scores, costs, margin=0.005).contenders}
    wider = {c.kind: c.at_most for c in select(scores, costs, margin=0.005, overlap=0.2).contenders}
    assert wider["cheap"] > bound["cheap"] * 1.5


@pytest.mark.parametrize(
    ("scores", "costs"), [({}, {}), ({"a": [0.5]}, {"b": 1.0}), ({"a": []}, {"a": 1.0}), ({"a": [np.nan]}, {"a": 1.0})]
)
def test_input_that_cannot_be_judged_is_refused(scores: dict[str, list[float]], costs: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"models|finite"):
        select(scores, costs)


@pytest.mark.parametrize("trap", [0.0101, 0.015, 0.03])
@pytest.mark.parametrize("dear", [1, 4])
def test_a_model_worse_than_the_margin_is_seldom_taken(trap: float, dear: int) -> None:
    """The cheapest model is worse than the best by more than the margin: 5 % of wrong choices at most (and noise)."""
    rng = np.random.default_rng(11)
    means = {"cheap": 0.5 - trap, **{f"dear{i}": 0.5 - 0.001 * i for i in range(dear)}}
    costs = {kind: float(i) for i, kind in enumerate(means)}
    wrong = np.mean([select(runs(rng, means, 15, 0.01), costs, margin=0.01).kind == "cheap" for _ in range(600)])
    assert wrong <= 0.05 + 2 * np.sqrt(0.05 * 0.95 / 600)


def test_equal_models_save_money_often() -> None:
    rng = np.random.default_rng(12)
    means = dict.fromkeys(("cheap", "b", "c", "d", "e"), 0.5)
    costs = {kind: float(i) for i, kind in enumerate(means)}
    chosen = [select(runs(rng, means, 15, 0.006), costs, margin=0.01).kind for _ in range(200)]
    assert np.mean([kind == "cheap" for kind in chosen]) > 0.8


def test_row_scores_weigh_levels_and_groups() -> None:
    levels = Levels(["010110", "010120", "010210", "850110"])
    seen = outcomes(levels, np.eye(4)[[0, 1, 2, 3, 0]], ["010110", "010110", "010110", "010110", "0101"])
    rows = np.ones(5, dtype=bool)
    weights = (0.2, 0.3, 0.5)
    np.testing.assert_allclose(row_scores(seen, rows, weights), [1, 0.5, 0.2, 0, 1])
    np.testing.assert_allclose(row_scores(seen, rows, weights, [7, 7, 3, 4, 4]), [0.2, 0.5, 0.75])
