"""The report of a run: one HTML page that needs nothing else. Figures come in as dicts, pictures are inline SVG."""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from models.answer import DIGITS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = {
    "pool": "#b5532a",
    "encoder": "#7a4aa0",
    "svc": "#2f6fb0",
    "textcnn": "#1f8a70",
    "bilstm": "#c08a1e",
    "transformer": "#a8366b",
    "dnn": "#5b6b7a",
}
GROUPS = {
    "trader": "descriptions by traders (label given or corrected)",
    "nomenclature": "texts of the nomenclature",
    "all": "all labelled rows",
}


@dataclass(frozen=True)
class Content:
    """What a report can show; what is empty or None is left out."""

    models: Mapping[str, Mapping[str, Any]]
    """Name of a model (its kind, or any other) → figures of `models.evaluation.evaluate`."""
    title: str = "HS code models"
    chosen: str | None = None
    """Name of the model taken; default: the first by score."""
    synthetic: bool = False
    """The rows are the generated sample: said wherever a figure is."""
    split: Mapping[str, Any] | None = None
    """split.json: rows, groups, classes by part, sources by part, rule."""
    ingest: Mapping[str, Any] | None = None
    """ingest.json."""
    class_sizes: Sequence[int] = ()
    """Training rows of each class, nomenclature texts left out."""
    selection: Mapping[str, Any] | None = None
    """`Selection.as_dict()`."""
    gate: Mapping[str, Any] | None = None
    """`Verdict.as_dict()`."""
    costs: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Model → `Cost.as_dict()` and, under "usage", its measured usage."""
    currency: str = ""
    simulation: Mapping[str, Any] | None = None
    """`models.simulation.analyse(...)`."""
    behaviour: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Model → `models.behaviour.examine(...)`."""
    tuning: Sequence[tuple[str, str]] = ()
    """(caption, HTML or SVG) of each tuned kind."""
    upsampling: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Model → figures of the same kind trained without up-sampling."""
    facts: Mapping[str, str] = field(default_factory=dict)
    """Names and hashes of the run (pipeline run, data hash, settings hash, commit), shown at the end."""


def render(content: Content, out: Path | None = None) -> str:
    """The page as HTML; written to `out` where given. Same content, same bytes."""
    from jinja2 import Environment, StrictUndefined

    group = _group(content)
    order = sorted(content.models, key=lambda name: (-_top1(content.models[name], group, 6), name))
    chosen = content.chosen if content.chosen in content.models else (order[0] if order else None)
    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined)
    environment.filters.update(percent=_percent, interval=_interval, number=_number, money=_money, points=_points)
    template = environment.from_string((resources.files("models") / "report.html").read_text(encoding="utf-8"))
    page = template.render(
        content=content,
        order=order,
        chosen=chosen,
        best=content.models[chosen] if chosen else None,
        group=group,
        groups=GROUPS,
        digits=[str(d) for d in DIGITS],
        colours={name: _colour(name, order) for name in order},
        pictures=_pictures(content, order, chosen, group),
    )
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(page, encoding="utf-8")
    return page


def _group(content: Content) -> str:
    """The group that models are compared on: traders' rows where every model has them."""
    every = [set(m["groups"]) for m in content.models.values()]
    return next((g for g in ("trader", "nomenclature") if every and all(g in have for have in every)), "all")


def _top1(model: Mapping[str, Any], group: str, digits: int) -> float:
    value = model["groups"].get(group, {}).get("levels", {}).get(str(digits), {}).get("top1", {}).get("value", 0.0)
    return float(value)


def _percent(value: float | None, digits: int = 1) -> str:
    return "–" if value is None else f"{value * 100:.{digits}f}"


def _points(value: float | None) -> str:
    return "–" if value is None else f"{value * 100:+.1f}"


def _interval(share: Mapping[str, Any] | None) -> str:
    return "–" if share is None else f"{share['low'] * 100:.1f}–{share['high'] * 100:.1f}"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 or value == int(value) else f"{value:,.1f}"


def _money(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:,.2f}" if value >= 0.1 else f"{value:.2g}"


def _colour(name: str, order: Sequence[str]) -> str:
    spare = [colour for kind, colour in COLOURS.items() if kind not in order] or ["#555555"]
    return COLOURS.get(name) or spare[order.index(name) % len(spare)]


# -- pictures ------------------------------------------------------------------------------------------------------


