"""The geometric mean of several models' probabilities, level by level: in numpy, fitted, and as ONNX nodes.

A model says how likely each chapter is, each heading within its chapter, and each class within its heading. Each of the
three is averaged with weights of its own: a model that knows words knows subheadings, one that knows meanings knows
chapters. With the same weights at all levels this is nearly the usual geometric mean.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from models.answer import DIGITS, Levels
from models.calibration import softmax

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Parts = tuple[Floats, Floats, Floats]
"""Logarithms of the probability of chapters (n, C), of headings within their chapter (n, H), of classes within their
heading (n, classes)."""

FLOOR = 1e-30
"""Smaller probabilities are taken for it: their logarithms stay numbers in float32."""
EVENNESS = 0.02
"""What a weight's squared distance from an equal share costs, in nats a row: it decides where valid has few rows."""


@dataclass(frozen=True)
class Tree:
    """How classes (six-digit codes, sorted, then the vague class) stand under headings, and these under chapters; the
    vague class is a heading and a chapter of its own."""

    heading_of: Ints
    """(classes,) number of each class's heading."""
    chapter_of: Ints
    """(H,) number of each heading's chapter."""

    @classmethod
    def of(cls, classes: Sequence[str]) -> "Tree":
        """The tree of codes in their order."""
        headings = list(dict.fromkeys(code[:4] for code in classes))
        chapters = list(dict.fromkeys(code[:2] for code in headings))
        heading, chapter = ({code: i for i, code in enumerate(codes)} for codes in (headings, chapters))
        return cls(
            np.array([heading[code[:4]] for code in classes], dtype=np.int64),
            np.array([chapter[code[:2]] for code in headings], dtype=np.int64),
        )

    def parts(self, logits: Floats) -> Parts:
        """What (n, classes) logits say at each level."""
        p = softmax(logits)
        headings = _sums(p, self.heading_of)
        chapters = _sums(headings, self.chapter_of)
        chapter, heading, own = (np.log(np.maximum(each, FLOOR)) for each in (chapters, headings, p))
        return chapter, heading - chapter[:, self.chapter_of], own - heading[:, self.heading_of]

    def averaged(self, parts: Sequence[Parts], weights: Floats) -> Floats:
        """(n, classes) logits of the mean of models' parts under (3, models) `weights`."""
        chapter, heading, own = (
            np.tensordot(weights[level], np.stack([part[level] for part in parts]), axes=1) for level in range(3)
        )
        heading -= np.log(np.maximum(_sums(np.exp(heading), self.chapter_of), FLOOR))[:, self.chapter_of]
        own -= np.log(np.maximum(_sums(np.exp(own), self.heading_of), FLOOR))[:, self.heading_of]
        whole: Floats = (chapter[:, self.chapter_of] + heading)[:, self.heading_of] + own
        return whole


def fit_weights(logits: Sequence[Floats], codes: Sequence[str], levels: Levels) -> Floats:
    """(3, models) weights in 0..3 under which the mean of models' (n, classes) logits makes the true codes of 2, 4 or 6
    digits most likely: each chapter among all, each heading in its true chapter, each class in its true heading.

    Convex, so deterministic; equal weights where nothing can be judged. Their sum is free: it is the level's
    temperature.
    """
    tree = Tree.of(levels.classes)
    parts = [tree.parts(each) for each in logits]
    below = (np.zeros(int(tree.chapter_of.max()) + 1, dtype=np.int64), tree.chapter_of, tree.heading_of)
    weights = []
    for level, digits in enumerate(DIGITS):
        truth = levels.indices(codes, digits)
        rows = np.flatnonzero(truth >= 0)
        said = np.stack([part[level][rows] for part in parts])
        weights.append(_fit_level(said, truth[rows], below[level]))
    return np.stack(weights)


def _fit_level(said: Floats, truth: npt.NDArray[np.intp], parent_of: Ints) -> Floats:
    """(models,) weights for (models, n, options) logarithms; a row's options are those with its truth's parent."""
    from scipy.optimize import minimize

    models, rows = len(said), len(truth)
    equal = np.full(models, 1.0 / models)
    if not rows:
        return equal
    # The options of one parent stand together: a row's, as columns, filled up with its last one.
    first, size = np.searchsorted(parent_of, parent_of[truth]), np.bincount(parent_of)[parent_of[truth]]
    place = np.arange(size.max())[None, :]
    there = place < size[:, None]
    options = np.take_along_axis(said, (first[:, None] + np.minimum(place, size[:, None] - 1))[None], axis=2)
    true = said[:, np.arange(rows), truth]

    def loss(weights: Floats) -> tuple[float, Floats]:
        scores = np.where(there, np.tensordot(weights, options, axes=1), -np.inf)
        top = scores.max(axis=1, keepdims=True)
        p = np.exp(scores - top)
        total = p.sum(axis=1, keepdims=True)
        away = weights - equal
        value = float((top + np.log(total)).sum() - (weights @ true).sum()) / rows + EVENNESS * float(away @ away)
        slope = (np.einsum("mro,ro->m", options, p / total) - true.sum(axis=1)) / rows + 2 * EVENNESS * away
        return value, slope

    found = minimize(loss, equal, jac=True, method="L-BFGS-B", bounds=[(0.0, 3.0)] * models)
    return np.asarray(found.x, dtype=np.float64)


