"""From bundles on disk to figures, a choice, a gate and a report: what the steps evaluate, select and gate do.

The decisions themselves are pure (`models.selection`, `models.gate`); here is what they are fed with and where it goes.
"""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from config.settings import Settings
from models.progress import report as say

if TYPE_CHECKING:
    import polars as pl

    from models.bundle import Bundle


def train_counts(parts: Path) -> dict[str, int]:
    """Training rows by six-digit code, before any up-sampling; legal texts are no examples and do not count."""
    import polars as pl

    rows = pl.read_parquet(parts / "train.parquet", columns=["hs6", "label_kind"])
    rows = rows.filter(pl.col("hs6").is_not_null() & (pl.col("label_kind") != "nomenclature"))
    return {code: int(count) for code, count in rows.group_by("hs6").len().iter_rows()}


def figures(bundle: "Bundle", frame: "pl.DataFrame", counts: Mapping[str, int], settings: Settings) -> dict[str, Any]:
    """All figures of `models.evaluation` for a bundle on labelled rows."""
    from models.answer import Levels
    from models.evaluation import evaluate

    texts = frame["description"].to_list()
    probabilities = bundle.probabilities(texts)
    return evaluate(
        Levels(bundle.classes, bundle.vague),
        probabilities,
        frame,
        bundle.thresholds,
        counts,
        settings.evaluate.rare_rows,
        bundle.informative(texts),
    )
