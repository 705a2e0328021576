"""What steps ask for and may use at most, and how a task is dressed for a cluster."""

from typing import NamedTuple

from kfp import dsl


class Resources(NamedTuple):
    """Kubernetes quantities."""

    cpu: str
    cpu_limit: str
    memory: str
    memory_limit: str


SMALL = Resources("100m", "1", "512Mi", "2Gi")
LARGE = Resources("1", "2", "2Gi", "8Gi")


def prepared(
    task: dsl.PipelineTask, name: str, resources: Resources, image: str, cached: bool = True
) -> dsl.PipelineTask:
    """Give a task its display name, image, resources and cache rule."""
    task.set_display_name(name).set_container_image(image).set_caching_options(cached)
    task.set_cpu_request(resources.cpu).set_cpu_limit(resources.cpu_limit)
    task.set_memory_request(resources.memory).set_memory_limit(resources.memory_limit)
    return task
