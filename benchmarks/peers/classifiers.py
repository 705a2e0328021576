"""What others would use for the same task, fitted on the same training rows: scores of each for benchmarks/accuracy.py.

Each peer takes training texts, codes of six digits and weights, and gives scores (n, classes), higher is better, for
asked texts, with its size in bytes. HMRC's network is built after its public description, not after its code.
"""

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Task:
    """Rows to learn from; `number` gives a code's column."""

    texts: list[str]
    codes: list[str]
    weights: npt.NDArray[np.float32]
    classes: tuple[str, ...]
    seed: int = 17
    threads: int = 1
    encoder: str | None = None
    """Folder of the pre-trained encoder of HMRC's network."""

    @property
    def targets(self) -> npt.NDArray[np.intp]:
        """Column of each row's code."""
        number = {code: i for i, code in enumerate(self.classes)}
        return np.array([number[code] for code in self.codes], dtype=np.intp)


@dataclass(frozen=True)
class Fitted:
    """A peer after training."""

    scores: Callable[[Sequence[str]], Floats]
    size_bytes: int
    sums: bool
    """Whether its scores are probabilities, so that a heading's is the sum of its subheadings'; else the heading of the
    best subheading is its answer."""


def knn(task: Task) -> Fitted:
    """15 nearest rows by cosine of TF-IDF (words and pairs, character 2- to 5-grams), votes weighted by it."""
    vectoriser = _tfidf()
    table = vectoriser.fit_transform(task.texts)
    targets, classes = task.targets, len(task.classes)

    def scores(texts: Sequence[str]) -> Floats:
        close = np.asarray((vectoriser.transform(texts) @ table.T).todense())
        out = np.zeros((len(texts), classes), dtype=np.float32)
        nearest = np.argpartition(-close, 15, axis=1)[:, :15]
        for row, found in enumerate(nearest):
            np.add.at(out[row], targets[found], close[row, found])
        return out / np.maximum(out.sum(axis=1, keepdims=True), 1e-9)

    return Fitted(scores, int(table.data.nbytes + table.indices.nbytes), sums=True)


def linear_svc(task: Task) -> Fitted:
    """scikit-learn's LinearSVC as it comes (C = 1, tolerance 1e-4), one class against the rest, on the same TF-IDF.

    Fitted a hundred classes a call, which gives the same machines and needs no table of all rows by all classes."""
    from models.nets.svc import fit_against_rest

    vectoriser = _tfidf()
    x, targets = vectoriser.fit_transform(task.texts), task.targets
    present = np.unique(targets)
    weights = np.zeros((x.shape[1], len(present)), dtype=np.float32)
    bias = np.zeros(len(present), dtype=np.float32)
    for start in range(0, len(present), 100):
        some = slice(start, start + 100)
        fitted, bias[some] = fit_against_rest(x, targets, task.weights, present[some], 1.0, 1e-4)
        weights[:, some] = fitted.T

    def scores(texts: Sequence[str]) -> Floats:
        out = np.full((len(texts), len(task.classes)), -1e3, dtype=np.float32)
        out[:, present] = vectoriser.transform(texts).astype(np.float32) @ weights + bias
        return out

    return Fitted(scores, int(weights.nbytes), sums=False)


def fasttext(task: Task, epochs: int = 25) -> Fitted:
    """fastText's supervised mode: word pairs, character 3- to 5-grams, 100 dimensions; rows repeated by weight."""
    import fasttext as library

    number = {code: i for i, code in enumerate(task.classes)}
    times = np.maximum(1, np.rint(task.weights / task.weights.min())).astype(int)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "rows.txt"
        with file.open("w", encoding="utf-8") as out:
            for text, code, repeat in zip(task.texts, task.codes, times.tolist(), strict=True):
                out.write(f"__label__{code} {' '.join(text.lower().split())}\n" * repeat)
        model = library.train_supervised(
            str(file),
            dim=100,
            epoch=max(1, round(epochs * len(times) / int(times.sum()))),
            lr=0.5,
            wordNgrams=2,
            minn=3,
            maxn=5,
            bucket=200_000,
            thread=task.threads,
            verbose=0,
        )
        model.save_model(str(Path(folder) / "model.bin"))
        size = (Path(folder) / "model.bin").stat().st_size

    def scores(texts: Sequence[str]) -> Floats:
        found = np.zeros((len(texts), len(task.classes)), dtype=np.float32)
        for row, text in enumerate(texts):
            # The wrapper's own predict does not work with numpy 2.
            for chance, label in model.f.predict(" ".join(text.lower().split()) + "\n", len(number), 0.0, "strict"):
                found[row, number[label.removeprefix("__label__")]] = chance
        return found

    return Fitted(scores, size, sums=True)


def hmrc_network(task: Task, epochs: int = 10) -> Fitted:
    """Two dense layers on frozen all-mpnet-base-v2 embeddings, cross-entropy at six digits, rows weighted by source."""
    import torch
    from torch import nn

    from models.text.pretrained import Embedder, load_pretrained, write_graph, write_int8

    if task.encoder is None:
        raise ValueError("HMRC's network needs the folder of all-mpnet-base-v2")
    torch.manual_seed(task.seed)
    torch.set_num_threads(task.threads)
    pretrained = load_pretrained(task.encoder, 40, mask_digits=False)
    with tempfile.TemporaryDirectory() as folder:
        full, graph = Path(folder) / "full.onnx", Path(folder) / "encoder.onnx"
        write_graph(pretrained, full)
        write_int8(full, pretrained.words, task.texts, graph)
        size = graph.stat().st_size
        embedder = Embedder(graph, pretrained.words, task.threads)
    x = torch.from_numpy(embedder.embed(task.texts))
    y, weights = torch.from_numpy(task.targets), torch.from_numpy(task.weights)
    net = nn.Sequential(nn.Linear(x.shape[1], 512), nn.ReLU(), nn.Dropout(0.2), nn.Linear(512, len(task.classes)))
    optimiser = torch.optim.Adam(net.parameters(), lr=1e-3)
    random = torch.Generator().manual_seed(task.seed)
    for _ in range(epochs):
        for rows in torch.randperm(len(x), generator=random).split(128):
            each = nn.functional.cross_entropy(net(x[rows]), y[rows], reduction="none")
            loss = (each * weights[rows]).sum() / weights[rows].sum()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    net.eval()

    def scores(texts: Sequence[str]) -> Floats:
        with torch.inference_mode():
            return np.asarray(torch.softmax(net(torch.from_numpy(embedder.embed(list(texts)))), dim=1).numpy())

    return Fitted(scores, size + 4 * sum(p.numel() for p in net.parameters()), sums=True)


PEERS: Mapping[str, tuple[str, Callable[[Task], Fitted]]] = {
    "knn": ("kNN-15, TF-IDF", knn),
    "svc": ("scikit-learn LinearSVC", linear_svc),
    "fasttext": ("fastText supervised", fasttext),
    "hmrc": ("HMRC's network, as described", hmrc_network),
}
"""Name on the command line → name in the table, and how it is fitted."""


def _tfidf() -> Any:
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.pipeline import FeatureUnion

    return FeatureUnion(
        [
            ("words", TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, token_pattern=r"\w+")),
            ("characters", TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 5), min_df=2, sublinear_tf=True)),
        ]
    )
