"""Weights of a pool's members, by cases with known answers."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from config.settings import load_settings
from models.answer import Levels
from models.calibration import softmax
from models.errors import UserError
from models.nets.averaging import Tree, fit_weights
from models.nets.pool import Pool
from models.training import load_materials
from tests.unit.nets.parts import write_parts

CLASSES = ("010121", "010129", "610910", "640411")
LEVELS = Levels(CLASSES)


def member(truth: np.ndarray, sure: float, seed: int) -> np.ndarray:
    """Logits of a member that is right by `sure` and noisy by one."""
    noise = np.random.default_rng(seed).normal(size=(len(truth), len(CLASSES)))
    noise[np.arange(len(truth)), truth] += sure
    return noise


def test_a_member_that_knows_nothing_weighs_next_to_nothing() -> None:
    truth = np.random.default_rng(0).integers(0, len(CLASSES), 400)
    weights = fit_weights([member(truth, 3, 1), member(truth, 0, 2)], [CLASSES[i] for i in truth], LEVELS)
    assert weights.shape == (3, 2)
    assert weights[0, 1] < 0.1 * weights[0, 0]
    assert weights[2, 1] < 0.3 * weights[2, 0]
    assert weights[1].tolist() == [0.5, 0.5], "each chapter has one heading: nothing to tell apart"


def test_two_that_err_apart_are_both_used_and_better_together() -> None:
    truth = np.random.default_rng(0).integers(0, len(CLASSES), 400)
    one, other = member(truth, 2, 1), member(truth, 2, 2)
    weights = fit_weights([one, other], [CLASSES[i] for i in truth], LEVELS)
    assert ((weights[:, 0] / weights[:, 1] > 0.7) & (weights[:, 0] / weights[:, 1] < 1.4)).all()
    tree = Tree.of(CLASSES)
    both = tree.averaged([tree.parts(one), tree.parts(other)], weights).argmax(axis=1)
    assert (both == truth).mean() > max((one.argmax(axis=1) == truth).mean(), (other.argmax(axis=1) == truth).mean())


def test_shortened_and_vague_codes_count_as_far_as_they_go() -> None:
    truth = np.array([0, 1, 2, 3] * 50)
    codes = [("", CLASSES[i][:4], CLASSES[i])[row % 3] for row, i in enumerate(truth)]
    weights = fit_weights([member(truth, 3, 1), member(truth, 0, 2)], codes, LEVELS)
    assert (weights[[0, 2], 1] < 0.2 * weights[[0, 2], 0]).all()


def test_without_a_row_to_judge_all_weigh_alike() -> None:
    assert fit_weights([np.zeros((2, 4)), np.zeros((2, 4))], ["", "990000"], LEVELS).tolist() == [[0.5, 0.5]] * 3


def test_each_level_goes_by_the_member_that_knows_it() -> None:
    classes = ("010121", "010129", "010221", "610910", "610990", "620520")
    truth = np.random.default_rng(0).integers(0, len(classes), 600)
    chapters, siblings = np.zeros((600, 6)), np.random.default_rng(1).normal(size=(600, 6))
    for row, i in enumerate(truth):
        chapters[row, [code[:2] == classes[i][:2] for code in classes]] += 4
        siblings[row, i] += 3
        siblings[row, [code[:2] != classes[i][:2] for code in classes]] += row % 2 * 6
    weights = fit_weights([chapters, siblings], [classes[i] for i in truth], Levels(classes))
    assert weights[0, 0] > 3 * weights[0, 1]
    assert weights[2, 1] > 2 * weights[2, 0]


def test_equal_weights_that_sum_to_one_leave_a_model_as_it_is() -> None:
    tree, logits = Tree.of((*CLASSES, "")), np.random.default_rng(3).normal(size=(5, 5)) * 3
    again = tree.averaged([tree.parts(logits)] * 2, np.full((3, 2), 0.5))
    np.testing.assert_allclose(softmax(again), softmax(logits), atol=1e-12)


def test_fewer_than_two_members_are_a_users_mistake(tmp_path: Path) -> None:
    materials = load_materials("pool", write_parts(tmp_path), None, load_settings(None, {}, []))
    for members in ({}, {"svc": tmp_path}):
        with pytest.raises(UserError, match="needs two members"):
            Pool(dataclasses.replace(materials, members=members))
