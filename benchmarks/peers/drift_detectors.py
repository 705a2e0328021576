"""evidently's and alibi-detect's drift detectors with their defaults on windows of texts; a process of its own.

    VENV/bin/python benchmarks/peers/drift_detectors.py < windows.jsonl

Both need other versions of numpy and scipy than the project, so they live in an environment of their own (Python 3.11;
alibi-detect 0.11.4 is the last one under the Apache licence, later ones are not free software):

    pip install evidently alibi-detect==0.11.4 numba==0.57.1 'numpy<1.25' 'scipy<1.12'

The first line of the input is the reference, each other one a window: {"texts": [...], "chapters": [...]}. One JSON
line a window: which detectors see drift.

- evidently: `DataDriftPreset` with its own choice of test by column and size, on number of words and chapter; `any`: a
  column drifts; `dataset`: half of the columns do, its default. Text columns (a classifier, bootstrapped below 1,000
  rows) and a column for each word bucket take seconds of CPU a window and are left out.
- alibi-detect: `KSDrift` at p = 0.05 with Bonferroni's correction, on number of words and counts of 32 word buckets.
"""

import json
import sys
import time
import warnings
import zlib
from typing import Any

import numpy as np
import pandas as pd
from alibi_detect.cd import KSDrift
from evidently import DataDefinition, Dataset, Report
from evidently.presets import DataDriftPreset

BUCKETS = 32


def features(texts: list[str]) -> Any:
    """(n, 1 + BUCKETS): words, and words by bucket."""
    rows = np.zeros((len(texts), 1 + BUCKETS), dtype=np.float32)
    for row, text in zip(rows, texts, strict=True):
        for word in text.lower().split():
            row[0] += 1
            row[1 + zlib.crc32(word.encode()) % BUCKETS] += 1
    return rows


def table(window: dict[str, Any]) -> Dataset:
    """A window as evidently takes it."""
    frame = pd.DataFrame({"words": [len(text.split()) for text in window["texts"]], "chapter": window["chapters"]})
    definition = DataDefinition(numerical_columns=["words"], categorical_columns=["chapter"])
    return Dataset.from_pandas(frame, data_definition=definition)


def main() -> None:
    """Judge each window."""
    warnings.filterwarnings("ignore")
    reference = json.loads(sys.stdin.readline())
    whole, ks = table(reference), KSDrift(features(reference["texts"]), p_val=0.05)
    for line in sys.stdin:
        window = json.loads(line)
        began = time.perf_counter()
        snapshot = Report([DataDriftPreset()]).run(current_data=table(window), reference_data=whole)
        metrics = snapshot.dict()["metrics"]
        share = next(
            m["value"] for m in metrics if "DriftedColumnsCount" in str(m.get("metric_name", m.get("metric_id")))
        )
        middle = time.perf_counter()
        found = {
            "evidently any": bool(share["count"] > 0),
            "evidently dataset": bool(share["share"] >= 0.5),
            "alibi-detect": bool(ks.predict(features(window["texts"]))["data"]["is_drift"]),
        }
        seconds = {"evidently": middle - began, "alibi-detect": time.perf_counter() - middle}
        sys.stdout.write(json.dumps({"found": found, "seconds": seconds}) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
