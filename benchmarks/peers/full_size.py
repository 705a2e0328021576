"""A Text-CNN bundle of the full edition's size with weights at random, and the same net for torch.

What a request costs does not depend on what the weights say, only on their number: 5,612 classes, 30,000 words, 20,000
n-gram buckets, the default settings' net. So the serving benchmarks need no data and no training.
"""

import json
from itertools import islice
from pathlib import Path

import numpy as np

TORCH = "net.pt"
"""The net as TorchScript, beside the bundle's files."""


def write_full_size(folder: Path, seed: int = 17) -> Path:
    """Write the bundle and TORCH into `folder`, unless they are there already."""
    if (folder / TORCH).exists():
        return folder
    import torch

    from config.settings import Settings
    from models.nets.base import Materials, Rows, build
    from models.text.encode import WordEncoder
    from models.text.vocabulary import build_vocabulary

    settings = Settings()
    text = settings.text
    random = np.random.default_rng(seed)
    codes = [f"{chapter:02d}{heading:02d}{last:02d}" for chapter in range(1, 98) for heading in range(1, 14) for last in
             (10, 20, 30, 90, 99)][:5612]  # fmt: skip
    spoken = [t.lower().split() for t in texts(60_000, seed)]
    vocabulary = list(build_vocabulary(spoken, text.vocabulary, 1))
    vocabulary += [f"word{i}" for i in range(text.vocabulary - len(vocabulary))]
    encoder = WordEncoder(vocabulary, text.buckets, text.ngrams, text.max_tokens, text.stem)
    embedding = folder / "embedding"
    embedding.mkdir(parents=True, exist_ok=True)
    (embedding / "text.json").write_text(json.dumps(encoder.to_json()))
    vectors = random.normal(0, 0.1, (encoder.rows, text.dimensions)).astype(np.float32)
    vectors[0] = 0
    np.save(embedding / "vectors.npy", vectors)
    every = sorted({code[:digits] for code in codes for digits in (2, 4, 6)})
    legal = {code: " ".join(vocabulary[i] for i in random.integers(0, len(vocabulary), 12)) for code in every}
    row = Rows(["x"], [codes[0]], np.ones(1, np.float32), ["given"], ["benchmark"])
    materials = Materials(
        settings, tuple(codes), None, "HS2022", legal, row, row, np.zeros(1, np.intp), seed, embedding
    )
    net = build("textcnn", materials)
    module = net.module.eval()  # type: ignore[attr-defined]
    with torch.inference_mode():
        for parameter in module.scores.parameters():
            parameter.normal_(0, 0.4)
        net.export(folder / "model.onnx")
        example = torch.from_numpy(encoder.encode(["cotton shirt", "qzx"])["ids"])
        torch.jit.trace(module, (example,), check_trace=False).save(str(folder / TORCH))
    thresholds = {"2": 0.2, "4": 0.3, "6": 0.5}
    files = {
        "text.json": encoder.to_json(),
        "labels.json": {"classes": codes, "vague": None, "edition": "HS2022", "texts": legal},
        "calibration.json": {"temperature": 1.0, "thresholds": thresholds, "candidates": 5},
        "card.json": {"format": 1, "name": "hscode", "kind": "textcnn", "version": "1", "edition": "HS2022"},
    }
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content))
    return folder


def texts(count: int, seed: int = 17) -> list[str]:
    """Synthetic trader descriptions, hardly one twice."""
    from models.data.sample import sample_stream

    return [each.description for each in islice(sample_stream(seed), count)]
