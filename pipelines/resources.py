"""What steps ask for and may use at most, and how a task is dressed for a cluster."""

from typing import Literal, NamedTuple

from kfp import dsl, kubernetes

from config.settings import Kubeflow


class Resources(NamedTuple):
    """Kubernetes quantities."""

    cpu: str
    cpu_limit: str
    memory: str
    memory_limit: str


SMALL = Resources("100m", "1", "512Mi", "2Gi")
LARGE = Resources("1", "2", "2Gi", "8Gi")

RETRIES = 2
"""New pods for one that was lost with its node. A program that fails is not started again: KFP's own Argo settings
retry on errors of the platform only (retryPolicy OnError), so what is worth a second try is tried inside the step."""

Reach = Literal["s3", "database"]
"""What a step speaks to by itself; its artifacts are moved by KFP."""


def prepared(
    task: dsl.PipelineTask,
    name: str,
    resources: Resources,
    image: str,
    cached: bool = True,
    kfp: Kubeflow | None = None,
    reach: tuple[Reach, ...] = (),
) -> dsl.PipelineTask:
    """Give a task its display name, image, resources, cache rule, and what its pod needs and may."""
    task.set_display_name(name).set_container_image(image).set_caching_options(cached)
    task.set_cpu_request(resources.cpu).set_cpu_limit(resources.cpu_limit)
    task.set_memory_request(resources.memory).set_memory_limit(resources.memory_limit)
    task.set_retry(RETRIES, backoff_duration="30s")
    _as_pod(task, kfp or Kubeflow(), reach)
    return task


def _as_pod(task: dsl.PipelineTask, kfp: Kubeflow, reach: tuple[Reach, ...]) -> None:
    """What a namespace under Pod Security `restricted` and a read-only root file system want.

    Secrets are optional, so that a step says in one line what it lacks; a pod that waits for one says nothing.
    """
    kubernetes.set_security_context(task, run_as_user=kfp.user, run_as_group=kfp.user, run_as_non_root=True)
    kubernetes.empty_dir_mount(task, "tmp", "/tmp")  # noqa: S108 — a volume of the pod's own
    kubernetes.set_timeout(task, kfp.step_seconds)
    kubernetes.add_pod_label(task, "app.kubernetes.io/part-of", "hscode")
    kubernetes.add_pod_label(task, "app.kubernetes.io/component", "step")
    if "s3" in reach:
        addresses = {name: name for name in ("AWS_ENDPOINT_URL", "AWS_DEFAULT_REGION")}
        kubernetes.use_config_map_as_env(task, kfp.secrets.config_map, addresses, optional=True)
        keys = {name: name for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")}
        kubernetes.use_secret_as_env(task, kfp.secrets.s3, keys, optional=True)
    if "database" in reach:
        kubernetes.use_secret_as_env(task, kfp.secrets.database, {"url": "HSCODE__STATE__URL"}, optional=True)
