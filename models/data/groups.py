"""Near-duplicate groups (see docs/decisions/0001-near-duplicates.md)."""

import re

import numpy as np
import numpy.typing as npt

from models.data.clean import identity

_WORD = re.compile(r"[^\W\d_]+|\d+(?:[.,]\d+)*")


class Grouper:
    """Collects texts in their final order and tells which are near-duplicates of each other."""

    def __init__(self, similarity: float = 0.8) -> None:
        self._similarity = similarity
        self._keys: list[int] = []

    def add(self, texts: list[str]) -> None:
        """Take the next texts."""
        for text in texts:
            words = {"0" if word[0].isdigit() else word for word in _WORD.findall(text.casefold())}
            self._keys.append(identity(" ".join(sorted(words))))

    def groups(self) -> npt.NDArray[np.int64]:
        """For each text the position of the first text of its group, shape (texts,)."""
        _, first, inverse = np.unique(np.array(self._keys, dtype=np.uint64), return_index=True, return_inverse=True)
        return first[inverse].astype(np.int64)
