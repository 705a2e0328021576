"""The InferenceService manifest: the project's own template, and what the local host knows of it.

The template is ``manifests/base/serving/inferenceservice.yaml``; `template` reads it. A new model is a change of
``storageUri`` and of the version annotation, nothing else.
"""

import copy
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlparse

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from models.errors import UserError
from serving.deploy.base import VERSION_ANNOTATION

WINDOW_ANNOTATION = "autoscaling.knative.dev/window"
RETENTION_ANNOTATION = "autoscaling.knative.dev/scale-to-zero-pod-retention-period"
MODEL_FORMAT = "hscode-bundle"


def template() -> dict[str, Any]:
    """The project's InferenceService without model: what ``kubectl apply -k manifests/base`` applies."""
    text = (Path(__file__).parent / "inferenceservice.yaml").read_text(encoding="utf-8")
    loaded: dict[str, Any] = yaml.safe_load(text)
    return loaded


def inference_service(
    name: str,
    storage_uri: str,
    version: str,
    *,
    base: Mapping[str, Any] | None = None,
    namespace: str | None = None,
    logger_url: str | None = None,
    canary_percent: int | None = None,
) -> dict[str, Any]:
    """The template (or `base`) with a model filled in.

    `logger_url` replaces the logger's address; an empty string takes the address out (the backend's own default is
    then meant: on KServe that of its ConfigMap, on the local host none).
    """
    manifest = copy.deepcopy(dict(base)) if base is not None else template()
    manifest["metadata"]["name"] = name
    if namespace is not None:
        manifest["metadata"]["namespace"] = namespace
    manifest["metadata"].setdefault("annotations", {})[VERSION_ANNOTATION] = version
    predictor = manifest["spec"]["predictor"]
    predictor["model"]["storageUri"] = storage_uri
    predictor.pop("canaryTrafficPercent", None)
    if canary_percent is not None:
        predictor["canaryTrafficPercent"] = canary_percent
    if logger_url is not None and "logger" in predictor:
        predictor["logger"].pop("url", None)
        if logger_url:
            predictor["logger"]["url"] = logger_url
    return manifest


def storage_uri(source: str) -> str:
    """The address KServe and the local host can load for a registry version's `source`.

    Folders become ``file://``; ``s3://`` stays. Raises UserError for an address that only MLflow resolves.
    """
    parsed = urlparse(source)
    if parsed.scheme in ("", "file"):
        return Path(parsed.path).resolve().as_uri()
    if parsed.scheme == "s3":
        return source
    raise UserError(
        f"KServe cannot load a model from {parsed.scheme}:",
        source,
        "give MLflow an artifact root of s3:// (mlflow server --default-artifact-root s3://BUCKET/PATH)",
    )


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)


class EnvironmentVariable(_Part):
    """A plain variable of the container."""

    name: str
    value: str = ""


class ModelFormat(_Part):
    """Which runtime can load the model."""

    name: str
    version: str | None = None


class ModelSpec(_Part):
    """``spec.predictor.model``."""

    model_format: ModelFormat = Field(alias="modelFormat")
    storage_uri: str = Field(alias="storageUri")
    runtime: str | None = None
    protocol_version: str | None = Field(None, alias="protocolVersion")
    args: tuple[str, ...] = ()
    env: tuple[EnvironmentVariable, ...] = ()
    # Known, without effect on one machine:
    name: str | None = None
    resources: Mapping[str, Any] | None = None
    security_context: Mapping[str, Any] | None = Field(None, alias="securityContext")


class LoggerSpec(_Part):
    """``spec.predictor.logger``: copies of requests and answers as CloudEvents."""

    mode: Literal["all", "request", "response"] = "all"
    url: str | None = None
    metadata_annotations: tuple[str, ...] = Field((), alias="metadataAnnotations")


