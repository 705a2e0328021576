"""The text-embedding encoder, trained on all text at hand and reused by every net: words and their character n-grams.

Skip-gram with negative sampling factorises, in effect, the matrix of pointwise mutual information of words and contexts
(Levy and Goldberg, Neural word embedding as implicit matrix factorization, 2014). With some ten thousand short texts
that matrix can be made and factorised as it is, in seconds, with no step size to choose. A word's contexts here are the
subheading, heading and chapter of its texts, so that a trader's word comes near to the law's for the same goods.
Rows are words and hashed character n-grams alike (as fastText has them), so that a word never seen has a vector too.
"""

import json
from collections import Counter, defaultdict
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
from models.text.normalise import singular, words
from models.text.paths import informative_tail
from models.text.tokentable import TokenTable, read_table
from models.text.vocabulary import build_vocabulary

Vectors = npt.NDArray[np.float32]
NGRAM_PART = 0.4
"""Share of its n-grams in a known word's vector: misspelt or cut it stays near itself."""


@dataclass(frozen=True)
class Embedding:
    """The embed step's folder, loaded."""

    encoder: WordEncoder
    vectors: Vectors
    """(table rows, D): padding (zeros), known words with their n-grams' share in them, n-gram buckets. A vector's
    length says how much a word tells: frequent words are short."""

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


def train_embedding(
    split_dir: Path, settings: Settings, out: Path, rows: Sequence[int] | npt.NDArray[np.intp] | None = None
) -> dict[str, Any]:
    """Train on the training part (what is judged later stays unseen) and write text.json, vectors.npy and
    embedding.json (rows, vocabulary, neighbours of some words) into `out`. Returns the latter.

    `rows` are indices into train.parquet, where a simulation trains on some of it.
    """
    import polars as pl

    text = settings.text
    part = pl.read_parquet(split_dir / "train.parquet")
    if rows is not None:
        part = part[sorted({int(row) for row in rows})]
    report("embed", 0.1, 1, "counting words and contexts")
    descriptions = [
        informative_tail(each, settings.train.path_parts or 9) if kind == "nomenclature" else each
        for each, kind in zip(part["description"].to_list(), part["label_kind"].to_list(), strict=True)
    ]
    tokenised = [words(each, text.stem) for each in descriptions]
    vocabulary = build_vocabulary(tokenised, text.vocabulary, text.min_count)
    table = None if text.pretrained is None else read_table(text.pretrained)
    if table is not None:
        vocabulary += table.other_words(vocabulary)
    encoder = WordEncoder(vocabulary, text.buckets, text.ngrams, text.max_tokens, text.stem)
    codes = [hs6 or code or "vague" for hs6, code in zip(part["hs6"].to_list(), part["code"].to_list(), strict=True)]
    counts = _counts(encoder, tokenised, codes, part["weight"].to_numpy())
    report("embed", 0.4, 1, "factorising")
    vectors = _factorise(_contexts(counts, sorted(set(codes))), text.dimensions, settings.train.seed)
    if table is not None:
        outside = _outside(encoder, table, descriptions)
        reduced = _factorise(outside, text.pretrained_dimensions, settings.train.seed, root=False)
        vectors = np.concatenate([vectors, reduced * np.float32(text.pretrained_weight)], axis=1)
    share = np.asarray(counts.sum(axis=1)).ravel()
    share /= share[: 1 + len(vocabulary)].sum()
    # As in Arora et al., A simple but tough-to-beat baseline for sentence embeddings (2017).
    telling = (text.frequent / (text.frequent + share)).astype(np.float32)
    embedding = Embedding(encoder, _composed(encoder, vectors * telling[:, None]))
    card = {
        "rows": part.height,
        "vocabulary": len(vocabulary),
        "dimensions": int(vectors.shape[1]),
        "pretrained": text.pretrained,
        "neighbours": {word: embedding.neighbours(word) for word in vocabulary[20:2000:180]},
    }
    with whole_folder(out) as folder:
        (folder / "text.json").write_text(json.dumps(encoder.to_json(), ensure_ascii=False), encoding="utf-8")
        np.save(folder / "vectors.npy", embedding.vectors)
        write_json(folder / "embedding.json", card)
    return card


