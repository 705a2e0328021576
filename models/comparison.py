"""From bundles on disk to figures, a choice, a gate and a report: what the steps evaluate, select and gate do.

The decisions themselves are pure (`models.selection`, `models.gate`); here is what they are fed with and where it goes.
"""

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
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
    from models.evaluation import evaluate

    texts = frame["description"].to_list()
    return evaluate(
        bundle.levels,
        bundle.probabilities(texts),
        frame,
        bundle.thresholds,
        counts,
        settings.evaluate.rare_rows,
        bundle.informative(texts),
    )


def evaluate_bundles(bundles: Mapping[str, Path], parts: Path, settings: Settings, out: Path) -> None:
    """Measure each bundle on the test part; writes ``KIND.json`` into the folder `out`."""
    import polars as pl

    from models.bundle import Bundle

    out.mkdir(parents=True, exist_ok=True)
    frame, counts = pl.read_parquet(parts / "test.parquet"), train_counts(parts)
    for done, (kind, folder) in enumerate(bundles.items()):
        say("evaluate", done, len(bundles), kind)
        measured = figures(Bundle.load(folder, settings.train.threads), frame, counts, settings)
        (out / f"{kind}.json").write_text(json.dumps(measured), encoding="utf-8")


def read_evaluation(folder: Path) -> dict[str, dict[str, Any]]:
    """Figures by kind, as `evaluate_bundles` wrote them."""
    return {file.stem: json.loads(file.read_text(encoding="utf-8")) for file in sorted(folder.glob("*.json"))}


@dataclass(frozen=True)
class Selection:
    kind: str
    reason: str


def select_bundle(bundles: Mapping[str, Path], evaluation: Path, settings: Settings, out: Path) -> Selection:
    """Choose one bundle, copy it to `out`, and put its figures and the reason into its card."""
    measured = read_evaluation(evaluation)
    group = {kind: m["groups"].get("trader") or m["groups"]["all"] for kind, m in measured.items()}
    best = max(sorted(bundles), key=lambda kind: group[kind]["levels"]["6"]["top1"]["value"])
    selection = Selection(best, f"{best} has the best HS6 top-1")
    shutil.copytree(bundles[selection.kind], out, dirs_exist_ok=True)
    card_file = out / "card.json"
    card = json.loads(card_file.read_text(encoding="utf-8"))
    card["metrics"] = measured[selection.kind]
    card["selection"] = {"kind": selection.kind, "reason": selection.reason}
    card_file.write_text(json.dumps(card, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    return selection


@dataclass(frozen=True)
class GateResult:
    passed: bool
    reason: str


def gate_candidate(candidate: Path, champion: Path | None, parts: Path, settings: Settings, out: Path) -> GateResult:
    out.mkdir(parents=True, exist_ok=True)
    result = GateResult(True, "no gate yet")
    (out / "gate.json").write_text(json.dumps({"passed": True, "reason": result.reason}), encoding="utf-8")
    return result


def write_report(
    rows: Path, parts: Path, evaluation: Path, chosen: Path, verdict: Path, settings: Settings, out: Path
) -> None:
    out.write_text("<p>report</p>", encoding="utf-8")
