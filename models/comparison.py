"""From bundles on disk to figures, a choice, a gate and a report: what the steps evaluate, select and gate do.

The decisions themselves are pure (`models.selection`, `models.gate`); here is what they are fed with and where it goes.
"""

import json
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from config.settings import Settings
from models.bundle import Bundle
from models.cost import Usage, price
from models.evaluation import TRADER_KINDS, Bools, Outcomes, evaluate, outcomes, true_codes
from models.gate import Evidence, Side, Verdict, gate
from models.progress import report as say
from models.selection import Selection, row_scores, select

if TYPE_CHECKING:
    import polars as pl


@dataclass(frozen=True)
class Judged:
    """A bundle's answers to labelled rows; probabilities are computed once."""

    bundle: Bundle
    frame: "pl.DataFrame"

    @cached_property
    def texts(self) -> list[str]:
        """The descriptions asked."""
        return list(self.frame["description"].to_list())

    @cached_property
    def probabilities(self) -> npt.NDArray[np.float32]:
        """(rows, classes), calibrated."""
        return self.bundle.probabilities(self.texts)

    @cached_property
    def outcomes(self) -> Outcomes:
        """What is right at which level."""
        return outcomes(self.bundle.levels, self.probabilities, true_codes(self.frame))

    def figures(self, counts: Mapping[str, int], settings: Settings) -> dict[str, Any]:
        """All figures of `models.evaluation`."""
        return evaluate(
            self.bundle.levels,
            self.probabilities,
            self.frame,
            self.bundle.thresholds,
            counts,
            settings.evaluate.rare_rows,
            self.bundle.informative(self.texts),
        )

    @property
    def side(self) -> Side:
        """As the gate sees it."""
        return Side(self.bundle.levels, self.outcomes)


def train_counts(parts: Path) -> dict[str, int]:
    """Training rows by six-digit code, before any up-sampling; legal texts are no examples and do not count."""
    import polars as pl

    rows = pl.read_parquet(parts / "train.parquet", columns=["hs6", "label_kind"])
    rows = rows.filter(pl.col("hs6").is_not_null() & (pl.col("label_kind") != "nomenclature"))
    return {code: int(count) for code, count in rows.group_by("hs6").len().iter_rows()}


def class_sizes(parts: Path, classes: int) -> list[int]:
    """Training rows of each of `classes` classes, most first; those without an example are zeros."""
    counts = sorted(train_counts(parts).values(), reverse=True)
    return counts + [0] * (classes - len(counts))


def judged_rows(frame: "pl.DataFrame") -> Bools:
    """(rows,): those that decide: trader-style rows with a code, or all with a code where there are none such."""
    coded = np.array([code is not None for code in true_codes(frame)], dtype=bool)
    trader = coded & np.isin(np.array(frame["label_kind"].to_list()), TRADER_KINDS)
    return trader if trader.any() else coded


def evaluate_bundles(
    bundles: Mapping[str, Path], parts: Path, settings: Settings, out: Path, plain: Path | None = None
) -> None:
    """Measure each bundle on the test part and by the behaviour suite; writes into `out` ``KIND.json`` (figures) and
    ``scores.npz``: one score a near-duplicate group of the valid part and kind, the groups in the same order for all.
    The choice is made on these, so that the test part's figures of the chosen model stay unbiased.

    For the report alone: ``tuning/KIND`` is what a search left in a bundle, ``plain/KIND.json`` has the figures of
    `plain`, a bundle trained without up-sampling."""
    import polars as pl

    from models.behaviour import examine

    out.mkdir(parents=True, exist_ok=True)
    test, valid = (pl.read_parquet(parts / f"{part}.parquet") for part in ("test", "valid"))
    counts = train_counts(parts)
    scores: dict[str, Any] = {}
    rows, groups = judged_rows(valid), valid["group"].to_list()
    for done, (kind, folder) in enumerate(bundles.items()):
        say("evaluate", done, len(bundles), kind)
        bundle = Bundle.load(folder, settings.train.threads)
        figures = Judged(bundle, test).figures(counts, settings)
        figures["serving_memory_mb"] = serving_memory_mb(folder)
        figures["behaviour"] = examine(bundle)
        (out / f"{kind}.json").write_text(json.dumps(figures), encoding="utf-8")
        if (folder / "tuning").exists():
            shutil.copytree(folder / "tuning", out / "tuning" / kind)
        scores[kind] = row_scores(Judged(bundle, valid).outcomes, rows, settings.select.level_weights, groups)
    np.savez(out / "scores.npz", **scores)
    if plain is not None:
        bundle = Bundle.load(plain, settings.train.threads)
        (out / "plain").mkdir()
        _write(out / "plain" / f"{bundle.kind}.json", Judged(bundle, test).figures(counts, settings))


