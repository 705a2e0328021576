"""An encoder's ONNX graph with int8 products that stay close to the fp32 ones whatever stands beside a text.

Three things make it so. Each token's activations have a scale of their own, taken as the graph runs: outliers of one
token do not coarsen the others, and no text's numbers depend on its neighbours in a run. Before that the channels of
the activations are divided by factors that the weights are multiplied by, so that neither has far outliers
(SmoothQuant: Xiao et al. 2023, arXiv 2211.10438). And weights are of seven bits by output channel: with eight,
processors that have AVX2 but no VNNI saturate in the middle of a product. (ONNX Runtime's `quantize_dynamic` takes one
scale for all activations of a run: all-mpnet-base-v2's vectors came to a cosine of 0.92, here 0.997.)
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from models.bundle import session_of
from models.text.encode import Feeds

Floats = npt.NDArray[np.float32]
WEIGHT_STEPS = 64
"""Largest absolute int8 weight: seven bits."""
ACTIVATION_STEPS = 127
SMOOTHING = 0.5
"""Share of a channel's outliers that the weights take over; the middle did best of 0 to 0.8 for two encoders."""
TABLE_ROWS = 1000
"""Rows from which a table of vectors (the word pieces') is stored as int8 too, with a scale a row."""
_TINY = 1e-9


def largest_activations(model: Any, feeds: Iterable[Feeds], work: Path) -> dict[str, Floats]:
    """Largest absolute activation of each channel (D,) over `feeds`, by name of the input of a product with weights.

    `model` is an onnx ModelProto; it is written to the file `work`, which is removed again.
    """
    import onnx
    from onnx import helper

    names = sorted({node.input[0] for node in _products(model)})
    watched = onnx.ModelProto()
    watched.CopyFrom(model)
    del watched.graph.output[:]
    watched.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in names)
    onnx.save(watched, str(work))
    try:
        session = session_of(work, 1)
        largest: dict[str, Floats] = {}
        for feed in feeds:
            for name, found in zip(names, session.run(names, feed), strict=True):
                top = np.abs(found).max(axis=tuple(range(found.ndim - 1)))
                largest[name] = np.maximum(largest[name], top) if name in largest else top
    finally:
        work.unlink()
    return largest


def to_int8(model: Any, largest: Mapping[str, Floats]) -> Any:
    """A copy of an onnx ModelProto whose products with weights (K, N) are int8, given `largest_activations`."""
    import onnx
    from onnx import numpy_helper

    whole = onnx.ModelProto()
    whole.CopyFrom(model)
    graph = whole.graph
    weights = {one.name: numpy_helper.to_array(one) for one in graph.initializer}
    by_input: dict[str, list[Floats]] = {}
    for node in _products(whole):
        by_input.setdefault(node.input[0], []).append(weights[node.input[1]])
    constants: dict[str, npt.NDArray[Any]] = {
        "int8.middle": np.array(128, dtype=np.uint8),
        "int8.step": np.array(1 / ACTIVATION_STEPS, dtype=np.float32),
        "int8.tiny": np.array(_TINY, dtype=np.float32),
    }
    nodes: list[Any] = []
    replaced: set[str] = set()
    smoothed: dict[str, Floats] = {}
    for node in graph.node:
        x = node.input[0] if node.input else ""
        if node.op_type == "MatMul" and x in by_input and node.input[1] in weights:
            if x not in smoothed:
                smoothed[x] = _factors(largest[x], by_input[x])
                constants[f"{x}.smooth"] = 1 / smoothed[x]
                nodes += _rounded(x)
            name = node.input[1]
            weight = weights[name] * smoothed[x][:, None]
            constants[f"{name}.int8"], scale = _steps(weight, WEIGHT_STEPS, axis=0)
            constants[f"{name}.scale"] = scale[0] / np.float32(ACTIVATION_STEPS)
            nodes += _product(x, name, node.output[0])
        elif node.op_type == "Gather" and x in weights and weights[x].ndim == 2 and len(weights[x]) >= TABLE_ROWS:
            name = x
            constants[f"{name}.int8"], constants[f"{name}.scale"] = _steps(weights[name], 127, axis=1)
            nodes += _row(name, node.input[1], node.output[0])
        else:
            nodes.append(node)
            continue
        replaced.add(name)
    kept = [one for one in graph.initializer if one.name not in replaced]
    del graph.node[:], graph.initializer[:]
    graph.node.extend(nodes)
    graph.initializer.extend(kept)
    graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in constants.items())
    return whole


