"""The word pieces of a pre-trained encoder, cut as BERT's own tokeniser cuts them; light: numpy and standard library.

A tokeniser library in the serving image would weigh more than this file and load slower; a test holds it against
`tokenizers`. Only what uncased BERT-like models use is here: their vocabulary decides all the rest.
"""

import html
import unicodedata
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from models.text.encode import Feeds

LONGEST_WORD = 100
"""Characters from which a word is not cut but unknown, as in BERT."""


class WordPieceEncoder:
    """Greedy longest-first word pieces between a first and a last special token.

    Feed `ids` int64 (n, T): 1 + the piece's number in the vocabulary, 0 where a text is shorter than T. Texts go
    through the graph one at a time: beside others of their length they would save time, but one alone would need a
    second row.
    """

    rows_at_once = 1

    def __init__(
        self,
        vocabulary: Sequence[str],
        first: str,
        last: str,
        unknown: str,
        max_tokens: int,
        mask_digits: bool = False,
    ) -> None:
        self.vocabulary = tuple(vocabulary)
        self.special = (first, last, unknown)
        self.max_tokens, self.mask_digits = max_tokens, mask_digits
        self.index = {piece: i + 1 for i, piece in enumerate(self.vocabulary)}
        self._first, self._last, self._unknown = (self.index[s] for s in self.special)
        self._pieces = lru_cache(65536)(self._cut)
        self.analyse = lru_cache(8192)(self._analyse)

    def _analyse(self, text: str) -> tuple[int, ...]:
        """Ids of a text, special tokens included, at most `max_tokens`."""
        ids = [piece for word in basic_words(text, self.mask_digits) for piece in self._pieces(word)]
        return (self._first, *ids[: self.max_tokens - 2], self._last)

    def _cut(self, word: str) -> tuple[int, ...]:
        if len(word) > LONGEST_WORD:
            return (self._unknown,)
        pieces, start = [], 0
        while start < len(word):
            for end in range(len(word), start, -1):
                piece = self.index.get(word[start:end] if start == 0 else "##" + word[start:end])
                if piece is not None:
                    break
            else:
                return (self._unknown,)
            pieces.append(piece)
            start = end
        return tuple(pieces)

    def shape(self, text: str) -> int:
        """T of the text: no padding, so that a text's numbers do not depend on its neighbours."""
        return len(self.analyse(text))

    def encode(self, texts: Sequence[str]) -> Feeds:
        """`ids` int64 (n, T)."""
        found = [self.analyse(text) for text in texts]
        ids = np.zeros((len(texts), max(map(len, found))), dtype=np.int64)
        for row, pieces in zip(ids, found, strict=True):
            row[: len(pieces)] = pieces
        return {"ids": ids}

    def informative(self, text: str) -> bool:
        """Whether there is any word of two letters or more."""
        return any(len(word) > 1 and word.isalpha() for word in basic_words(text))

    def to_json(self) -> dict[str, Any]:
        """Content of text.json; the vocabulary in one string, which is read several times as fast as a list."""
        return {
            "type": "wordpiece",
            "vocabulary": "\n".join(self.vocabulary),
            "special": list(self.special),
            "max_tokens": self.max_tokens,
            "mask_digits": self.mask_digits,
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "WordPieceEncoder":
        """Read what `to_json` gave."""
        first, last, unknown = content["special"]
        pieces = content["vocabulary"].split("\n")
        return cls(pieces, first, last, unknown, content["max_tokens"], content["mask_digits"])


def basic_words(text: str, mask_digits: bool = False) -> list[str]:
    """Lower-cased words without accents; each punctuation mark and each Chinese character is a word of its own.

    HTML entities are resolved first, as in `models.text.normalise`; with `mask_digits` every run of digits is ``0``.

    >>> basic_words("Crème-brûlée&nbsp;torch, 2x", mask_digits=True)
    ['creme', '-', 'brulee', 'torch', ',', '0x']
    """
    if "&" in text:
        text = html.unescape(text)
    out: list[str] = []
    word: list[str] = []

    def end() -> None:
        if word:
            out.append("".join(word))
            word.clear()

    lowered = text.lower()
    for char in lowered if lowered.isascii() else unicodedata.normalize("NFD", lowered):
        category = unicodedata.category(char)
        if char.isspace() or category == "Zs":
            end()
        elif category in ("Mn", "Cc", "Cf", "Cs", "Co", "Cn") or char == "\ufffd":
            continue
        elif _punctuation(char, category) or _chinese(ord(char)):
            end()
            out.append(char)
        elif mask_digits and char.isdigit():
            if not (word and word[-1] == "0"):
                word.append("0")
        else:
            word.append(char)
    end()
    return out


def _punctuation(char: str, category: str) -> bool:
    return category.startswith("P") or (char.isascii() and not char.isalnum())


def _chinese(code: int) -> bool:
    return (
        0x4E00 <= code <= 0x9FFF
        or 0x3400 <= code <= 0x4DBF
        or 0x20000 <= code <= 0x2A6DF
        or 0x2A700 <= code <= 0x2CEAF
        or 0xF900 <= code <= 0xFAFF
        or 0x2F800 <= code <= 0x2FA1F
    )