def read_evaluation(folder: Path) -> dict[str, dict[str, Any]]:
    """Figures by kind, as `evaluate_bundles` wrote them."""
    return {file.stem: json.loads(file.read_text(encoding="utf-8")) for file in sorted(folder.glob("*.json"))}


def serving_memory_mb(folder: Path) -> float:
    """Peak resident memory (MB) of a fresh process that loads the bundle and answers once."""
    code = (
        "import resource, sys\nfrom models.bundle import Bundle\nBundle.load(sys.argv[1]).answer(['cotton shirt'])\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(folder)], capture_output=True, text=True, check=True)
    return int(done.stdout) / (2**20 if sys.platform == "darwin" else 1024)


def usage_of(card: Mapping[str, Any], memory_mb: float) -> Usage:
    """What a bundle's card and `serving_memory_mb` measured, as the price list reads it."""
    training = card["training"]
    return Usage(
        train_seconds=training["seconds"],
        train_cpus=training["threads"],
        train_gb=training["peak_memory_mb"] / 1e3,
        predict_seconds=card["latency_ms"]["p50"] / 1e3,
        serve_gb=memory_mb / 1e3,
        bundle_bytes=card["size_bytes"],
    )


def select_bundle(
    bundles: Mapping[str, Path], evaluation: Path, settings: Settings, out: Path, simulation: Path | None = None
) -> Selection:
    """Choose one bundle and copy it to `out`, with its figures, its price and the reason in its card.

    The evidence is the runs of a `simulation` (folder of `models.simulation.simulate`), else the groups of the valid
    part. ``selection.json`` beside the card has the whole comparison, ``simulation.json`` the runs.
    """
    measured = read_evaluation(evaluation)
    simulated = None if simulation is None else _read(simulation / "simulation.json")
    if simulated is not None:
        scores = {m["model"]: np.array(m["scores"]) for m in simulated["models"] if m["model"] in bundles}
    else:
        with np.load(evaluation / "scores.npz", allow_pickle=False) as stored:
            scores = {kind: stored[kind] for kind in bundles}
    cards = {kind: _read(folder / "card.json") for kind, folder in bundles.items()}
    usages = {kind: usage_of(card, measured[kind]["serving_memory_mb"]) for kind, card in cards.items()}
    costs = {kind: price(usage, settings.cost) for kind, usage in usages.items()}
    chosen = select(
        scores,
        {kind: cost.month for kind, cost in costs.items()},
        settings.select.margin,
        settings.select.confidence,
        simulated["overlap"] if simulated else 0.0,
    )
    shutil.copytree(bundles[chosen.kind], out, dirs_exist_ok=True)
    card = cards[chosen.kind] | {
        "metrics": measured[chosen.kind],
        "selection": {"kind": chosen.kind, "reason": chosen.reason},
        "cost": costs[chosen.kind].as_dict(),
    }
    _write(out / "card.json", card)
    priced = {kind: {**cost.as_dict(), "usage": vars(usages[kind])} for kind, cost in costs.items()}
    evidence = "runs of the simulation" if simulated else "near-duplicate groups of the valid part"
    _write(out / "selection.json", {**chosen.as_dict(), "evidence": evidence, "costs": priced})
    if simulated is not None:
        _write(out / "simulation.json", simulated)
    return chosen


def gate_candidate(candidate: Path, champion: Path | None, parts: Path, settings: Settings, out: Path) -> Verdict:
    """Judge the candidate against the champion on the test part and on every reference set; writes gate.json."""
    import polars as pl

    new = Bundle.load(candidate, settings.train.threads)
    evidence = []
    if champion is not None:
        old = Bundle.load(champion, settings.train.threads)
        frame = pl.read_parquet(parts / "test.parquet")
        test = frame.filter(pl.Series(judged_rows(frame)))
        evidence.append(_evidence("test", new, old, test, test["group"].to_list(), True))
        for name, path in sorted(settings.evaluate.reference_sets.items()):
            evidence.append(_evidence(name, new, old, reference(path, new, settings), None, False))
    verdict = gate(evidence, new.card["latency_ms"]["p95"], settings.gate)
    out.mkdir(parents=True, exist_ok=True)
    _write(out / "gate.json", verdict.as_dict())
    return verdict


def compare(new: Bundle, old: Bundle, path: str, settings: Settings) -> Verdict:
    """The gate's judgement of `new` against `old` on a labelled file alone."""
    import polars as pl

    frame = reference(path, new, settings)
    rows = frame.filter(pl.Series(judged_rows(frame)))
    evidence = _evidence(Path(path).name, new, old, rows, None, True)
    return gate([evidence], new.card.get("latency_ms", {}).get("p95"), settings.gate)


def write_report(
    rows: Path, parts: Path, evaluation: Path, chosen: Path, verdict: Path, settings: Settings, out: Path
) -> None:
    """The run's page (`models.report`) from what its steps left."""
    from models.report import Content, render

    selection, card, ingest = (
        _read(file) for file in (chosen / "selection.json", chosen / "card.json", rows / "ingest.json")
    )
    names = ("pipeline_run", "data_hash", "settings_hash", "git_commit")
    measured, simulation = read_evaluation(evaluation), chosen / "simulation.json"
    content = Content(
        models=measured,
        chosen=selection["kind"],
        synthetic=any(name.startswith("synthetic") for name in ingest["sources"]),
        split=_read(parts / "split.json"),
        ingest=ingest,
        class_sizes=class_sizes(parts, max((m["classes"] for m in measured.values()), default=0)),
        selection=selection,
        gate=_read(verdict / "gate.json"),
        costs=selection["costs"],
        currency=settings.cost.currency,
        simulation=_read(simulation) if simulation.exists() else None,
        upsampling=read_evaluation(evaluation / "plain"),
        tuning=_pictures_of(evaluation / "tuning"),
        behaviour={kind: figures["behaviour"] for kind, figures in measured.items()},
        facts={name.replace("_", " "): str(card.get(name, "")) for name in names},
    )
    render(content, out)


def _pictures_of(tuning: Path) -> list[tuple[str, str]]:
    """(caption, SVG) of each search: its trials in order, and the score by the value of each setting."""
    shown = []
    for folder in sorted(tuning.glob("*")):
        result = _read(folder / "tuning.json")
        found = ", ".join(
            f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}"
            for key, value in sorted(result["best"]["values"].items())
        )
        said = f"{folder.name}: {len(result['trials'])} trials, best {result['best']['score']:.4f} on valid ({found})"
        for name, caption in (("history.svg", said), ("slices.svg", f"{folder.name}: score by each setting")):
            svg = (folder / name).read_text(encoding="utf-8")
            shown.append((caption, svg[svg.index("<svg") :]))
    return shown


def reference(path: str, bundle: Bundle, settings: Settings) -> "pl.DataFrame":
    """A labelled file outside the training sources, every row of it, its codes read against the bundle's edition."""
    from models.data.labelled import edition_of, read_labelled

    return read_labelled(path, settings, edition_of(bundle.edition, bundle.texts)).frame


def _evidence(
    name: str, new: Bundle, old: Bundle, frame: "pl.DataFrame", groups: list[int] | None, calibrated: bool
) -> Evidence:
    candidate, champion = Judged(new, frame), Judged(old, frame)
    return Evidence(name, candidate.texts, true_codes(frame), candidate.side, champion.side, groups, calibrated)


def _read(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content


def _write(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=1, sort_keys=True) + "\n", encoding="utf-8")
