"""A pre-trained sentence encoder with a trained head: the kind for a transformer from outside.

The head is one direction a class in the encoder's space, the mean of several heads with seeds of their own. Each
starts at the embedding of the class's legal text, so that a subheading without an example is answered by its text;
examples draw it away, and its heading and chapter with it; and at the end it is drawn back towards the legal text by a
factor fitted on valid, from which texts unlike the training's profit. The head is trained on the very embeddings that
the bundle's graph gives, int8 included, and stored as int8 by class: before export and after, that is the model.
Several encoders can be named: then a text's vector is theirs side by side, under one head.
"""

import hashlib
import json
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from models.calibration import softmax
from models.errors import UserError
from models.nets.base import VAGUE, Materials, mean_accuracy
from models.nets.graphs import side_by_side
from models.nets.loop import fit
from models.nets.network import LevelLoss, shared_above
from models.progress import report
from models.text.encode import Encoder, SeveralEncoders
from models.text.pretrained import Embedder, Pretrained, Vectors, load_pretrained, write_graph, write_int8

INT8_LOSS = 0.003
"""Share of valid rows (mean over levels) that the int8 graph may lose; above it the graph stays fp32."""
INT8_CLOSENESS = 0.95
"""Least mean cosine of an encoder's int8 vectors to its fp32 ones; below it the graph stays fp32."""
COMPARED_TEXTS = 200
"""Texts on which vectors are compared, valid's first."""
DRAWN_BACK = (0.0, 0.1, 0.2, 0.3, 0.45, 0.6)
"""Factors tried on the legal texts' part of a direction, in shares of its own scale."""
HEAD_SEED = 1009
"""From one head's seed to the next one's."""
EMBEDDING_SHARE = 0.5
"""Share of the step that the embedding of all texts takes, for the progress."""


class Directions(nn.Module):
    """(n, D) embeddings of length 1 → (n, classes): scale times the product with each class's direction."""

    def __init__(self, start: Vectors, scale: float, dropout: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.from_numpy(start.copy()))
        self.log_scale = nn.Parameter(torch.tensor(float(np.log(scale))))
        self.drop = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        return self.log_scale.exp() * functional.linear(self.drop(x), self.weight)


