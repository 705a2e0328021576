"""The training pipeline: rows in, a registered and deployed model out. Reads top to bottom.

What is trained, searched and simulated is fixed when the pipeline is built, so that each is a task of its own with its
own resources.
"""

from typing import Any, NamedTuple

from kfp import dsl

from components.deploy import deploy
from components.embed import embed
from components.evaluate import evaluate
from components.gate import gate
from components.ingest import ingest
from components.pool import pool
from components.register import register
from components.select import select
from components.simulate import simulate
from components.split import split
from components.step import IMAGE
from components.train import train
from components.tune import tune
from config.settings import Settings
from pipelines.resources import LARGE, SMALL, Resources, prepared

NAME = "hscode-training"


class Outputs(NamedTuple):
    """What a run returns."""

    report: dsl.HTML
    gate: str


def build(settings: Settings, image: str = IMAGE) -> Any:
    """The pipeline for the kinds in `settings.models`, its steps running `image`."""
    kinds, searched, simulated = settings.models.trained, settings.tune.kinds, settings.simulate.seeds > 0
    without = settings.evaluate.without_upsampling

    def dressed(task: dsl.PipelineTask, name: str, resources: Resources, cached: bool = True) -> dsl.PipelineTask:
        return prepared(task, name, resources, image, cached)

    @dsl.pipeline(name=NAME, description="Ingest, embed, train, compare, gate, register and deploy an HS code model.")
    def training(
        settings: str,
        data_version: str = "",
        run_key: str = "",
        triggered_by: str = "person",
    ) -> Outputs:
        rows = dressed(ingest(settings=settings, data_version=data_version), "Ingest", LARGE).output
        parts = dressed(split(settings=settings, rows=rows), "Split", SMALL).output
        embedding = dressed(embed(settings=settings, parts=parts), "Embed", LARGE).output
        bundles: dict[str, Any] = {}
        given = {"settings": settings, "parts": parts, "embedding": embedding}
        for kind in kinds:
            if kind == "pool":
                continue
            found = {}
            if kind in searched:
                found["search"] = dressed(tune(kind=kind, **given), f"Tune {kind}", LARGE).output
            bundles[kind] = dressed(train(kind=kind, **given, **found), f"Train {kind}", LARGE).output
        plain = {}
        if without in bundles:
            task = train(kind=without, upsampled=False, **given)
            plain["plain"] = dressed(task, f"Train {without} without up-sampling", LARGE).output
        if "pool" in kinds:
            bundles["pool"] = dressed(pool(**given, **bundles), "Train pool", LARGE).outputs["bundle"]
        runs = {"simulation": dressed(simulate(**given), "Simulate", LARGE).output} if simulated else {}
        judged = dressed(evaluate(settings=settings, parts=parts, **bundles, **plain), "Evaluate", LARGE).output
        chosen = dressed(select(settings=settings, evaluation=judged, **bundles, **runs), "Select", SMALL).output
        gated = dressed(
            gate(settings=settings, rows=rows, parts=parts, evaluation=judged, chosen=chosen), "Gate", LARGE, False
        )
        report = gated.outputs["report"]
        with dsl.If(gated.outputs["Output"] == "pass", "gate passed"):
            registered = dressed(
                register(
                    settings=settings,
                    run=dsl.PIPELINE_JOB_ID_PLACEHOLDER,
                    run_key=run_key,
                    triggered_by=triggered_by,
                    rows=rows,
                    chosen=chosen,
                    report=report,
                ),
                "Register",
                SMALL,
                False,
            )
            dressed(deploy(settings=settings, version=registered.output), "Deploy", SMALL, False)
        return Outputs(report, gated.outputs["Output"])

    return training
