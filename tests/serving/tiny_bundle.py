"""A whole, valid bundle of a few kilobytes, made without training: for tests of what serves it.

A text's vector is the sum of its words' rows; each class has words that speak for it. Real encoder, real ONNX graph.
"""

import json
from pathlib import Path

import numpy as np

from models.text.encode import WordEncoder

GOODS = {
    "010121": "horse pure bred breeding animal",
    "010129": "horse live riding animal other",
    "610910": "cotton t shirt lady knitted singlet",
    "610990": "t shirt knitted synthetic fibre singlet",
    "691110": "porcelain tableware plate cup kitchen",
    "851830": "headphone earphone microphone wireless set",
    "851840": "audio frequency amplifier electric",
    "870323": "car motor vehicle spark ignition 1500 cc",
    "940161": "wooden chair upholstered seat frame",
    "961700": "vacuum flask vessel steel bottle",
}
"""Class → its words (as `models.text.normalise.words` gives them)."""
VAGUE_WORDS = "good sample gift item spare part"


def write_tiny_bundle(folder: Path, version: str = "3", sure: float = 6.0, seed: int = 0) -> Path:
    """Write the bundle into `folder`; `sure` scales the logits, `seed` varies small weights between versions."""
    from onnx import TensorProto, helper, numpy_helper, save

    folder.mkdir(parents=True, exist_ok=True)
    words = sorted({w for text in [*GOODS.values(), VAGUE_WORDS] for w in text.split()})
    encoder = WordEncoder(words, buckets=64, ngrams=(3, 4), max_tokens=32)
    classes = [*GOODS, ""]
    rng = np.random.default_rng(seed)
    table = rng.normal(0, 0.02, (encoder.rows, len(classes))).astype(np.float32)
    table[0] = 0
    for column, text in enumerate([*GOODS.values(), VAGUE_WORDS]):
        for word in text.split():
            table[encoder.index[word], column] += 1
    mix = (sure * np.eye(len(classes)) + rng.normal(0, 0.01, (len(classes), len(classes)))).astype(np.float32)
    nodes = [
        helper.make_node("Gather", ["table", "ids"], ["rows"]),
        helper.make_node("ReduceSum", ["rows", "axes"], ["sums"], keepdims=0),
        helper.make_node("MatMul", ["sums", "mix"], ["logits"]),
    ]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("ids", TensorProto.INT64, ["n", "t", "g"])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", len(classes)])],
        [
            numpy_helper.from_array(table, "table"),
            numpy_helper.from_array(mix, "mix"),
            numpy_helper.from_array(np.array([1, 2], dtype=np.int64), "axes"),
        ],
    )
    save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), str(folder / "model.onnx")
    )
    texts = {code: f"legal text of {code}" for c in GOODS for code in (c[:2], c[:4], c)}
    files = {
        "text.json": encoder.to_json(),
        "labels.json": {"classes": classes, "vague": len(GOODS), "edition": "HS2022", "texts": texts},
        "calibration.json": {
            "temperature": 1.0,
            "thresholds": {"2": 0.5, "4": 0.6, "6": 0.7, "vague": 0.6},
            "candidates": 5,
        },
        "card.json": {"format": 1, "name": "hscode", "kind": "tiny", "version": version, "edition": "HS2022"},
        "reference.json": {},
    }
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content), encoding="utf-8")
    return folder
