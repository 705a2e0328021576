"""The int8 form of an encoder: close to fp32 in spite of outliers, the same whatever stands beside a text."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from models.bundle import session_of
from models.text.int8 import largest_activations, to_int8

ROWS, WIDTH = 1200, 16


def graph() -> Any:
    """`ids` (n, T) → `y` (n, T, 8): a table of vectors, one channel of outliers, then two products."""
    random = np.random.default_rng(3)
    table = random.normal(size=(ROWS, WIDTH)).astype(np.float32)
    outliers = np.ones(WIDTH, dtype=np.float32)
    outliers[5] = 60
    first = random.normal(size=(WIDTH, WIDTH)).astype(np.float32)
    first[5] /= 60
    second = random.normal(size=(WIDTH, 8)).astype(np.float32)
    nodes = [
        helper.make_node("Gather", ["table", "ids"], ["v"]),
        helper.make_node("Mul", ["v", "outliers"], ["x"]),
        helper.make_node("MatMul", ["x", "first"], ["h"]),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("MatMul", ["r", "second"], ["y"]),
    ]
    constants = {"table": table, "outliers": outliers, "first": first, "second": second}
    made = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("ids", TensorProto.INT64, ["n", "t"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", "t", 8])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.fixture
def ids() -> np.ndarray:
    return np.random.default_rng(4).integers(0, ROWS, size=(40, 6))


def asked(model: Any, path: Path, ids: np.ndarray) -> np.ndarray:
    onnx.save(model, str(path))
    return np.asarray(session_of(path, 1).run(["y"], {"ids": ids})[0])


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(((a * b).sum(axis=-1) / np.linalg.norm(a, axis=-1) / np.linalg.norm(b, axis=-1)).min())


def test_products_stay_close_where_a_channel_has_outliers(tmp_path: Path, ids: np.ndarray) -> None:
    full = graph()
    largest = largest_activations(full, [{"ids": ids[:20]}], tmp_path / "watched.onnx")
    assert not list(tmp_path.iterdir())
    assert set(largest) == {"x", "r"}
    assert largest["x"].shape == (WIDTH,)
    assert largest["x"].argmax() == 5
    expected = asked(full, tmp_path / "full.onnx", ids)
    found = asked(to_int8(full, largest), tmp_path / "int8.onnx", ids)
    assert cosine(found, expected) > 0.99
    unsmoothed = {name: np.ones_like(top) for name, top in largest.items()}
    assert cosine(asked(to_int8(full, unsmoothed), tmp_path / "plain.onnx", ids), expected) < cosine(found, expected)


def test_a_texts_numbers_are_the_same_beside_others(tmp_path: Path, ids: np.ndarray) -> None:
    largest = {"x": np.ones(WIDTH, np.float32), "r": np.ones(WIDTH, np.float32)}
    onnx.save(to_int8(graph(), largest), str(tmp_path / "int8.onnx"))
    session = session_of(tmp_path / "int8.onnx", 1)
    together = session.run(["y"], {"ids": ids})[0]
    alone = np.concatenate([session.run(["y"], {"ids": ids[i : i + 1]})[0] for i in range(len(ids))])
    np.testing.assert_array_equal(together, alone)


def test_weights_are_int8_and_leave_room_for_processors_without_vnni(tmp_path: Path, ids: np.ndarray) -> None:
    """Two products of a uint8 and an int8 that are added in 16 bits overflow unless one of them has seven bits."""
    full = graph()
    largest = largest_activations(full, [{"ids": ids}], tmp_path / "watched.onnx")
    stored = {one.name: numpy_helper.to_array(one) for one in to_int8(full, largest).graph.initializer}
    assert not {"table", "first", "second"} & set(stored)
    assert {stored[f"{name}.int8"].dtype for name in ("table", "first", "second")} == {np.dtype(np.int8)}
    assert max(int(np.abs(stored[f"{name}.int8"].astype(int)).max()) for name in ("first", "second")) == 64
