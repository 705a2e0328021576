"""The loop from the first training to the page. Only times are short; each part is what runs on a cluster."""

import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
from sqlalchemy import select

from config.settings import Settings, Source
from models.errors import UserError
from pipelines.loop import page
from pipelines.loop.material import Material
from pipelines.loop.parts import PartFailed, Parts, answers, free_port, program, start_alertmanager, start_prometheus
from pipelines.loop.stream import Stream
from serving.home import with_home
from serving.registry import CHAMPION, Registry, home_uri
from serving.state import State, open_state
from serving.state.tables import Canary, CanaryStep, Run

LOOK_SECONDS = 0.5
NO_CANARY_SECONDS = 60
"""After a run's end, until a candidate counts as stopped at the gate."""
REFERENCE = "reference"


@dataclass(frozen=True)
class Event:
    """Something that happened."""

    at: datetime
    event: str
    """training, champion, stream, shift, drift, alert, run, run_ended, canary, step, promoted (or rolled_back), end"""
    detail: str = ""


Tell = Callable[[Event], None]
"""Called with each event when it is first seen."""


@dataclass
class Story:
    """What happened, in its order."""

    tell: Tell
    events: list[Event] = field(default_factory=list)

    def add(self, event: str, detail: str = "", at: datetime | None = None) -> None:
        """Note an event, once for the same words."""
        if not any((each.event, each.detail) == (event, detail) for each in self.events):
            self.events.append(Event(at or datetime.now(UTC), event, detail))
            self.tell(self.events[-1])

    def happened(self, event: str) -> datetime | None:
        """When it first did."""
        return next((each.at for each in self.events if each.event == event), None)


