"""A whole report's content from simulated models: for tests of the page and of what stands in it."""

from typing import Any

import numpy as np
import polars as pl

from config.settings import Cost, Gate
from models.answer import Levels
from models.cost import Usage, price
from models.evaluation import evaluate, outcomes
from models.gate import Evidence, Side, gate
from models.report import Content
from models.selection import row_scores, select

LEVELS = Levels([*[f"{c:02d}{h:02d}{s:02d}" for c in (1, 2, 3) for h in (1, 2) for s in (10, 20, 30)], ""], vague=18)
THRESHOLDS = {"2": 0.6, "4": 0.6, "6": 2.0, "vague": 0.5}


def content() -> Content:
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 19, 200)
    codes = [LEVELS.classes[i] or None for i in truth]
    frame = pl.DataFrame(
        {
            "description": [f"<i>goods & {i}</i>" for i in range(200)],
            "hs6": codes,
            "source": ["shop", "parcel"] * 100,
            "label_kind": ["given" if c else "vague" for c in codes],
        },
        schema_overrides={"hs6": pl.String},
    )
    models, sides, scores, costs = {}, {}, {}, {}
    coded = truth < 18
    for kind, skill in (("svc", 0.45), ("textcnn", 0.3)):
        p = rng.dirichlet(np.full(19, 0.2), 200) * (1 - skill) + skill * np.eye(19)[truth]
        models[kind] = evaluate(LEVELS, p, frame, THRESHOLDS, {"010110": 9})
        seen = outcomes(LEVELS, p[coded], [c for c in codes if c])
        sides[kind] = Side(LEVELS, seen)
        scores[kind] = row_scores(seen, np.ones(int(coded.sum()), dtype=bool), (0.2, 0.3, 0.5))
        usage = Usage(60, 2, 3, 0.002, 0.5, 10**7)
        costs[kind] = {**price(usage, Cost()).as_dict(), "usage": vars(usage)}
    selection = select(scores, {kind: cost["month"] for kind, cost in costs.items()})
    texts = [t for t, c in zip(frame["description"], codes, strict=True) if c]
    verdict = gate(
        [Evidence("test", texts, [c for c in codes if c], sides["textcnn"], sides["svc"])], 3.0, Gate(resamples=100)
    )
    return Content(
        models,
        chosen=selection.kind,
        synthetic=True,
        split={"rows": {"train": 1, "valid": 2, "test": 200}, "seed": 17, "test_share": 0.1, "valid_share": 0.1},
        class_sizes=[0, 1, 3, 200],
        selection=selection.as_dict(),
        gate=verdict.as_dict(),
        costs=costs,
        currency="EUR",
        simulation=SIMULATION,
        behaviour={"svc": {"suites": {"case": {"passed": 3, "cases": 4, "failures": [FAILURE]}}}},
        facts={"data hash": "abc"},
    )


SIMULATION: dict[str, Any] = {
    "summary": "They differ.",
    "models": [
        {"model": "svc", "scores": [0.5, 0.6], "mean": 0.55, "low": 0.5, "high": 0.6},
        {"model": "textcnn", "scores": [0.4, 0.5], "mean": 0.45, "low": 0.4, "high": 0.5},
    ],
    "tests": [{"name": "Welch ANOVA", "statistic": 4.2, "df": "1, 2", "p": 0.01, "effect": "large"}],
    "pairs": [
        {"one": "svc", "other": "textcnn", "difference": 0.1, "low": 0.02, "high": 0.18, "differ": True,
         "tukey_p": 0.01, "games_howell_p": 0.02, "corrected_p": 0.03, "hedges_g": 1.2}
    ],
    "best_two": {
        "one": "svc", "other": "textcnn", "difference": 0.1, "low": 0.02, "high": 0.18, "share_reversed": 0.004
    },
    "assumptions": ["equal spread: not refuted"],
}  # fmt: skip
FAILURE = {"suite": "case", "text": "SHIRT", "why": "610910 became 610990"}
