"""The pipelines as files: KFP IR YAML, and Kubernetes-native Pipeline and PipelineVersion manifests."""

import hashlib
import os
import tempfile
from pathlib import Path
from typing import Any

import yaml

from components.step import IMAGE
from config.settings import Settings
from models.errors import UserError


def pipelines(settings: Settings, image: str) -> dict[str, Any]:
    """All pipelines of the product by name."""
    from pipelines import batch, retrain, training

    return {
        training.NAME: training.build(settings, image),
        retrain.NAME: retrain.build(settings, image),
        batch.NAME: batch.build(image=image),
    }


def compile_all(settings: Settings, out: Path, image: str | None = None) -> list[Path]:
    """Write ``NAME.yaml`` (IR) and ``NAME.kubernetes.yaml`` (manifests) for each pipeline; returns the paths.

    Deterministic: the same code, settings and image give the same bytes. The PipelineVersion's name carries a digest of
    the IR, since a version is immutable.
    """
    from kfp import compiler

    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot be written ({error.strerror})", str(out), "choose another --out") from None
    written = []
    for name, pipeline in pipelines(settings, image or IMAGE).items():
        with tempfile.TemporaryDirectory() as work:
            file = Path(work) / "ir.yaml"
            compiler.Compiler().compile(pipeline, str(file))
            text = file.read_text(encoding="utf-8")
        documents = [d for d in yaml.safe_load_all(text) if d]
        version = f"{name}-{hashlib.sha256(text.encode()).hexdigest()[:10]}"
        spec: dict[str, Any] = {"pipelineName": name, "pipelineSpec": documents[0]}
        if len(documents) > 1:
            spec["platformSpec"] = documents[1]
        objects = [
            {
                "apiVersion": "pipelines.kubeflow.org/v2beta1",
                "kind": "Pipeline",
                "metadata": {"name": name},
                "spec": {"displayName": name},
            },
            {
                "apiVersion": "pipelines.kubeflow.org/v2beta1",
                "kind": "PipelineVersion",
                "metadata": {"name": version},
                "spec": {"displayName": version, **spec},
            },
        ]
        for path, content in (
            (out / f"{name}.yaml", text),
            (out / f"{name}.kubernetes.yaml", yaml.safe_dump_all(objects, sort_keys=True)),
        ):
            draft = path.with_suffix(".new")
            draft.write_text(content, encoding="utf-8")
            os.replace(draft, path)
            written.append(path)
    return written
