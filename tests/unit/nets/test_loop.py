"""The training loop: a killed training goes on and ends as if nothing had been; patience and pruning end it."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from config.settings import Settings
from models.nets.base import Materials, build
from models.nets.loop import drawn, one_cycle
from models.training import load_materials
from models.tuning import with_values


@pytest.fixture
def materials(parts: Path, embedding: Path, settings: Settings, tmp_path: Path) -> Materials:
    tree = with_values(settings, {"train.epochs": 3, "train.patience": 9})
    return replace(load_materials("textcnn", parts, embedding, tree), work=tmp_path / "work")


@pytest.mark.parametrize("steps", [1, 2, 9, 500])
def test_the_step_size_rises_and_falls(steps: int) -> None:
    sizes = [one_cycle(step, steps) for step in range(steps)]
    top = sizes.index(max(sizes))
    assert all(0 < size <= 1 for size in sizes)
    assert sizes[: top + 1] == sorted(sizes[: top + 1])
    assert sizes[top:] == sorted(sizes[top:], reverse=True)
    assert steps < 500 or (top == 50 and sizes[-1] < 0.01)


class Killed(Exception):
    pass


def test_a_killed_training_ends_as_if_nothing_had_been(materials: Materials) -> None:
    whole = build("textcnn", replace(materials, work=None))
    whole.fit()

    def kill(epoch: int, score: float) -> None:
        if epoch == 2:
            raise Killed

    with pytest.raises(Killed):
        build("textcnn", materials).fit(kill)
    epochs: list[int] = []
    resumed = build("textcnn", materials)
    resumed.fit(lambda epoch, score: epochs.append(epoch))
    assert epochs == [3]
    texts = materials.valid.texts
    assert resumed.logits(texts).tobytes() == whole.logits(texts).tobytes()


def test_a_damaged_checkpoint_is_begun_anew(materials: Materials) -> None:
    assert materials.work is not None
    materials.work.mkdir()
    (materials.work / "checkpoint.pt").write_bytes(b"half a file")
    epochs: list[int] = []
    build("textcnn", materials).fit(lambda epoch, score: epochs.append(epoch))
    assert epochs == [1, 2, 3]


def test_it_stops_when_valid_does_not_improve(materials: Materials) -> None:
    tree = with_values(materials.settings, {"train.epochs": 30, "train.patience": 1, "train.learning_rate": 1e-9})
    told = build("textcnn", replace(materials, settings=tree, work=None)).fit()
    assert told["epochs"] == 2
    assert told["best_epoch"] == 1


def test_the_best_epoch_is_what_remains(materials: Materials) -> None:
    net = build("textcnn", replace(materials, work=None))
    seen: dict[int, np.ndarray] = {}
    told = net.fit(lambda epoch, score: seen.setdefault(epoch, net.logits(materials.valid.texts)))
    assert net.logits(materials.valid.texts).tobytes() == seen[told["best_epoch"]].tobytes()


def test_rows_are_drawn_by_weight_and_repetition() -> None:
    weights = np.array([1.0, 3.0, 0.0, 1.0], dtype=np.float32)
    rows = drawn(np.array([0, 1, 2, 3, 3]), weights, 60_000, np.random.default_rng(1))
    np.testing.assert_allclose(np.bincount(rows, minlength=4) / 10_000, [1, 3, 0, 2], atol=0.05)
