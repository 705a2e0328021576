"""Deploying: one interface, two backends (KServe, the local host)."""

from serving.deploy.base import (
    KEEP,
    VERSION_ANNOTATION,
    Conflict,
    Deployer,
    DeployFailed,
    NotDeployed,
    Revision,
    Status,
    Traffic,
)

__all__ = [
    "KEEP",
    "VERSION_ANNOTATION",
    "Conflict",
    "DeployFailed",
    "Deployer",
    "NotDeployed",
    "Revision",
    "Status",
    "Traffic",
]