class Predictor(_Part):
    """``spec.predictor``."""

    model: ModelSpec
    min_replicas: int = Field(1, alias="minReplicas", ge=0)
    canary_percent: Annotated[int, Field(ge=0, le=100)] | None = Field(None, alias="canaryTrafficPercent")
    timeout_seconds: float = Field(60, alias="timeout", gt=0)
    """KServe's default is 60 s too."""
    container_concurrency: int = Field(0, alias="containerConcurrency", ge=0)
    """Requests in a revision's process at once; more wait. 0: no limit."""
    logger: LoggerSpec | None = None
    # Known, without effect on one machine, where a revision is one process:
    max_replicas: int | None = Field(None, alias="maxReplicas", ge=0)
    scale_target: int | None = Field(None, alias="scaleTarget", ge=1)
    scale_metric: Literal["concurrency", "rps"] | None = Field(None, alias="scaleMetric")
    service_account_name: str | None = Field(None, alias="serviceAccountName")
    automount_service_account_token: bool | None = Field(None, alias="automountServiceAccountToken")
    security_context: Mapping[str, Any] | None = Field(None, alias="securityContext")


class _Spec(_Part):
    predictor: Predictor


class Metadata(_Part):
    """Name, and annotations that revisions inherit."""

    name: Annotated[str, Field(pattern=r"^[a-z]([-a-z0-9]*[a-z0-9])?$", max_length=40)]
    namespace: str = "default"
    labels: Mapping[str, str] = {}
    annotations: Mapping[str, str] = {}


class Manifest(_Part):
    """An InferenceService as far as the local host knows it; anything else is refused by name."""

    api_version: Literal["serving.kserve.io/v1beta1"] = Field(alias="apiVersion")
    kind: Literal["InferenceService"]
    metadata: Metadata
    spec: _Spec

    @property
    def predictor(self) -> Predictor:
        """``spec.predictor``."""
        return self.spec.predictor

    @property
    def version(self) -> str:
        """Registry version of the model; empty where the manifest has none."""
        return self.metadata.annotations.get(VERSION_ANNOTATION, "")

    @property
    def idle_seconds(self) -> float | None:
        """Time without a request after which a revision is scaled to zero, where annotations set it."""
        found = [_seconds(self.metadata.annotations, key) for key in (WINDOW_ANNOTATION, RETENTION_ANNOTATION)]
        given = [seconds for seconds in found if seconds is not None]
        return sum(given) if given else None

    def template_digest(self) -> str:
        """Changes exactly where KServe would cut a new revision: with all but the share of traffic."""
        tree = self.model_dump(mode="json", by_alias=True)
        tree["spec"]["predictor"].pop("canaryTrafficPercent")
        tree["metadata"] = {"annotations": tree["metadata"]["annotations"], "labels": tree["metadata"]["labels"]}
        return hashlib.sha256(json.dumps(tree, sort_keys=True).encode()).hexdigest()[:16]


def read_manifest(manifest: Mapping[str, Any]) -> Manifest:
    """Check an InferenceService for the local host; raises UserError that names the field it does not know."""
    where = f"InferenceService {(manifest.get('metadata') or {}).get('name', '(no name)')}"
    try:
        read = Manifest.model_validate(manifest)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            raise UserError(f"the local host does not know {field}", where, "KServe on a cluster may") from None
        raise UserError(f"{field}: {first['msg']}", where) from None
    for key in read.metadata.annotations:
        if key.startswith("autoscaling.knative.dev/") and key not in (WINDOW_ANNOTATION, RETENTION_ANNOTATION):
            raise UserError(f"the local host does not know the annotation {key}", where, "KServe on a cluster may")
    mode = read.metadata.annotations.get("serving.kserve.io/deploymentMode", "Knative")
    if mode not in ("Knative", "Serverless"):
        raise UserError(f"the local host does not know the deployment mode {mode}", where, "it stands in for Knative")
    if read.predictor.model.model_format.name != MODEL_FORMAT:
        raise UserError(
            f"the local host does not know the model format {read.predictor.model.model_format.name}",
            where,
            f"it loads {MODEL_FORMAT}",
        )
    scheme = urlparse(read.predictor.model.storage_uri).scheme
    if scheme not in ("", "file", "s3"):
        raise UserError(
            f"the local host does not know storageUri {read.predictor.model.storage_uri}", where, "file:// and s3:// do"
        )
    _ = read.idle_seconds
    return read


def _seconds(annotations: Mapping[str, str], key: str) -> float | None:
    text = annotations.get(key)
    if text is None:
        return None
    units = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
    for unit in ("ms", "s", "m", "h"):
        number = text.removesuffix(unit)
        if number != text and number.replace(".", "", 1).isdigit():
            return float(number) * units[unit]
    raise UserError(f"{text!r} is not a duration such as 60s", f"annotation {key}")