def run_loop(settings: Settings, home: Path, material: Material, tell: Tell) -> dict[str, Any]:
    """Run it in `home`, a new folder; returns the summary (docs/loop.md). `settings` say where registry and state are.

    Raises UserError before anything is started, PartFailed (one line) where a part fails. Whatever happens, no process
    is left behind.
    """
    for names in (("prometheus",), ("prometheus-alertmanager", "alertmanager")):
        program(*names)
    settings = _here(settings, home, material)
    config = _saved(settings, home / "loop.yaml")
    story = Story(tell)
    state = open_state(settings.state.url or "")
    try:
        _refuse_used(state, settings)
        with Parts(home / "parts") as parts:
            story.add("training", f"on {_lines(material.base):,} rows")
            trained = _hscode(parts, "training", "run", home, config)
            if trained["gate"] != "pass":
                raise PartFailed(f"the first model did not pass the gate: {trained['report']}")
            story.add("champion", f"version {trained['version']['version']}")
            watched, stream = _started(parts, settings, home, config, material)
            with stream:
                story.add("stream", f"{settings.loop.rate:g} requests a second")
                _watch_until_the_end(parts, settings, story, state, watched, stream, material)
            story.add("end", f"{len(stream.outcomes):,} requests, {stream.corrections:,} corrections")
            seen = watched.series(story)
        with Parts(home / "parts") as parts:
            story.add("reference", "trained on all shifted rows besides, for comparison")
            reference = _saved(_of_reference(settings, material), home / "reference.yaml")
            _hscode(parts, REFERENCE, "run", home / REFERENCE, reference)
        summary = _summary(settings, home, material, story, state, stream) | {"drift": risen(seen["drift"], story)}
    finally:
        state.close()
    timeline = home / "timeline.html"
    timeline.write_text(page.render(summary, stream.outcomes, seen), encoding="utf-8")
    summary["timeline"] = str(timeline)
    (home / "summary.json").write_text(json.dumps(summary, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return summary


# -- before ---------------------------------------------------------------------------------------------------------


def _here(settings: Settings, home: Path, material: Material) -> Settings:
    """The settings of the loop's own parts: this machine's host and runs, these rows, a model of its own."""
    named, registry = settings.nomenclature, settings.registry
    legal = str(material.nomenclature) if material.nomenclature else named.path
    if registry.uri is not None:
        # Others have models there, one of this name perhaps, whose champion ours would be held against and replace.
        registry = registry.model_copy(update={"model": f"{registry.model}-loop-{home.name}"})
    return with_home(
        settings.model_copy(
            update={
                "data": settings.data.model_copy(update={"sources": (Source(path=str(material.base.resolve())),)}),
                "nomenclature": named.model_copy(update={"path": legal and str(Path(legal).resolve())}),
                "registry": registry,
                "deploy": settings.deploy.model_copy(update={"target": None}),
                "kfp": settings.kfp.model_copy(update={"endpoint": None}),
            }
        ),
        home,
    )


def _of_reference(settings: Settings, material: Material) -> Settings:
    """Those of the reference model: the shifted rows besides, another name, nothing deployed where we deployed."""
    rows = (*settings.data.sources, Source(path=str(material.shifted.resolve())))
    registry = settings.registry
    return settings.model_copy(
        update={
            "data": settings.data.model_copy(update={"sources": rows}),
            "registry": registry.model_copy(update={"uri": None, "model": f"{registry.model}-{REFERENCE}"}),
            "deploy": settings.deploy.model_copy(update={"target": None}),
        }
    )


def _saved(settings: Settings, file: Path) -> Path:
    file.touch(mode=0o600)
    file.write_text(settings.to_json(), encoding="utf-8")  # JSON is YAML
    return file.resolve()


def _refuse_used(state: State, settings: Settings) -> None:
    with state.read() as session:
        used = [session.scalars(select(table).limit(1)).first() for table in (Run, Canary)]
    if any(used):
        raise UserError(
            "there are runs or canaries in this state already", settings.state.url or "", "give it an empty one"
        )


def _hscode(parts: Parts, name: str, verb: str, home: Path, config: Path) -> dict[str, Any]:
    """Run a verb to its end; what it printed."""
    parts.hscode(name, verb, "--home", home, "--config", config, "--json")
    if parts.finish(name):
        raise PartFailed(f"{name} failed: {parts.last_words(name)}")
    text = "\n" + parts.output(name)
    found: dict[str, Any] = json.loads(text[text.rindex("\n{\n") :])  # warnings may stand before it
    return found


# -- during ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Watched:
    """Prometheus and Alertmanager, asked as anyone would."""

    prometheus: str
    alertmanager: str

    def alerts(self) -> list[dict[str, Any]]:
        """Prometheus' alerts of models that retraining may mend: labels, state (pending or firing), activeAt."""
        found = httpx.get(f"{self.prometheus}/api/v1/alerts", timeout=10).raise_for_status().json()["data"]["alerts"]
        return [alert for alert in found if alert["labels"].get("action") == "retrain"]

    def notified(self) -> list[dict[str, Any]]:
        """The same that Alertmanager has: labels, startsAt."""
        got = httpx.get(f"{self.alertmanager}/api/v2/alerts", params={"filter": 'action="retrain"'}, timeout=10)
        found: list[dict[str, Any]] = got.raise_for_status().json()
        return found

    def series(self, story: Story) -> page.Series:
        """What the pictures show, from Prometheus: name → label → (times, values)."""
        since, until = story.happened("stream"), story.happened("end")
        assert since is not None
        assert until is not None
        span = {"start": since.timestamp(), "end": until.timestamp(), "step": 2}
        seen: page.Series = {}
        for name, query in page.QUERIES.items():
            got = httpx.get(f"{self.prometheus}/api/v1/query_range", params={"query": query, **span}, timeout=30)
            seen[name] = {
                each["metric"].get("version", ""): [(float(at), float(value)) for at, value in each["values"]]
                for each in got.raise_for_status().json()["data"]["result"]
            }
        return seen


def _started(parts: Parts, settings: Settings, home: Path, config: Path, material: Material) -> tuple[Watched, Stream]:
    """Start what runs all the time, in the order in which they need each other."""
    from serving.control.monitor.service import TOKEN_FILE as MONITOR_TOKEN
    from serving.control.trigger.service import TOKEN_FILE as TRIGGER_TOKEN
    from serving.control.trigger.service import token_of
    from serving.deploy.local import LocalDeployer

    wait, seconds = parts.wait, settings.loop.start_seconds
    ports = {name: free_port() for name in ("hscode-monitor", "hscode-trigger", "hscode-canary")}
    urls = {name: f"http://127.0.0.1:{port}" for name, port in ports.items()}
    common = ("--home", home, "--config", config)
    parts.hscode("monitor", "monitor", "--port", str(ports["hscode-monitor"]), *common)
    parts.hscode("trigger", "trigger", "serve", "--port", str(ports["hscode-trigger"]), *common)
    parts.hscode("canary", "canary", "controller", "--port", str(ports["hscode-canary"]), *common)
    host = ("serve", "--port", "0", "--grpc-port", "-1", "--monitor", f"{urls['hscode-monitor']}/events", *common)
    parts.hscode("host", *host)
    wait("monitor", answers(f"{urls['hscode-monitor']}/readyz"), seconds)
    wait("trigger", answers(f"{urls['hscode-trigger']}/readyz"), seconds)
    wait("canary", answers(f"{urls['hscode-canary']}/healthz"), seconds)
    deployer = LocalDeployer(home)

    def serves() -> bool:
        return deployer.url is not None and deployer.status(settings.deploy.name).ready

    wait("host", serves, seconds)
    token_of(settings.trigger, home)
    token_file = Path(settings.trigger.token_file or home / TRIGGER_TOKEN)
    alertmanager = start_alertmanager(parts, settings.loop, urls["hscode-trigger"], token_file)
    watched = Watched(start_prometheus(parts, settings.loop, ports, alertmanager), f"http://127.0.0.1:{alertmanager}")
    token = Path(settings.monitor.token_file or home / MONITOR_TOKEN).read_text(encoding="utf-8").strip()
    stream = Stream(
        f"{deployer.url}/v1/models/{settings.deploy.name}:predict",
        f"{urls['hscode-monitor']}/corrections",
        token,
        material.before,
        material.after,
        settings.loop,
    )
    return watched, stream


def _watch_until_the_end(
    parts: Parts, settings: Settings, story: Story, state: State, watched: Watched, stream: Stream, material: Material
) -> None:
    """Shift the stream when its time has come, note what follows, end some time after the verdict."""
    began, loop = time.monotonic(), settings.loop
    ended: float | None = None
    while time.monotonic() - began < loop.deadline_seconds:
        if story.happened("shift") is None and time.monotonic() - began > loop.steady_seconds:
            stream.shift()
            story.add("shift", material.shift)
        with suppress(httpx.HTTPError):
            _note_alerts(story, watched)
        run = _note_run(story, state)
        verdict = _note_canary(story, state)
        if ended is None and (verdict or run == "failed"):
            ended = time.monotonic() + loop.after_seconds
        elif ended is None and _stopped(story):
            story.add("stopped", "the candidate did not pass the gate")
            ended = time.monotonic()
        if ended is not None and time.monotonic() >= ended:
            return
        parts.check()
        time.sleep(LOOK_SECONDS)
    story.add("late", f"not done within {loop.deadline_seconds:g} s")


def _stopped(story: Story) -> bool:
    """Whether a run has ended for so long without a canary that its candidate cannot have become challenger."""
    ended = story.happened("run_ended")
    waited = 0.0 if ended is None else (datetime.now(UTC) - ended).total_seconds()
    return waited > NO_CANARY_SECONDS and story.happened("canary") is None


def _note_alerts(story: Story, watched: Watched) -> None:
    for alert in watched.alerts():
        story.add("drift", _named(alert["labels"]), datetime.fromisoformat(alert["activeAt"]))
    for alert in watched.notified():
        story.add("alert", _named(alert["labels"]), datetime.fromisoformat(alert["startsAt"]))


def _named(labels: Mapping[str, str]) -> str:
    return f"{labels['alertname']} of version {labels.get('version', '?')}"


def _note_run(story: Story, state: State) -> str | None:
    """Note what became of runs; the status of the first one."""
    with state.read() as session:
        runs = list(session.scalars(select(Run).order_by(Run.id)))
    for run in runs:
        story.add("run", f"{run.name}, because of {run.tags.get('alert') or run.tags.get('trigger')}", run.created_at)
        if run.finished_at is not None:
            story.add("run_ended", f"{run.name} {run.status}{f': {run.error}' if run.error else ''}", run.finished_at)
    return runs[0].status if runs else None


def _note_canary(story: Story, state: State) -> str | None:
    """Note the steps of the canaries; the state of the first one that has ended."""
    with state.read() as session:
        canaries = list(session.scalars(select(Canary).order_by(Canary.id)))
        steps = list(session.scalars(select(CanaryStep).order_by(CanaryStep.canary_id, CanaryStep.sequence)))
    for canary in canaries:
        story.add("canary", f"version {canary.challenger_version} against {canary.champion_version}", canary.started_at)
        for step in steps:
            if step.canary_id == canary.id and step.action in ("start", "step") and step.done_at is not None:
                told = f"version {canary.challenger_version} has {step.percent_after} % of the traffic"
                story.add("step", told, step.done_at)
        if canary.finished_at is not None:
            story.add(canary.state, f"version {canary.challenger_version}: {canary.reason}", canary.finished_at)
    return next((canary.state for canary in canaries if canary.finished_at is not None), None)


# -- after ----------------------------------------------------------------------------------------------------------


def _summary(
    settings: Settings, home: Path, material: Material, story: Story, state: State, stream: Stream
) -> dict[str, Any]:
    from serving.control.trigger import journal

    registry = Registry(settings.registry.uri or "", settings.registry.model)
    reference = Registry(home_uri(home / REFERENCE), f"{settings.registry.model}-{REFERENCE}")
    cache = home / "cache"
    with state.read() as session:
        runs = list(session.scalars(select(Run).order_by(Run.id)))
        canary = session.scalars(select(Canary).order_by(Canary.id)).first()
        decisions = [
            {"key": row.key, "decision": row.decision or "waiting", "reason": row.reason, "deliveries": row.deliveries}
            for row, _ in reversed(journal.listing(session, 100))
        ]
    first = registry.folder("1" if canary is None else canary.champion_version, cache)
    promoted = canary is not None and canary.state == "promoted"
    accuracies: dict[str, dict[str, Any] | None] = {
        "before_shift": _accuracy(first, material.judged, settings),
        "after_shift": _accuracy(first, material.judged_shifted, settings),
        "after_retraining": None,
        "reference": _accuracy(reference.folder(CHAMPION, cache / REFERENCE), material.judged_shifted, settings),
    }
    lineage = None
    if canary is not None:
        version = canary.challenger_version
        lineage = registry.lineage(version)
        lineage |= journal.lineage(state, lineage["run_key"], version, settings.registry.model)
        if promoted:
            accuracies["after_retraining"] = _accuracy(
                registry.folder(version, cache), material.judged_shifted, settings
            )
    events = sorted(story.events, key=lambda event: event.at)
    return {
        "home": str(home),
        "synthetic": material.synthetic,
        "runs_started": len(runs),
        "promoted": promoted,
        "loss_recovered_ratio": recovered(accuracies),
        "timeline": "",
        "accuracies": accuracies,
        "requests": len(stream.outcomes),
        "unanswered": sum(not each.version for each in stream.outcomes),
        "corrections": stream.corrections,
        "troubles": stream.troubles[:20],
        "events": [{**asdict(each), "at": each.at.isoformat()} for each in events],
        "decisions": decisions,
        "lineage": lineage,
    }


def recovered(accuracies: Mapping[str, Mapping[str, Any] | None]) -> float | None:
    """Share of the loss against the reference, on the shifted rows, that retraining won back; None without a loss."""
    lost, now, best = (accuracies[name] for name in ("after_shift", "after_retraining", "reference"))
    if lost is None or now is None or best is None or best["value"] <= lost["value"]:
        return None
    return round(float((now["value"] - lost["value"]) / (best["value"] - lost["value"])), 4)


def risen(drift: Mapping[str, Sequence[tuple[float, float]]], story: Story) -> dict[str, float | None]:
    """The largest lower bound of drift that Prometheus saw before the shift and after it, bits; None: it saw none."""
    shift = story.happened("shift")
    since = math.inf if shift is None else shift.timestamp()
    points = [point for of_version in drift.values() for point in of_version]
    return {
        "before_shift": max((value for at, value in points if at < since), default=None),
        "after_shift": max((value for at, value in points if at >= since), default=None),
    }


def _accuracy(bundle: Path, file: Path, settings: Settings) -> dict[str, Any]:
    """Share of a file's rows whose first candidate is right at six digits, with its 95 % interval (Wilson)."""
    from models import evaluation
    from models.bundle import Bundle
    from models.data.labelled import edition_of, read_labelled

    model = Bundle.load(bundle)
    frame = read_labelled(str(file), settings, edition_of(model.edition, model.texts)).frame
    probabilities = model.probabilities(frame["description"].to_list())
    level = evaluation.evaluate(model.levels, probabilities, frame, model.thresholds, None)["groups"]["all"]["levels"][
        "6"
    ]
    return {
        **level["top1"],
        "digits": 6,
        "rows": level["rows"],
        "classes": level["classes"],
        "classes_known": len(model.levels.codes[6]),
        "source": sorted(set(frame["source"].to_list())),
        "version": f"{model.name} {model.version}",
    }


def _lines(file: Path) -> int:
    with file.open(encoding="utf-8") as opened:
        return sum(1 for _ in opened) - 1
