"""The timeline of a loop as one HTML page that needs nothing else; pictures are inline SVG."""

import io
from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import datetime
from importlib import resources
from typing import TYPE_CHECKING, Any

from pipelines.loop.stream import Outcome

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Series = dict[str, dict[str, list[tuple[float, float]]]]
"""Name of a query → version → (Unix time, value)."""

QUERIES: Mapping[str, str] = {
    "drift": "max by (version) (hs_drift_lower_ratio)",
    "accuracy": 'max by (version) (hs_accuracy_ratio{level="6"})',
    "requests": 'sum by (version) (rate(hs_requests_total{status="ok"}[20s]))',
    "percent": "max by (version) (hs_canary_percent)",
}
"""What is asked of Prometheus."""
COLOURS = ("#2f6fb0", "#b5532a", "#1f8a70", "#7a4aa0")
BUCKET_SECONDS = 10
MARKED: Mapping[str, str] = {
    "shift": "shift",
    "alert": "alert",
    "canary": "canary",
    "promoted": "promoted",
    "rolled_back": "rolled back",
}
"""Events drawn as lines, the first of each."""
TITLES: Mapping[str, str] = {
    "training": "First training",
    "champion": "First champion serves",
    "stream": "Clients begin",
    "shift": "The stream shifts",
    "drift": "Prometheus sees it (alert pending)",
    "alert": "Alertmanager has the alert",
    "run": "Retraining starts",
    "run_ended": "Retraining ends",
    "canary": "Canary of the challenger",
    "step": "Step of the canary",
    "promoted": "Promoted",
    "rolled_back": "Rolled back",
    "stopped": "Stopped at the gate",
    "late": "Out of time",
    "end": "Clients end",
    "reference": "Reference model",
}
ACCURACIES: Mapping[str, str] = {
    "before_shift": "First champion, before the shift",
    "after_shift": "First champion, on the shifted stream",
    "after_retraining": "Retrained champion, on the shifted stream",
    "reference": "Reference: trained on all shifted rows besides",
}


def render(summary: Mapping[str, Any], outcomes: Sequence[Outcome], seen: Series) -> str:
    """The page of `pipelines.loop.story.run_loop`'s summary, what clients saw and what Prometheus saw."""
    from jinja2 import Environment, StrictUndefined

    began = next(_time(each["at"]) for each in summary["events"] if each["event"] == "stream")
    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined)
    environment.filters.update(percent=lambda value: f"{100 * value:.1f} %", clock=lambda at: _clock(_time(at) - began))
    template = environment.from_string((resources.files("pipelines.loop") / "page.html").read_text(encoding="utf-8"))
    picture = _picture(summary["events"], outcomes, seen, began)
    return template.render(summary=summary, titles=TITLES, accuracies=ACCURACIES, picture=picture, queries=QUERIES)


def _picture(events: Sequence[Mapping[str, Any]], outcomes: Sequence[Outcome], seen: Series, began: float) -> str:
    from matplotlib import rc_context
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    versions = sorted({each.version for each in outcomes if each.version}, key=lambda v: (len(v), v))
    colours = {version: COLOURS[i % len(COLOURS)] for i, version in enumerate(versions)}
    with rc_context({"svg.hashsalt": "loop", "font.size": 9, "axes.spines.top": False, "axes.spines.right": False}):
        figure = Figure(figsize=(11, 9), layout="constrained")
        FigureCanvasSVG(figure)
        right, drift, traffic = figure.subplots(3, 1, sharex=True, height_ratios=(3, 2, 2))
        _draw_right(right, outcomes, colours, began)
        _lines(drift, seen["drift"], colours, began)
        drift.set_ylabel("drift, bits (lower bound)")
        _lines(traffic, seen["requests"], colours, began)
        traffic.set_ylabel("requests a second")
        traffic.set_xlabel("seconds since the first request")
        for axes in (right, drift, traffic):
            axes.set_ylim(bottom=0)
            axes.grid(axis="y", color="#eee")
        _mark(right, (drift, traffic), events, began)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]


def _draw_right(axes: "Axes", outcomes: Sequence[Outcome], colours: Mapping[str, str], began: float) -> None:
    """Share right by what clients know, in buckets: a line for each version."""
    buckets: dict[str, dict[int, list[bool]]] = defaultdict(lambda: defaultdict(list))
    for each in outcomes:
        if each.right is not None:
            buckets[each.version][int((each.at.timestamp() - began) // BUCKET_SECONDS)].append(each.right)
    for version, found in buckets.items():
        kept = sorted((bucket, said) for bucket, said in found.items() if len(said) >= 10)
        times = [(bucket + 0.5) * BUCKET_SECONDS for bucket, _ in kept]
        shares = [sum(said) / len(said) for _, said in kept]
        axes.plot(times, shares, "o-", color=colours[version], markersize=3, label=f"version {version}")
    axes.set_ylim(0, 1)
    axes.set_ylabel("right at six digits, by clients")
    axes.legend(loc="lower left", frameon=False)


def _lines(
    axes: "Axes", found: Mapping[str, Sequence[tuple[float, float]]], colours: Mapping[str, str], began: float
) -> None:
    for version, points in found.items():
        if version in colours:
            axes.plot([at - began for at, _ in points], [value for _, value in points], color=colours[version])


def _mark(top: "Axes", others: Sequence["Axes"], events: Sequence[Mapping[str, Any]], began: float) -> None:
    marked: set[str] = set()
    times = {each["event"]: _time(each["at"]) - began for each in reversed(events)}
    if "run" in times and "run_ended" in times:
        for axes in (top, *others):
            axes.axvspan(times["run"], times["run_ended"], color="#f3f3f3", zorder=0)
        middle = (times["run"] + times["run_ended"]) / 2
        top.annotate(
            "retraining", (middle, 0.98), xycoords=("data", "axes fraction"), fontsize=8, va="top", ha="center"
        )
    for each in events:
        name = each["event"]
        if name not in MARKED or name in marked:
            continue
        marked.add(name)
        at = _time(each["at"]) - began
        for axes in (top, *others):
            axes.axvline(at, color="#999", linewidth=0.8, linestyle=":")
        top.annotate(
            MARKED[name], (at, 1.0), xycoords=("data", "axes fraction"), rotation=40, fontsize=8, va="bottom", ha="left"
        )


def _time(at: str) -> float:
    return datetime.fromisoformat(at).timestamp()


def _clock(seconds: float) -> str:
    """Minutes and seconds since the first request."""
    whole = round(abs(seconds))
    return f"{'-' if seconds < -0.5 else ''}{whole // 60}:{whole % 60:02d}"
