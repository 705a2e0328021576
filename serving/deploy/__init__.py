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
from serving.deploy.release import deploy_version, open_deployer

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
    "deploy_version",
    "open_deployer",
]
