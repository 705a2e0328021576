"""Linear SVCs: the trick of one call for many machines, pruning, and the graph that reads sparse weights."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest
from scipy import sparse
from sklearn.svm import LinearSVC

from config.settings import Settings
from models.bundle import Bundle
from models.nets.base import Materials, Rows
from models.nets.svc import LinearSVCs, Machines, _evidence, fit_against_rest, merge_paths, pruned
from models.training import load_materials, train_bundle


@pytest.fixture
def materials(parts: Path, settings: Settings) -> Materials:
    return load_materials("svc", parts, None, settings)


def test_many_machines_in_one_call_are_each_what_it_would_be_alone() -> None:
    random = np.random.default_rng(3)
    features = sparse.random(120, 40, 0.2, random_state=1, format="csr")
    labels, weights = random.integers(0, 6, 120), random.uniform(0.3, 1.0, 120)
    together, bias = fit_against_rest(features, labels, weights, np.array([1, 4]), 0.5, 1e-6)
    for k, c in enumerate((1, 4)):
        alone = LinearSVC(C=0.5, tol=1e-6, dual=True, random_state=0, max_iter=100_000)
        alone.fit(features, labels == c, sample_weight=weights)
        np.testing.assert_allclose(together[k], alone.coef_[0], atol=1e-3)
        np.testing.assert_allclose(bias[k], alone.intercept_[0], atol=1e-3)


@pytest.mark.parametrize("worth", [0, 1e12], ids=["processes", "here"])
def test_machines_are_the_same_each_time(materials: Materials, monkeypatch: pytest.MonkeyPatch, worth: float) -> None:
    """Threads draw from liblinear's one generator: this test failed with them."""
    monkeypatch.setattr("models.nets.svc.WORTH_PROCESSES", worth)
    svc, train = materials.settings.models.svc, materials.settings.train
    models = materials.settings.models.model_copy(update={"svc": svc.model_copy(update={"machines_a_fit": 2})})
    settings = materials.settings.model_copy(
        update={"models": models, "train": train.model_copy(update={"threads": 2})}
    )
    random = np.random.default_rng(5)
    features = sparse.random(900, 300, 0.1, random_state=2, format="csr")
    labels = random.integers(0, 24, 900)
    fitted = []
    for _ in range(2):
        svcs = LinearSVCs(replace(materials, settings=settings))
        svcs.machines = Machines(24, 300)
        svcs._fit_level(features, labels, np.ones(900), 0)
        svcs.machines.close()
        fitted.append((svcs.machines.steps.toarray(), svcs.machines.scale, svcs.machines.bias))
    for one, two in zip(*fitted, strict=True):
        np.testing.assert_array_equal(one, two)
    assert not [child for child in psutil.Process().children() if "popen_loky" in " ".join(child.cmdline())]


def test_two_classes_in_all_are_two_machines() -> None:
    features = sparse.csr_matrix(np.eye(4))
    weights, _ = fit_against_rest(features, np.array([0, 0, 1, 1]), np.ones(4), np.array([0, 1]), 5.0, 1e-3)
    np.testing.assert_allclose(weights[0], -weights[1])
    assert (weights[0] > 0).tolist() == [True, True, False, False]


def test_small_weights_are_dropped_and_the_rest_kept_to_half_a_step() -> None:
    machines = Machines(2, 4)
    machines.put(np.array([1]), pruned(np.array([[1.27, -0.5, 0.004, 0.02]]), np.array([0.3]), prune=0.01))
    machines.close()
    dense = machines.steps.toarray() * machines.scale[:, None]
    np.testing.assert_allclose(dense[1], [1.27, -0.5, 0.0, 0.02], atol=0.005)
    assert machines.steps.nnz == 3
    assert not dense[0].any()
    np.testing.assert_allclose(machines.bias, [-1.0, 0.3])


def test_beyond_its_margin_a_machine_says_hardly_more() -> None:
    distances = np.array([[-8.0, -4.0, 0.0, 4.0, 8.0]], dtype=np.float32)
    steps = np.diff(_evidence(distances)[0])
    assert (np.diff(steps) < 0).all()
    assert steps[0] == pytest.approx(4, abs=0.02)
    assert steps[-1] == pytest.approx(0, abs=0.02)
    assert _evidence(distances, plain=4)[0, 4] == 8


def test_sibling_lines_of_a_tariff_are_one_row() -> None:
    rows = Rows(
        ["Tea > Other > Green", "Tea > Black > Other", "tea bags", "Tea; green"],
        ["090210", "090210", "090210", "090210"],
        np.array([0.1, 0.1, 1.0, 0.3], dtype=np.float32),
        ["nomenclature", "nomenclature", "given", "nomenclature"],
        ["us", "us", "shop", "law"],
    )
    merged = merge_paths(rows)
    assert merged.texts == ["tea bags", "Tea; green", "Tea > Green > Black"]
    np.testing.assert_allclose(merged.weights, [1.0, 0.3, 0.1])


def test_vague_rows_do_not_disturb_the_order_of_codes(materials: Materials) -> None:
    net = LinearSVCs(materials)
    net.fit()
    kept = [i for i, code in enumerate(materials.train.codes) if code]
    coded = replace(materials, classes=materials.classes[:-1], vague=None, train=materials.train.take(kept))
    without = LinearSVCs(coded)
    without.fit()
    texts = ["cotton tee", "steel clip", "canvas shoe"]
    for text in texts:
        p = net.logits([text])[0]
        assert materials.classes[int(p[:-1].argmax())] == coded.classes[int(without.logits([text])[0].argmax())]
    assert net.logits(["goods"])[0].argmax() == materials.vague


def test_a_class_without_a_row_is_never_first(materials: Materials) -> None:
    kept = [i for i, code in enumerate(materials.train.codes) if code not in ("010121", "640411")]
    net = LinearSVCs(replace(materials, train=materials.train.take(kept)))
    net.fit()
    best = net.logits([*materials.train.texts, "", "qqq"]).argmax(axis=1)
    assert not {"010121", "640411"} & {materials.classes[i] for i in best}


def test_a_single_heading_is_enough(parts: Path, settings: Settings, materials: Materials) -> None:
    kept = [i for i, code in enumerate(materials.train.codes) if code[:4] == "6109"]
    valid = [i for i, code in enumerate(materials.valid.codes) if code[:4] == "6109"]
    narrow = replace(
        materials,
        classes=("610910", "610990"),
        vague=None,
        train=materials.train.take(kept),
        valid=materials.valid.take(valid),
    )
    net = LinearSVCs(narrow)
    net.fit()
    assert net.logits(["cotton vest", "nylon singlet"]).argmax(axis=1).tolist() == [0, 1]


def test_nothing_to_go_by_is_answered_too(parts: Path, settings: Settings, tmp_path: Path) -> None:
    train_bundle("svc", parts, None, settings, tmp_path / "bundle")
    bundle = Bundle.load(tmp_path / "bundle")
    empty, unknown = bundle.logits(["", "qqqq"])
    assert np.isfinite(empty).all()
    np.testing.assert_array_equal(empty, unknown)
