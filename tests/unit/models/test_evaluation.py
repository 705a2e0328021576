"""Figures against scikit-learn's and against counts made by hand."""

import numpy as np
import polars as pl
import pytest
from sklearn.metrics import f1_score, top_k_accuracy_score

from models.answer import DIGITS, Levels
from models.evaluation import coverage_curve, evaluate, macro_f1, outcomes, share, true_codes

CLASSES = [f"{c:02d}{h:02d}{s:02d}" for c in (1, 2, 3) for h in (1, 2) for s in (10, 20, 30)]
LEVELS = Levels([*CLASSES, ""], vague=len(CLASSES))
THRESHOLDS = {"2": 0.8, "4": 0.7, "6": 0.6, "vague": 0.5}


@pytest.fixture(scope="module")
def drawn() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    p = rng.dirichlet(np.full(19, 0.2), 400)
    return p, (p.cumsum(axis=1) > rng.random((400, 1))).argmax(axis=1)


def frame(truth: np.ndarray) -> pl.DataFrame:
    codes = [LEVELS.classes[i] or None for i in truth]
    return pl.DataFrame(
        {
            "description": [f"text {i}" for i in range(len(truth))],
            "code": codes,
            "hs6": codes,
            "source": ["shop" if i % 3 else "law" for i in range(len(truth))],
            "label_kind": [("given" if i % 3 else "nomenclature") if c else "vague" for i, c in enumerate(codes)],
        },
        schema_overrides={"code": pl.String, "hs6": pl.String},
    )


def test_top_k_and_macro_f1_are_those_of_scikit_learn(drawn: tuple[np.ndarray, np.ndarray]) -> None:
    p, truth = drawn
    coded = truth < 18
    measured = evaluate(LEVELS, p, frame(truth), THRESHOLDS, {})["groups"]["all"]["levels"]
    for digits in DIGITS:
        y = LEVELS.indices([LEVELS.classes[i] for i in truth[coded]], digits)
        at = LEVELS.probabilities(p[coded], digits)
        for k in (1, 3, 5):
            if k < at.shape[1]:
                expected = top_k_accuracy_score(y, at, k=k, labels=range(at.shape[1]))
                assert measured[str(digits)][f"top{k}"]["value"] == pytest.approx(expected)
        labels = np.unique(y)
        expected = f1_score(y, at.argmax(axis=1), labels=labels, average="macro", zero_division=0)
        assert measured[str(digits)]["macro_f1"] == pytest.approx(expected)
        assert measured[str(digits)]["rows"] == coded.sum()
        assert measured[str(digits)]["classes"] == len(labels)


def test_groups_and_sources_are_apart_and_vague_rows_in_none(drawn: tuple[np.ndarray, np.ndarray]) -> None:
    p, truth = drawn
    measured = evaluate(LEVELS, p, frame(truth), THRESHOLDS, {})
    groups, sources = measured["groups"], measured["sources"]
    vague = int((truth == 18).sum())
    assert vague > 0
    assert measured["rows"] == 400 - vague == groups["all"]["rows"]
    assert groups["trader"]["rows"] + groups["nomenclature"]["rows"] == groups["all"]["rows"]
    assert sources["shop"] == groups["trader"]
    assert measured["vague"]["rows"] == vague
    assert 0 < measured["vague"]["caught"]["value"] <= measured["vague"]["not_answered"]["value"] <= 1


def test_rare_classes_are_those_with_few_training_rows() -> None:
    truth = np.array([0, 0, 1, 2, 2, 2])
    p = np.eye(19)[[0, 5, 1, 2, 2, 9]]
    counts = {CLASSES[0]: 5, CLASSES[1]: 6, CLASSES[3]: 100}
    levels = evaluate(LEVELS, p, frame(truth), THRESHOLDS, counts, rare_rows=5)["groups"]["all"]["levels"]
    rare = levels["6"]["rare_recall"]
    assert (rare["rows"], rare["classes"]) == (5, 2)
    assert rare["value"] == pytest.approx(3 / 5)
    assert levels["4"]["rare_recall"] is None


