"""A `Deployer` whose cluster is one JSON file: KServe's rules of traffic, shared by processes, without servers.

For tests that kill the controller at every point of its work, where starting a real host each time would take minutes.
`tests/serving/test_canary_local.py` and the cluster's tests do the same on the real ones.
"""

import copy
import fcntl
import json
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from serving.deploy import VERSION_ANNOTATION, Conflict, DeployFailed, NotDeployed, Revision, Status, Traffic
from serving.deploy.base import read_status, spec_matches
from serving.deploy.rollout import Rollout, advance


class FileDeployer:
    """State in `file`, with every write kept. A model whose address holds "broken" never gets ready."""

    def __init__(self, file: Path) -> None:
        self.file = file

    @contextmanager
    def _open(self) -> Iterator[dict[str, Any]]:
        with open(self.file.with_suffix(".lock"), "a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            tree = json.loads(self.file.read_text()) if self.file.exists() else {"services": {}, "events": []}
            yield tree
            new = self.file.with_suffix(".new")
            new.write_text(json.dumps(tree))
            new.rename(self.file)

    def tree(self) -> dict[str, Any]:
        """Everything, for assertions."""
        with self._open() as tree:
            return copy.deepcopy(tree)

    def make(self, name: str, storage_uri: str, version: str) -> None:
        """A service with one ready revision at 100 %."""
        with self._open() as tree:
            service = {
                "uid": str(uuid.uuid4()), "generation": 0, "spec": {}, "rollout": {}, "revisions": {}, "writes": []
            }  # fmt: skip
            tree["services"][name] = service
            self._write(service, storage_uri, version, None)

    def edit(self, name: str, **spec: Any) -> None:
        """A person's edit of the spec (None removes)."""
        with self._open() as tree:
            service = tree["services"][name]
            wanted = {**service["spec"], **spec}
            self._write(service, wanted["storage_uri"], wanted["version"], wanted["canary_percent"])

    def delete(self, name: str) -> None:
        with self._open() as tree:
            tree["services"].pop(name, None)

    def apply(self, manifest: Mapping[str, Any], timeout_s: float) -> Status:
        raise NotImplementedError

    def wait(self, name: str, timeout_s: float) -> Status:
        status = self.status(name)
        if not status.settled:
            raise DeployFailed("not settled", name)
        return status

    def status(self, name: str) -> Status:
        with self._open() as tree:
            return self._read(name, tree)

    def change(
        self,
        name: str,
        *,
        storage_uri: str | None = None,
        version: str | None = None,
        canary_percent: int | Literal["keep"] | None = "keep",
        expected: Status | None = None,
    ) -> Status:
        with self._open() as tree:
            now = self._read(name, tree)
            if expected is not None and not spec_matches(now, expected):
                raise Conflict(name)
            self._write(
                tree["services"][name],
                storage_uri if storage_uri is not None else now.storage_uri,
                version if version is not None else now.version,
                now.canary_percent if canary_percent == "keep" else canary_percent,
            )
            return self._read(name, tree)

    def event(self, name: str, kind: Literal["Normal", "Warning"], reason: str, message: str) -> None:
        with self._open() as tree:
            tree["events"].append([name, kind, reason, message])

    def _write(self, service: dict[str, Any], storage_uri: str, version: str, canary_percent: int | None) -> None:
        spec = {"storage_uri": storage_uri, "version": version, "canary_percent": canary_percent}
        if spec == service["spec"]:
            return
        model = {"storage_uri": storage_uri, "version": version}
        cut = model != {key: service["spec"].get(key) for key in model}
        service["spec"], service["generation"] = spec, service["generation"] + 1
        service["writes"].append([version, canary_percent])
        rollout = _rollout(service["rollout"])
        if cut:
            revision = f"r{len(service['revisions']) + 1:05}"
            ready = "broken" not in storage_uri
            service["revisions"][revision] = {**model, "ready": ready, "reason": "" if ready else "ErrImagePull"}
            latest_ready = revision if ready else rollout.latest_ready
            rollout = Rollout(
                revision, latest_ready, rollout.latest_rolledout, rollout.previous_rolledout, rollout.traffic
            )
        rollout = advance(rollout, canary_percent)
        service["rollout"] = {
            "created": rollout.latest_created, "ready": rollout.latest_ready, "rolledout": rollout.latest_rolledout,
            "previous": rollout.previous_rolledout,
            "traffic": [[t.revision, t.percent, t.latest] for t in rollout.traffic],
        }  # fmt: skip

    def _read(self, name: str, tree: Mapping[str, Any]) -> Status:
        service = tree["services"].get(name)
        if service is None:
            raise NotDeployed(f"no InferenceService {name}")
        spec, rollout = service["spec"], _rollout(service["rollout"])
        predictor: dict[str, Any] = {"model": {"storageUri": spec["storage_uri"]}}
        if spec["canary_percent"] is not None:
            predictor["canaryTrafficPercent"] = spec["canary_percent"]
        revisions = {
            key: Revision(key, r["storage_uri"], r["version"], r["ready"], r["reason"])
            for key, r in service["revisions"].items()
        }
        ready = revisions[rollout.latest_created].ready
        return read_status(
            {
                "metadata": {
                    "name": name, "uid": service["uid"], "generation": service["generation"],
                    "resourceVersion": str(service["generation"]), "annotations": {VERSION_ANNOTATION: spec["version"]},
                },
                "spec": {"predictor": predictor},
                "status": {
                    "conditions": [{"type": "Ready", "status": "True" if ready else "False"}],
                    "components": {"predictor": {
                        "latestCreatedRevision": rollout.latest_created, "latestReadyRevision": rollout.latest_ready,
                        "latestRolledoutRevision": rollout.latest_rolledout,
                        "previousRolledoutRevision": rollout.previous_rolledout,
                        "traffic": [
                            {"revisionName": t.revision, "percent": t.percent, "latestRevision": t.latest}
                            for t in rollout.traffic
                        ],
                    }},
                },
            },
            revisions,
            service["generation"],
        )  # fmt: skip


def _rollout(kept: Mapping[str, Any]) -> Rollout:
    return Rollout(
        kept.get("created", ""),
        kept.get("ready", ""),
        kept.get("rolledout", ""),
        kept.get("previous", ""),
        tuple(Traffic(*entry) for entry in kept.get("traffic", [])),
    )
