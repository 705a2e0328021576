"""Walks the loop's arrows, of a home folder or a cluster: does each work, what was seen, what to do.

Nothing is changed and no model is asked. An arrow that cannot be looked at from here is neither good nor bad.
"""

import re
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from config.settings import Settings
from models.errors import UserError
from serving.deploy.base import Status

TIMEOUT_SECONDS = 5.0
"""For one answer over HTTP."""


@dataclass(frozen=True)
class Finding:
    """One arrow."""

    arrow: str
    """From → to."""
    works: bool | None
    """None: could not be looked at from here."""
    seen: str
    todo: str = ""
    """What to do where it does not work."""


@dataclass(frozen=True)
class Addresses:
    """Where the services answer, as seen from here; None: not asked."""

    monitor: str | None = None
    trigger: str | None = None
    prometheus: str | None = None
    alertmanager: str | None = None
    closed: Mapping[str, str] = field(default_factory=dict)
    """Of a cluster: why there is no way to a Service, by its name."""
    absent: frozenset[str] = frozenset()
    """Those of `closed` that are not installed; of `REPLACEABLE` another's may do the work."""


SERVICES = ("monitor", "trigger", "prometheus", "alertmanager")
"""On a cluster each is the Service hscode-NAME."""
REPLACEABLE = ("prometheus", "alertmanager")
"""An overlay may leave these to the Prometheus operator, whose names and namespace are its own."""
SCRAPED = ("monitor", "trigger", "canary")
"""Prometheus' jobs have these in their names, whoever wrote its configuration."""


def examine(settings: Settings, addresses: Addresses, runs: Callable[[], str]) -> Iterator[Finding]:
    """Every arrow in the loop's order, each by itself: one that fails says so and the next is tried.

    `runs` asks the place where pipelines run and says what answered; raises where it does not.
    """
    for name, why in addresses.closed.items():
        if name.removeprefix("hscode-") not in SERVICES:
            yield Finding(f"→ {name}", False, why, "kubectl get pods; their logs")
    for arrow, look, todo in (
        ("all → database", _database, "state.url; hscode state migrate; is the server up?"),
        ("all → registry", _registry, "registry.uri; MLflow needs --allowed-hosts for the name it is asked by"),
        ("deploy → service", _service, "kubectl describe inferenceservice, or the log of hscode serve"),
        (
            "logger → monitor → database",
            _events,
            "logger url of the InferenceService; the monitor's log; traffic at all?",
        ),
        (
            "canary controller → service",
            _canary,
            "hscode canary status; its Deployment's log, or hscode canary controller",
        ),
        ("trigger → database", _trigger_lease, "start one: hscode trigger serve, or its Deployment"),
    ):
        yield _tried(arrow, lambda look=look: look(settings), todo)  # type: ignore[misc]
    yield _tried("trigger → pipelines", lambda: (True, runs()), "kfp.endpoint, kfp.token_file; docs/operations.md")
    for arrow, name, path, read in (
        ("→ monitor", "monitor", "/readyz", None),
        ("→ trigger", "trigger", "/readyz", None),
        ("Prometheus → monitor, trigger, canary", "prometheus", "/api/v1/targets?state=active", _targets),
        ("Prometheus rules", "prometheus", "/api/v1/rules", _rules),
        ("Prometheus → Alertmanager", "prometheus", "/api/v1/alertmanagers", _alertmanagers),
        ("Alertmanager's route", "alertmanager", "/api/v2/status", _receivers),
        ("Alertmanager → trigger", "alertmanager", "/metrics", _notices),
    ):
        yield _http(arrow, addresses, name, path, read)


Seen = tuple[bool | None, str]


def _tried(arrow: str, look: Callable[[], Seen], todo: str) -> Finding:
    try:
        works, seen = look()
    except UserError as error:
        works, seen = False, str(error)
    except Exception as error:
        works, seen = False, f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error) else ''}"
    return Finding(arrow, works, seen, "" if works is not False else todo)


def _database(settings: Settings) -> Seen:
    from sqlalchemy import func, select

    from serving.state import open_state
    from serving.state.tables import Correction, Event

    state = open_state(settings.state.url or "", upgrade=False)
    try:
        with state.read() as session:
            events, corrections = (session.scalar(select(func.count()).select_from(t)) for t in (Event, Correction))
        return True, f"{state.dialect}, schema current, {events} events, {corrections} corrections"
    finally:
        state.close()


def _registry(settings: Settings) -> Seen:
    from serving.registry import CHALLENGER, CHAMPION, Registry

    registry = Registry(settings.registry.uri or "", settings.registry.model)
    named = {alias: registry.find(alias) for alias in (CHAMPION, CHALLENGER)}
    said = ", ".join(f"{alias} {version.number}" for alias, version in named.items() if version)
    return True, said or "answers; no version has an alias yet"


def _service(settings: Settings) -> Seen:
    from serving.deploy import NotDeployed, open_deployer

    try:
        status = open_deployer(settings.deploy.target).status(settings.deploy.name)
    except NotDeployed:
        return None, f"no service {settings.deploy.name} yet"
    return service_seen(status)


def service_seen(status: Status) -> Seen:
    """What a deployed service says of itself; one that waits for its first model is neither good nor bad."""
    if not status.storage_uri:
        return None, "no model yet: the first comes from a run (hscode submit --wait)"
    shares = ", ".join(
        f"version {revision.version if (revision := status.revision(t.revision)) else '?'} {t.percent} %"
        for t in status.traffic
    )
    why = f"; {'; '.join(status.reasons)}" if status.reasons else ""
    return status.ready, f"{'ready' if status.ready else 'not ready'}: {shares or 'no traffic'}{why}"


