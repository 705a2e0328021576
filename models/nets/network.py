"""What the torch kinds share: the embedding step's word vectors, scores by closeness to classes, level losses."""

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrize

from config.settings import Train
from models.answer import DIGITS
from models.nets.averaging import Tree
from models.nets.base import VAGUE, Materials, Rows, mean_accuracy
from models.nets.loop import fit
from models.text.embedding import Embedding, load_embedding
from models.text.encode import WordEncoder
from models.text.normalise import words

SHORTEST_WINDOW = 3
"""Words that a window of a nomenclature text has at least."""


class WordVectors(nn.Module):
    """(n, T, G) table rows → (n, T, D) vectors, each the mean of a word's rows, and the (n, T) mask of real words."""

    def __init__(self, vectors: npt.NDArray[np.float32]) -> None:
        super().__init__()
        self.table = nn.Embedding(len(vectors), vectors.shape[1], padding_idx=0)
        self.table.weight.data.copy_(torch.from_numpy(vectors))

    def forward(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """See the class."""
        there = (ids > 0).to(torch.float32)
        count = there.sum(dim=2)
        total = (self.table(ids) * there.unsqueeze(3)).sum(dim=2)
        return total / count.clamp(min=1.0).unsqueeze(2), (count > 0).to(torch.float32)

    def of_words(self, rows: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
        """The same from (U, G) rows of distinct words and (n, T) positions among them (0 = none): fewer sums."""
        vectors = functional.embedding_bag(rows, self.table.weight, mode="mean", padding_idx=0)
        return functional.embedding(index, vectors), (index > 0).to(torch.float32)


class ClassScores(nn.Module):
    """Text vectors (n, D) → (n, classes): a class's closeness to the text, the cosine with a vector that starts as the
    mean of the class's rows, its legal text among them: so a class without one example has a place too."""

    def __init__(self, centroids: npt.NDArray[np.float32], scale: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.from_numpy(centroids.copy()))
        self.bias = nn.Parameter(torch.zeros(len(centroids)))
        self.scale = nn.Parameter(torch.tensor(scale))

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        return functional.linear(self.scale * unit(x), self.weight, self.bias)


class SharedAbove(nn.Module):
    """(classes, D) → (classes, D): each class's vector plus its heading's and its chapter's, which start at zero.

    A parametrisation for training alone (`shared_above`): what a row says of its class moves the siblings with it,
    those that no trader named too.
    """

    heading_of: Tensor
    chapter_of: Tensor

    def __init__(self, classes: Sequence[str], dimensions: int) -> None:
        super().__init__()
        tree = Tree.of(classes)
        self.register_buffer("heading_of", torch.from_numpy(tree.heading_of), persistent=False)
        self.register_buffer("chapter_of", torch.from_numpy(tree.chapter_of[tree.heading_of]), persistent=False)
        self.headings = nn.Parameter(torch.zeros(len(tree.chapter_of), dimensions))
        self.chapters = nn.Parameter(torch.zeros(int(tree.chapter_of.max()) + 1, dimensions))

    def forward(self, own: Tensor) -> Tensor:
        """See the class."""
        chapters = functional.embedding(self.chapter_of, self.chapters)
        return own + chapters + functional.embedding(self.heading_of, self.headings)


@contextmanager
def shared_above(module: nn.Module, classes: Sequence[str]) -> Iterator[None]:
    """While it lasts, `module.weight` (classes, D) is the sum that `SharedAbove` makes; then that sum is the weight."""
    dimensions = cast(Tensor, module.weight).shape[1]
    parametrize.register_parametrization(module, "weight", SharedAbove(classes, dimensions))
    try:
        yield
    finally:
        parametrize.remove_parametrizations(module, "weight", leave_parametrized=True)


def unit(x: Tensor) -> Tensor:
    """(n, D) with rows of length 1; zeros stay zeros."""
    return x / torch.sqrt((x * x).sum(dim=1, keepdim=True) + 1e-12)


def masked_mean(vectors: Tensor, mask: Tensor) -> Tensor:
    """(n, T, D), (n, T) → (n, D): the mean over the words that are there; zeros where none is."""
    return (vectors * mask.unsqueeze(2)).sum(dim=1) / mask.sum(dim=1, keepdim=True).clamp(min=1.0)


class LevelLoss:
    """Cross-entropy at HS2, HS4 and HS6 together; a level's probability is the sum over its classes."""

    def __init__(self, materials: Materials) -> None:
        levels = materials.levels
        self.weights = materials.settings.train.level_losses
        self.groups: dict[int, Tensor] = {}
        self.sizes: dict[int, int] = {}
        self.vague = materials.vague
        for digits in DIGITS:
            position = {code: i for i, code in enumerate(levels.codes[digits])}
            # The vague class is a group of its own at each level.
            self.sizes[digits] = len(position) + (materials.vague is not None)
            self.groups[digits] = torch.tensor(
                [len(position) if i == materials.vague else position[c[:digits]] for i, c in enumerate(levels.classes)]
            )

    def targets(self, materials: Materials, codes: Sequence[str]) -> Tensor:
        """(n, 3): index of each code at levels 2, 4, 6; -1 where it is shorter or unknown."""
        columns = []
        for digits in DIGITS:
            index = materials.levels.indices(codes, digits)
            if self.vague is not None:
                index[np.array([code == VAGUE for code in codes], dtype=bool)] = self.sizes[digits] - 1
            columns.append(index)
        return torch.from_numpy(np.stack(columns, axis=1))

    def __call__(self, logits: Tensor, targets: Tensor, upper: Tensor | None = None) -> Tensor:
        """Mean over rows; what a row's code does not reach is left out. `upper` (n,) is a factor on what a row's loss
        says of chapter and heading, the rest being its share within the heading."""
        p = torch.softmax(logits, dim=1)
        losses = []
        for column, digits in enumerate(DIGITS):
            known = targets[:, column] >= 0
            grouped = logits.new_zeros(len(logits), self.sizes[digits]).index_add(1, self.groups[digits], p)
            picked = grouped.gather(1, targets[:, column].clamp(min=0).unsqueeze(1)).squeeze(1)
            losses.append(-torch.log(picked.clamp(min=1e-9)) * known)
        chapter, heading, subheading = losses
        to_heading = heading * (targets[:, 2] >= 0)
        above = self.weights[0] * chapter + self.weights[1] * heading + self.weights[2] * to_heading
        among_siblings = self.weights[2] * (subheading - to_heading)
        return (above * (1.0 if upper is None else upper) + among_siblings).mean()


class WordNet:
    """A torch kind on word vectors: implements `models.nets.base.Net` for a module (n, T, D), (n, T) → features."""

    def __init__(self, materials: Materials, body: Callable[[int], nn.Module], features: int) -> None:
        if materials.embedding is None:
            raise ValueError("a word net needs the folder of the embed step")
        torch.manual_seed(materials.seed)
        torch.set_num_threads(materials.settings.train.threads)
        self.materials = materials
        embedding = load_embedding(materials.embedding)
        if materials.start is not None:
            embedding = materials.start.embedding(embedding)
        self.encoder: WordEncoder = embedding.encoder
        self.module = _Scored(
            embedding,
            body(embedding.vectors.shape[1]),
            features,
            materials.settings.train,
            _centroids(materials, embedding),
        )
        self.started: dict[str, Any] = {}
        """What the card says of a warm start."""
        if materials.start is not None:
            self.started["warm_start"] = materials.start.put(self.module.state_dict(), materials.classes)
        self.loss = LevelLoss(materials)

    def fit(self, watch: Callable[[int, float], None] | None = None) -> dict[str, Any]:
        """Train with the shared loop; the best epoch on valid is kept."""
        materials = self.materials
        texts = WordBatches(self.encoder, materials.train, materials.settings.train.window)
        targets = self.loss.targets(materials, materials.train.codes)
        factor = materials.settings.train.sibling_factor
        law = np.array(materials.train.kinds) == "nomenclature"
        weights = np.where(law, materials.train.weights * factor, materials.train.weights).astype(np.float32)
        upper = torch.from_numpy(np.where(law, 1 / factor, 1.0).astype(np.float32))

        def batch_loss(rows: npt.NDArray[np.intp], random: np.random.Generator) -> Tensor:
            distinct, index = texts.take(rows, random, materials.settings.train.word_dropout)
            logits = self.module.of_words(distinct, index)
            return self.loss(logits, targets[rows], upper[rows])

        with shared_above(self.module.scores, materials.classes):
            return fit(self.module, batch_loss, self._score, materials, watch, weights) | self.started

    def logits(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """(n, classes) by torch."""
        self.module.eval()
        out = []
        with torch.inference_mode():
            for start in range(0, len(texts), 256):
                ids = torch.from_numpy(self.encoder.encode(texts[start : start + 256])["ids"])
                out.append(self.module(ids).numpy())
        return np.concatenate(out) if out else np.zeros((0, len(self.materials.classes)), dtype=np.float32)

    def export(self, path: Path) -> None:
        """ONNX graph `ids` int64 (n, T, G) → `logits`."""
        self.module.eval()
        example = torch.from_numpy(self.encoder.encode(["cotton shirt", "qzx"])["ids"])
        with torch.inference_mode(), warnings.catch_warnings():
            # Sizes that the tracer takes for constants are; what comes out is compared with what went in anyway.
            warnings.simplefilter("ignore")
            torch.onnx.export(
                self.module,
                (example,),
                str(path),
                dynamo=False,
                input_names=["ids"],
                output_names=["logits"],
                dynamic_axes={"ids": {0: "n", 1: "t", 2: "g"}, "logits": {0: "n"}},
                opset_version=17,
            )

    def _score(self) -> float:
        """Mean top-1 over the three levels on valid rows."""
        valid = self.materials.valid
        return mean_accuracy(self.materials, self.logits(valid.texts), valid.codes)


class _Scored(nn.Module):
    """A text's vector is the mean of its words, corrected by what the kind's own body makes of them in their order.

    The correction starts at zero and learns from the first step, since class vectors do not. (As further inputs of the
    class scores, with weights from zero, the bodies of Text-CNN and DNN learnt nothing in some hundred steps: they were
    one model.)
    """

    def __init__(
        self,
        embedding: Embedding,
        body: nn.Module,
        features: int,
        settings: Train,
        centroids: npt.NDArray[np.float32],
    ) -> None:
        super().__init__()
        self.vectors = WordVectors(embedding.vectors)
        self.body = body
        last = nn.Linear(features, embedding.vectors.shape[1])
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.correction = nn.Sequential(nn.Dropout(settings.dropout), last)
        self.scores = ClassScores(centroids, settings.start_scale)

    def forward(self, ids: Tensor) -> Tensor:
        return self._scores(*self.vectors(ids))

    def of_words(self, rows: Tensor, index: Tensor) -> Tensor:
        return self._scores(*self.vectors.of_words(rows, index))

    def _scores(self, vectors: Tensor, mask: Tensor) -> Tensor:
        mean = unit(masked_mean(vectors, mask))
        return cast(Tensor, self.scores(mean + self.correction(self.body(vectors, mask))))


class WordBatches:
    """Training texts as positions of their distinct words, so that a batch's word vectors are made once each."""

    def __init__(self, encoder: WordEncoder, rows: Rows, window: int) -> None:
        self.encoder, self.window = encoder, window
        self.windowed = [window > 0 and kind == "nomenclature" for kind in rows.kinds]
        numbers: dict[str, int] = {}
        self.texts = [
            np.array(
                [
                    numbers.setdefault(word, len(numbers) + 1)
                    for word in words(text, encoder.stem)[: encoder.max_tokens]
                ],
                dtype=np.int64,
            )
            for text in rows.texts
        ]
        self.whole = np.zeros((len(numbers) + 1, encoder.max_rows), dtype=np.int64)
        self.parts = np.zeros_like(self.whole)
        for word, number in numbers.items():
            parts = encoder.subwords(word)
            self.parts[number, : len(parts)] = parts
            known = encoder.index.get(word)
            self.whole[number, : 1 if known else len(parts)] = known if known else parts

    def _window(self, row: int, random: np.random.Generator) -> npt.NDArray[np.int64]:
        text = self.texts[row]
        if not self.windowed[row] or len(text) <= SHORTEST_WINDOW:
            return text
        length = int(random.integers(SHORTEST_WINDOW, self.window + 1))
        start = int(random.integers(0, max(1, len(text) - length + 1)))
        return text[start : start + length]

    def take(self, rows: npt.NDArray[np.intp], random: np.random.Generator, dropout: float) -> tuple[Tensor, Tensor]:
        """Distinct words' table rows (U, G) and positions among them (n, T), 0 = none. With chance `dropout` a known
        word is read by its n-grams, as an unknown one will be."""
        texts = [self._window(i, random) for i in rows]
        length = max(8, max(map(len, texts)))
        words_at = np.zeros((len(texts), length), dtype=np.int64)
        for n, text in enumerate(texts):
            words_at[n, : len(text)] = text
        distinct, index = np.unique(words_at, return_inverse=True)
        if distinct[0] != 0:
            distinct, index = np.concatenate([[0], distinct]), index + 1
        by_parts = random.random(len(distinct)) < dropout
        table_rows = np.where(by_parts[:, None], self.parts[distinct], self.whole[distinct])
        return torch.from_numpy(table_rows), torch.from_numpy(index.reshape(words_at.shape))


def _centroids(materials: Materials, embedding: Embedding) -> npt.NDArray[np.float32]:
    """(classes, D): the weighted mean of each class's rows, of length 1; of the legal text where it has no row."""
    rows, index = materials.train, {code: i for i, code in enumerate(materials.classes)}
    bare = [code for code in materials.classes if code != VAGUE and code not in set(rows.codes)]
    texts = [*rows.texts, *(materials.texts.get(code, "") for code in bare)]
    vectors = _unit(embedding.mean_vectors(texts))
    weights = np.concatenate([rows.weights, np.ones(len(bare), dtype=np.float32)])
    out = np.zeros((len(materials.classes), vectors.shape[1]), dtype=np.float32)
    for code, vector, weight in zip([*rows.codes, *bare], vectors, weights, strict=True):
        if code in index:
            out[index[code]] += weight * vector
    return _unit(out)


def _unit(vectors: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit: npt.NDArray[np.float32] = (vectors / np.maximum(lengths, 1e-9)).astype(np.float32)
    return unit
