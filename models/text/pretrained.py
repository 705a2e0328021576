"""A pre-trained sentence encoder from outside: read by transformers, written as one ONNX graph, asked by ONNX Runtime.

The graph has one input, `ids` of `models.text.wordpiece`, and sees from them what is padding. (With the attention mask
as a second input an exporter may bake the example's mask into the graph; the embeddings before and after are compared.)
"""

import json
import re
import threading
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from models.bundle import session_of
from models.errors import UserError
from models.text.int8 import largest_activations, to_int8
from models.text.wordpiece import WordPieceEncoder

Vectors = npt.NDArray[np.float32]
AGREEMENT = 1e-4
"""Largest difference of an embedding's coordinate between torch and the fp32 graph."""
PROBES = ("Cotton shirt", "a", "Hand-knitted woollen pullover for children, 12 pcs", "")
OPSET = 17
CALIBRATION_TEXTS = 200
ROWS_AT_ONCE = 8
"""Texts of one length embedded together; more fall out of the processor's cache."""
_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")


class Pretrained(nn.Module):
    """A transformer, its pooling and the division by length: (n, T) ids of `words` → (n, D) vectors of length 1.

    `layers` are those whose states are pooled, as shares of the depth (0: the word pieces before any, 1: the last);
    the vectors of several stand side by side.
    """

    def __init__(self, model: nn.Module, words: WordPieceEncoder, pooling: str, layers: Sequence[float]) -> None:
        super().__init__()
        self.model, self.words, self.pooling = model, words, pooling
        config = cast(Any, model.config)
        self.layers = [round(share * int(config.num_hidden_layers)) for share in layers]
        self.dimensions = int(config.hidden_size) * len(self.layers)
        self.padding = int(config.pad_token_id or 0)
        # MPNet and RoBERTa count positions from behind the padding's number, BERT from 0.
        self.first_position = self.padding + 1 if config.model_type in ("mpnet", "roberta", "xlm-roberta") else 0

    def forward(self, ids: Tensor) -> Tensor:
        """See the class."""
        there = (ids > 0).to(torch.int64)
        tokens = torch.where(ids > 0, ids - 1, torch.full_like(ids, self.padding))
        positions = (torch.cumsum(there, dim=1) - 1 + self.first_position) * there
        states = self.model(
            input_ids=tokens, attention_mask=there, position_ids=positions, output_hidden_states=True
        ).hidden_states
        pooled = [self._pooled(states[layer], there) for layer in self.layers]
        return cast(Tensor, torch.cat(pooled, dim=1) * len(pooled) ** -0.5)

    def _pooled(self, states: Tensor, there: Tensor) -> Tensor:
        if self.pooling == "cls":
            pooled = states[:, 0]
        else:
            mask = there.unsqueeze(2).to(states.dtype)
            pooled = (states * mask).sum(dim=1) / mask.sum(dim=1)
        return cast(Tensor, pooled / pooled.norm(dim=1, keepdim=True).clamp(min=1e-9))


def load_pretrained(source: str, max_tokens: int, mask_digits: bool, layers: Sequence[float] = (1.0,)) -> Pretrained:
    """Read an encoder from a folder, or by its hub name, the only case in which anything is fetched.

    Raises UserError where it is not there, or is none of the uncased word-piece encoders that `WordPieceEncoder` reads.
    """
    where = "models.encoder.source"
    local = Path(source).is_dir()
    if not local and not _HUB_NAME.fullmatch(source):
        raise UserError(f"no such folder: {source}", where, "give a folder with config.json, or a hub name OWNER/NAME")
    try:
        import transformers
    except ImportError:
        raise UserError("a pre-trained encoder needs transformers", where, 'pip install "hscode[encoder]"') from None
    transformers.utils.logging.disable_progress_bar()
    try:
        tokeniser = transformers.AutoTokenizer.from_pretrained(source, local_files_only=local)
        model = transformers.AutoModel.from_pretrained(source, local_files_only=local, attn_implementation="eager")
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"not a readable encoder ({str(error).splitlines()[0][:160]})", f"{where}={source}") from None
    words = _word_pieces(tokeniser, max_tokens, mask_digits, f"{where}={source}")
    return Pretrained(model.to(torch.float32), words, _pooling(Path(source)) if local else "mean", layers).eval()