def test_answers_are_judged_at_the_length_given() -> None:
    rows = [
        ([0.9, 0, 0], "010110", True),  # six digits, right
        ([0.9, 0, 0], "010120", False),  # six digits, wrong though the heading is right
        ([0.4, 0.4, 0], "010120", True),  # four digits, right
        ([0.4, 0.4, 0], "010210", False),  # four digits, wrong
        ([0.4, 0.2, 0.25], "010230", True),  # two digits, right
        ([0.2, 0.2, 0.2], "010110", None),  # none
    ]
    p = np.zeros((len(rows), 19))
    for i, (first, _, _) in enumerate(rows):
        p[i, [0, 1, 3]] = first
        p[i, 9:15] = (1 - sum(first)) / 6
    table = pl.DataFrame({"hs6": [code for _, code, _ in rows], "description": ["x"] * len(rows)})
    measured = evaluate(LEVELS, p, table, THRESHOLDS, {})["groups"]["all"]["answers"]
    assert measured["given"]["value"] == pytest.approx(5 / 6)
    assert (measured["precision"]["value"], measured["precision"]["rows"]) == (pytest.approx(3 / 5), 5)
    assert [measured["at"][d]["rows"] for d in ("6", "4", "2")] == [2, 2, 1]
    assert [measured["at"][d]["precision"]["value"] for d in ("6", "4", "2")] == [0.5, 0.5, 1.0]
    assert measured["status"] == pytest.approx({"answered": 2 / 6, "shortened": 3 / 6, "vague": 0, "unsure": 1 / 6})


def test_shortened_labels_count_at_their_levels_only() -> None:
    table = pl.DataFrame(
        {"hs6": [None, None, "010110"], "code": ["0101", "01", "01011000"], "label_kind": ["given"] * 3},
        schema_overrides={"hs6": pl.String},
    )
    assert true_codes(table) == ["0101", "01", "010110"]
    levels = evaluate(LEVELS, np.eye(19)[[0, 3, 0]], table, THRESHOLDS, {})["groups"]["all"]["levels"]
    assert [levels[str(d)]["rows"] for d in DIGITS] == [3, 2, 1]
    assert [levels[str(d)]["top1"]["value"] for d in DIGITS] == [1, 1, 1]


def test_a_code_that_the_model_does_not_know_is_never_right() -> None:
    seen = outcomes(LEVELS, np.eye(19)[[0, 0]], ["019999", "990101"])
    assert [seen.right(2).tolist(), seen.right(4, 1000).tolist()] == [[True, False], [False, False]]
    assert not seen.right(6, 1000).any()
    assert macro_f1(np.array([-1, 0]), np.array([0, 0])) == pytest.approx((0 + 2 / 3) / 2)


def test_judging_in_chunks_changes_nothing(drawn: tuple[np.ndarray, np.ndarray]) -> None:
    p, truth = drawn
    codes = [LEVELS.classes[i] or None for i in truth]
    one, two = outcomes(LEVELS, p, codes, chunk=7), outcomes(LEVELS, p, codes, chunk=10_000)
    for digits in DIGITS:
        np.testing.assert_array_equal(one.rank[digits], two.rank[digits])
        np.testing.assert_array_equal(one.sure[digits], two.sure[digits])


def test_coverage_curve_ends_at_the_accuracy_of_all() -> None:
    sure, right = np.array([0.9, 0.5, 0.7, 0.1]), np.array([True, False, True, False])
    curve = coverage_curve(sure, right)
    assert [(c["coverage"], c["accuracy"]) for c in curve] == [(0.25, 1.0), (0.5, 1.0), (0.75, 2 / 3), (1.0, 0.5)]
    assert coverage_curve(np.zeros(0), np.zeros(0, dtype=bool)) == []


def test_share_without_rows_knows_nothing() -> None:
    assert share(np.zeros(0, dtype=bool)) == {"value": 0.0, "low": 0.0, "high": 1.0}
