"""The one interface to where models are served, whatever is behind it: KServe on a cluster, or the local host.

Both backends speak of the same object, an InferenceService in KServe's Knative mode, and both report it in KServe's
words: `read_status` reads either. The facts behind the words (KServe 0.20, Knative 1.21):

- Any change of the template (storage address, annotation, environment, scale bounds) cuts a new revision; a change of
  ``canaryTrafficPercent`` alone does not.
- Without ``canaryTrafficPercent`` all traffic goes to the latest ready revision. With it, that percentage goes there
  and the rest to the revision that last had 100 %. The first deployment gets 100 % whatever is set.
- A revision that never becomes ready gets no traffic.
- Promoting a challenger is removing the field; rolling it back is setting 0, then putting the old model into the spec.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, Protocol

from models.errors import UserError

API_VERSION: Final = "serving.kserve.io/v1beta1"
KIND: Final = "InferenceService"
VERSION_ANNOTATION: Final = "hscode/version"
"""Annotation of an InferenceService (and so of its revisions) with the registry's version of the model. The logger
sends it with each event (``metadataAnnotations``)."""
REQUEST_TYPE: Final = "org.kubeflow.serving.inference.request"
"""Type of the logger's event for a request."""
RESPONSE_TYPE: Final = "org.kubeflow.serving.inference.response"
"""Type of the one for its response."""
TEMPLATE_ANNOTATION: Final = "hscode/template"
"""Annotation with a digest of an applied manifest, so that a revision tells which manifest it was cut from."""
STORAGE_ANNOTATION: Final = "internal.serving.kserve.io/storage-initializer-sourceuri"
"""Annotation of a revision with the address its model is loaded from; KServe writes it."""
KEEP: Final = "keep"

EventKind = Literal["Normal", "Warning"]


class NotDeployed(UserError):
    """There is no InferenceService of that name."""


class DeployFailed(UserError):
    """A deployment did not become ready; what served before serves on, and the spec is again what it was."""


class Conflict(Exception):
    """The object was changed by someone else since it was read: read it again and decide again."""


@dataclass(frozen=True)
class Traffic:
    """One entry of the split."""

    revision: str
    percent: int
    latest: bool
    """Whether the entry follows the latest ready revision."""


@dataclass(frozen=True)
class Revision:
    """One immutable revision of the predictor."""

    name: str
    storage_uri: str
    version: str
    """Registry version of the model, from the revision's annotation; empty where it has none."""
    ready: bool | None
    """None while it is not decided yet (or the backend has scaled it to zero before it was asked)."""
    reason: str = ""
    """Why it is not ready."""
    template: str = ""
    """Its `TEMPLATE_ANNOTATION`."""


@dataclass(frozen=True)
class Status:
    """What was asked for (spec) and what is (status) of one InferenceService at one moment."""

    name: str
    namespace: str
    uid: str
    resource_version: str
    """Changes with every write to the object."""
    generation: int
    observed_generation: int
    """Generation that the backend has acted on, as far as it says. KServe 0.20 does not say: its
    ``status.observedGeneration`` is that of the Knative Service behind. There this equals `generation`, and
    `rolled_out` and `settled` go by what the revisions carry and what share they have."""
    storage_uri: str
    """In the spec."""
    version: str
    """In the spec's annotation; empty where it has none."""
    canary_percent: int | None
    """In the spec; None where the field is not set."""
    ready: bool
    """The object's own Ready condition. An old revision may serve while a new one fails: see `settled`."""
    reasons: tuple[str, ...]
    """One line for each condition that is not True: ``Type: Reason: message``."""
    url: str
    latest_created: str
    latest_ready: str
    latest_rolledout: str
    previous_rolledout: str
    traffic: tuple[Traffic, ...]
    revisions: tuple[Revision, ...]
    """Those the split or the fields above name."""
    template: str = ""
    """`TEMPLATE_ANNOTATION` of the object."""

    def revision(self, name: str) -> Revision | None:
        """The revision of that name, where it is known."""
        return next((r for r in self.revisions if r.name == name), None)

    def percent(self, revision: str) -> int:
        """Share of traffic of a revision, in percent."""
        return sum(t.percent for t in self.traffic if t.revision == revision)

    @property
    def current(self) -> Revision | None:
        """The newest revision where it carries the spec's model; None while the backend has not made that one yet."""
        newest = self.revision(self.latest_created)
        if newest is None or self.observed_generation < self.generation:
            return None
        asked = (self.storage_uri, self.version, self.template)
        return newest if (newest.storage_uri, newest.version, newest.template) == asked else None

    @property
    def rolled_out(self) -> bool:
        """Whether the newest revision carries the spec's model and is ready (whatever its share of traffic)."""
        return self.current is not None and self.latest_created == self.latest_ready

    @property
    def settled(self) -> bool:
        """Whether all that the spec asks for is done: the newest revision is ready and has the share it should have."""
        if not (self.rolled_out and self.ready and self.traffic):
            return False
        if self.canary_percent is None:
            return self.percent(self.latest_ready) == 100
        others = sum(t.percent for t in self.traffic if t.revision != self.latest_ready)
        first = self.latest_rolledout == self.latest_ready and others == 0
        return first or self.percent(self.latest_ready) == self.canary_percent