def _word_pieces(tokeniser: Any, max_tokens: int, mask_digits: bool, where: str) -> WordPieceEncoder:
    found = json.loads(tokeniser.backend_tokenizer.to_str())
    normaliser = found.get("normalizer") or {}
    if found["model"].get("type") != "WordPiece" or not normaliser.get("lowercase"):
        raise UserError("only encoders with uncased word pieces (BERT, MiniLM, MPNet) can be used", where)
    by_number = {number: piece for piece, number in tokeniser.get_vocab().items()}
    pieces = [by_number.get(i, f"[missing {i}]") for i in range(max(by_number) + 1)]
    unknown = found["model"]["unk_token"]
    return WordPieceEncoder(pieces, tokeniser.cls_token, tokeniser.sep_token, unknown, max_tokens, mask_digits)


def _pooling(folder: Path) -> str:
    file = folder / "1_Pooling" / "config.json"
    content = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    return "cls" if content.get("pooling_mode_cls_token") else "mean"


def write_graph(pretrained: Pretrained, path: Path) -> None:
    """Write the ONNX graph `ids` (n, T) → `embedding` float32 (n, D), both axes dynamic, to `path`.

    Raises RuntimeError where the graph does not give torch's embeddings.
    """
    pretrained.eval()
    example = torch.from_numpy(pretrained.words.encode(PROBES)["ids"])
    with torch.inference_mode(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = pretrained(example).numpy()
        torch.onnx.export(
            pretrained,
            (example,),
            str(path),
            dynamo=False,
            input_names=["ids"],
            output_names=["embedding"],
            dynamic_axes={"ids": {0: "n", 1: "t"}, "embedding": {0: "n"}},
            opset_version=OPSET,
        )
    difference = float(np.abs(Embedder(path, pretrained.words, 1).run(PROBES) - expected).max())
    if difference > AGREEMENT:
        raise RuntimeError(f"the encoder's embeddings differ by {difference:.1e} before and after export")


def write_int8(full: Path, words: WordPieceEncoder, texts: Sequence[str], path: Path) -> None:
    """Write the int8 form (`models.text.int8`) of the graph in `full` to `path`, calibrated by some of `texts`, which
    are like those that it will read, spread over their alphabet."""
    import onnx

    known = sorted(set(texts)) or list(PROBES)
    spread = known[:: max(1, len(known) // CALIBRATION_TEXTS)][:CALIBRATION_TEXTS]
    model = onnx.load(str(full))
    feeds = (words.encode([text]) for text in spread)
    onnx.save(to_int8(model, largest_activations(model, feeds, path.with_suffix(".watched.onnx"))), str(path))


class Embedder:
    """A written graph, asked through ONNX Runtime as a bundle will ask it."""

    def __init__(self, path: Path, words: WordPieceEncoder, threads: int) -> None:
        self.session = session_of(path, 1)
        self.words, self.threads = words, threads

    def run(self, texts: Sequence[str]) -> Vectors:
        """(n, D) of texts in one run of the graph."""
        return cast(Vectors, self.session.run(["embedding"], self.words.encode(texts))[0])

    def embed(self, texts: Sequence[str], progress: Callable[[int, int], None] | None = None) -> Vectors:
        """(n, D), texts of one length together, on `threads` threads; `progress` (done, total) is called at times."""
        by_length: dict[int, list[str]] = {}
        for text in sorted(set(texts)):
            by_length.setdefault(self.words.shape(text), []).append(text)
        waiting = iter(
            alike[start : start + ROWS_AT_ONCE]
            for _, alike in sorted(by_length.items(), reverse=True)
            for start in range(0, len(alike), ROWS_AT_ONCE)
        )
        found: dict[str, Vectors] = {}
        total, lock = sum(map(len, by_length.values())), threading.Lock()

        def work() -> None:
            while True:
                with lock:
                    part = next(waiting, None)
                if part is None:
                    return
                before = len(found)
                found.update(zip(part, self.run(part), strict=True))
                if progress is not None and len(found) // 200 > before // 200:
                    progress(len(found), total)

        workers = [threading.Thread(target=work) for _ in range(self.threads)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        if len(found) < total:
            raise RuntimeError("some texts could not be embedded")
        return np.stack([found[text] for text in texts]) if texts else np.zeros((0, 0), dtype=np.float32)
