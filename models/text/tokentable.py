"""The token table of a pre-trained encoder: word vectors from outside, read without the library that made them."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt

from models.errors import UserError
from models.text.normalise import singular

Vectors = npt.NDArray[np.float32]
_ENDING = "word_embeddings.weight"


@dataclass(frozen=True)
class TokenTable:
    """Word pieces in BERT's notation (``##`` inside a word) and their vectors (pieces, E), centred, of length 1."""

    pieces: tuple[str, ...]
    vectors: Vectors

    @cached_property
    def index(self) -> dict[str, int]:
        """Piece → row."""
        return {piece: i for i, piece in enumerate(self.pieces)}

    def vector(self, word: str) -> Vectors:
        """(E,): the mean over the word's pieces, longest first; zeros where it cannot be cut into pieces."""
        rows, start = [], 0
        while start < len(word):
            for end in range(len(word), start, -1):
                row = self.index.get(word[start:end] if start == 0 else "##" + word[start:end])
                if row is not None:
                    break
            else:
                return np.zeros(self.vectors.shape[1], dtype=np.float32)
            rows.append(row)
            start = end
        mean: Vectors = self.vectors[rows].mean(axis=0) if rows else np.zeros(self.vectors.shape[1], dtype=np.float32)
        return mean

    def other_words(self, vocabulary: Sequence[str]) -> list[str]:
        """Whole words of three letters or more that are not in `vocabulary`, in the table's order, as singulars."""
        known = set(vocabulary)
        found = (piece for piece in self.pieces if len(piece) > 2 and piece.isascii() and piece.isalpha())
        return [word for word in found if singular(word) == word and word not in known]


def read_table(folder: str) -> TokenTable:
    """Read `model.safetensors` and `vocab.txt` of a BERT-like encoder's folder. Raises UserError where it is none."""
    path = Path(folder)
    if not path.is_dir():
        raise UserError(f"no such folder: {folder}", "text.pretrained", "give a folder with model.safetensors")
    from safetensors import SafetensorError, safe_open

    try:
        pieces = (path / "vocab.txt").read_text(encoding="utf-8").split("\n")
        with safe_open(str(path / "model.safetensors"), framework="np") as tensors:
            names = [str(name) for name in list(tensors.keys()) if name.endswith(_ENDING)]
            if not names:
                raise UserError(f"no tensor {_ENDING}", str(path), "text.pretrained takes BERT-like encoders")
            vectors = tensors.get_tensor(names[0]).astype(np.float32)
    except OSError as error:
        raise UserError(f"cannot read the encoder ({error.strerror or error})", str(error.filename or path)) from None
    except SafetensorError as error:
        raise UserError(f"not a readable encoder ({error})", str(path / "model.safetensors")) from None
    pieces = pieces[: len(vectors)]
    vectors = vectors[: len(pieces)] - vectors.mean(axis=0)
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return TokenTable(tuple(pieces), vectors / np.maximum(lengths, 1e-9))
