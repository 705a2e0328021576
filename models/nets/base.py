"""What every model kind is to the rest of the project: one interface, and the rows it learns from."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

import numpy as np
import numpy.typing as npt

from config.settings import Settings
from models.answer import DIGITS, Levels
from models.errors import UserError
from models.text.encode import Encoder

if TYPE_CHECKING:
    from models.nets.warm import Start

VAGUE = ""
"""Code of a row that is too vague to classify, and the name of the class that stands for it."""


@dataclass(frozen=True)
class Rows:
    """Labelled texts, columns of equal length n."""

    texts: list[str]
    codes: list[str]
    """Two, four or six digits; VAGUE where the text says too little."""
    weights: npt.NDArray[np.float32]
    """Factor of each row on the loss."""
    kinds: list[str]
    """`label_kind` of the design's row: given, corrected, nomenclature, vague."""
    sources: list[str]

    def __len__(self) -> int:
        return len(self.texts)

    def take(self, indices: Sequence[int] | npt.NDArray[np.intp]) -> "Rows":
        """The rows at `indices`, repetitions included."""
        return Rows(
            [self.texts[i] for i in indices],
            [self.codes[i] for i in indices],
            self.weights[np.asarray(indices, dtype=np.intp)],
            [self.kinds[i] for i in indices],
            [self.sources[i] for i in indices],
        )


@dataclass(frozen=True)
class Materials:
    """All that a kind may learn from. `train` is as the split left it; `order` is what up-sampling makes of it."""

    settings: Settings
    classes: tuple[str, ...]
    """Six-digit codes, sorted, then VAGUE where `vague` is not None."""
    vague: int | None
    edition: str
    texts: Mapping[str, str]
    """Legal text by code of two, four and six digits."""
    train: Rows
    valid: Rows
    order: npt.NDArray[np.intp]
    """Indices into `train`, one epoch's rows: repeated where up-sampled."""
    seed: int
    embedding: Path | None = None
    """Folder of the embed step."""
    work: Path | None = None
    """Where a killed training finds its checkpoint again; None: no checkpoint."""
    members: Mapping[str, Path] = field(default_factory=dict)
    """Bundles that a pool is made of, by kind."""
    start: "Start | None" = None
    """The champion's net that training begins at; None: at the embed step's vectors."""
    cold: str = ""
    """Why there is no `start` where one was wanted."""
    step: str = "train"
    """Name of the step in the progress."""

    @cached_property
    def levels(self) -> Levels:
        """How classes sum up to codes of each level."""
        return Levels(self.classes, self.vague)

    def with_settings(self, settings: Settings) -> "Materials":
        """The same rows under other settings (a trial of the tuning)."""
        return replace(self, settings=settings)


class Net(Protocol):
    """A model kind after `build`: fitted once, then asked and exported."""

    encoder: Encoder
    """Becomes text.json."""

    def fit(self, watch: Callable[[int, float], None] | None = None) -> dict[str, Any]:
        """Train on the materials given to `build`. `watch` (epoch, score on valid, higher is better) may raise to end
        it (pruning). Returns what the card says of the training (epochs, best score...)."""

    def logits(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """(n, classes) from the net as trained, before export."""

    def export(self, path: Path) -> None:
        """Write the ONNX graph: the encoder's feeds (first axis dynamic) → `logits` float32 (n, classes)."""


KINDS = {
    "textcnn": "models.nets.textcnn",
    "bilstm": "models.nets.bilstm",
    "transformer": "models.nets.transformer",
    "dnn": "models.nets.dnn",
    "svc": "models.nets.svc",
    "encoder": "models.nets.encoder",
    "pool": "models.nets.pool",
}
"""Kind → module with `build(materials) -> Net`."""


def build(kind: str, materials: Materials) -> Net:
    """The net of this kind, not yet fitted. Raises UserError for an unknown kind."""
    if kind not in KINDS:
        raise UserError(f"unknown model kind {kind!r}", "models.kinds", f"known are {', '.join(KINDS)}")
    return cast(Net, import_module(KINDS[kind]).build(materials))


def level_targets(levels: Levels, codes: Sequence[str]) -> dict[int, npt.NDArray[np.intp]]:
    """Index of each code at levels 2, 4, 6 (-1: the code is shorter or unknown); at level 6 positions are those of
    `levels.codes[6]`, which are the classes without the vague one."""
    return {digits: levels.indices(codes, digits) for digits in (2, 4, 6)}


def mean_accuracy(materials: Materials, logits: npt.NDArray[np.float32], codes: Sequence[str]) -> float:
    """Mean of top-1 accuracy at HS2, HS4, HS6 on rows that have a code."""
    p = np.exp(logits - logits.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    shares = []
    for digits in DIGITS:
        truth = materials.levels.indices(codes, digits)
        judged = np.array([len(code) >= digits for code in codes], dtype=bool)
        if judged.any():
            shares.append(float((materials.levels.probabilities(p, digits).argmax(axis=1) == truth)[judged].mean()))
    return sum(shares) / len(shares) if shares else 0.0


def work_folder(root: Path, *identity: str) -> Path:
    """A folder under `root` that only a training with the same identity (kind, settings, rows, seed) finds again."""
    return root / hashlib.sha256("\0".join(identity).encode()).hexdigest()[:16]