def _products(model: Any) -> list[Any]:
    """The nodes that multiply activations with weights."""
    constant = {one.name for one in model.graph.initializer}
    return [node for node in model.graph.node if node.op_type == "MatMul" and node.input[1] in constant]


def _factors(largest: Floats, weights: list[Floats]) -> Floats:
    """What each channel (K,) of the activations is divided by, and the weights' rows multiplied by."""
    most = np.max([np.abs(weight).max(axis=1) for weight in weights], axis=0)
    factors = np.maximum(largest, 1e-6) ** SMOOTHING / np.maximum(most, 1e-6) ** (1 - SMOOTHING)
    return np.asarray(factors, dtype=np.float32)


def _steps(weight: Floats, most: int, axis: int) -> tuple[npt.NDArray[np.int8], Floats]:
    """A matrix as int8 of at most `most`, and the scales over `axis`, kept as a dimension of 1."""
    scale = np.maximum(np.abs(weight).max(axis=axis, keepdims=True) / most, 1e-12).astype(np.float32)
    return np.rint(weight / scale).astype(np.int8), scale


def _rounded(x: str) -> list[Any]:
    """Activations `x` (…, T, K) smoothed and rounded: `x.rounded` uint8 about 128, and each token's `x.largest`."""
    from onnx import helper

    return [
        helper.make_node("Mul", [x, f"{x}.smooth"], [f"{x}.smoothed"]),
        helper.make_node("Abs", [f"{x}.smoothed"], [f"{x}.absolute"]),
        helper.make_node("ReduceMax", [f"{x}.absolute"], [f"{x}.top"], axes=[-1], keepdims=1),
        helper.make_node("Max", [f"{x}.top", "int8.tiny"], [f"{x}.largest"]),
        helper.make_node("Div", [f"{x}.smoothed", f"{x}.largest"], [f"{x}.unit"]),
        helper.make_node("QuantizeLinear", [f"{x}.unit", "int8.step", "int8.middle"], [f"{x}.rounded"]),
    ]


def _product(x: str, weight: str, y: str) -> list[Any]:
    """`y`, the rounded `x` times the int8 weights, in the scale of both."""
    from onnx import TensorProto, helper

    return [
        helper.make_node("MatMulInteger", [f"{x}.rounded", f"{weight}.int8", "int8.middle"], [f"{y}.whole"]),
        helper.make_node("Cast", [f"{y}.whole"], [f"{y}.float"], to=TensorProto.FLOAT),
        helper.make_node("Mul", [f"{y}.float", f"{weight}.scale"], [f"{y}.scaled"]),
        helper.make_node("Mul", [f"{y}.scaled", f"{x}.largest"], [y]),
    ]


def _row(table: str, index: str, y: str) -> list[Any]:
    """`y`, rows of an int8 table in their own scales."""
    from onnx import TensorProto, helper

    return [
        helper.make_node("Gather", [f"{table}.int8", index], [f"{y}.whole"]),
        helper.make_node("Gather", [f"{table}.scale", index], [f"{y}.scale"]),
        helper.make_node("Cast", [f"{y}.whole"], [f"{y}.float"], to=TensorProto.FLOAT),
        helper.make_node("Mul", [f"{y}.float", f"{y}.scale"], [y]),
    ]