class Deployer(Protocol):
    """A backend. Names are those of InferenceServices; the namespace is the backend's own."""

    def apply(self, manifest: Mapping[str, Any], timeout_s: float) -> Status:
        """Make the InferenceService as `manifest` says and wait until it is settled.

        Raises UserError for a manifest that is refused, DeployFailed with the reasons when it does not become ready
        in time or cannot become ready; then the spec has been put back to what it was.
        """
        ...

    def status(self, name: str) -> Status:
        """What is now; raises NotDeployed."""
        ...

    def change(
        self,
        name: str,
        *,
        storage_uri: str | None = None,
        version: str | None = None,
        canary_percent: int | Literal["keep"] | None = "keep",
        expected: Status | None = None,
    ) -> Status:
        """Alter the spec's model and share, nothing else, without waiting; None for `canary_percent` removes the field.

        With `expected`, raises Conflict where the spec or the model's annotation is no longer what that Status says.
        Raises NotDeployed where the object is gone.
        The same values again change nothing (no new revision).
        """
        ...

    def wait(self, name: str, timeout_s: float) -> Status:
        """Wait until settled; raises DeployFailed with the reasons, without altering anything; NotDeployed.

        A home with no host running has nothing to wait for: the status is returned as it is.
        """
        ...

    def delete(self, name: str) -> None:
        """Remove it with its revisions; no error where there is none."""
        ...

    def event(self, name: str, kind: EventKind, reason: str, message: str) -> None:
        """Attach a line for people to the object (a Kubernetes Event; a line of the local host's log).

        `reason` is one CamelCase word. Never raises for an object that is gone.
        """
        ...


def await_settled(read: Callable[[], Status], timeout_s: float, look_s: float, patience_s: float) -> Status:
    """Read until settled; raises DeployFailed at `timeout_s`, or when the spec's revision failed for `patience_s`.

    A container that crashes is failed and starting by turns: the time counts from the first failure seen.
    """
    deadline = time.monotonic() + timeout_s
    failed_since: float | None = None
    failing = ""
    while True:
        status, now = read(), time.monotonic()
        if status.settled:
            return status
        failed = status.current is not None and status.current.ready is False
        if failed and (failed_since is None or failing != status.latest_created):
            failed_since, failing = now, status.latest_created
        given_up = failed and failed_since is not None and now - failed_since >= patience_s
        if given_up or now > deadline:
            why = _why(status)
            raise DeployFailed(
                why if given_up else f"not ready after {timeout_s:g} s: {why}", f"InferenceService {status.name}"
            )
        time.sleep(look_s)


def _why(status: Status) -> str:
    if status.current is not None and status.current.reason:
        return f"revision {status.current.name}: {status.current.reason}"
    messages = dict.fromkeys(reason.split(": ", 1)[-1] for reason in status.reasons)
    return "; ".join(messages) or "it is still starting"


def spec_matches(now: Status, expected: Status) -> bool:
    """Whether nobody has altered the spec, or which model it names, since `expected` was read."""

    def asked(status: Status) -> tuple[str, int, str, str, int | None]:
        return (status.uid, status.generation, status.storage_uri, status.version, status.canary_percent)

    return asked(now) == asked(expected)


def read_status(service: Mapping[str, Any], revisions: Mapping[str, Revision], observed_generation: int) -> Status:
    """Read an InferenceService object as KServe reports it; `revisions` by name (see `revision_names`)."""
    metadata, spec, status = service["metadata"], service["spec"]["predictor"], service.get("status") or {}
    predictor = status.get("components", {}).get("predictor", {})
    latest_ready = predictor.get("latestReadyRevision", "")
    conditions = status.get("conditions", [])
    return Status(
        name=metadata["name"],
        namespace=metadata.get("namespace", "default"),
        uid=metadata.get("uid", ""),
        resource_version=str(metadata.get("resourceVersion", "")),
        generation=int(metadata.get("generation", 0)),
        observed_generation=observed_generation,
        storage_uri=(spec.get("model") or {}).get("storageUri", ""),
        version=(metadata.get("annotations") or {}).get(VERSION_ANNOTATION, ""),
        canary_percent=spec.get("canaryTrafficPercent"),
        ready=any(c["type"] == "Ready" and c["status"] == "True" for c in conditions),
        reasons=tuple(_reason(c) for c in conditions if c["status"] != "True" and c.get("severity") != "Info"),
        url=status.get("url", ""),
        latest_created=predictor.get("latestCreatedRevision", ""),
        latest_ready=latest_ready,
        latest_rolledout=predictor.get("latestRolledoutRevision", ""),
        previous_rolledout=predictor.get("previousRolledoutRevision", ""),
        traffic=tuple(
            Traffic(t.get("revisionName") or latest_ready, int(t.get("percent") or 0), bool(t.get("latestRevision")))
            for t in predictor.get("traffic", [])
        ),
        revisions=tuple(revisions[name] for name in revision_names(service) if name in revisions),
        template=(metadata.get("annotations") or {}).get(TEMPLATE_ANNOTATION, ""),
    )


def revision_names(service: Mapping[str, Any]) -> list[str]:
    """Names of all revisions that an InferenceService's status speaks of, oldest first."""
    predictor = (service.get("status") or {}).get("components", {}).get("predictor", {})
    fields = ("latestCreatedRevision", "latestReadyRevision", "latestRolledoutRevision", "previousRolledoutRevision")
    names = {predictor.get(field) for field in fields} | {t.get("revisionName") for t in predictor.get("traffic", [])}
    return sorted(name for name in names if name)


def _reason(condition: Mapping[str, Any]) -> str:
    parts = (condition["type"], condition.get("reason", ""), condition.get("message", ""))
    return ": ".join(part for part in parts if part)
