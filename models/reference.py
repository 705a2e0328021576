"""What a model's own texts look like, small enough for its bundle: the monitor compares live texts with it.

Light: numpy only. A reference is a dict of distributions (lists that sum to 1, or shares by name):
    format 1 · rows · tokens (share of words by hash bucket) · lengths (words a text: 0..20, last is 20 and more) ·
    scripts {latin, cyrillic, …: share of texts by the script of most of their letters} · unknown (share of words that
    the model reads only in parts, or not at all) · chapters {"01": share of texts answered so} · confidence (share of
    texts by tenth of the best HS6's probability)
"""

import unicodedata
import zlib
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from models.answer import Levels
from models.text.encode import Encoder
from models.text.normalise import words

TOKEN_BUCKETS = 256
"""Buckets of the histogram of words: enough to see a new kind of goods, few enough for some hundred texts to fill."""
LONGEST = 20


def reference_of(
    texts: Sequence[str], probabilities: npt.NDArray[Any], levels: Levels, encoder: Encoder
) -> dict[str, Any]:
    """The reference of `texts` (n,) and their calibrated (n, classes) `probabilities`."""
    p2 = levels.probabilities(probabilities, 2)
    best = Counter(levels.codes[2][i] for i in p2.argmax(axis=1)) if len(texts) else Counter()
    sure = levels.probabilities(probabilities, 6).max(axis=1) if len(texts) else np.zeros(0)
    return text_reference(texts, encoder) | {
        "chapters": _shares(best),
        "confidence": _histogram(np.minimum((sure * 10).astype(int), 9), 10),
    }


def text_reference(texts: Sequence[str], encoder: Encoder) -> dict[str, Any]:
    """The part of a reference that texts alone give."""
    tokenised = [words(text) for text in texts]
    tokens = [word for text in tokenised for word in text]
    scripts = Counter(filter(None, map(main_script, texts)))
    known = getattr(encoder, "knows", None)
    unknown = float(np.mean([not known(word) for word in tokens])) if known and tokens else 0.0
    return {
        "format": 1,
        "rows": len(texts),
        "tokens": _histogram([token_bucket(word) for word in tokens], TOKEN_BUCKETS),
        "lengths": _histogram([min(len(text), LONGEST) for text in tokenised], LONGEST + 1),
        "scripts": _shares(scripts),
        "unknown": round(unknown, 6),
    }


def token_bucket(word: str) -> int:
    """Hash bucket of a word: CRC-32 of its UTF-8, the same on every machine."""
    return zlib.crc32(word.encode()) % TOKEN_BUCKETS


def main_script(text: str) -> str:
    """The script of most letters of a text, ties by name; "" for one without letters.

    >>> main_script("USB кабель"), main_script("12 x 3")
    ('cyrillic', 'latin')
    >>> main_script("120")
    ''
    """
    if text.isascii():
        return "latin" if any(map(str.isalpha, text)) else ""
    counts = Counter(script(letter) for letter in text if letter.isalpha())
    return min(counts, key=lambda name: (-counts[name], name)) if counts else ""


@lru_cache(4096)
def script(letter: str) -> str:
    """Script of a letter by its Unicode name, lower case: latin, cyrillic, greek, cjk, arabic, …"""
    return "latin" if letter.isascii() else unicodedata.name(letter, "unknown").split()[0].lower()


def _shares(counts: Counter[str]) -> dict[str, float]:
    total = sum(counts.values())
    return {name: round(count / total, 6) for name, count in sorted(counts.items())}


def _histogram(values: Any, size: int) -> list[float]:
    counts = np.bincount(np.asarray(values, dtype=np.int64), minlength=size)
    return [round(float(share), 6) for share in counts / max(1, counts.sum())]
