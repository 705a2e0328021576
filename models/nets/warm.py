"""A warm start: a net's training begins at the champion's weights, read by name from the graph of its bundle.

A word that the champion knows keeps its vector; a new word begins as the champion reads it, by its n-grams. A class
that it knows keeps its vector, a new one begins at the mean of its rows. Text-CNN and DNN take their bodies over; ONNX
keeps those of BiLSTM and transformer in another form, so these begin anew, at a correction of zero.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from models.text.embedding import Embedding
from models.text.encode import SeveralEncoders, WordEncoder, encoder_from_json

WARM_KINDS = ("textcnn", "bilstm", "transformer", "dnn")
TABLE, SCORES, BIAS, SCALE = "vectors.table.weight", "scores.weight", "scores.bias", "scores.scale"
Floats = npt.NDArray[np.float32]


class Cold(Exception):
    """There is nothing to start from; one line that says why."""


@dataclass(frozen=True)
class Start:
    """A net of a bundle."""

    champion: str
    """Version of the bundle."""
    encoder: WordEncoder
    classes: tuple[str, ...]
    weights: Mapping[str, Floats]
    """By the names of `models.nets.network`'s module, as far as the graph keeps them."""

    def embedding(self, trained: Embedding) -> Embedding:
        """The vectors for the vocabulary of `trained`, as the champion reads its words."""
        old, new, table = self.encoder, trained.encoder, self.weights[TABLE]
        vectors = np.zeros((new.rows, table.shape[1]), dtype=np.float32)
        vectors[new.rows - new.buckets :] = table[old.rows - old.buckets :]
        for word, row in new.index.items():
            known = old.index.get(word)
            vectors[row] = table[known] if known else table[list(old.subwords(word))].mean(axis=0)
        return Embedding(new, vectors)

    def put(self, state: dict[str, Any], classes: tuple[str, ...]) -> dict[str, Any]:
        """Overwrite what the champion knows better in `state` (name → tensor, of the module made from `embedding`);
        returns what the card says of it."""
        import torch

        index = {code: i for i, code in enumerate(self.classes)}
        mine = [i for i, code in enumerate(classes) if code in index]
        theirs = [index[classes[i]] for i in mine]
        for name in (SCORES, BIAS):
            state[name][mine] = torch.from_numpy(self.weights[name][theirs])
        state[SCALE].copy_(torch.from_numpy(self.weights[SCALE]))
        body = {name: value for name, value in state.items() if name.startswith(("body.", "correction."))}
        whole = all(self.weights.get(name, np.empty(0)).shape == tuple(value.shape) for name, value in body.items())
        for name, value in body.items() if whole else ():
            value.copy_(torch.from_numpy(self.weights[name]))
        known = {"classes": len(mine), "new_classes": len(classes) - len(mine), "body": whole}
        return {"champion": self.champion, **known}


def read_start(folder: Path, kind: str, trained: Path | None) -> Start:
    """The net of this kind in a champion's bundle, alone or in a pool, for the embed step's folder `trained`. Raises
    Cold where there is no such net, or its vectors are of another shape."""
    import onnx
    from onnx import numpy_helper

    if kind not in WARM_KINDS or trained is None:
        raise Cold(f"{kind} is fitted anew each time")
    if not (folder / "card.json").exists():
        raise Cold("there is no champion")
    card, text, labels = (_read(folder / name) for name in ("card.json", "text.json", "labels.json"))
    encoder, prefix, version = encoder_from_json(text), "", str(card["version"])
    if isinstance(encoder, SeveralEncoders) and kind in encoder.members:
        encoder, prefix = encoder.members[kind], f"{kind}."
    elif card["kind"] != kind:
        raise Cold(f"version {version} is of kind {card['kind']}")
    weights = {
        # A copy: what ONNX gives cannot be written to, and torch wants that it can.
        each.name.removeprefix(prefix): np.array(numpy_helper.to_array(each))
        for each in onnx.load(str(folder / "model.onnx")).graph.initializer
        if each.name.startswith(prefix)
    }
    if not isinstance(encoder, WordEncoder) or not {TABLE, SCORES, BIAS, SCALE} <= set(weights):
        raise Cold(f"the graph of version {version} has other weights")
    new, width = WordEncoder.from_json(_read(trained / "text.json")), _read(trained / "embedding.json")["dimensions"]
    for what, theirs, ours in (
        ("width", weights[TABLE].shape[1], width),
        ("buckets", encoder.buckets, new.buckets),
        ("n-grams", encoder.ngrams, new.ngrams),
        ("stems", encoder.stem, new.stem),
    ):
        if theirs != ours:
            raise Cold(f"vectors of version {version} have other {what} ({theirs}, here {ours})")
    return Start(version, encoder, tuple(labels["classes"]), weights)


def _read(file: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(file.read_bytes())
    return content
