"""The retraining pipeline: the training's steps on base data, new data and corrections, ending in a canary.

Never straight to all traffic: what passes the gate becomes challenger, whatever the settings' rollout is. Only where
there is no champion yet there is nothing to compare with, and the version serves at once.
"""

from typing import Any

from kfp import dsl

from components.champion import champion
from components.corrections import corrections
from components.ingest import ingest
from components.step import IMAGE
from config.settings import Settings
from pipelines.resources import LARGE, SMALL, prepared
from pipelines.training import Outputs, trained

NAME = "hscode-retrain"


def build(settings: Settings, image: str = IMAGE) -> Any:
    """The pipeline for the kinds in `settings.models`. Its parameters: `serving.control.trigger.backend`."""
    plan = settings

    @dsl.pipeline(name=NAME, description="Train again on what has arrived since; the canary decides on the result.")
    def retrain(
        settings: str,
        data_version: str = "",
        run_key: str = "",
        triggered_by: str = "person",
        since: str = "",
        new_data: str = "",
        data_until: str = "",
    ) -> Outputs:
        task = corrections(settings=settings, since=since)
        said = prepared(task, "Corrections", SMALL, image, False, plan.kfp, ("database",)).output
        added = {"new_data": new_data, "data_until": data_until, "corrections": said}
        read = ingest(settings=settings, data_version=data_version, **added)
        rows = prepared(read, "Ingest", LARGE, image, False, plan.kfp, ("s3", "database")).output
        begun: dict[str, Any] = {}
        if plan.retrain.warm_start:
            found = champion(settings=settings)
            begun["champion"] = prepared(found, "Champion", SMALL, image, False, plan.kfp, ("s3",)).output
        given = {"settings": settings, "run_key": run_key, "triggered_by": triggered_by}
        return trained(plan, image, rows, rollout="canary", **begun, **given)

    return retrain
