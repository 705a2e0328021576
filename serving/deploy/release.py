"""Putting a registry version into service, on whatever backend the settings name."""

from pathlib import Path

from config.settings import Settings
from models.errors import UserError
from serving.deploy.base import Deployer, DeployFailed, NotDeployed, Status
from serving.deploy.manifest import inference_service, storage_uri
from serving.registry import Version


def open_deployer(target: str | None) -> Deployer:
    """The backend of a ``deploy.target``: ``local:HOME`` or ``kserve:NAMESPACE``. Raises UserError for another."""
    kind, _, place = (target or "").partition(":")
    if kind == "local" and place:
        from serving.deploy.local import LocalDeployer

        return LocalDeployer(Path(place))
    if kind == "kserve" and place:
        from serving.deploy.kserve import KServeDeployer

        return KServeDeployer(place)
    raise UserError(f"unknown target {target!r}", "setting deploy.target", "write local:HOME or kserve:NAMESPACE")


def deploy_version(settings: Settings, version: Version) -> Status:
    """Serve `version` with all traffic; returns once it is ready, or recorded where no local host runs.

    Where an InferenceService exists only its model is changed; else one is made from the template. Raises
    DeployFailed where the version does not become ready: then the old model is back in the spec and serves on.
    """
    deployer = open_deployer(settings.deploy.target)
    name, timeout = settings.deploy.name, settings.deploy.timeout_seconds
    uri = storage_uri(version.source)
    try:
        before = deployer.status(name)
    except NotDeployed:
        local = (settings.deploy.target or "").startswith("local:")
        # The template's logger speaks to the cluster's monitor; a local host is told its own.
        manifest = inference_service(name, uri, version.number, logger_url="" if local else None)
        return deployer.apply(manifest, timeout)
    deployer.change(name, storage_uri=uri, version=version.number, canary_percent=None)
    try:
        return deployer.wait(name, timeout)
    except DeployFailed:
        if before.storage_uri:
            deployer.change(
                name,
                storage_uri=before.storage_uri,
                version=before.version,
                canary_percent=before.canary_percent,
            )
        raise
