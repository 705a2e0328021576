"""The text-embedding encoder, trained on all text at hand and reused by every net: words and their character n-grams.

A skip-gram with subwords (Bojanowski et al., Enriching word vectors with subword information, 2017). A description is
too short for a sliding window, so a word's context is its whole text; for a labelled text of the training part also the
legal text of its code, which brings a trader's word near to the law's.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from config.settings import Settings
from models.data.files import whole_folder, write_json
from models.progress import report
from models.text.encode import WordEncoder
from models.text.normalise import words
from models.text.paths import SEPARATOR
from models.text.vocabulary import build_vocabulary

Vectors = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Embedding:
    """The embed step's folder, loaded."""

    encoder: WordEncoder
    vectors: Vectors
    """(table rows, D): padding (zeros), known words with their n-grams' share in them, n-gram buckets."""

    def mean_vectors(self, texts: Sequence[str]) -> Vectors:
        """(n, D): mean over the words of each text; zeros where there is none."""
        out = np.zeros((len(texts), self.vectors.shape[1]), dtype=np.float32)
        for n, text in enumerate(texts):
            rows = self.encoder.analyse(text)
            if rows:
                out[n] = np.mean([self.vectors[list(word)].mean(axis=0) for word in rows], axis=0)
        return out

    def neighbours(self, word: str, k: int = 8) -> list[str]:
        """The `k` known words nearest to `word` by cosine, itself left out."""
        vector = self.mean_vectors([word])[0]
        known = self.vectors[1 : 1 + len(self.encoder.vocabulary)]
        closeness = known @ vector / np.maximum(np.linalg.norm(known, axis=1) * np.linalg.norm(vector), 1e-9)
        nearest = [self.encoder.vocabulary[i] for i in np.argsort(-closeness, kind="stable")[: k + 1]]
        return [each for each in nearest if each != word][:k]


def load_embedding(folder: Path) -> Embedding:
    """Read the folder that `train_embedding` wrote."""
    content = json.loads((folder / "text.json").read_text(encoding="utf-8"))
    return Embedding(WordEncoder.from_json(content), np.load(folder / "vectors.npy", allow_pickle=False))


def train_embedding(split_dir: Path, settings: Settings, out: Path) -> dict[str, Any]:
    """Train on the descriptions of the training part (what is judged later stays unseen) and the legal texts; write
    text.json, vectors.npy and embedding.json (rows, vocabulary, loss, neighbours of some words) into `out`. Returns the
    latter."""
    import polars as pl

    text = settings.text
    part = pl.read_parquet(split_dir / "train.parquet", columns=["description", "hs6"])
    edition = json.loads((split_dir / "edition.json").read_text(encoding="utf-8"))["texts"]
    pieces = _distinct_pieces(part["description"].to_list(), part["hs6"].to_list())
    tokenised = [words(piece, text.stem)[: 2 * text.max_tokens] for piece in pieces]
    vocabulary = build_vocabulary(tokenised, text.vocabulary, text.min_count)
    encoder = WordEncoder(vocabulary, text.buckets, text.ngrams, text.max_tokens, text.stem)
    contexts = [words(edition.get(code, ""), text.stem) for code in pieces.values()]
    vectors, loss = _skipgram(encoder, tokenised, contexts, settings)
    embedding = Embedding(encoder, vectors)
    card = {
        "rows": part.height,
        "pieces": len(pieces),
        "vocabulary": len(vocabulary),
        "dimensions": int(vectors.shape[1]),
        "loss": loss,
        "neighbours": {word: embedding.neighbours(word) for word in vocabulary[20:2000:180]},
    }
    with whole_folder(out) as folder:
        (folder / "text.json").write_text(json.dumps(encoder.to_json(), ensure_ascii=False), encoding="utf-8")
        np.save(folder / "vectors.npy", vectors)
        write_json(folder / "embedding.json", card)
    return card