def _events(settings: Settings) -> Seen:
    from sqlalchemy import func, select

    from serving.state import open_state
    from serving.state.tables import Event

    state = open_state(settings.state.url or "", upgrade=False)
    try:
        with state.read() as session:
            last = session.scalar(select(func.max(Event.stored_at)))
            unnamed = session.scalar(select(func.count()).select_from(Event).where(Event.version == ""))
        if last is None:
            return None, "no event yet"
        age = (datetime.now(UTC) - last).total_seconds()
        if unnamed:
            return False, f"{unnamed} events name no version (metadataAnnotations); the last {age:.0f} s ago"
        return True, f"the last event {age:.0f} s ago"
    finally:
        state.close()


def _canary(settings: Settings) -> Seen:
    from serving.control.canary import journal
    from serving.state import open_state

    kind, _, namespace = (settings.deploy.target or "").partition(":")
    state = open_state(settings.state.url or "", upgrade=False)
    try:
        with state.read() as session:
            rows = journal.undecided(session, namespace if kind == "kserve" else None)
        leads = _lease_holder(settings, "canary") if kind != "kserve" else _cluster_lease(namespace)
        said = "; ".join(f"canary {row.id} {row.state} at {row.percent} %: {row.reason}" for row in rows)
        if leads is None:
            return (False if rows else None), f"no controller leads; {said or 'no canary is undecided'}"
        return True, f"{leads} leads; {said or 'no canary is undecided'}"
    finally:
        state.close()


def _trigger_lease(settings: Settings) -> Seen:
    leads = _lease_holder(settings, "trigger")
    return (None, "no trigger runs") if leads is None else (True, f"{leads} submits")


def _lease_holder(settings: Settings, name: str) -> str | None:
    from serving.state import open_state
    from serving.state.tables import LeaseRow

    state = open_state(settings.state.url or "", upgrade=False)
    try:
        with state.read() as session:
            row = session.get(LeaseRow, name)
        return row.holder if row is not None and row.expires_at > time.time() else None
    finally:
        state.close()


def _cluster_lease(namespace: str) -> str | None:
    from serving.control.canary.leader import KubernetesLease

    return KubernetesLease(namespace, "hscode-canary").current()


def _http(arrow: str, addresses: Addresses, name: str, path: str, read: Callable[[Any], Seen] | None) -> Finding:
    service, base = f"hscode-{name}", getattr(addresses, name)
    why = addresses.closed.get(service)
    if base is None and name in REPLACEABLE and service in addresses.absent:
        return Finding(arrow, None, f"no Service {service}: where another's does its work, give --{name} URL")
    if base is None:
        return Finding(arrow, None if why is None else False, why or "no address given", "kubectl get pods" * bool(why))

    def look() -> Seen:
        import httpx

        got = httpx.get(base.rstrip("/") + path, timeout=TIMEOUT_SECONDS)
        if not got.is_success:
            return False, f"status {got.status_code}: {got.text.strip()[:200]}"
        if read is None:
            return True, "ready"
        return read(got.json() if path.startswith("/api") else got.text)

    return _tried(arrow, look, f"is it up? its pods' log; the way to {base} (port-forward, NetworkPolicy)")


def _targets(answer: Any) -> Seen:
    jobs: dict[str, list[str]] = {}
    for target in answer["data"]["activeTargets"]:
        jobs.setdefault(target["labels"]["job"], []).append(target["health"])
    # A part without a pod is no target at all.
    unseen = [part for part in SCRAPED if not any(part in job for job, states in jobs.items() if "up" in states)]
    if unseen:
        return False, f"nothing of {', '.join(unseen)} is up"
    return True, ", ".join(f"{job} {states.count('up')} up" for job, states in sorted(jobs.items()))


def _rules(answer: Any) -> Seen:
    rules = [rule for group in answer["data"]["groups"] for rule in group["rules"]]
    broken = [f"{rule['name']}: {rule.get('lastError', '')}" for rule in rules if rule["health"] == "err"]
    if broken or not rules:
        return False, "; ".join(broken) or "no rule is loaded"
    firing = sorted({rule["name"] for rule in rules if rule.get("state") == "firing"})
    return True, f"{len(rules)} rules; firing: {', '.join(firing) or 'none'}"


def _alertmanagers(answer: Any) -> Seen:
    active = [one["url"] for one in answer["data"]["activeAlertmanagers"]]
    return bool(active), f"sends alerts to {', '.join(active)}" if active else "it knows no Alertmanager"


def _receivers(answer: Any) -> Seen:
    import yaml

    config = yaml.safe_load(answer["config"]["original"])
    if not any(receiver["name"] == "trigger" for receiver in config["receivers"]):
        return False, "it has no receiver `trigger`"
    return True, "it has the receiver of the trigger"


def _notices(text: str) -> Seen:
    """From its own counters: notices sent by webhook, and those that were not taken."""
    sent, failed = (
        sum(
            float(value)
            for value in re.findall(rf'^alertmanager_{name}{{[^}}]*integration="webhook".* (\S+)$', text, re.M)
        )
        for name in ("notifications_total", "notifications_failed_total")
    )
    if not sent:
        return None, "no alert was sent to the trigger yet"
    return failed < sent, f"{sent:.0f} notices sent, {failed:.0f} not taken"
