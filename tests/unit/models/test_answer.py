"""The answer policy by tables, and its promise (precision) by simulation."""

import json

import numpy as np
import pytest

from models.answer import DIGITS, NEVER, Levels, answers, decide, fit_thresholds, largest

CLASSES = ["010121", "010129", "010221", "851830", ""]
LEVELS = Levels(CLASSES, vague=4)
TEXTS = {"010121": "Horses; live, pure-bred breeding animals", "0101": "Horses", "01": "Live animals"}
THRESHOLDS = {"2": 0.9, "4": 0.8, "6": 0.7, "vague": 0.5}


def test_level_probabilities_are_sums_of_class_probabilities() -> None:
    p = np.array([[0.1, 0.2, 0.3, 0.15, 0.25]], dtype=np.float32)
    assert LEVELS.codes == {2: ("01", "85"), 4: ("0101", "0102", "8518"), 6: tuple(CLASSES[:4])}
    np.testing.assert_allclose(LEVELS.probabilities(p, 2), [[0.6, 0.15]], atol=1e-7)
    np.testing.assert_allclose(LEVELS.probabilities(p, 4), [[0.3, 0.3, 0.15]], atol=1e-7)
    np.testing.assert_allclose(LEVELS.vague_probabilities(p), [0.25])


def test_levels_do_not_depend_on_the_order_of_classes() -> None:
    rng = np.random.default_rng(0)
    codes = [f"{c:06d}" for c in rng.choice(10**6, 300, replace=False)]
    p = rng.dirichlet(np.ones(300), 5)
    shuffled = rng.permutation(300)
    one, two = Levels(codes), Levels([codes[i] for i in shuffled])
    for digits in DIGITS:
        assert one.codes[digits] == two.codes[digits]
        np.testing.assert_allclose(one.probabilities(p, digits), two.probabilities(p[:, shuffled], digits))


@pytest.mark.parametrize(
    ("row", "digits", "code", "status"),
    [
        ([0.75, 0.1, 0.05, 0.05, 0.05], 6, "010121", "answered"),
        ([0.75, 0.1, 0.05, 0.05, 0.05], 4, "0101", "answered"),
        ([0.75, 0.1, 0.05, 0.05, 0.05], 2, "01", "answered"),
        ([0.50, 0.35, 0.05, 0.05, 0.05], 6, "0101", "shortened"),
        ([0.40, 0.20, 0.33, 0.05, 0.02], 6, "01", "shortened"),
        ([0.40, 0.20, 0.33, 0.05, 0.02], 4, "01", "shortened"),
        ([0.40, 0.20, 0.33, 0.05, 0.02], 2, "01", "answered"),
        ([0.30, 0.20, 0.10, 0.40, 0.00], 6, "", "unsure"),
        ([0.30, 0.00, 0.00, 0.10, 0.60], 6, "", "vague"),
    ],
)
def test_policy(row: list[float], digits: int, code: str, status: str) -> None:
    decisions = decide(LEVELS, np.array([row]), THRESHOLDS, digits)
    assert decisions.codes(LEVELS) == [code]
    assert decisions.status[0] == status
    assert int(decisions.digits[0]) == len(code)
    assert (decisions.confidence[0] > 0) == bool(code)


def test_text_without_a_known_token_is_vague_however_sure_the_model_is() -> None:
    p = np.array([[0.99, 0.01, 0, 0, 0], [0.99, 0.01, 0, 0, 0]])
    assert list(decide(LEVELS, p, THRESHOLDS, informative=[False, True]).status) == ["vague", "answered"]


def test_without_thresholds_nothing_is_answered() -> None:
    p = np.array([[1.0, 0, 0, 0, 0]])
    assert decide(LEVELS, p, {}).status[0] == "unsure"
    assert decide(LEVELS, p, {"6": NEVER, "4": NEVER, "2": 0.5}).codes(LEVELS) == ["01"]


def test_prediction_object_has_the_order_and_rounding_of_the_design() -> None:
    p = np.array([[0.123456, 0.123456, 0.6, 0.15, 0.003088]])
    (answer,) = answers(LEVELS, p, THRESHOLDS, TEXTS, digits=6, limit=3)
    assert list(answer) == ["code", "digits", "confidence", "status", "levels", "candidates"]
    assert list(answer["levels"]) == ["2", "4", "6"]
    assert answer["levels"]["4"] == {"code": "0102", "confidence": 0.6}
    assert (answer["code"], answer["digits"], answer["confidence"], answer["status"]) == ("", 0, 0.0, "unsure")
    assert [c["code"] for c in answer["candidates"]] == ["010221", "851830", "010121"]
    assert list(answer["candidates"][2]) == ["code", "confidence", "text"]
    assert answer["candidates"][2] == {"code": "010121", "confidence": 0.1235, "text": TEXTS["010121"]}
    assert json.loads(json.dumps(answer)) == answer


