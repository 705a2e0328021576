"""The local host as a `Deployer`: manifests are written into the home, whether a host runs there or not.

This module is light: who only deploys does not import the host.
"""

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from serving.deploy.base import (
    STORAGE_ANNOTATION,
    VERSION_ANNOTATION,
    Conflict,
    DeployFailed,
    EventKind,
    NotDeployed,
    Revision,
    Status,
    await_settled,
    read_status,
    spec_matches,
)
from serving.deploy.manifest import read_manifest
from serving.deploy.store import Desired, Store

LOOK_SECONDS = 0.05
NO_HOST = "no local host runs on this home; it takes this up when started (hscode serve)"


class LocalDeployer:
    """Deploys to the local host of a home folder. With no host running, deployments are recorded for the next one."""

    def __init__(self, home: str | Path) -> None:
        self.store = Store(Path(home))

    @property
    def url(self) -> str | None:
        """Base address of the running host, or None."""
        host = self.store.host()
        return None if host is None else host.get("url")

    def apply(self, manifest: Mapping[str, Any], timeout_s: float) -> Status:
        """See `Deployer.apply`. With no host running it returns at once, with that as the reason it is not ready."""
        name = read_manifest(manifest).metadata.name
        before = self.store.desired(name)
        self.store.edit(name, lambda _: manifest)
        try:
            return self.wait(name, timeout_s)
        except DeployFailed:
            if before is not None:
                self.store.edit(name, lambda _: before.manifest)
            raise

    def status(self, name: str) -> Status:
        """See `Deployer.status`."""
        desired = self.store.desired(name)
        if desired is None:
            raise NotDeployed(f"no InferenceService {name}", str(self.store.home))
        return self._read(name, desired)

    def change(
        self,
        name: str,
        *,
        storage_uri: str | None = None,
        version: str | None = None,
        canary_percent: int | Literal["keep"] | None = "keep",
        expected: Status | None = None,
    ) -> Status:
        """See `Deployer.change`."""

        def changed(desired: Desired | None) -> Mapping[str, Any]:
            if desired is None:
                raise NotDeployed(f"no InferenceService {name}", str(self.store.home))
            if expected is not None and not spec_matches(self._read(name, desired), expected):
                raise Conflict(f"InferenceService {name} was changed by someone else")
            manifest = copy.deepcopy(desired.manifest)
            predictor = manifest["spec"]["predictor"]
            if storage_uri is not None:
                predictor["model"]["storageUri"] = storage_uri
            if version is not None:
                manifest["metadata"].setdefault("annotations", {})[VERSION_ANNOTATION] = version
            if canary_percent is None:
                predictor.pop("canaryTrafficPercent", None)
            elif canary_percent != "keep":
                predictor["canaryTrafficPercent"] = canary_percent
            read_manifest(manifest)
            return manifest

        self.store.edit(name, changed)
        return self.status(name)

    def wait(self, name: str, timeout_s: float) -> Status:
        """See `Deployer.wait`."""

        if self.store.host() is None:
            return self.status(name)
        return await_settled(lambda: self.status(name), timeout_s, LOOK_SECONDS, patience_s=0)

    def delete(self, name: str) -> None:
        """See `Deployer.delete`."""
        self.store.edit(name, lambda _: None)
        if self.store.host() is None:
            self.store.forget(name)

    def event(self, name: str, kind: EventKind, reason: str, message: str) -> None:
        """See `Deployer.event`; kept in the home (`Store.events`)."""
        self.store.event(name, kind, reason, message)

    def _read(self, name: str, desired: Desired) -> Status:
        record = self.store.status(name) or {}
        running = self.store.host() is not None
        status = dict(record.get("status", {}))
        if not running:
            conditions = [c for c in status.get("conditions", []) if c["type"] != "Ready"]
            conditions += [{"type": "Ready", "status": "False", "reason": "NoHost", "message": NO_HOST}]
            status["conditions"] = conditions
        metadata = {
            **desired.manifest["metadata"],
            "uid": desired.uid,
            "generation": desired.generation,
            "resourceVersion": str(desired.resource_version),
        }
        revisions = {
            revision: Revision(
                name=revision,
                storage_uri=kept["annotations"].get(STORAGE_ANNOTATION, ""),
                version=kept["annotations"].get(VERSION_ANNOTATION, ""),
                ready=kept["ready"],
                reason=kept["reason"],
            )
            for revision, kept in record.get("revisions", {}).items()
        }
        service = {"metadata": metadata, "spec": desired.manifest["spec"], "status": status}
        return read_status(service, revisions, int(status.get("observedGeneration", 0)))