def _counts(
    encoder: WordEncoder, texts: Sequence[Sequence[str]], codes: Sequence[str], weights: npt.NDArray[Any]
) -> Any:
    """Sparse (table rows, codes): how often each word and n-gram stands in each code's texts, weighted by row."""
    from scipy import sparse

    contexts = {code: i for i, code in enumerate(sorted(set(codes)))}
    by_word: dict[str, dict[int, float]] = defaultdict(lambda: defaultdict(float))
    for text, code, weight in zip(texts, codes, weights.tolist(), strict=True):
        for word in text:
            by_word[word][contexts[code]] += weight
    rows, columns, values = [], [], []
    for word, counts in by_word.items():
        known = encoder.index.get(word)
        for row in [*([known] if known else []), *encoder.subwords(word)]:
            rows.append(np.full(len(counts), row))
            columns.append(np.fromiter(counts.keys(), dtype=np.int64))
            values.append(np.fromiter(counts.values(), dtype=np.float64))
    parts = (np.concatenate(values), (np.concatenate(rows), np.concatenate(columns)))
    return sparse.coo_matrix(parts, shape=(encoder.rows, len(contexts))).tocsr()


def _contexts(counts: Any, codes: Sequence[str]) -> Any:
    """(table rows, contexts): information about codes, headings and chapters, side by side."""
    from scipy import sparse

    blocks = [_information(counts)]
    for digits in (4, 2):
        names = sorted({code[:digits] for code in codes})
        at = [names.index(code[:digits]) for code in codes]
        to_level = sparse.csr_matrix((np.ones(len(codes)), (range(len(codes)), at)), shape=(len(codes), len(names)))
        blocks.append(_information(counts @ to_level))
    return sparse.hstack(blocks).tocsr()


def _information(counts: Any) -> Any:
    """Positive pointwise mutual information of a sparse count matrix; contexts smoothed by the power 0.75, so that rare
    ones are not overrated (Levy, Goldberg and Dagan, 2015)."""
    from scipy import sparse

    found = counts.tocoo()
    rows = np.bincount(found.row, found.data, counts.shape[0])
    columns = np.bincount(found.col, found.data, counts.shape[1]) ** 0.75
    value = np.log(found.data / rows[found.row] / (columns / columns.sum())[found.col])
    return sparse.csr_matrix((np.maximum(value, 0), (found.row, found.col)), shape=counts.shape)


def _factorise(matrix: Any, dimensions: int, seed: int, root: bool = True) -> Vectors:
    """(table rows, D): left singular vectors times the singular values (their `root`), rows of length 1."""
    from sklearn.utils.extmath import randomized_svd

    left, values, _ = randomized_svd(matrix, min(dimensions, min(matrix.shape)), n_iter=3, random_state=seed)
    vectors = left * (np.sqrt(values) if root else values)
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.maximum(lengths, 1e-9), dtype=np.float32)


def _outside(encoder: WordEncoder, table: TokenTable, texts: Sequence[str]) -> Vectors:
    """(table rows, E): the pre-trained vectors of known words, in their most frequent spelling; an n-gram has the mean
    of its words'."""
    spellings: dict[str, Counter[str]] = defaultdict(Counter)
    for text in texts:
        for word in words(text, stem=False):
            spellings[singular(word) if encoder.stem else word][word] += 1
    out = np.zeros((encoder.rows, table.vectors.shape[1]), dtype=np.float32)
    seen = np.zeros(encoder.rows, dtype=np.float32)
    for word, row in encoder.index.items():
        spelling = max(spellings[word].items(), key=lambda each: (each[1], each[0]))[0] if word in spellings else word
        vector = table.vector(spelling)
        for each in [row, *encoder.subwords(word)] if vector.any() else []:
            out[each] += vector
            seen[each] += 1
    return np.asarray(out / np.maximum(seen, 1)[:, None], dtype=np.float32)


def _composed(encoder: WordEncoder, vectors: Vectors) -> Vectors:
    """The table that nets read: a known word's row holds its n-grams' part too, so that one row is enough."""
    out = vectors.copy()
    for word, row in encoder.index.items():
        out[row] = (1 - NGRAM_PART) * vectors[row] + NGRAM_PART * vectors[list(encoder.subwords(word))].mean(axis=0)
    out[0] = 0
    return out
