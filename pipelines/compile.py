"""The pipelines as files: KFP IR YAML, and Kubernetes-native Pipeline and PipelineVersion manifests."""

import hashlib
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from components.step import IMAGE
from config.settings import Settings
from models.errors import UserError


@dataclass(frozen=True)
class Compiled:
    """A pipeline as KFP takes it."""

    name: str
    version: str
    """Name and a digest of `text`: a version is immutable, so the same content is the same version."""
    text: str
    """IR YAML: the pipeline's specification, then what Kubernetes adds to it."""


def pipelines(settings: Settings, image: str | None = None) -> dict[str, Any]:
    """All pipelines of the product, as a cluster runs them, by name. `image`: of the steps, else what settings say."""
    from pipelines import batch, retrain, training

    image = image or settings.kfp.image or IMAGE
    return {
        training.NAME: training.build(settings, image, reread=True),
        retrain.NAME: retrain.build(settings, image),
        batch.NAME: batch.build(image=image, kfp=settings.kfp, reread=True),
    }


def compiled(settings: Settings, name: str, image: str | None = None) -> Compiled:
    """One of `pipelines`. Deterministic: the same code, settings and image give the same bytes."""
    from kfp import compiler

    with tempfile.TemporaryDirectory() as work:
        file = Path(work) / "ir.yaml"
        compiler.Compiler().compile(pipelines(settings, image)[name], str(file))
        text = file.read_text(encoding="utf-8")
    return Compiled(name, f"{name}-{hashlib.sha256(text.encode()).hexdigest()[:10]}", text)


def manifests(pipeline: Compiled) -> list[dict[str, Any]]:
    """The Kubernetes-native objects: Pipeline and PipelineVersion."""
    documents = [document for document in yaml.safe_load_all(pipeline.text) if document]
    spec: dict[str, Any] = {"pipelineName": pipeline.name, "pipelineSpec": documents[0]}
    if len(documents) > 1:
        spec["platformSpec"] = documents[1]
    api = "pipelines.kubeflow.org/v2beta1"
    return [
        {
            "apiVersion": api,
            "kind": "Pipeline",
            "metadata": {"name": pipeline.name},
            "spec": {"displayName": pipeline.name},
        },
        {
            "apiVersion": api,
            "kind": "PipelineVersion",
            "metadata": {"name": pipeline.version},
            "spec": {"displayName": pipeline.version, **spec},
        },
    ]


def compile_all(settings: Settings, out: Path, image: str | None = None) -> list[Path]:
    """Write ``NAME.yaml`` (IR) and ``NAME.kubernetes.yaml`` (manifests) for each pipeline; returns the paths."""
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot be written ({error.strerror})", str(out), "choose another --out") from None
    written = []
    for name in pipelines(settings, image):
        pipeline = compiled(settings, name, image)
        for path, content in (
            (out / f"{name}.yaml", pipeline.text),
            (out / f"{name}.kubernetes.yaml", yaml.safe_dump_all(manifests(pipeline), sort_keys=True)),
        ):
            draft = path.with_suffix(".new")
            draft.write_text(content, encoding="utf-8")
            os.replace(draft, path)
            written.append(path)
    return written
