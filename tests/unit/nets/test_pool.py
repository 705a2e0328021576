"""Weights of a pool's members, by cases with known answers."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from config.settings import load_settings
from models.answer import Levels
from models.errors import UserError
from models.nets.pool import Pool, fit_weights
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
    assert weights[1] < 0.1 * weights[0]


def test_two_that_err_apart_are_both_used_and_better_together() -> None:
    truth = np.random.default_rng(0).integers(0, len(CLASSES), 400)
    one, other = member(truth, 2, 1), member(truth, 2, 2)
    weights = fit_weights([one, other], [CLASSES[i] for i in truth], LEVELS)
    assert 0.7 < weights[0] / weights[1] < 1.4
    both = (weights[0] * one + weights[1] * other).argmax(axis=1)
    assert (both == truth).mean() > max((one.argmax(axis=1) == truth).mean(), (other.argmax(axis=1) == truth).mean())


def test_shortened_and_vague_codes_count_as_far_as_they_go() -> None:
    truth = np.array([0, 1, 2, 3] * 50)
    codes = [("", CLASSES[i][:4], CLASSES[i])[row % 3] for row, i in enumerate(truth)]
    weights = fit_weights([member(truth, 3, 1), member(truth, 0, 2)], codes, LEVELS)
    assert weights[1] < 0.2 * weights[0]


def test_without_a_row_to_judge_all_weigh_alike() -> None:
    assert fit_weights([np.zeros((2, 4)), np.zeros((2, 4))], ["", "990000"], LEVELS).tolist() == [0.5, 0.5]


def test_fewer_than_two_members_are_a_users_mistake(tmp_path: Path) -> None:
    materials = load_materials("pool", write_parts(tmp_path), None, load_settings(None, {}, []))
    for members in ({}, {"svc": tmp_path}):
        with pytest.raises(UserError, match="needs two members"):
            Pool(dataclasses.replace(materials, members=members))
