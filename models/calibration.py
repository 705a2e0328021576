"""Probabilities that mean what they say: temperature, expected calibration error, reliability table."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from models.answer import DIGITS, Floats, Levels


def softmax(logits: Floats, temperature: float = 1.0) -> npt.NDArray[np.float64]:
    """Row-wise probabilities of (n, classes) logits divided by `temperature`."""
    scaled = np.asarray(logits, dtype=np.float64) / temperature
    scaled -= scaled.max(axis=1, keepdims=True)
    exponents = np.exp(scaled)
    total: npt.NDArray[np.float64] = exponents / exponents.sum(axis=1, keepdims=True)
    return total


def fit_temperature(
    logits: Floats,
    codes: Sequence[str | None],
    levels: Levels,
    weights: Floats | None = None,
    bounds: tuple[float, float] = (0.02, 50.0),
) -> float:
    """The temperature that makes the true codes most likely, as a mean over the three levels.

    One temperature for all levels keeps level probabilities sums of class probabilities; weighing the levels alike
    keeps the chapter's confidence honest too, not the subheading's alone. `logits` (n, classes) of rows not used in
    training, `codes` their true codes of 2, 4 or 6 digits (None or "": the vague class); a level that a code does not
    reach or the model does not know is left out. `weights` (n,) of rows. Returns 1.0 where nothing can be judged.
    """
    from scipy.optimize import minimize_scalar

    truths = {d: levels.indices(codes, d) for d in DIGITS}
    vague = np.array([not c for c in codes], dtype=bool) & (levels.vague is not None)
    w = np.ones(len(codes)) if weights is None else np.asarray(weights, dtype=np.float64)
    if not vague.any() and not any((t >= 0).any() for t in truths.values()):
        return 1.0

    def loss(log_temperature: float) -> float:
        p = softmax(logits, float(np.exp(log_temperature)))
        total = 0.0
        for digits, truth in truths.items():
            rows = np.flatnonzero(truth >= 0)
            likely = np.append(levels.probabilities(p, digits)[rows, truth[rows]], levels.vague_probabilities(p)[vague])
            total -= float(np.append(w[rows], w[vague]) @ np.log(np.maximum(likely, 1e-12)))
        return total

    found = minimize_scalar(
        loss, bounds=(np.log(bounds[0]), np.log(bounds[1])), method="bounded", options={"xatol": 1e-4}
    )
    return float(np.exp(found.x))


def reliability(confidence: Floats, right: npt.NDArray[np.bool_], bins: int = 15) -> list[dict[str, Any]]:
    """Rows of a reliability table: up to `bins` bins of about equal row count, by rising confidence, rows of equal
    confidence in one bin; each with rows, mean confidence, accuracy and the accuracy's 95 % Wilson interval."""
    confidence = np.asarray(confidence, dtype=np.float64)
    at = _bins(confidence, bins)
    table = []
    for part in (np.flatnonzero(at == b) for b in np.unique(at)):
        hits = int(right[part].sum())
        low, high = wilson(hits, len(part))
        table.append(
            {
                "rows": len(part),
                "confidence": float(np.mean(confidence[part])),
                "accuracy": hits / len(part),
                "low": low,
                "high": high,
            }
        )
    return table


def ece(confidence: Floats, right: npt.NDArray[np.bool_], bins: int = 15) -> float | None:
    """Expected calibration error, 0..1: mean gap between confidence and accuracy over bins of equal row count (bins of
    equal width are mostly empty where a model is sure). None without rows."""
    table = reliability(confidence, right, bins)
    rows = sum(b["rows"] for b in table)
    return sum(b["rows"] * abs(b["confidence"] - b["accuracy"]) for b in table) / rows if rows else None


def calibration_counts(
    confidence: Floats, right: npt.NDArray[np.bool_], unit: npt.NDArray[np.intp], bins: int = 15
) -> npt.NDArray[np.float64]:
    """(units, 4, bins): what `miscalibration` reads, counted by `unit` (n,), the number of what is drawn together."""
    sure = np.asarray(confidence, dtype=np.float64)
    counts = np.zeros((int(unit.max(initial=-1)) + 1, 4, bins))
    for number, values in enumerate((np.ones(len(sure)), sure, right, sure * (1 - sure))):
        np.add.at(counts[:, number], (unit, _bins(sure, bins)), values)
    return counts


def miscalibration(counts: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """(...): the expected calibration error of (..., 4, bins) summed counts, less what chance alone gives.

    A perfect model has an error too: a bin's share right differs from its confidence by chance, and the mean of that
    gap, of a normal law around zero, is sqrt(2 / pi) of its deviation. On a hundred rows it comes to 0.1 (Kumar, Liang
    & Ma 2019, NeurIPS; Roelofs, Cain, Shlens & Mozer 2022, AISTATS), and more for a model that is less sure. Never
    under zero.
    """
    rows, sure, hits, spread = np.moveaxis(counts, -2, 0)
    gaps = np.abs(sure - hits) - np.sqrt(2 / np.pi * spread)
    found: npt.NDArray[np.float64] = np.maximum(0.0, gaps.sum(axis=-1) / rows.sum(axis=-1))
    return found


def _bins(confidence: Floats, bins: int) -> npt.NDArray[np.intp]:
    """(n,): the bin of each row, by rising confidence, of about equal row count; equal confidence, one bin."""
    return np.searchsorted(np.sort(confidence), confidence, side="left") * bins // max(1, len(confidence))


def wilson(hits: int, rows: int, z: float = 1.959964) -> tuple[float, float]:
    """Wilson's interval of a share (95 % by default); (0, 1) without rows."""
    if not rows:
        return 0.0, 1.0
    share, spread = hits / rows, z * z / rows
    centre = (share + spread / 2) / (1 + spread)
    half = z / (1 + spread) * float(np.sqrt(share * (1 - share) / rows + spread / (4 * rows)))
    return max(0.0, centre - half), min(1.0, centre + half)
