"""From texts to the arrays that a bundle's graph reads; light: numpy and the standard library only.

An encoder is what `text.json` holds. Its graph inputs are given by name (`feeds`). Texts of one `shape` run together; a
shape is decided by a text alone, so that its numbers are the same whatever its neighbours.
"""

import zlib
from collections.abc import Hashable, Mapping, Sequence
from functools import lru_cache
from importlib import import_module
from itertools import pairwise
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from models.text.normalise import ngrams, words

Feeds = dict[str, npt.NDArray[Any]]


class Encoder(Protocol):
    """What a bundle needs of the content of its text.json."""

    rows_at_once: int
    """Most texts that a run of the graph takes; above 1, a text alone runs as two rows."""

    def shape(self, text: str) -> Hashable:
        """Which texts this one may run with."""

    def encode(self, texts: Sequence[str]) -> Feeds:
        """Graph inputs by name, first axis (n,); `texts` are of one shape."""

    def informative(self, text: str) -> bool:
        """Whether the text has any token that the model can know."""

    def to_json(self) -> dict[str, Any]:
        """The content of text.json; its `type` names the class for `encoder_from_json`."""


ENCODERS = {
    "words": "models.text.encode:WordEncoder",
    "ngrams": "models.text.encode:NgramEncoder",
    "wordpiece": "models.text.wordpiece:WordPieceEncoder",
    "several": "models.text.encode:SeveralEncoders",
}
"""`type` of text.json → module and class, imported when met."""


def encoder_from_json(content: Mapping[str, Any]) -> Encoder:
    """The encoder that wrote `content` by its `to_json`."""
    module, _, name = ENCODERS[content["type"]].partition(":")
    encoder: Encoder = getattr(import_module(module), name).from_json(content)
    return encoder


def bucket(ngram: str, buckets: int) -> int:
    """Hash bucket 0..buckets-1 of a character n-gram: CRC-32 of its UTF-8, the same on every machine."""
    return zlib.crc32(ngram.encode()) % buckets


