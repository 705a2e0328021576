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
from pipelines.resources import LARGE, SMALL, Reach, Resources, prepared

NAME = "hscode-training"


class Outputs(NamedTuple):
    """What a run returns."""

    report: dsl.HTML
    gate: str


def build(settings: Settings, image: str = IMAGE, reread: bool = False) -> Any:
    """The pipeline for the kinds in `settings.models`, its steps running `image`.

    `reread`: the sources are read in every run, whatever the cache holds.
    """
    plan = settings

    @dsl.pipeline(name=NAME, description="Ingest, embed, train, compare, gate, register and deploy an HS code model.")
    def training(
        settings: str,
        data_version: str = "",
        run_key: str = "",
        triggered_by: str = "person",
    ) -> Outputs:
        read = ingest(settings=settings, data_version=data_version)
        rows = prepared(read, "Ingest", LARGE, image, not reread, plan.kfp, ("s3",)).output
        return trained(plan, image, rows, settings=settings, run_key=run_key, triggered_by=triggered_by)

    return training


def trained(plan: Settings, image: str, rows: Any, rollout: str = "", champion: Any = None, **given: Any) -> Outputs:
    """All steps after ingest, inside a pipeline's function: this and the retraining share them.

    `plan` decides which steps there are; `rows` is the ingest step's output; `given` holds the pipeline's parameters
    settings, run_key and triggered_by. `rollout` overrides that of the settings. `champion` is the output of the step
    of that name, where training begins at the champion's weights.
    """
    kinds, searched, simulated = plan.models.trained, plan.tune.kinds, plan.simulate.seeds > 0
    without = plan.evaluate.without_upsampling
    settings = given["settings"]

    def dressed(
        task: dsl.PipelineTask, name: str, resources: Resources, cached: bool = True, reach: tuple[Reach, ...] = ()
    ) -> dsl.PipelineTask:
        return prepared(task, name, resources, image, cached, plan.kfp, reach)

    parts = dressed(split(settings=settings, rows=rows), "Split", SMALL).output
    embedding = dressed(embed(settings=settings, parts=parts), "Embed", LARGE).output
    bundles: dict[str, Any] = {}
    inputs = {"settings": settings, "parts": parts, "embedding": embedding}
    for kind in kinds:
        if kind == "pool":
            continue
        found = {} if champion is None else {"champion": champion}
        if kind in searched:
            found["search"] = dressed(tune(kind=kind, **inputs), f"Tune {kind}", LARGE).output
        bundles[kind] = dressed(train(kind=kind, **inputs, **found), f"Train {kind}", LARGE).output
    plain = {}
    if without in bundles:
        task = train(kind=without, upsampled=False, **inputs)
        plain["plain"] = dressed(task, f"Train {without} without up-sampling", LARGE).output
    if "pool" in kinds:
        bundles["pool"] = dressed(pool(**inputs, **bundles), "Train pool", LARGE).outputs["bundle"]
    runs = {"simulation": dressed(simulate(**inputs), "Simulate", LARGE).output} if simulated else {}
    judged = dressed(evaluate(settings=settings, parts=parts, **bundles, **plain), "Evaluate", LARGE).output
    chosen = dressed(select(settings=settings, evaluation=judged, **bundles, **runs), "Select", SMALL).output
    gated = dressed(
        gate(settings=settings, rows=rows, parts=parts, evaluation=judged, chosen=chosen),
        "Gate",
        LARGE,
        cached=False,
        reach=("s3",),
    )
    report = gated.outputs["report"]
    with dsl.If(gated.outputs["Output"] == "pass", "gate passed"):
        registered = dressed(
            register(run=dsl.PIPELINE_JOB_ID_PLACEHOLDER, rows=rows, chosen=chosen, report=report, **given),
            "Register",
            SMALL,
            cached=False,
            reach=("s3",),
        )
        dressed(deploy(settings=settings, version=registered.output, rollout=rollout), "Deploy", SMALL, False)
    return Outputs(report, gated.outputs["Output"])