def test_each_row_may_ask_for_its_own_digits_and_limit() -> None:
    p = np.tile([[0.75, 0.1, 0.05, 0.05, 0.05]], (3, 1))
    got = answers(LEVELS, p, THRESHOLDS, TEXTS, digits=[2, 4, 6], limit=[1, 2, 20])
    assert [a["code"] for a in got] == ["01", "0101", "010121"]
    assert [[c["code"] for c in a["candidates"]] for a in got] == [["01"], ["0101", "0102"], CLASSES[:4]]


def test_an_answer_does_not_depend_on_its_neighbours() -> None:
    p = np.random.default_rng(1).dirichlet(np.ones(5) * 0.3, 50).astype(np.float32)
    together = answers(LEVELS, p, THRESHOLDS, TEXTS)
    assert together == [answers(LEVELS, row[None], THRESHOLDS, TEXTS)[0] for row in p]


def test_ties_go_to_the_lowest_code() -> None:
    assert largest(np.array([0.2, 0.3, 0.3, 0.2]), 3) == [1, 2, 0]
    assert largest(np.array([0.2, 0.3 - 1e-9, 0.3, 0.2]), 4) == [1, 2, 0, 3]
    assert largest(np.array([0.5]), 5) == [0]
    assert largest(np.array([]), 5) == []


def test_classes_that_are_no_codes_are_refused() -> None:
    with pytest.raises(ValueError, match="six-digit"):
        Levels(["010121", "0101"])


def simulate(rng: np.random.Generator, rows: int, sharpness: float = 1.0) -> tuple[np.ndarray, list[str]]:
    """Rows of a calibrated model over 40 classes in 4 chapters: the truth is drawn from the probabilities themselves.
    `sharpness` other than 1 shows the model's probabilities as over- or under-confident."""
    p = rng.dirichlet(np.full(40, 0.015), rows)
    truth = (p.cumsum(axis=1) > rng.random((rows, 1))).argmax(axis=1)
    shown = p**sharpness
    return shown / shown.sum(axis=1, keepdims=True), [MANY.classes[i] for i in truth]


MANY = Levels(
    [f"{chapter:02d}{heading:02d}{sub:02d}" for chapter in range(1, 5) for heading in (1, 2) for sub in range(5)]
)


@pytest.mark.parametrize("sharpness", [0.7, 1.0, 1.5])
def test_wanted_precision_holds_on_new_rows(sharpness: float) -> None:
    rng = np.random.default_rng(7)
    test_p, test_codes = simulate(rng, 10_000, sharpness)
    truth = {d: MANY.indices(test_codes, d) for d in DIGITS}
    found: list[float] = []
    for _ in range(60):
        p, codes = simulate(rng, 640, sharpness)
        decisions = decide(MANY, test_p, fit_thresholds(MANY, p, codes, precision=0.9))
        hits = np.concatenate([(decisions.index == truth[d])[decisions.digits == d] for d in DIGITS])
        assert len(hits) > 0.4 * len(test_codes)
        found.append(float(np.mean(hits)))
    assert np.mean(found) >= 0.895
    assert np.mean(np.array(found) < 0.88) <= 0.1


def test_thresholds_of_a_model_that_knows_nothing_answer_nothing() -> None:
    rng = np.random.default_rng(5)
    p = rng.dirichlet(np.full(40, 0.05), 640)
    codes = [MANY.classes[i] for i in rng.integers(0, 40, 640)]
    thresholds = fit_thresholds(MANY, p, codes)
    assert thresholds == {"6": NEVER, "4": NEVER, "2": NEVER}


def test_few_rows_give_no_answers_rather_than_unfounded_ones() -> None:
    p = np.eye(40)[:4]
    assert fit_thresholds(MANY, p, [MANY.classes[i] for i in range(4)])["6"] == NEVER
    assert fit_thresholds(MANY, np.zeros((0, 40)), []) == {"6": NEVER, "4": NEVER, "2": NEVER}


def test_rows_labelled_to_four_digits_do_not_count_at_six() -> None:
    p = np.tile(np.eye(40)[:1] * 0.99 + 0.01 / 40, (50, 1))
    short, full = ["0101"] * 50, [MANY.classes[0]] * 50
    assert fit_thresholds(MANY, p, short)["6"] == NEVER
    assert fit_thresholds(MANY, p, short)["4"] < 1
    assert fit_thresholds(MANY, p, full)["6"] < 1


def test_vague_threshold_costs_few_coded_rows() -> None:
    rng = np.random.default_rng(2)
    p = rng.dirichlet(np.full(5, 0.2), 500)
    p[:400] *= np.array([1, 1, 1, 1, 0.01])
    p[400:] *= np.array([0.01, 0.01, 0.01, 0.01, 1])
    p /= p.sum(axis=1, keepdims=True)
    codes = [CLASSES[i] for i in p[:400, :4].argmax(axis=1)] + [""] * 100
    thresholds = fit_thresholds(LEVELS, p, codes)
    status = decide(LEVELS, p, thresholds).status
    assert np.mean(status[:400] == "vague") <= 0.02
    assert np.mean(status[400:] == "vague") >= 0.5
