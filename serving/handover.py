"""The rim between a finished training run and what serves: registration with lineage, then deployment."""

import json
import os
from datetime import UTC, datetime
from pathlib import Path

from config.settings import Settings
from models.errors import UserError
from serving.registry import CHALLENGER, CHAMPION, Registry, Version


def register_candidate(
    settings: Settings, bundle: Path, report: Path, run: str, run_key: str, triggered_by: str
) -> Version:
    """Register `bundle` once for `run_key` (empty: `run`), tagged with the way back to run, data, settings and code.

    ``HSCODE_RUN_ID``, where set, is the run's id instead of `run` (kfp.local draws a random one for each attempt).
    """
    run = os.environ.get("HSCODE_RUN_ID", run)
    registry = Registry(settings.registry.uri or "", settings.registry.model)
    card = json.loads((bundle / "card.json").read_text(encoding="utf-8"))
    scores = headline(card)
    champion = registry.find(CHAMPION)
    tags = {
        "kind": str(card["kind"]),
        "data_hash": str(card.get("data_hash", "")),
        "settings_hash": str(card.get("settings_hash", "")),
        "commit": str(card.get("git_commit", "unknown")),
        "edition": str(card.get("edition", "")),
        "pipeline_run": run,
        "triggered_by": triggered_by,
        "scores": json.dumps(scores, sort_keys=True),
        "reason": str(card.get("selection", {}).get("reason", ""))[:5000],
    }
    if champion is not None:
        tags["parent_version"] = champion.number
    if warm := card.get("training", {}).get("warm_start"):
        tags["warm_start"] = json.dumps(warm, sort_keys=True)
    version = registry.register(bundle, run_key or run, tags, scores)
    registry.client.log_artifact(version.run_id, str(report))
    return version


def export_corrections(settings: Settings, since: str, out: Path) -> int:
    """Write the experts' corrections as rows of a source (JSON lines); returns their number.

    `since` is an ISO 8601 moment; empty: what `retrain.corrections_since` says. Raises UserError where it is no moment
    or the settings name no state.
    """
    from serving.state import open_state
    from serving.state.corrections import training_rows

    if settings.state.url is None:
        raise UserError("setting state.url is missing: corrections lie there", todo="set it, or HSCODE__STATE__URL")
    moment = None
    if since:
        try:
            moment = datetime.fromisoformat(since).astimezone(UTC)
        except ValueError:
            raise UserError(f"not a moment: {since!r}", "since", "write it as 2026-01-31T00:00:00+00:00") from None
    elif settings.retrain.corrections_since == "champion":
        champion = Registry(settings.registry.uri or "", settings.registry.model).find(CHAMPION)
        moment = None if champion is None else champion.created
    state = open_state(settings.state.url)
    try:
        rows = training_rows(state, moment)
    finally:
        state.close()
    data = settings.data
    columns = {"description": data.description_column or "description", "code": data.code_column or "code"}
    with out.open("w", encoding="ascii") as file:
        for row in rows:
            named = {**{columns[name]: row[name] for name in columns}, "received_at": str(row["received_at"])}
            file.write(json.dumps(named) + "\n")
    return len(rows)


def arrived_data(settings: Settings, until: str) -> list[str]:
    """Addresses of the data that arrived up to the decision with this id, read from the state; empty: none.

    Raises UserError where it is no id or the settings name no state.
    """
    from serving.state import open_state
    from serving.state.arrivals import arrived

    if not until:
        return []
    if not until.isdecimal():
        raise UserError(f"not the id of a decision: {until!r}", "data_until", "see: hscode trigger list --json")
    if settings.state.url is None:
        raise UserError("setting state.url is missing: new data is listed there", todo="set it, or HSCODE__STATE__URL")
    state = open_state(settings.state.url)
    try:
        return arrived(state, int(until), settings.trigger.data_prefixes)
    finally:
        state.close()


def headline(card: dict[str, object]) -> dict[str, float]:
    """The card's test figures as flat names: ``GROUP.hsLEVEL.top1`` and so on, shares 0..1."""
    scores: dict[str, float] = {}
    metrics = card.get("metrics")
    groups = metrics.get("groups", {}) if isinstance(metrics, dict) else {}
    for group, figures in groups.items():
        for digits, level in figures["levels"].items():
            for name in ("top1", "top3", "top5"):
                scores[f"{group}.hs{digits}.{name}"] = round(level[name]["value"], 4)
            scores[f"{group}.hs{digits}.macro_f1"] = round(level["macro_f1"], 4)
        if figures["answers"]["precision"] is not None:
            scores[f"{group}.answers.precision"] = round(figures["answers"]["precision"]["value"], 4)
        scores[f"{group}.answers.given"] = round(figures["answers"]["given"]["value"], 4)
    return scores


def hand_over(settings: Settings, number: str, rollout: str = "") -> str:
    """Deploy a registered version; returns the alias it got.

    With rollout (empty: the settings') `direct`, and for a first version (there is nothing to compare it with), it
    becomes champion once it is ready; with `canary` it becomes challenger with no traffic: the canary controller gives
    it a share and decides. Raises as `make_champion`; the version stays registered.
    """
    registry = Registry(settings.registry.uri or "", settings.registry.model)
    champion = registry.find(CHAMPION)
    if (rollout or settings.deploy.rollout) == "canary" and champion is not None and champion.number != number:
        registry.set_alias(CHALLENGER, number)
        return CHALLENGER
    make_champion(settings, number)
    return CHAMPION


def make_champion(settings: Settings, reference: str) -> Version:
    """Serve a version (number or alias) with all traffic and, once it is ready, make it champion.

    Raises DeployFailed where it does not become ready, UserError while a canary is undecided: then what served before
    serves on, and no alias has moved.
    """
    from serving.deploy import deploy_version

    registry = Registry(settings.registry.uri or "", settings.registry.model)
    version = registry.resolve(reference)
    _refuse_beside_a_canary(settings, version.number)
    deploy_version(settings, version)
    return registry.promote(version.number)


def _refuse_beside_a_canary(settings: Settings, number: str) -> None:
    """Raise where the service's canary is undecided on record, though it may have no share yet or no more.

    Without a database (a step's pod has none) the share in the spec alone tells, which `deploy_version` looks at.
    """
    from serving.control.canary import journal
    from serving.deploy import NotDeployed, open_deployer
    from serving.deploy.release import canary_undecided
    from serving.state import open_state

    url = settings.state.url
    if url is None or (url.startswith("sqlite:///") and not Path(url.removeprefix("sqlite:///")).exists()):
        return
    try:
        service = open_deployer(settings.deploy.target).status(settings.deploy.name)
    except NotDeployed:
        return
    state = open_state(url)
    try:
        with state.read() as session:
            open_ones = [row for row in journal.undecided(session, service.namespace) if row.service_uid == service.uid]
    finally:
        state.close()
    for row in open_ones:
        raise canary_undecided(service.name, f"version {row.challenger_version} is {row.state}", number)
