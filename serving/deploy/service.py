"""What the local host holds of an InferenceService and its revisions, and how it reports it in KServe's words."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

from serving.deploy.base import STORAGE_ANNOTATION, Traffic
from serving.deploy.manifest import Manifest
from serving.deploy.process import RevisionProcess
from serving.deploy.rollout import Rollout


@dataclass
class RevisionState:
    """A revision: what it was cut from, its process, and what is known of its readiness."""

    manifest: Manifest
    digest: str
    process: RevisionProcess
    was_ready: bool = False
    """Once ready, a revision stays so in Knative's eyes, also at zero."""


@dataclass
class Service:
    """One InferenceService as the host holds it."""

    name: str
    manifest: Manifest
    uid: str
    observed: int = 0
    """Generation of the newest manifest seen."""
    rollout: Rollout = field(default_factory=Rollout)
    next_number: int = 1
    revisions: dict[str, RevisionState] = field(default_factory=dict)
    refused: str = ""
    """Why the newest manifest is not followed."""
    written: dict[str, Any] = field(default_factory=dict)
    """The record last written."""
    since: dict[str, tuple[str, str]] = field(default_factory=dict)
    """Condition type → (status, time it became so)."""

    @property
    def newest(self) -> RevisionState | None:
        """The latest created revision."""
        return self.revisions.get(self.rollout.latest_created)

    def shares(self) -> list[Traffic]:
        """Entries of the split that get requests."""
        return [entry for entry in self.rollout.traffic if entry.percent]


def record(service: Service, port: int) -> dict[str, Any]:
    """What is written to the home: KServe's `status`, the `revisions`, and what the next `host` needs (`restored`)."""
    return {
        "status": _status(service, port),
        "revisions": {name: _revision(state) for name, state in service.revisions.items()},
        "host": {
            "uid": service.uid,
            "next_number": service.next_number,
            "rollout": asdict(service.rollout),
            "pids": [s.process.endpoint.pid for s in service.revisions.values() if s.process.endpoint],
            "revisions": {
                name: {
                    "manifest": state.manifest.model_dump(mode="json", by_alias=True, exclude_none=True),
                    "was_ready": state.was_ready,
                }
                for name, state in service.revisions.items()
            },
        },
    }


def restored_rollout(kept: Mapping[str, Any]) -> Rollout:
    """The rollout in a record's ``host``."""
    fields = dict(kept["rollout"])
    fields["traffic"] = tuple(Traffic(**entry) for entry in fields["traffic"])
    return Rollout(**fields)


def _revision(state: RevisionState) -> dict[str, Any]:
    process = state.process
    return {
        "annotations": {
            **state.manifest.metadata.annotations,
            STORAGE_ANNOTATION: state.manifest.predictor.model.storage_uri,
        },
        "ready": True if state.was_ready else False if process.failed else None,
        "reason": process.reason,
        "replicas": int(process.ready),
        "pid": process.endpoint.pid if process.endpoint else None,
        "starts": process.starts,
    }


def _status(service: Service, port: int) -> dict[str, Any]:
    rollout, newest = service.rollout, service.newest
    routed = bool(rollout.traffic)
    configured = newest is not None and newest.was_ready and not service.refused
    reason, message = "", service.refused
    if newest is not None and not newest.was_ready and newest.process.reason:
        reason = "RevisionFailed"
        message = f'Revision "{rollout.latest_created}" failed with message: {newest.process.reason}'
    return {
        "observedGeneration": service.observed,
        "url": f"http://{service.name}.{service.manifest.metadata.namespace}.localhost:{port}",
        "conditions": [
            _condition(service, "PredictorConfigurationReady", configured, reason, message),
            _condition(service, "PredictorRouteReady", routed, reason, message),
            _condition(service, "PredictorReady", configured and routed, reason, message),
            _condition(service, "Ready", configured and routed, reason, message),
        ],
        "components": {
            "predictor": {
                "latestCreatedRevision": rollout.latest_created,
                "latestReadyRevision": rollout.latest_ready,
                "latestRolledoutRevision": rollout.latest_rolledout,
                "previousRolledoutRevision": rollout.previous_rolledout,
                "traffic": [
                    {"revisionName": entry.revision, "percent": entry.percent, "latestRevision": entry.latest}
                    for entry in rollout.traffic
                ],
            }
        },
    }


def _condition(service: Service, name: str, true: bool, reason: str, message: str) -> dict[str, str]:
    status = "True" if true else "False" if reason or message else "Unknown"
    if service.since.get(name, ("", ""))[0] != status:
        service.since[name] = (status, datetime.now(UTC).isoformat(timespec="seconds"))
    condition = {"type": name, "status": status, "lastTransitionTime": service.since[name][1]}
    if not true:
        condition |= {key: text for key, text in (("reason", reason), ("message", message)) if text}
    return condition