def _distinct_pieces(texts: Sequence[str], codes: Sequence[str | None]) -> dict[str, str]:
    """Descriptions, and the parts of tariff paths, each once, with the code of the first that has it ("" for a part
    that siblings share): the first parts of a path stand in hundreds of lines and would drown the rest."""
    pieces: dict[str, str] = {}
    for text, code in zip(texts, codes, strict=True):
        *shared, last = text.split(SEPARATOR)
        for piece in shared:
            pieces.setdefault(piece, "")
        pieces.setdefault(last, code or "")
    return pieces


def _skipgram(
    encoder: WordEncoder, texts: Sequence[Sequence[str]], contexts: Sequence[Sequence[str]], settings: Settings
) -> tuple[Vectors, list[float]]:
    """Table rows (rows, D) and the loss of each epoch."""
    import torch
    from torch.nn import functional

    text, seed = settings.text, settings.train.seed
    torch.manual_seed(seed)
    torch.set_num_threads(settings.train.threads)
    random = np.random.default_rng(seed)
    numbers: dict[str, int] = {}
    centre, context = [], []
    for own, legal in zip(texts, contexts, strict=True):
        ids = [numbers.setdefault(word, len(numbers)) for word in own]
        targets = [encoder.index[word] for word in [*own, *legal] if word in encoder.index]
        if ids and len(targets) > 1:
            centre.append(np.array(ids))
            context.append(np.array(targets))
    rows = np.zeros((len(numbers), 1 + encoder.max_rows), dtype=np.int64)
    for word, number in numbers.items():
        own_rows = ([encoder.index[word]] if word in encoder.index else []) + list(encoder.subwords(word))
        rows[number, : len(own_rows)] = own_rows
    counts = np.bincount(np.concatenate(context), minlength=len(encoder.vocabulary) + 1).astype(np.float64)
    noise = counts**0.75 / (counts**0.75).sum()
    keep = np.minimum(1.0, np.sqrt(text.frequent / np.maximum(counts / counts.sum(), 1e-12)))

    size = text.dimensions
    inputs = torch.nn.Parameter(torch.randn(encoder.rows, size) * 0.1)
    outputs = torch.nn.Parameter(torch.zeros(len(encoder.vocabulary) + 1, size))
    optimiser = torch.optim.Adam([inputs, outputs], lr=text.learning_rate)
    table = torch.from_numpy(rows)
    losses = []
    texts_a_batch = 512
    for epoch in range(text.epochs):
        order = random.permutation(len(centre))
        total, steps = 0.0, 0
        for start in range(0, len(order), texts_a_batch):
            pairs = [_pairs(centre[i], context[i], keep, random) for i in order[start : start + texts_a_batch]]
            c, t = (np.concatenate(side) for side in zip(*pairs, strict=True))
            if not len(c):
                continue
            distinct, at = np.unique(c, return_inverse=True)
            vectors = functional.embedding_bag(table[distinct], inputs, mode="mean", padding_idx=0)[
                torch.from_numpy(at)
            ]
            negative = torch.from_numpy(random.choice(len(noise), size=256, p=noise))
            close = (vectors * outputs[torch.from_numpy(t)]).sum(dim=1)
            far = vectors @ outputs[negative].T
            loss = functional.softplus(-close).mean() + functional.softplus(far).mean() * 5
            optimiser.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            total, steps = total + float(loss.detach()), steps + 1
            report("embed", epoch + start / len(order), text.epochs, f"epoch {epoch + 1} of {text.epochs}")
        losses.append(round(total / max(steps, 1), 4))
    table_rows = inputs.detach().numpy()
    composed = table_rows.copy()
    for word, row in encoder.index.items():
        composed[row] = table_rows[[row, *encoder.subwords(word)]].mean(axis=0)
    composed[0] = 0
    return composed, losses


def _pairs(
    centre: npt.NDArray[np.int64], context: npt.NDArray[np.int64], keep: npt.NDArray[np.float64], random: Any
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Each word with three words of its context, frequent ones seldom."""
    chosen = random.choice(context, size=3 * len(centre))
    kept = random.random(len(chosen)) < keep[chosen]
    return np.repeat(centre, 3)[kept], chosen[kept]
