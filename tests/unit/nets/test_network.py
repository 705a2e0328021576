"""Class vectors in training: what one class learns, its siblings learn in part; nothing of that is left afterwards."""

import numpy as np
import pytest
import torch

from models.nets.network import ClassScores, shared_above

CLASSES = ("610910", "610990", "611020", "850440", "")


@pytest.fixture
def scores() -> ClassScores:
    return ClassScores(np.eye(len(CLASSES), 6, dtype=np.float32), scale=10.0)


def test_a_step_for_one_class_moves_its_heading_most_its_chapter_less_and_no_other(scores: ClassScores) -> None:
    before = scores.weight.detach().clone()
    with shared_above(scores, CLASSES):
        step = torch.optim.SGD(scores.parameters(), lr=0.1)
        scores.weight[0].sum().backward()
        step.step()
    moved = (before - scores.weight.detach()).norm(dim=1).tolist()
    assert moved[0] > moved[1] > moved[2] > 0
    assert moved[3:] == [0.0, 0.0]


def test_afterwards_the_sum_is_a_weight_like_any_other(scores: ClassScores) -> None:
    x = torch.from_numpy(np.random.default_rng(1).normal(size=(3, 6)).astype(np.float32))
    with shared_above(scores, CLASSES):
        assert torch.equal(scores.weight, torch.eye(len(CLASSES), 6)), "it starts as it was"
        with torch.no_grad():
            for name, parameter in scores.named_parameters():
                if name.endswith((".headings", ".chapters")):
                    parameter += 0.5
        during = scores(x)
    assert {name for name, _ in scores.named_parameters()} == {"weight", "bias", "scale"}
    assert torch.equal(scores(x), during)


def test_a_training_that_was_ended_leaves_a_plain_weight(scores: ClassScores) -> None:
    with pytest.raises(KeyboardInterrupt), shared_above(scores, CLASSES):
        raise KeyboardInterrupt
    assert "weight" in dict(scores.named_parameters())
