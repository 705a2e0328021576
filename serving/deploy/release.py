"""Putting a registry version into service, on whatever backend the settings name."""

from pathlib import Path

from config.settings import Settings
from models.errors import UserError
from serving.deploy.base import Conflict, Deployer, DeployFailed, NotDeployed, Status
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

    Where an InferenceService exists only its model is changed; else one is made from the template. Raises DeployFailed
    where the version does not become ready: then the old model is back in the spec and serves on. Raises UserError
    while a canary has a share: with the share gone, all traffic would follow the unjudged challenger until `version`
    is up.
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
    if before.canary_percent is not None:
        raise canary_undecided(name, f"version {before.version or '?'} at {before.canary_percent} %", version.number)
    try:
        deployer.change(name, storage_uri=uri, version=version.number, expected=before)
    except Conflict as error:
        raise UserError(str(error), f"version {version.number} is not deployed", "try again") from None
    try:
        return deployer.wait(name, timeout)
    except DeployFailed:
        if before.storage_uri:
            deployer.change(name, storage_uri=before.storage_uri, version=before.version)
        raise


def canary_undecided(name: str, canary: str, number: str) -> UserError:
    """Why version `number` is not deployed now, and what to do first."""
    return UserError(
        f"a canary is undecided ({canary}); version {number} is not deployed, nothing changed",
        f"InferenceService {name}",
        f"end it with hscode canary promote or hscode canary abort, then hscode models promote {number}",
    )
