"""Members' calibrated probabilities averaged geometrically, with weights fitted on valid: one bundle, one answer.

The geometric mean of softmaxes is the softmax of a weighted sum of logits, so a pool is one graph: its members' graphs
side by side, their logits divided by their temperatures, weighed, added up.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from models.answer import Levels
from models.bundle import Bundle
from models.calibration import softmax
from models.errors import UserError
from models.nets.base import Materials
from models.nets.graphs import side_by_side
from models.progress import report
from models.text.encode import Encoder, SeveralEncoders

Floats = npt.NDArray[np.float64]


class Pool:
    """Implements `models.nets.base.Net`."""

    encoder: Encoder

    def __init__(self, materials: Materials) -> None:
        wanted = materials.settings.models.pool.members
        chosen = [kind for kind in sorted(materials.members) if kind in wanted] if wanted else sorted(materials.members)
        if len(chosen) < 2:
            raise UserError(
                f"a pool needs two members or more, there are {len(chosen)}",
                "models.pool.members",
                f"of models.kinds these can be members: {', '.join(sorted(materials.members)) or 'none'}",
            )
        self.materials = materials
        self.bundles = {kind: Bundle.load(materials.members[kind], materials.settings.train.threads) for kind in chosen}
        for kind, bundle in self.bundles.items():
            if tuple(bundle.classes) != tuple(materials.classes):
                raise UserError(
                    f"member {kind} knows {len(bundle.classes)} classes, these rows have {len(materials.classes)}",
                    str(bundle.folder),
                    "train the members on the same parts",
                )
        self.weights = dict.fromkeys(chosen, 1.0 / len(chosen))
        self._choose(chosen)

    def fit(self, watch: Callable[[int, float], None] | None = None) -> dict[str, Any]:
        """Weights of the members that are worth their cost on valid; the others leave the pool."""
        valid = self.materials.valid
        rows = [i for i, code in enumerate(valid.codes) if code]
        logits: dict[str, Floats] = {}
        for done, (kind, bundle) in enumerate(self.bundles.items()):
            report(self.materials.step, 0.8 * done / len(self.bundles), 1, f"{kind} on valid")
            logits[kind] = _calibrated(bundle, [valid.texts[i] for i in rows])
        codes = [valid.codes[i] for i in rows]
        kinds = list(logits)
        weights = fit_weights([logits[k] for k in kinds], codes, self.materials.levels)
        least = self.materials.settings.models.pool.least_weight * weights.sum()
        kept = [k for k, w in zip(kinds, weights, strict=True) if w >= least]
        if len(kept) < 2:
            kept = [kinds[i] for i in np.argsort(-weights)[:2]]
        if len(kept) < len(kinds):
            weights = fit_weights([logits[k] for k in kept], codes, self.materials.levels)
        self.weights = {kind: float(w) for kind, w in zip(kept, weights, strict=True)}
        self._choose(kept)
        return {"members": self.weights, "left_out": [kind for kind in kinds if kind not in kept]}

    def logits(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """(n, classes): the weighted sum of the members' logits."""
        total = np.zeros((len(texts), len(self.materials.classes)), dtype=np.float32)
        for kind, factor in self._factors().items():
            total += np.float32(factor) * self.bundles[kind].logits(texts)
        return total

    def export(self, path: Path) -> None:
        """One ONNX graph; the inputs are the members' own with the member's kind as prefix."""
        import onnx
        from onnx import helper, numpy_helper

        whole = side_by_side({kind: onnx.load(str(self.bundles[kind].folder / "model.onnx")) for kind in self.weights})
        graph = whole.graph
        parts = []
        for kind, factor in self._factors().items():
            graph.initializer.append(numpy_helper.from_array(np.array(factor, dtype=np.float32), f"pool.{kind}.factor"))
            graph.node.append(helper.make_node("Mul", [f"{kind}.logits", f"pool.{kind}.factor"], [f"pool.{kind}.part"]))
            parts.append(f"pool.{kind}.part")
        graph.node.append(helper.make_node("Sum", parts, ["logits"]))
        del graph.output[:]
        shape = ["n", len(self.materials.classes)]
        graph.output.append(helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, shape))
        onnx.save(whole, str(path))

    def _choose(self, kinds: Sequence[str]) -> None:
        self.weights = {kind: self.weights[kind] for kind in kinds}
        self.encoder = SeveralEncoders({kind: self.bundles[kind].encoder for kind in kinds})

    def _factors(self) -> dict[str, float]:
        return {kind: weight / self.bundles[kind].temperature for kind, weight in self.weights.items()}


def build(materials: Materials) -> Pool:
    """The pool of the materials' members. Raises UserError where there are fewer than two."""
    return Pool(materials)


def fit_weights(logits: Sequence[Floats], codes: Sequence[str], levels: Levels) -> Floats:
    """Weights >= 0, one for each (n, classes) array, under which the softmax of the weighted sum makes the true codes
    of 2, 4 or 6 digits most likely, as a mean over the three levels. Deterministic; equal weights where nothing can be
    judged. Their sum is free: it is the pool's temperature, which calibration fits again on the exported bundle."""
    from scipy.optimize import minimize

    count = len(logits)
    truths = {digits: levels.indices(codes, digits) for digits in (2, 4, 6)}
    if not any((t >= 0).any() for t in truths.values()):
        return np.full(count, 1.0 / count)

    def loss(weights: Floats) -> float:
        p = softmax(sum((w * part for w, part in zip(weights, logits, strict=True)), np.zeros_like(logits[0])))
        total = 0.0
        for digits, truth in truths.items():
            rows = np.flatnonzero(truth >= 0)
            total -= float(np.log(np.maximum(levels.probabilities(p, digits)[rows, truth[rows]], 1e-9)).sum())
        return total / max(1, len(codes))

    found = minimize(
        loss,
        np.full(count, 1.0 / count),
        method="Nelder-Mead",
        bounds=[(0.0, 3.0)] * count,
        options={"xatol": 0.01, "fatol": 1e-4, "maxfev": 60 * count},
    )
    return np.asarray(found.x, dtype=np.float64)


def _calibrated(bundle: Bundle, texts: Sequence[str]) -> Floats:
    """(n, classes) logits divided by the bundle's temperature, row maxima 0."""
    scaled = bundle.logits(texts).astype(np.float64) / bundle.temperature
    scaled -= scaled.max(axis=1, keepdims=True)
    return scaled
