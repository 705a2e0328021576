"""An encoder's int8 graph: how close to fp32, how large, how fast, against ONNX Runtime's own `quantize_dynamic`.

    python benchmarks/int8.py --encoder FOLDER [--data hs-open-corpus.csv.gz] [--rows 200]

Texts that traders wrote (of the shipped synthetic sample without `--data`); other rows calibrate. Milliseconds are CPU
time of one text on one thread, one text at a time, and eight texts of one length at a time.
"""

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any


def main() -> None:
    """Print a line for each form of the graph."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoder", required=True, help="folder of a pre-trained encoder")
    parser.add_argument("--data", type=Path)
    parser.add_argument("--rows", type=int, default=200)
    arguments = parser.parse_args()
    os.environ.setdefault("HSCODE_PROGRESS", os.devnull)
    from config.settings import Settings
    from models.text.pretrained import Embedder, load_pretrained, write_graph, write_int8

    texts = traders_texts(arguments.data)
    asked, calibration = texts[: arguments.rows], texts[arguments.rows :]
    own = Settings().models.encoder
    pretrained = load_pretrained(arguments.encoder, own.max_tokens, own.mask_digits, own.layers)
    with tempfile.TemporaryDirectory() as folder:
        full = Path(folder) / "full.onnx"
        write_graph(pretrained, full)
        peer = quantised(full, Path(folder) / "peer.onnx")
        ours = Path(folder) / "ours.onnx"
        write_int8(full, pretrained.words, calibration, ours)
        expected = Embedder(full, pretrained.words, 1).embed(asked)
        print(f"{len(asked)} texts of {arguments.data or 'the synthetic sample'}, layers {own.layers}\n")
        titles = ("cosine", "least", "MB", "ms alone", "ms by eight")
        print(f"{'graph':30}" + "".join(f"{title:>13}" for title in titles))
        for name, path in (("fp32", full), ("int8, quantize_dynamic", peer), ("int8, hscode", ours)):
            embedder = Embedder(path, pretrained.words, 1)
            close = (embedder.embed(asked) * expected).sum(axis=1)
            alone = milliseconds(lambda e=embedder: [e.run([text]) for text in asked]) / len(asked)
            together = milliseconds(lambda e=embedder: e.embed(asked)) / len(asked)
            figures = (f"{close.mean():.4f}", f"{close.min():.4f}", f"{path.stat().st_size / 1e6:.1f}")
            print(f"{name:30}" + "".join(f"{each:>13}" for each in (*figures, f"{alone:.2f}", f"{together:.2f}")))


def traders_texts(data: Path | None) -> list[str]:
    """Descriptions as traders wrote them, shuffled."""
    import polars as pl

    from config.settings import load_settings
    from models.data.ingest import ingest

    sources = [] if data is None else [f"data.sources={json.dumps([{'path': str(data)}])}"]
    config = Path(__file__).parents[1] / "config" / "full.yaml"  # tells traders' rows from tariffs
    settings = load_settings(config, {}, [*sources, "data.sample_rows=20000"])
    with tempfile.TemporaryDirectory() as folder:
        ingest(settings, Path(folder) / "rows")
        rows = pl.read_parquet(Path(folder) / "rows" / "rows.parquet")
    traders = rows.filter(pl.col("label_kind") == "given")["description"].unique(maintain_order=True)
    return [str(text) for text in traders.sample(fraction=1, shuffle=True, seed=1)]


def quantised(full: Path, path: Path) -> Path:
    """ONNX Runtime's dynamic int8 by channel, weights of seven bits."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    only_weights = {"MatMulConstBOnly": True}
    quantize_dynamic(
        full, path, per_channel=True, reduce_range=True, weight_type=QuantType.QInt8, extra_options=only_weights
    )
    return path


def milliseconds(work: Callable[[], Any]) -> float:
    """CPU time."""
    began = time.process_time()
    work()
    return (time.process_time() - began) * 1000


if __name__ == "__main__":
    main()
