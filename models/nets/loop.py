"""The training loop of all torch kinds."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from models.nets.base import Materials
from models.progress import report

BatchLoss = Callable[[npt.NDArray[np.intp], np.random.Generator], Tensor]


def fit(
    module: nn.Module,
    batch_loss: BatchLoss,
    score: Callable[[], float],
    materials: Materials,
    watch: Callable[[int, float], None] | None = None,
    weights: npt.NDArray[np.float32] | None = None,
    span: tuple[float, float] = (0.0, 1.0),
) -> dict[str, Any]:
    """Train `module` an epoch at a time until `score` on valid has not risen for the settings' patience; leaves the
    best epoch's weights in it. An epoch's rows are drawn from `materials.order` by `weights` (None: the rows' own), as
    that costs less than to read rows of little weight as often as others. Same seed, same result; goes on from the
    checkpoint in `materials.work` where a killed training left one. `watch(epoch, score)` may raise to end it. The
    progress gives the part `span` of the step, from its start to its end, to this training."""
    train = materials.settings.train
    weights = materials.train.weights if weights is None else weights
    steps = max(1, min(train.epoch_rows, len(materials.order)) // train.batch)
    optimiser = torch.optim.AdamW(
        module.parameters(), lr=train.learning_rate, weight_decay=train.weight_decay, fused=True
    )
    total_steps = train.epochs * steps
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: one_cycle(step, total_steps))
    state: dict[str, Any] = {"epoch": 0, "best": -1.0, "best_epoch": 0, "scores": []}
    best = {name: value.clone() for name, value in module.state_dict().items()}
    checkpoint = None if materials.work is None else materials.work / "checkpoint.pt"
    saved = None if checkpoint is None else _load(checkpoint)
    if saved is not None:
        state, best = saved["state"], saved["best"]
        module.load_state_dict(saved["module"])
        optimiser.load_state_dict(saved["optimiser"])
        schedule.load_state_dict(saved["schedule"])

    while state["epoch"] < train.epochs and state["epoch"] - state["best_epoch"] < train.patience:
        epoch = state["epoch"] + 1
        torch.manual_seed(materials.seed * 1000 + epoch)
        random = np.random.default_rng([materials.seed, epoch])
        rows = drawn(materials.order, weights, steps * train.batch, random)
        module.train()
        total = 0.0
        for step in range(steps):
            loss = batch_loss(rows[step * train.batch : (step + 1) * train.batch], random)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(module.parameters(), train.clip)
            optimiser.step()
            schedule.step()
            total += float(loss.detach())
            report(
                materials.step,
                0.999 * (span[0] + (span[1] - span[0]) * (epoch - 1 + (step + 1) / steps) / train.epochs),
                1,
                f"epoch {epoch} of {train.epochs} at most, loss {total / (step + 1):.3f}, "
                f"best on valid {max(state['best'], 0):.3f}",
            )
        now = score()
        state["epoch"], state["scores"] = epoch, [*state["scores"], now]
        if now > state["best"]:
            state["best"], state["best_epoch"] = now, epoch
            best = {name: value.clone() for name, value in module.state_dict().items()}
        if checkpoint is not None:
            _save(checkpoint, state, best, module, optimiser, schedule)
        if watch is not None:
            watch(epoch, now)
    module.load_state_dict(best)
    return {"epochs": state["epoch"], "best_epoch": state["best_epoch"], "valid_scores": state["scores"]}


def drawn(
    order: npt.NDArray[np.intp], weights: npt.NDArray[np.float32], count: int, random: np.random.Generator
) -> npt.NDArray[np.intp]:
    """`count` of the rows in `order`, drawn in proportion to each row's weight."""
    chances = weights[order].astype(np.float64)
    return random.choice(order, size=count, p=chances / chances.sum())


def one_cycle(step: int, steps: int, rising: float = 0.1) -> float:
    """Share of the peak step size at `step` of `steps`: up in a line over the share `rising`, down along a cosine."""
    top = max(1.0, rising * steps)
    if step < top:
        return (step + 1) / (top + 1)
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - top) / max(1.0, steps - top))))


def _load(path: Path) -> dict[str, Any] | None:
    try:
        saved: dict[str, Any] = torch.load(path, weights_only=True)
    except Exception:
        # Not there, or damaged: then the training begins anew, which is what it would do without a checkpoint.
        return None
    return saved


def _save(path: Path, state: dict[str, Any], best: dict[str, Tensor], module: nn.Module, *others: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    content = {"state": state, "best": best, "module": module.state_dict()}
    torch.save({**content, "optimiser": others[0].state_dict(), "schedule": others[1].state_dict()}, partial)
    partial.replace(path)