class WordEncoder:
    """Words as table rows: a known word is one row, an unknown one the rows of its character n-grams.

    Table rows: 0 padding, 1..len(vocabulary) words, then `buckets` rows of n-grams. Feed `ids` int64 (n, T, G): T
    words, G rows a word, 0 where a text has fewer words or a word fewer rows; a word's vector is the mean of its rows.
    """

    rows_at_once = 64

    def __init__(
        self,
        vocabulary: Sequence[str],
        buckets: int,
        ngrams: tuple[int, int],
        max_tokens: int,
        stem: bool = True,
        max_rows: int = 24,
    ) -> None:
        self.vocabulary, self.buckets, self.ngrams = tuple(vocabulary), buckets, (ngrams[0], ngrams[1])
        self.max_tokens, self.stem, self.max_rows = max_tokens, stem, max_rows
        self.index = {word: i + 1 for i, word in enumerate(self.vocabulary)}
        self.analyse = lru_cache(8192)(self._analyse)
        self._subwords = lru_cache(65536)(self.subwords)

    @property
    def rows(self) -> int:
        """Rows of the table that the ids point into."""
        return 1 + len(self.vocabulary) + self.buckets

    def subwords(self, word: str) -> tuple[int, ...]:
        """Table rows of a word's character n-grams, at most `max_rows` (spread over the word where there are more)."""
        first = 1 + len(self.vocabulary)
        found = list(dict.fromkeys(first + bucket(g, self.buckets) for g in ngrams(word, *self.ngrams)))
        if len(found) > self.max_rows:
            found = [found[i * len(found) // self.max_rows] for i in range(self.max_rows)]
        return tuple(found)

    def _analyse(self, text: str) -> tuple[tuple[int, ...], ...]:
        """Table rows of each word of the text."""
        return tuple(
            (i,) if (i := self.index.get(word)) is not None else self._subwords(word)
            for word in words(text, self.stem)[: self.max_tokens]
        )

    def shape(self, text: str) -> tuple[int, int]:
        """(T, G) of the smallest arrays of a small set that the text fits in."""
        rows = self.analyse(text)
        length = 8
        while length < len(rows):
            length *= 2
        return min(length, max(8, self.max_tokens)), 1 if all(len(r) == 1 for r in rows) else self.max_rows

    def encode(self, texts: Sequence[str]) -> Feeds:
        """`ids` int64 (n, T, G)."""
        analysed = [self.analyse(text) for text in texts]
        shapes = [self.shape(text) for text in texts]
        ids = np.zeros((len(texts), max(s[0] for s in shapes), max(s[1] for s in shapes)), dtype=np.int64)
        for n, rows in enumerate(analysed):
            for t, word in enumerate(rows):
                ids[n, t, : len(word)] = word
        return {"ids": ids}

    def knows(self, word: str) -> bool:
        """Whether the word is in the vocabulary."""
        return word in self.index

    def informative(self, text: str) -> bool:
        """Whether there is any word of two letters or more."""
        return any(len(word) > 1 and not word.isdigit() for word in words(text, self.stem))

    def to_json(self) -> dict[str, Any]:
        """Content of text.json."""
        return {
            "type": "words",
            "vocabulary": list(self.vocabulary),
            "buckets": self.buckets,
            "ngrams": list(self.ngrams),
            "max_tokens": self.max_tokens,
            "stem": self.stem,
            "max_rows": self.max_rows,
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "WordEncoder":
        """Read what `to_json` gave."""
        return cls(
            content["vocabulary"],
            content["buckets"],
            content["ngrams"],
            content["max_tokens"],
            content["stem"],
            content["max_rows"],
        )


class NgramEncoder:
    """TF-IDF of word 1- and 2-grams and of character n-grams within words, as sparse rows.

    Feeds `features` int64 (n, F), ascending, 0 = none (values 0), and `values` float32 (n, F): (1 + ln count) · idf,
    each text's vector of Euclidean length 1. Feature k+1 is the k-th of `terms`; a word pair is joined by a space,
    character n-grams are those of `<word>` (marked by a leading `#`).
    """

    rows_at_once = 64

    def __init__(self, terms: Sequence[str], idf: Sequence[float], ngrams: tuple[int, int], stem: bool = False) -> None:
        self.terms, self.ngrams, self.stem = tuple(terms), (ngrams[0], ngrams[1]), stem
        self.idf = np.concatenate([[0.0], np.asarray(idf, dtype=np.float64)])
        self.index = {term: i + 1 for i, term in enumerate(self.terms)}
        self._word_terms = lru_cache(65536)(self._characters)
        self.analyse = lru_cache(2048)(self._analyse)

    def _characters(self, word: str) -> tuple[str, ...]:
        return tuple("#" + gram for gram in ngrams(word, *self.ngrams))

    def terms_of(self, text: str) -> list[str]:
        """All terms of a text, with repetitions, known or not."""
        found = words(text, self.stem)
        pairs = [f"{a} {b}" for a, b in pairwise(found)]
        return [*found, *pairs, *(gram for word in found for gram in self._word_terms(word))]

    def _analyse(self, text: str) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
        counts: dict[int, int] = {}
        for term in self.terms_of(text):
            if (i := self.index.get(term)) is not None:
                counts[i] = counts.get(i, 0) + 1
        features = np.array(sorted(counts), dtype=np.int64)
        values = (1 + np.log([counts[i] for i in features.tolist()])) * self.idf[features]
        length = float(np.sqrt(np.sum(values * values)))
        return features, (values / length if length else values).astype(np.float32)

    def shape(self, text: str) -> int:
        """Smallest power of two, from 64 on, that holds the text's features."""
        return max(64, 1 << (len(self.analyse(text)[0]) - 1).bit_length())

    def encode(self, texts: Sequence[str]) -> Feeds:
        """`features` int64 (n, F) and `values` float32 (n, F)."""
        width = max(self.shape(text) for text in texts)
        features = np.zeros((len(texts), width), dtype=np.int64)
        values = np.zeros((len(texts), width), dtype=np.float32)
        for n, text in enumerate(texts):
            found, weights = self.analyse(text)
            features[n, : len(found)], values[n, : len(found)] = found, weights
        return {"features": features, "values": values}

    def knows(self, word: str) -> bool:
        """Whether the word is in the vocabulary."""
        return word in self.index

    def informative(self, text: str) -> bool:
        """Whether there is any word of two letters or more."""
        return any(len(word) > 1 and not word.isdigit() for word in words(text, self.stem))

    def to_json(self) -> dict[str, Any]:
        """Content of text.json; terms in one string, which is read several times as fast as a list."""
        return {
            "type": "ngrams",
            "terms": "\n".join(self.terms),
            "idf": [round(float(v), 6) for v in self.idf[1:]],
            "ngrams": list(self.ngrams),
            "stem": self.stem,
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "NgramEncoder":
        """Read what `to_json` gave."""
        return cls(content["terms"].split("\n"), content["idf"], content["ngrams"], content["stem"])


class SeveralEncoders:
    """The encoders of a pool's members; each one's feeds carry its name as prefix, ``svc.features``."""

    def __init__(self, members: Mapping[str, Encoder]) -> None:
        self.members = dict(members)
        self.rows_at_once = min(member.rows_at_once for member in self.members.values())

    def shape(self, text: str) -> Hashable:
        """The members' shapes, in order."""
        return tuple(member.shape(text) for member in self.members.values())

    def encode(self, texts: Sequence[str]) -> Feeds:
        """All members' feeds."""
        return {
            f"{name}.{feed}": array
            for name, member in self.members.items()
            for feed, array in member.encode(texts).items()
        }

    def informative(self, text: str) -> bool:
        """Whether any member finds a token that it can know."""
        return any(member.informative(text) for member in self.members.values())

    def to_json(self) -> dict[str, Any]:
        """Content of text.json."""
        return {"type": "several", "members": {name: member.to_json() for name, member in self.members.items()}}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "SeveralEncoders":
        """Read what `to_json` gave."""
        return cls({name: encoder_from_json(member) for name, member in content["members"].items()})
