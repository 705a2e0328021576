"""KServe on a cluster as a `Deployer`, through the Kubernetes API.

Writes are server-side apply under the field manager `hscode-deploy`: what a person's or GitOps' own manager wrote
beside it stays, and what this one no longer says goes. Needs the rights get, list, create, patch, delete on
InferenceServices, get on Knative's Revisions, create on Events, all in one namespace; with list on Pods it can say why
a pod does not run.
"""

import copy
import hashlib
import itertools
import json
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from models.errors import UserError
from serving.deploy.base import (
    API_VERSION,
    KIND,
    STORAGE_ANNOTATION,
    TEMPLATE_ANNOTATION,
    VERSION_ANNOTATION,
    Conflict,
    DeployFailed,
    EventKind,
    NotDeployed,
    Revision,
    Status,
    await_settled,
    read_status,
    revision_names,
    spec_matches,
)
from serving.deploy.ownership import owned, same_fields

if TYPE_CHECKING:
    from kubernetes.client import ApiClient
    from urllib3 import Retry

FIELD_MANAGER = "hscode-deploy"
LOOK_SECONDS = 1.0
PATIENCE_SECONDS = 20.0
"""How long a revision may be failed before waiting for it ends: a container that crashes once may come up yet."""
API_RETRIES = 5
"""Tries of a request that the API server did not take (connection, 429, 5xx)."""
ANSWER_SECONDS = 30
"""For one try. A whole number: the client takes no notice of a timeout that is a float."""
CALL_SECONDS = 60.0
"""For a request with all its tries."""
WEBHOOK_SECONDS = 30.0
"""How long a write is tried again while KServe's admission webhook cannot be asked: its pod restarts."""

FAILED_WAITING = frozenset(
    [
        *("CrashLoopBackOff", "ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull"),
        *("CreateContainerConfigError", "CreateContainerError", "RunContainerError"),
    ]
)
"""Reasons of a waiting container that more waiting rarely mends."""

T = TypeVar("T")


