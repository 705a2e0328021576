"""Leader election on Kubernetes: a ``coordination.k8s.io`` Lease, as client-go does it."""

import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from models.errors import UserError
from serving.state.lease import holder_name

if TYPE_CHECKING:
    from kubernetes.client import ApiClient


class KubernetesLease:
    """The Lease object `name` in `namespace`; needs the rights get, create, update on it.

    Clocks of other machines are not trusted: a lease has run out when it was not renewed for its duration by our own
    clock since we first saw it so. Of two that take it at once the API server lets one (resourceVersion).
    """

    def __init__(
        self,
        namespace: str,
        name: str,
        seconds: float = 15.0,
        holder: str | None = None,
        client: "ApiClient | None" = None,
    ) -> None:
        self._namespace, self._name, self._seconds = namespace, name, seconds
        self._holder = holder or holder_name()
        self._client = client
        self._seen: tuple[str, float] = ("", 0.0)
        """resourceVersion last seen, and when by our clock."""

    @property
    def holder(self) -> str:
        """Who we are."""
        return self._holder

    def hold(self) -> bool:
        """Take or renew. Raises UserError where the API does not answer, before what we hold has run out."""
        lease = self._read()
        now = datetime.now(UTC)
        if lease is None:
            return self._write("POST", "", {"metadata": {"name": self._name}, "spec": self._spec(now, now, 0)})
        spec, version = lease["spec"], lease["metadata"]["resourceVersion"]
        ours = spec.get("holderIdentity") == self._holder
        if not ours and spec.get("holderIdentity"):
            if self._seen[0] != version:
                self._seen = (version, time.monotonic())
            if time.monotonic() - self._seen[1] < float(spec.get("leaseDurationSeconds") or self._seconds):
                return False
        changes = int(spec.get("leaseTransitions") or 0) + (0 if ours else 1)
        acquired = datetime.fromisoformat(spec["acquireTime"]) if ours and spec.get("acquireTime") else now
        metadata = {"name": self._name, "resourceVersion": version}
        return self._write("PUT", f"/{self._name}", {"metadata": metadata, "spec": self._spec(acquired, now, changes)})

    def current(self) -> str | None:
        """Who holds it, by this machine's clock and the object's; for people who look."""
        lease = self._read()
        holder = (lease or {"spec": {}})["spec"].get("holderIdentity")
        if lease is None or not holder:
            return None
        renewed = datetime.fromisoformat(lease["spec"]["renewTime"])
        age = (datetime.now(UTC) - renewed).total_seconds()
        return str(holder) if age < 3 * float(lease["spec"]["leaseDurationSeconds"]) else None

    def release(self) -> None:
        """Give it up where it is ours."""
        lease = self._read()
        if lease is not None and lease["spec"].get("holderIdentity") == self._holder:
            metadata = {"name": self._name, "resourceVersion": lease["metadata"]["resourceVersion"]}
            self._write(
                "PUT", f"/{self._name}", {"metadata": metadata, "spec": {**lease["spec"], "holderIdentity": ""}}
            )

    def _spec(self, acquired: datetime, renewed: datetime, changes: int) -> dict[str, Any]:
        return {
            "holderIdentity": self._holder,
            "leaseDurationSeconds": max(1, round(self._seconds)),
            "acquireTime": _micro_time(acquired),
            "renewTime": _micro_time(renewed),
            "leaseTransitions": changes,
        }

    def _read(self) -> dict[str, Any] | None:
        found = self._call("GET", f"/{self._name}", None)
        return None if isinstance(found, int) else found

    def _write(self, method: str, path: str, body: dict[str, Any]) -> bool:
        body = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", **body}
        return not isinstance(self._call(method, path, body), int)

    def _call(self, method: str, path: str, body: dict[str, Any] | None) -> dict[str, Any] | int:
        """The object, or the status where it is 404 or 409."""
        from kubernetes.client import ApiException
        from urllib3.exceptions import HTTPError

        if self._client is None:
            from serving.deploy.kserve import _connect

            self._client = _connect(None)
        where = f"/apis/coordination.k8s.io/v1/namespaces/{self._namespace}/leases{path}"
        try:
            found: dict[str, Any] = self._client.call_api(
                where,
                method,
                header_params={"Accept": "application/json", "Content-Type": "application/json"},
                body=body,
                response_type="object",
                auth_settings=["BearerToken"],
                _return_http_data_only=True,
                _request_timeout=max(1, int(self._seconds / 3)),  # a renewal is two calls; a float would be no timeout
            )
            return found
        except ApiException as error:
            if error.status in (404, 409):
                return int(error.status)
            raise UserError(f"{error.reason} (status {error.status})", f"{method} {where}") from None
        except HTTPError as error:
            raise UserError(f"the Kubernetes API does not answer ({error})", f"{method} {where}") from None


def _micro_time(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