class EncoderNet:
    """Implements `models.nets.base.Net`."""

    def __init__(self, materials: Materials) -> None:
        self.materials = materials
        self.settings = materials.settings.models.encoder
        named = self.settings.source
        self.sources = () if named is None else (named,) if isinstance(named, str) else tuple(named)
        if not self.sources:
            raise UserError(
                "no pre-trained encoder is named", "models.encoder.source", "give a local folder or a hub name"
            )
        torch.manual_seed(materials.seed)
        torch.set_num_threads(materials.settings.train.threads)
        self.int8 = self.settings.int8
        self.pretrained = [
            load_pretrained(source, self.settings.max_tokens, self.settings.mask_digits, self.settings.layers)
            for source in self.sources
        ]
        words = [one.words for one in self.pretrained]
        self.encoder: Encoder = words[0]
        if len(words) > 1:
            self.encoder = SeveralEncoders({str(i): one for i, one in enumerate(words)})
        self._folder = tempfile.TemporaryDirectory(prefix="hscode-encoder-")
        self._embedders: list[Embedder] = []
        self.loss = LevelLoss(materials)
        dimensions = sum(one.dimensions for one in self.pretrained)
        self.weight = np.zeros((len(materials.classes), dimensions), dtype=np.int8)
        self.scale = np.ones(len(materials.classes), dtype=np.float32)

    def fit(self, watch: Callable[[int, float], None] | None = None) -> dict[str, Any]:
        """Embed all texts once, train the head on them, draw it back towards the legal texts."""
        if not self.int8:
            training, _ = self._fit_head(watch)
            return training | {"int8": {"kept": False}}
        closeness = self._closeness()
        measured: dict[str, Any] = {"cosine": closeness}
        if closeness >= INT8_CLOSENESS:
            training, score = self._fit_head(watch)
            valid = self.materials.valid
            full = mean_accuracy(self.materials, self._scores(joined(self._in_full(valid.texts))), valid.codes)
            measured |= {"valid_score": score, "valid_score_fp32": full}
            if full - score <= INT8_LOSS:
                return training | {"int8": {"kept": True, **measured}}
        self.int8 = False
        training, _ = self._fit_head(watch)
        return training | {"int8": {"kept": False, **measured}}

    def logits(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """(n, classes) from the graph's embeddings and the head."""
        if not texts or not self._embedders:
            return np.zeros((len(texts), len(self.scale)), dtype=np.float32)
        return self._scores(joined([embedder.embed(texts) for embedder in self._embedders]))

    def export(self, path: Path) -> None:
        """ONNX graph `ids` int64 (n, T), of several encoders `0.ids`, `1.ids` …, → `logits`."""
        import onnx

        graphs = [onnx.load(str(self._graph(i, self.int8))) for i in range(len(self.pretrained))]
        onnx.save(with_head(graphs, self.weight, self.scale), str(path))

    def _graph(self, number: int, int8: bool) -> Path:
        """An encoder's graph, written once."""
        path = Path(self._folder.name) / f"{number}.{'int8' if int8 else 'full'}.onnx"
        if not path.exists():
            one = self.pretrained[number]
            if int8:
                write_int8(self._graph(number, False), one.words, self.materials.train.texts, path)
            else:
                write_graph(one, path)
        return path

    def _embedder(self, graph: Path, pretrained: Pretrained) -> Embedder:
        return Embedder(graph, pretrained.words, self.materials.settings.train.threads)

    def _fit_head(self, watch: Callable[[int, float], None] | None) -> tuple[dict[str, Any], float]:
        materials, settings = self.materials, self.settings
        self._embedders = [self._embedder(self._graph(i, self.int8), one) for i, one in enumerate(self.pretrained)]
        legal_texts = [legal_text(materials, code) for code in materials.classes]
        every = self._embedded([*materials.train.texts, *materials.valid.texts, *legal_texts])
        train, valid, legal = np.split(
            every, [len(materials.train), len(materials.train) + len(materials.valid)], axis=0
        )
        legal = legal.copy()
        without = np.array([not text for text in legal_texts])
        legal[without] = 0.0
        start = legal.copy()
        for i in np.flatnonzero(without):
            own = train[[code == materials.classes[i] for code in materials.train.codes]]
            if len(own):
                mean = own.mean(axis=0)
                start[i] = mean / max(float(np.linalg.norm(mean)), 1e-6)
        targets = self.loss.targets(materials, materials.train.codes)
        x, x_valid = torch.from_numpy(train), torch.from_numpy(valid)
        trainings, heads = [], []
        for number in range(settings.heads):
            head = Directions(start, settings.scale, settings.dropout)
            trainings.append(self._fit_one(head, x, targets, x_valid, number, None if number else watch))
            heads.append(head)
        with torch.no_grad():
            scale = float(np.mean([float(head.log_scale.exp()) for head in heads]))
            directions = torch.stack([head.log_scale.exp() * head.weight for head in heads]).mean(dim=0).numpy()
        legal = (scale * legal).astype(np.float32)
        factor = self._drawn_back(directions, legal, valid)
        directions = (directions + factor * legal).astype(np.float32)
        self.scale = np.maximum(np.abs(directions).max(axis=1) / 127, 1e-12).astype(np.float32)
        self.weight = np.rint(directions / self.scale[:, None]).astype(np.int8)
        final = mean_accuracy(materials, self._scores(valid), materials.valid.codes)
        return {"heads": trainings, "scale": scale, "drawn_back": factor, "final_score": final}, final

    def _fit_one(
        self,
        head: Directions,
        x: Tensor,
        targets: Tensor,
        x_valid: Tensor,
        number: int,
        watch: Callable[[int, float], None] | None,
    ) -> dict[str, Any]:
        """Train head `number`, with a seed of its own, on embeddings x (n, D) and `targets` (n, 3) of `LevelLoss`."""
        settings, shared = self.settings, self.materials.settings.train
        own_train = shared.model_copy(
            update={
                "epochs": settings.epochs,
                "learning_rate": settings.learning_rate,
                "batch": 2 * shared.batch,
                "weight_decay": 0.0,
            }
        )
        work = self.materials.work
        materials = replace(
            self.materials.with_settings(self.materials.settings.model_copy(update={"train": own_train})),
            seed=self.materials.seed + HEAD_SEED * number,
            work=None if work is None else work / f"{'int8' if self.int8 else 'full'}-{number}",
        )
        torch.manual_seed(materials.seed)

        def score() -> float:
            head.eval()
            with torch.inference_mode():
                return mean_accuracy(materials, head(x_valid).numpy(), materials.valid.codes)

        each = (1 - EMBEDDING_SHARE) / settings.heads
        span = (EMBEDDING_SHARE + number * each, EMBEDDING_SHARE + (number + 1) * each)
        with shared_above(head, materials.classes):
            return fit(
                head, lambda rows, _: self.loss(head(x[rows]), targets[rows]), score, materials, watch, span=span
            )

    def _scores(self, embeddings: Vectors) -> npt.NDArray[np.float32]:
        return embeddings @ (self.weight.astype(np.float32) * self.scale[:, None]).T

    def _drawn_back(self, directions: Vectors, legal: Vectors, valid: Vectors) -> float:
        """The factor under which valid's true codes are most likely, as a mean over levels, at its best temperature."""
        codes = self.materials.valid.codes
        own, towards = valid @ directions.T, valid @ legal.T
        levels = self.materials.levels
        truths = {digits: levels.indices(codes, digits) for digits in (2, 4, 6)}

        def likelihood(factor: float) -> float:
            best = -np.inf
            for temperature in (0.8, 1.0, 1.2, 1.4, 1.7, 2.0):
                p = softmax(own + factor * towards, temperature)
                total = 0.0
                for digits, truth in truths.items():
                    rows = np.flatnonzero(truth >= 0)
                    at = levels.probabilities(p, digits)[rows, truth[rows]]
                    total += float(np.log(np.maximum(at, 1e-9)).sum())
                best = max(best, total)
            return best

        return max(DRAWN_BACK, key=likelihood) if any((t >= 0).any() for t in truths.values()) else 0.0

    def _closeness(self) -> float:
        """Mean cosine of the int8 graphs' vectors to the fp32 ones', of the encoder where it is least."""
        texts = [*self.materials.valid.texts, *self.materials.train.texts][:COMPARED_TEXTS]
        found = []
        for i, full in enumerate(self._in_full(texts)):
            vectors = self._embedder(self._graph(i, True), self.pretrained[i]).embed(texts)
            found.append(float((vectors * full).sum(axis=1).mean()))
        return min(found)

    def _in_full(self, texts: Sequence[str]) -> list[Vectors]:
        """The fp32 graphs' vectors of texts, by encoder."""
        return [self._embedder(self._graph(i, False), one).embed(texts) for i, one in enumerate(self.pretrained)]

    def _embedded(self, texts: Sequence[str]) -> Vectors:
        """(n, D) by the graphs; kept beside the work folder, where a later seed on the same rows finds them too."""
        distinct = sorted(set(texts))
        kept = None
        if self.materials.work is not None:
            files = [self._graph(i, self.int8) for i in range(len(self.pretrained))]
            graphs = [hashlib.sha256(file.read_bytes()).hexdigest() for file in files]
            identity = json.dumps([graphs, self.encoder.to_json(), distinct])
            name = hashlib.sha256(identity.encode()).hexdigest()[:16]
            kept = self.materials.work.parent / f"embedded-{name}.npy"
        if kept is not None and kept.exists():
            found: Vectors = np.load(kept, allow_pickle=False)
        else:
            found = joined([self._embed(i, distinct) for i in range(len(self._embedders))])
        if kept is not None and not kept.exists():
            kept.parent.mkdir(parents=True, exist_ok=True)
            partial = kept.with_suffix(".partial.npy")
            np.save(partial, found)
            partial.replace(kept)
        number = {text: i for i, text in enumerate(distinct)}
        return found[[number[text] for text in texts]]

    def _embed(self, number: int, distinct: Sequence[str]) -> Vectors:
        of = len(self._embedders)

        def progress(done: int, total: int) -> None:
            share = (number + done / total) / of
            report(self.materials.step, EMBEDDING_SHARE * share, 1, f"{done} of {total} texts embedded")

        return self._embedders[number].embed(distinct, progress)


def build(materials: Materials) -> EncoderNet:
    """The net of this kind, not yet fitted. Raises UserError where no readable encoder is named."""
    return EncoderNet(materials)


def legal_text(materials: Materials, code: str) -> str:
    """What the law says of a class: its own text, "" for the vague class and codes without one."""
    return "" if code == VAGUE else materials.texts.get(code, "")


def joined(vectors: Sequence[Vectors]) -> Vectors:
    """(n, D) arrays with rows of length 1 as one (n, sum of D) array with rows of length 1."""
    if len(vectors) == 1:
        return vectors[0]
    return cast(Vectors, np.hstack(vectors) * np.float32(len(vectors) ** -0.5))


def with_head(graphs: Sequence[Any], weight: npt.NDArray[np.int8], scale: npt.NDArray[np.float32]) -> Any:
    """Encoders' ONNX models, `ids` → `embedding`, with one head of int8 directions (classes, D) and their scales
    (classes,) behind them; the inputs of several are `0.ids`, `1.ids` and so on."""
    from onnx import TensorProto, helper, numpy_helper

    several = len(graphs) > 1
    whole = side_by_side({str(i): graph for i, graph in enumerate(graphs)}) if several else graphs[0]
    factor = np.float32(len(graphs) ** -0.5)
    constants = {"head.weight": np.ascontiguousarray(weight.T), "head.scale": scale, "head.factor": np.array(factor)}
    nodes = [
        # Not DequantizeLinear: ONNX Runtime would turn it and the product into one that also rounds the embedding.
        helper.make_node("Cast", ["head.weight"], ["head.whole"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["head.whole", "head.scale"], ["head.directions"]),
    ]
    x = "embedding"
    if several:
        vectors = [f"{number}.embedding" for number in range(len(graphs))]
        nodes.append(helper.make_node("Concat", vectors, ["head.joined"], axis=1))
        nodes.append(helper.make_node("Mul", ["head.joined", "head.factor"], ["head.x"]))
        x = "head.x"
    nodes.append(helper.make_node("MatMul", [x, "head.directions"], ["logits"]))
    whole.graph.node.extend(nodes)
    whole.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in constants.items())
    del whole.graph.output[:]
    whole.graph.output.append(helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", len(scale)]))
    whole.ir_version = 8
    return whole