class KServeDeployer:
    """Deploys to KServe in one namespace.

    In a pod it acts as the pod's ServiceAccount, else as the kubeconfig's current (or named) context. Raises UserError
    where there is neither.
    """

    def __init__(
        self,
        namespace: str,
        context: str | None = None,
        client: "ApiClient | None" = None,
        patience_s: float = PATIENCE_SECONDS,
    ) -> None:
        self.namespace, self.patience_s = namespace, patience_s
        self._client = client or _connect(context)

    def apply(self, manifest: Mapping[str, Any], timeout_s: float) -> Status:
        """See `Deployer.apply`. A namespace in the manifest must be this one."""
        wanted = copy.deepcopy(dict(manifest))
        name = wanted["metadata"]["name"]
        if wanted["metadata"].setdefault("namespace", self.namespace) != self.namespace:
            raise UserError(
                f"the manifest is for namespace {wanted['metadata']['namespace']}",
                f"InferenceService {name}",
                f"deploy.target names {self.namespace}",
            )
        digest = hashlib.sha256(json.dumps(wanted["spec"], sort_keys=True).encode()).hexdigest()[:16]
        wanted["metadata"].setdefault("annotations", {})[TEMPLATE_ANNOTATION] = digest
        before = self._get(name)
        self._apply(wanted)
        if before is not None and "canaryTrafficPercent" not in wanted["spec"]["predictor"]:
            self.change(name, canary_percent=None)
        try:
            return self.wait(name, timeout_s)
        except DeployFailed:
            if before is not None:
                restored = same_fields(before, wanted)
                restored["metadata"]["name"], restored["metadata"]["namespace"] = name, self.namespace
                self._apply(restored)
            raise

    def status(self, name: str) -> Status:
        """See `Deployer.status`."""
        return self._read(self._existing(name))

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
        for _ in range(API_RETRIES):
            service = self._existing(name)
            if expected is not None and not spec_matches(_status(service, {}), expected):
                raise Conflict(f"InferenceService {self.namespace}/{name} was changed by someone else")
            wanted = self._changed(service, storage_uri, version, canary_percent)
            if wanted is None:
                return self._read(service)
            # The version just read, so that a write in between is refused, and looked at anew.
            wanted["metadata"]["resourceVersion"] = service["metadata"]["resourceVersion"]
            try:
                service = self._apply(wanted)
                if canary_percent is None and "canaryTrafficPercent" in service["spec"]["predictor"]:
                    # Another manager wrote it too: leaving it out does not remove it.
                    removal = {"spec": {"predictor": {"canaryTrafficPercent": None}}}
                    path = f"{self._path(name)}?fieldManager={FIELD_MANAGER}"
                    service = self._call("PATCH", path, removal, "application/merge-patch+json")
                return self._read(service)
            except Conflict:
                continue
        raise Conflict(f"InferenceService {self.namespace}/{name} is changed by others all the time")

    def wait(self, name: str, timeout_s: float) -> Status:
        """See `Deployer.wait`."""
        return await_settled(lambda: self.status(name), timeout_s, LOOK_SECONDS, self.patience_s)

    def delete(self, name: str) -> None:
        """See `Deployer.delete`."""
        self._call("DELETE", self._path(name), missing=lambda: None)

    def event(self, name: str, kind: EventKind, reason: str, message: str) -> None:
        """See `Deployer.event`: an Event that ``kubectl describe`` shows."""
        service = self._get(name)
        if service is None:
            return
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        event = {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"name": f"{name}.{uuid.uuid4().hex[:16]}", "namespace": self.namespace},
            "involvedObject": {
                "apiVersion": API_VERSION,
                "kind": KIND,
                "name": name,
                "namespace": self.namespace,
                "uid": service["metadata"]["uid"],
            },
            "type": kind,
            "reason": reason,
            "message": message[:1024],
            "source": {"component": "hscode"},
            "firstTimestamp": now,
            "lastTimestamp": now,
            "count": 1,
        }
        self._call("POST", f"/api/v1/namespaces/{self.namespace}/events", event)

    # -- the API ------------------------------------------------------------------------------------------------

    def _path(self, name: str) -> str:
        return f"/apis/{API_VERSION}/namespaces/{self.namespace}/inferenceservices/{name}"

    def _get(self, name: str) -> dict[str, Any] | None:
        found: dict[str, Any] | None = self._call("GET", self._path(name), missing=lambda: None)
        return found

    def _existing(self, name: str) -> dict[str, Any]:
        """The object; one that is being deleted (its finalizer runs) is none any more."""
        service = self._get(name)
        if service is None or "deletionTimestamp" in service["metadata"]:
            raise NotDeployed(f"no InferenceService {name}", f"namespace {self.namespace}")
        return service

    def _apply(self, wanted: Mapping[str, Any]) -> dict[str, Any]:
        name = wanted["metadata"]["name"]
        path = f"{self._path(name)}?fieldManager={FIELD_MANAGER}&force=true"
        applied: dict[str, Any] = self._call("PATCH", path, wanted, "application/apply-patch+yaml")
        return applied

    def _changed(
        self,
        service: Mapping[str, Any],
        storage_uri: str | None,
        version: str | None,
        canary_percent: int | Literal["keep"] | None,
    ) -> dict[str, Any] | None:
        """What to apply, from what this manager owns already; None where the object is as it should be."""
        spec, metadata = service["spec"]["predictor"], service["metadata"]
        wanted = owned(service, FIELD_MANAGER)
        wanted["apiVersion"], wanted["kind"] = API_VERSION, KIND
        wanted.setdefault("metadata", {}).update({"name": metadata["name"], "namespace": self.namespace})
        predictor = wanted.setdefault("spec", {}).setdefault("predictor", {})
        uri = storage_uri if storage_uri is not None else (spec.get("model") or {}).get("storageUri")
        if uri is not None:
            predictor.setdefault("model", {})["storageUri"] = uri
        tag = version if version is not None else (metadata.get("annotations") or {}).get(VERSION_ANNOTATION)
        if tag is not None:
            wanted["metadata"].setdefault("annotations", {})[VERSION_ANNOTATION] = tag
        now = spec.get("canaryTrafficPercent")
        percent = now if canary_percent == "keep" else canary_percent
        predictor.pop("canaryTrafficPercent", None)
        if percent is not None:
            predictor["canaryTrafficPercent"] = percent
        as_it_is = (
            uri == (spec.get("model") or {}).get("storageUri")
            and tag == (metadata.get("annotations") or {}).get(VERSION_ANNOTATION)
            and percent == now
        )
        return None if as_it_is else wanted

    def _read(self, service: Mapping[str, Any]) -> Status:
        revisions = {name: self._revision(name) for name in revision_names(service)}
        predictor = (service.get("status") or {}).get("components", {}).get("predictor", {})
        newest = revisions.get(predictor.get("latestCreatedRevision", ""))
        if newest is not None and newest.ready is None:
            failed, why = self._pod_trouble(newest.name)
            if why:
                revisions[newest.name] = replace(newest, ready=False if failed else None, reason=why)
        return _status(service, {name: revision for name, revision in revisions.items() if revision is not None})

    def _revision(self, name: str) -> Revision | None:
        path = f"/apis/serving.knative.dev/v1/namespaces/{self.namespace}/revisions/{name}"
        found = self._call("GET", path, missing=lambda: None)
        if found is None:
            return None
        annotations = found["metadata"].get("annotations") or {}
        conditions = {c["type"]: c for c in (found.get("status") or {}).get("conditions", [])}
        ready = conditions.get("Ready", {})
        reason = ": ".join(filter(None, (ready.get("reason", ""), ready.get("message", ""))))
        return Revision(
            name=name,
            storage_uri=annotations.get(STORAGE_ANNOTATION, ""),
            version=annotations.get(VERSION_ANNOTATION, ""),
            ready={"True": True, "False": False}.get(ready.get("status", "")),
            reason="" if ready.get("status") == "True" else reason,
            template=annotations.get(TEMPLATE_ANNOTATION, ""),
        )

    def _pod_trouble(self, revision: str) -> tuple[bool, str]:
        """Whether a revision's pods have failed, and what keeps them from running; nothing where pods may not be read.

        Knative says "Deploying" for ten minutes (its progress deadline), and KServe's modelStatus is not kept up to
        date, so the pods themselves are asked.
        """
        path = f"/api/v1/namespaces/{self.namespace}/pods?labelSelector=serving.knative.dev%2Frevision%3D{revision}"
        found = self._call("GET", path, missing=lambda: None, forbidden=lambda: None)
        for pod in (found or {}).get("items", []):
            status = pod.get("status", {})
            for container in status.get("initContainerStatuses", []) + status.get("containerStatuses", []):
                waiting = container.get("state", {}).get("waiting") or {}
                if waiting.get("reason") in FAILED_WAITING:
                    ended = container.get("lastState", {}).get("terminated") or {}
                    said = [line.strip() for line in ended.get("message", "").splitlines() if line.strip()]
                    code = f"exit code {ended['exitCode']}" if "exitCode" in ended else waiting.get("message", "")
                    return True, ": ".join(filter(None, (waiting["reason"], container["name"], code, *said[-1:])))
            for condition in status.get("conditions", []):
                if condition["type"] == "PodScheduled" and condition["status"] == "False":
                    return False, f"{condition.get('reason', '')}: {condition.get('message', '')}"
        return False, ""

    def _call(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        content_type: str = "application/json",
        missing: Callable[[], T] | None = None,
        forbidden: Callable[[], T] | None = None,
    ) -> Any:
        """One request; retried where the server did not take it, within CALL_SECONDS.

        Raises Conflict (409), UserError (4xx, no answer).
        """
        from kubernetes.client import ApiException
        from urllib3.exceptions import HTTPError

        began = time.monotonic()
        webhook_ends, ends = began + WEBHOOK_SECONDS, began + CALL_SECONDS
        for attempt in itertools.count():
            left = ends - time.monotonic()
            last = attempt >= API_RETRIES - 1
            try:
                return self._client.call_api(
                    path,
                    method,
                    header_params={"Accept": "application/json", "Content-Type": content_type},
                    body=body,
                    response_type="object",
                    auth_settings=["BearerToken"],
                    _return_http_data_only=True,
                    _request_timeout=max(1, min(ANSWER_SECONDS, int(left))),
                )
            except ApiException as error:
                if error.status == 404 and missing is not None:
                    return missing()
                if error.status == 403 and forbidden is not None:
                    return forbidden()
                if error.status == 409:
                    raise Conflict(_message(error)) from None
                if _webhook_away(error):
                    last = time.monotonic() > webhook_ends
                if error.status in (429, 500, 502, 503, 504) and not last and time.monotonic() < ends:
                    time.sleep(0.2 * 2 ** min(attempt, API_RETRIES - 2))
                    continue
                raise UserError(f"{_message(error)} (status {error.status})", f"{method} {path}") from None
            except HTTPError as error:
                if last or time.monotonic() >= ends:
                    raise UserError(f"the Kubernetes API does not answer ({error})", f"{method} {path}") from None
                time.sleep(0.2 * 2**attempt)
        raise AssertionError("unreachable")


def _status(service: Mapping[str, Any], revisions: Mapping[str, Revision]) -> Status:
    return read_status(service, revisions, int(service["metadata"]["generation"]))


def _connect(context: str | None) -> "ApiClient":
    from kubernetes import client, config

    configuration = client.Configuration()
    configuration.retries = one_try()
    try:
        if context is None:
            try:
                config.load_incluster_config(client_configuration=configuration)
                return client.ApiClient(configuration)
            except config.ConfigException:
                pass
        return config.new_client_from_config(context=context, client_configuration=configuration)
    except config.ConfigException as error:
        raise UserError(f"no way to a cluster ({error})", todo="set KUBECONFIG") from None


def one_try() -> "Retry":
    """urllib3's policy for a client whose callers try again themselves: its default is three tries more, unseen."""
    from urllib3 import Retry

    return Retry(total=None, connect=0, read=0, other=0, redirect=3)


def _webhook_away(error: Any) -> bool:
    """Whether the API server could not ask an admission webhook. (One that refuses is "denied the request".)"""
    return bool(error.status == 500) and "failed calling webhook" in _message(error)


def _message(error: Any) -> str:
    try:
        return str(json.loads(error.body)["message"])
    except (TypeError, ValueError, KeyError):
        return str(error.reason)
