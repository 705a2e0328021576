"""A model bundle: the folder that training hands to serving, and how it answers. Light: numpy and ONNX Runtime only.

Files: `model.onnx` (feeds of the encoder → `logits` float32 (n, classes)), `text.json` (the encoder), `labels.json`
(classes, vague class, edition, legal texts), `calibration.json` (temperature, answer thresholds), `card.json` (where it
comes from and what it is worth), `reference.json` (what its training texts look like, for the monitor).
"""

import json
import os
from collections.abc import Hashable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from models.answer import Levels, answers
from models.errors import UserError
from models.text.encode import Encoder, Feeds, encoder_from_json

FORMAT = 1
"""Version of the folder's layout; a bundle of another one is refused."""


class Bundle:
    """A loaded bundle. `Bundle.load(folder)` makes one."""

    def __init__(
        self,
        folder: Path,
        session: Any,
        encoder: Encoder,
        labels: Mapping[str, Any],
        calibration: Mapping[str, Any],
        card: Mapping[str, Any],
    ) -> None:
        self.folder, self.session, self.encoder = folder, session, encoder
        self.calibration, self.card = calibration, card
        self.classes: list[str] = list(labels["classes"])
        """Six-digit codes in the order of the graph's output, sorted; the vague class, if any, is "" and last."""
        self.vague: int | None = labels["vague"]
        self.edition: str = labels["edition"]
        self.texts: dict[str, str] = labels["texts"]
        """Legal text by code of two, four or six digits."""
        self.temperature = float(calibration["temperature"])
        self.thresholds: dict[str, float] = dict(calibration["thresholds"])
        self.name: str = card.get("name", "hscode")
        self.kind: str = card["kind"]
        self.version: str = str(card.get("version") or "0")
        """Number in the registry, "0" before it is registered."""

    @classmethod
    def load(cls, folder: Path | str, threads: int = 1) -> "Bundle":
        """Read a bundle; `threads` of ONNX Runtime for a run. Raises UserError where the folder is no whole bundle."""
        folder = Path(folder)
        labels, calibration, card, text = (
            _read(folder / name) for name in ("labels.json", "calibration.json", "card.json", "text.json")
        )
        if card.get("format") != FORMAT:
            raise UserError(f"bundle format {card.get('format')!r} is not {FORMAT}", str(folder), "train it again")
        session = session_of(folder / "model.onnx", threads)
        return cls(folder, session, encoder_from_json(text), labels, calibration, card)

    @cached_property
    def levels(self) -> Levels:
        """How classes sum up to codes of each level."""
        return Levels(self.classes, self.vague)

    def logits(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """(n, classes) of the graph, before calibration; a text's row is the same whatever stands beside it."""
        out = np.empty((len(texts), len(self.classes)), dtype=np.float32)
        groups: dict[Hashable, list[int]] = {}
        for i, text in enumerate(texts):
            groups.setdefault(self.encoder.shape(text), []).append(i)
        most = self.encoder.rows_at_once
        for rows in groups.values():
            for start in range(0, len(rows), most):
                part = rows[start : start + most]
                # A matrix product of one row takes another path in the runtime, with other last bits.
                padded = [*part, part[0]] if len(part) == 1 and most > 1 else part
                out[part] = self._run(self.encoder.encode([texts[i] for i in padded]))[: len(part)]
        return out

    def probabilities(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """Calibrated (n, classes), rows sum to 1; the vague class, if any, is a column like others."""
        scaled = self.logits(texts) / np.float32(self.temperature)
        scaled -= scaled.max(axis=1, keepdims=True)
        np.exp(scaled, out=scaled)
        scaled /= scaled.sum(axis=1, keepdims=True)
        return scaled

    def informative(self, texts: Sequence[str]) -> list[bool]:
        """Whether each text has any token that the model can know."""
        return [self.encoder.informative(text) for text in texts]

    def answer(
        self, instances: Sequence[str | Mapping[str, Any]], digits: int = 6, limit: int | None = None
    ) -> list[dict[str, Any]]:
        """The design's prediction objects. An instance is a text or ``{"description", "digits"?, "limit"?}``; what it
        does not say is taken from the arguments (`limit` None: the settings of the training)."""
        default = limit if limit is not None else int(self.calibration.get("candidates", 5))
        asked = [{"description": one} if isinstance(one, str) else one for one in instances]
        texts = [str(one["description"]) for one in asked]
        return answers(
            self.levels,
            self.probabilities(texts),
            self.thresholds,
            self.texts,
            [int(one.get("digits") or digits) for one in asked],
            [int(one.get("limit") or default) for one in asked],
            self.informative(texts),
        )

    def explain(self, instances: Sequence[str | Mapping[str, Any]]) -> list[dict[str, Any]]:
        """The design's explanations, one an instance."""
        from models.explain import explain

        return explain(self, instances)

    def _run(self, feeds: Feeds) -> npt.NDArray[np.float32]:
        return cast(npt.NDArray[np.float32], self.session.run(["logits"], feeds)[0])


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except OSError as error:
        raise UserError(f"not a model bundle ({error.strerror})", str(path)) from None
    except ValueError:
        raise UserError("not a model bundle (damaged JSON)", str(path)) from None
    return cast(dict[str, Any], content)


def session_of(path: Path, threads: int) -> Any:
    """An ONNX Runtime session on CPU. Raises UserError where the file is no readable graph.

    Basic optimisations only: what the runtime fuses beyond them depends on the processor and on what stands beside a
    node, and the last bits that change so turn other int8 activations (logits of one encoder moved by up to 1.1); on
    these graphs the fusions save no time.
    """
    # The official wheels report use to Microsoft (newer ones on Linux too); this is read once, at the import.
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise UserError(f"not a readable ONNX graph ({str(error).splitlines()[0][:160]})", str(path)) from None