def _pictures(content: Content, order: Sequence[str], chosen: str | None, group: str) -> dict[str, str]:
    import matplotlib

    if not chosen:
        return {}
    style: Any = {
        "svg.fonttype": "none",
        "svg.hashsalt": "hscode",
        "font.family": "sans-serif",
        "font.sans-serif": ["system-ui", "DejaVu Sans"],
        "font.size": 10,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.edgecolor": "#888888",
        "axes.labelcolor": "#444444",
        "axes.titlesize": 10,
        "axes.grid": True,
        "grid.color": "#e4e4e4",
        "grid.linewidth": 0.8,
        "axes.axisbelow": True,
        "xtick.color": "#555555",
        "ytick.color": "#555555",
        "legend.frameon": False,
    }
    with matplotlib.rc_context(style):
        pictures = {
            "levels": _levels(content, order, group),
            "reliability": _reliability(content, chosen, group),
            "coverage": _coverage(content, order, group),
            "answers": _answered(content, order, group),
        }
        if content.class_sizes:
            pictures["classes"] = _classes(content.class_sizes)
        if content.costs:
            pictures["cost"] = _cost(content, order, group)
        if content.simulation:
            pictures["runs"] = _runs(content.simulation, order)
            pictures["pairs"] = _pairs(content.simulation)
    return pictures


def _figure(width: float, height: float, columns: int = 1, **options: Any) -> "tuple[Figure, list[Axes]]":
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasSVG(figure)
    made = figure.subplots(1, columns, squeeze=False, **options)
    return figure, list(made[0])


def _svg(figure: "Figure") -> str:
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]


def _levels(content: Content, order: Sequence[str], group: str) -> str:
    """Top-1 of each model at each level with its interval."""
    figure, panels = _figure(9.6, 0.9 + 0.32 * len(order), 3, sharey=True)
    for axes, digits in zip(panels, DIGITS, strict=True):
        for row, name in enumerate(reversed(order)):
            share = content.models[name]["groups"][group]["levels"][str(digits)]["top1"]
            value, low, high = (100 * share[key] for key in ("value", "low", "high"))
            colour = _colour(name, order)
            axes.plot([low, high], [row, row], color=colour, linewidth=2, alpha=0.55, solid_capstyle="round")
            axes.plot([value], [row], "o", color=colour, markersize=6)
            axes.annotate(f"{value:.1f}", (value, row), (0, 6), textcoords="offset points", ha="center", fontsize=8.5)
        axes.set_yticks(range(len(order)), list(reversed(order)))
        axes.set_ylim(-0.6, len(order) - 0.2)
        axes.grid(axis="y", visible=False)
        axes.set_title(f"HS{digits}, top-1, %")
    return _svg(figure)


def _reliability(content: Content, chosen: str, group: str) -> str:
    """Accuracy by confidence of the chosen model, with the rows behind each point."""
    figure, panels = _figure(9.6, 3.3, 3, sharey=True)
    for axes, digits in zip(panels, DIGITS, strict=True):
        level = content.models[chosen]["groups"][group]["levels"][str(digits)]
        table = level["reliability"]
        axes.plot([0, 1], [0, 1], color="#aaaaaa", linewidth=1, linestyle=(0, (4, 3)))
        x, y = [b["confidence"] for b in table], [b["accuracy"] for b in table]
        errors = [
            [max(0.0, b["accuracy"] - b["low"]) for b in table],
            [max(0.0, b["high"] - b["accuracy"]) for b in table],
        ]
        axes.errorbar(x, y, yerr=errors, fmt="o-", color=COLOURS.get(chosen, "#2f6fb0"), ecolor="#bbbbbb", markersize=4)
        error = "–" if level["ece"] is None else f"{level['ece']:.3f}"
        axes.set_title(f"HS{digits}: expected calibration error {error}")
        axes.set_xlabel("confidence")
        axes.set_xlim(-0.02, 1.02)
        axes.set_ylim(-0.02, 1.02)
    panels[0].set_ylabel("share right")
    return _svg(figure)


def _coverage(content: Content, order: Sequence[str], group: str) -> str:
    """Accuracy of the surest rows as more of them are answered."""
    figure, panels = _figure(9.6, 3.4, 3, sharey=True)
    target = 0.9
    for axes, digits in zip(panels, DIGITS, strict=True):
        for name in order:
            curve = content.models[name]["groups"][group]["levels"][str(digits)]["coverage"]
            shown = [c for c in curve if c["coverage"] >= 0.02]
            x, y = [100 * c["coverage"] for c in shown], [100 * c["accuracy"] for c in shown]
            axes.plot(x, y, color=_colour(name, order), linewidth=1.8, label=name)
        axes.axhline(100 * target, color="#999999", linewidth=1, linestyle=(0, (4, 3)))
        axes.set_title(f"HS{digits}")
        axes.set_xlabel("surest share of rows, %")
        axes.set_xlim(0, 100)
    panels[0].set_ylabel("of these right, %")
    panels[-1].legend(loc="lower left", fontsize=8.5)
    return _svg(figure)