def _sums(values: Floats, group_of: Ints) -> Floats:
    """(n, k) → (n, groups): sums over neighbours of one group."""
    return np.add.reduceat(values, np.flatnonzero(np.diff(group_of, prepend=-1)), axis=1)


class AveragingNodes:
    """`Tree.averaged` of models' `KIND.logits`, as nodes at the end of an ONNX graph."""

    def __init__(self, graph: Any, tree: Tree) -> None:
        self.graph, self.tree = graph, tree
        headings, chapters = len(tree.chapter_of), int(tree.chapter_of.max()) + 1
        self.width = {"class": len(tree.heading_of), "heading": headings, "chapter": chapters}
        self._put("heading_of", tree.heading_of)
        self._put("chapter_of", tree.chapter_of)
        self._put("heading_of_class", tree.heading_of[None, :])
        self._put("chapter_of_heading", tree.chapter_of[None, :])
        self._put("floor", np.array(FLOOR, dtype=np.float32))
        self._put("first", np.array([0], dtype=np.int64))
        for name, width in self.width.items():
            self._put(f"width_{name}", np.array([width], dtype=np.int64))

    def write(self, weights: Mapping[str, Sequence[float]], temperatures: Mapping[str, float]) -> None:
        """Add the nodes; `logits` (n, classes) becomes the graph's one output."""
        from onnx import TensorProto, helper

        weighed: list[list[str]] = [[], [], []]
        for kind, each in weights.items():
            for level, part in enumerate(self._parts(kind, temperatures[kind])):
                weighed[level].append(self._scaled(part, each[level], f"{kind}.weighed.{level}"))
        chapter, heading, own = (self._node("Sum", names, f"sum.{level}") for level, names in enumerate(weighed))
        heading = self._within("chapter", "heading", heading)
        own = self._within("heading", "class", own)
        above = self._node("Add", [self._spread("chapter", chapter, "above"), heading], "above.heading")
        self.graph.node.append(
            helper.make_node("Add", [self._spread("heading", above, "above.class"), own], ["logits"])
        )
        del self.graph.output[:]
        shape = ["n", self.width["class"]]
        self.graph.output.append(helper.make_tensor_value_info("logits", TensorProto.FLOAT, shape))

    def _parts(self, kind: str, temperature: float) -> tuple[str, str, str]:
        scaled = self._scaled(f"{kind}.logits", 1.0 / temperature, f"{kind}.scaled")
        p = self._node("Softmax", [scaled], f"{kind}.p", axis=1)
        headings = self._sum("heading", "class", p, f"{kind}.headings")
        chapters = self._sum("chapter", "heading", headings, f"{kind}.chapters")
        chapter, heading, own = (self._log(name) for name in (chapters, headings, p))
        return (
            chapter,
            self._node("Sub", [heading, self._spread("chapter", chapter, f"{kind}.heading")], f"{kind}.heading.part"),
            self._node("Sub", [own, self._spread("heading", heading, f"{kind}.own")], f"{kind}.own.part"),
        )

    def _within(self, above: str, below: str, x: str) -> str:
        """Logarithms `x` of `below`, made to sum up to one within each of `above`."""
        total = self._log(self._sum(above, below, self._node("Exp", [x], f"{x}.exp"), f"{x}.total"))
        return self._node("Sub", [x, self._spread(above, total, x)], f"{x}.within")

    def _sum(self, above: str, below: str, x: str, name: str) -> str:
        """(n, below) → (n, above)."""
        from onnx import TensorProto, helper

        shape = self._node("Shape", [x], f"{name}.shape")
        index = self._node("Expand", [f"pool.{above}_of_{below}", shape], f"{name}.index")
        rows = self._node("Gather", [shape, "pool.first"], f"{name}.rows")
        whole = self._node("Concat", [rows, f"pool.width_{above}"], f"{name}.whole", axis=0)
        nothing = helper.make_tensor("", TensorProto.FLOAT, [1], [0.0])
        empty = self._node("ConstantOfShape", [whole], f"{name}.empty", value=nothing)
        return self._node("ScatterElements", [empty, index, x], name, axis=1, reduction="add")

    def _spread(self, above: str, x: str, name: str) -> str:
        """(n, above) → a column for each of what stands under it."""
        return self._node("Gather", [x, f"pool.{above}_of"], f"{name}.of_{above}", axis=1)

    def _log(self, x: str) -> str:
        return self._node("Log", [self._node("Max", [x, "pool.floor"], f"{x}.floored")], f"{x}.log")

    def _scaled(self, x: str, factor: float, name: str) -> str:
        return self._node("Mul", [x, self._put(f"{name}.factor", np.array(factor, dtype=np.float32))], name)

    def _node(self, kind: str, inputs: Sequence[str], name: str, **attributes: Any) -> str:
        from onnx import helper

        output = name if name.startswith("pool.") else f"pool.{name}"
        self.graph.node.append(helper.make_node(kind, list(inputs), [output], **attributes))
        return output

    def _put(self, name: str, value: npt.NDArray[Any]) -> str:
        from onnx import numpy_helper

        self.graph.initializer.append(numpy_helper.from_array(value, f"pool.{name}"))
        return f"pool.{name}"
