"""Members' calibrated probabilities averaged geometrically, level by level, with weights fitted on valid: one bundle,
one answer, one graph: the members' graphs side by side, and `models.nets.averaging` behind them."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from models.answer import DIGITS
from models.bundle import Bundle
from models.errors import UserError
from models.nets.averaging import AveragingNodes, Floats, Tree, fit_weights
from models.nets.base import Materials
from models.nets.graphs import side_by_side
from models.progress import report
from models.text.encode import Encoder, SeveralEncoders


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
        self.tree = Tree.of(materials.classes)
        self.weights: dict[str, list[float]] = dict.fromkeys(chosen, [1.0 / len(chosen)] * len(DIGITS))
        """By member, one for each level."""
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
        shares = weights.sum(axis=0) / weights.sum()
        least = self.materials.settings.models.pool.least_weight
        kept = [kind for kind, share in zip(kinds, shares, strict=True) if share >= least]
        if len(kept) < 2:
            kept = [kinds[i] for i in np.argsort(-shares)[:2]]
        if len(kept) < len(kinds):
            weights = fit_weights([logits[kind] for kind in kept], codes, self.materials.levels)
        self.weights = {kind: each.tolist() for kind, each in zip(kept, weights.T, strict=True)}
        self._choose(kept)
        members = {kind: dict(zip(map(str, DIGITS), each, strict=True)) for kind, each in self.weights.items()}
        told = {kind: self.bundles[kind].card.get("training", {}).get("warm_start") for kind in kept}
        warm = {"warm_start": told} if any(told.values()) else {}
        return {"members": members, "left_out": [kind for kind in kinds if kind not in kept], **warm}

    def logits(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """(n, classes): the average, up to a constant of each row."""
        parts = [self.tree.parts(_calibrated(self.bundles[kind], texts)) for kind in self.weights]
        return self.tree.averaged(parts, np.array(list(self.weights.values())).T).astype(np.float32)

    def export(self, path: Path) -> None:
        """One ONNX graph; the inputs are the members' own with the member's kind as prefix."""
        import onnx

        whole = side_by_side({kind: onnx.load(str(self.bundles[kind].folder / "model.onnx")) for kind in self.weights})
        temperatures = {kind: self.bundles[kind].temperature for kind in self.weights}
        AveragingNodes(whole.graph, self.tree).write(self.weights, temperatures)
        onnx.save(whole, str(path))

    def _choose(self, kinds: Sequence[str]) -> None:
        self.weights = {kind: self.weights[kind] for kind in kinds}
        self.encoder = SeveralEncoders({kind: self.bundles[kind].encoder for kind in kinds})


def build(materials: Materials) -> Pool:
    """The pool of the materials' members. Raises UserError where there are fewer than two."""
    return Pool(materials)


def _calibrated(bundle: Bundle, texts: Sequence[str]) -> Floats:
    """(n, classes) logits divided by the bundle's temperature."""
    scaled: Floats = bundle.logits(texts).astype(np.float64) / bundle.temperature
    return scaled
