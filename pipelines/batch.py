"""The batch pipeline: a file is cut, its parts are answered in parallel, and one file with the same rows comes out.

The parts are explicit tasks, since KFP ignores retries inside ParallelFor.
"""

from typing import Any

from kfp import dsl

from components.merge import merge
from components.predict import predict
from components.shard import shard
from components.step import IMAGE
from config.settings import Kubeflow
from models.errors import UserError
from pipelines.resources import LARGE, SMALL, prepared

NAME = "hscode-batch"
MOST_PARTS = 8


def build(parts: int = 4, image: str = IMAGE, kfp: Kubeflow | None = None, reread: bool = False) -> Any:
    """The pipeline for a number of parallel parts (1 to 8). `reread`: the file is read whatever the cache holds."""
    if not 1 <= parts <= MOST_PARTS:
        raise UserError(f"{parts} parts", todo=f"choose 1 to {MOST_PARTS}")

    @dsl.pipeline(name=NAME, description="Answer every row of a file, in parallel parts, in the order of the file.")
    def batch(settings: str, source: str, to: str = "", model: str = "champion", data_version: str = "") -> dsl.Dataset:
        cut = shard(settings=settings, source=source, model=model, count=parts, data_version=data_version)
        prepared(cut, "Shard", SMALL, image, not reread, kfp, ("s3",))
        answered = {}
        for index in range(parts):
            task = predict(settings=settings, version=cut.outputs["Output"], index=index, shards=cut.outputs["shards"])
            prepared(task, f"Predict part {index}", LARGE, image, True, kfp, ("s3",))
            answered[f"part_{index}"] = task.output
        return prepared(merge(to=to, **answered), "Merge", SMALL, image, False, kfp, ("s3",)).output

    return batch