def _answered(content: Content, order: Sequence[str], group: str) -> str:
    """What the answer policy gives: six, four or two digits, or none."""
    figure, (axes,) = _figure(9.6, 0.9 + 0.36 * len(order))
    shades = {"6": "#1f5f8b", "4": "#5b9bc4", "2": "#a9cde4", "none": "#e6e6e6"}
    for row, name in enumerate(reversed(order)):
        answers = content.models[name]["groups"][group]["answers"]
        left = 0.0
        parts = [(d, answers["at"][d]["share"]) for d in ("6", "4", "2")]
        for key, share in [*parts, ("none", 1 - sum(s for _, s in parts))]:
            axes.barh(row, 100 * share, left=left, height=0.66, color=shades[key], label=key if row == 0 else None)
            if share >= 0.04:
                colour = "white" if key in ("6", "4") else "#333333"
                at = left + 50 * share
                axes.text(at, row, f"{100 * share:.0f}", ha="center", va="center", color=colour, fontsize=8.5)
            left += 100 * share
    axes.set_yticks(range(len(order)), list(reversed(order)))
    axes.set_xlim(0, 100)
    axes.grid(visible=False)
    axes.set_xlabel("rows, %")
    handles, _ = axes.get_legend_handles_labels()
    names = ["six digits", "four digits", "two digits", "no code (vague or unsure)"]
    axes.legend(handles, names, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=4, fontsize=8.5)
    return _svg(figure)


def _classes(sizes: Sequence[int]) -> str:
    """How many classes have how many training rows."""
    bounds = [(0, 0), (1, 1), (2, 2), (3, 5), (6, 10), (11, 20), (21, 50), (51, 100), (101, 10**12)]
    names = ["none", "1", "2", "3–5", "6–10", "11–20", "21–50", "51–100", "> 100"]
    counts = [sum(low <= size <= high for size in sizes) for low, high in bounds]
    figure, (axes,) = _figure(9.6, 2.6)
    bars = axes.bar(names, counts, color="#7f9db9", width=0.72)
    axes.bar_label(bars, [f"{c:,}" for c in counts], fontsize=8.5, color="#444444")
    axes.set_xlabel("training rows of a class (traders' descriptions)")
    axes.set_ylabel("classes")
    axes.grid(axis="x", visible=False)
    return _svg(figure)


def _cost(content: Content, order: Sequence[str], group: str) -> str:
    """Score against the price of a month."""
    figure, (axes,) = _figure(6.4, 3.4)
    for name in order:
        if name in content.costs:
            x, y = content.costs[name]["month"], 100 * _top1(content.models[name], group, 6)
            axes.plot([x], [y], "o", color=_colour(name, order), markersize=8)
            axes.annotate(name, (x, y), (8, -3), textcoords="offset points", fontsize=9)
    axes.set_xlabel(f"a month at the load of the settings, {content.currency}")
    axes.set_ylabel("HS6 top-1, %")
    axes.margins(x=0.2, y=0.15)
    return _svg(figure)


def _runs(simulation: Mapping[str, Any], order: Sequence[str]) -> str:
    """Scores of all runs of each model with their mean and its interval."""
    rows = simulation["models"]
    figure, (axes,) = _figure(9.6, 0.9 + 0.4 * len(rows))
    for at, row in enumerate(reversed(rows)):
        colour = _colour(row["model"], [*order, *(r["model"] for r in rows)])
        scores = [100 * s for s in row["scores"]]
        axes.plot(scores, [at] * len(scores), "o", color=colour, alpha=0.3, markersize=5, markeredgewidth=0)
        axes.plot([100 * row["low"], 100 * row["high"]], [at, at], color=colour, linewidth=3, solid_capstyle="round")
        axes.plot([100 * row["mean"]], [at], "D", color=colour, markersize=6)
    axes.set_yticks(range(len(rows)), [row["model"] for row in reversed(rows)])
    axes.set_ylim(-0.6, len(rows) - 0.4)
    axes.grid(axis="y", visible=False)
    axes.set_xlabel("score of a run, %; diamond and bar: mean and its 95 % interval")
    return _svg(figure)


def _pairs(simulation: Mapping[str, Any]) -> str:
    """Differences of all pairs with their simultaneous intervals."""
    pairs = simulation["pairs"]
    figure, (axes,) = _figure(9.6, 0.9 + 0.26 * len(pairs))
    for at, pair in enumerate(reversed(pairs)):
        colour = "#b5532a" if pair["differ"] else "#8899aa"
        axes.plot([100 * pair["low"], 100 * pair["high"]], [at, at], color=colour, linewidth=2)
        axes.plot([100 * pair["difference"]], [at], "o", color=colour, markersize=5)
    axes.axvline(0, color="#888888", linewidth=1)
    axes.set_yticks(range(len(pairs)), [f"{p['one']} – {p['other']}" for p in reversed(pairs)], fontsize=8.5)
    axes.set_ylim(-0.8, len(pairs) - 0.2)
    axes.grid(axis="y", visible=False)
    axes.set_xlabel("difference of mean scores, points; 95 % intervals that hold for all pairs together")
    return _svg(figure)
