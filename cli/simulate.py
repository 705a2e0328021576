"""`hscode simulate`: latency, replicas and money on paper, before a cluster shows them."""

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.options import ConfigOption, JsonOption, SetOption, resolved
from models.errors import UserError

if TYPE_CHECKING:
    import numpy as np

    from config.settings import Settings
    from serving.capacity.choice import Priced
    from serving.capacity.measure import Measured
    from serving.capacity.simulation import Outcome
    from serving.capacity.traces import Trace

DURATIONS = {"flat": 3600.0, "bursty": 4 * 3600.0, "diurnal": 86_400.0}
"""Seconds of a drawn trace unless said otherwise: enough bursts to tell, a whole day."""


def register(app: typer.Typer) -> None:
    """Add the verb of this file to `app`."""
    app.command()(simulate)


def simulate(
    trace: Annotated[
        str, typer.Option(metavar="FILE|diurnal|bursty|flat", help="csv with a column at (seconds), or a shape.")
    ],
    rate: Annotated[float | None, typer.Option(help="Mean requests a second of a shape.")] = None,
    duration: Annotated[float | None, typer.Option(help="Seconds of a shape.")] = None,
    service_ms: Annotated[
        str | None, typer.Option(metavar="MEDIAN[,P95]", help="CPU milliseconds of a request.")
    ] = None,
    cold_start_s: Annotated[
        str | None, typer.Option(metavar="MEDIAN[,P95]", help="Seconds from a pod's creation to readiness.")
    ] = None,
    objective_ms: Annotated[float | None, typer.Option(help="Milliseconds in which a request should be done.")] = None,
    share: Annotated[float | None, typer.Option(help="Share of requests that must meet it, as 0.99.")] = None,
    min_replicas: Annotated[
        str, typer.Option(help="Settings to try; n: the least above 1 that keeps the promise, if 0 and 1 do not.")
    ] = "0,1,n",
    measure: Annotated[
        Path | None, typer.Option("--measure", metavar="BUNDLE", help="Take the times from this bundle, measured here.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Same seed, same result.")] = 17,
    config: ConfigOption = None,
    set_: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Simulate Knative's autoscaler on a trace, price each minReplicas, and say which to take.

    A trace with a column latency_ms (what a cluster showed) is compared with the simulation too. docs/capacity.md says
    what is modelled and what is not.
    """
    from serving.capacity import choice

    settings = resolved(config, set_ or [])
    capacity = settings.capacity
    objective = _positive(objective_ms, "--objective-ms", capacity.objective_ms)
    share = _positive(share, "--share", capacity.objective_share)
    if share > 1:
        raise UserError(f"--share {share:g} is above 1", todo="write 0.99 for 99 %")
    minima, search = _minima(min_replicas, capacity.max_replicas)
    given_service, given_start = _pair(service_ms, "--service-ms"), _pair(cold_start_s, "--cold-start-s")
    requests = _trace(trace, rate, duration, seed, capacity.rate)
    service, text_ms, start = capacity.service_ms, capacity.text_ms, capacity.cold_start_s
    memory, measured = capacity.memory_gb, None
    if measure is not None:
        from serving.capacity.measure import measure as measured_on

        measured = measured_on(measure)
        service, text_ms = measured.service_ms, measured.text_ms
        start = (measured.start_s[0] + capacity.pod_start_s, measured.start_s[1] + capacity.pod_start_s)
        memory = max(memory, measured.memory_gb)
    service, start = given_service or service, given_start or start

    def run(minimum: int) -> "tuple[Outcome, Priced]":
        outcome = _run(requests, service, text_ms, start, minimum, settings, seed)
        return outcome, choice.price(outcome, minimum, objective, settings.cost, memory)

    results = [run(minimum) for minimum in minima]
    if search and not any(priced.met >= share for _, priced in results):
        for minimum in range(max([1, *minima]) + 1, capacity.max_replicas + 1):
            results.append(run(minimum))
            if results[-1][1].met >= share:
                break
    table = [priced for _, priced in results]
    compared = {}
    if requests.latency_ms is not None:
        for outcome, priced in results:
            found = choice.compare(outcome.latency, requests.latency_ms / 1000, objective)
            compared[str(priced.min_replicas)] = found
    said = choice.sentence(table, objective, share, settings.cost.currency)
    best = choice.cheapest(table, share)
    report: dict[str, Any] = {
        "trace": {"name": requests.name, "requests": len(requests.at), "seconds": requests.seconds, "seed": seed},
        "times": {"service_ms": service, "text_ms": text_ms, "cold_start_s": start},
        "measured": measured.as_dict() if measured else None,
        "objective": {"ms": objective, "share": share},
        "settings": [priced.as_dict() for priced in table],
        "take": best.min_replicas if best else None,
        "because": said,
        "compared": compared or None,
    }
    if as_json:
        typer.echo(json.dumps(report))
        return
    _print(report, table, measured, settings.cost.currency)


def _run(
    requests: "Trace",
    service: tuple[float, float],
    text_ms: float,
    start: tuple[float, float],
    minimum: int,
    settings: "Settings",
    seed: int,
) -> "Outcome":
    import numpy as np

    from serving.capacity.simulation import Service
    from serving.capacity.simulation import simulate as through

    capacity = settings.capacity
    # Each setting sees the same work and the same starts: what differs is the setting.
    works, starts, balance = (np.random.default_rng([seed, part]) for part in (1, 2, 3))
    work = lognormal(service, len(requests.at), works) + (requests.texts - 1) * text_ms
    return through(
        requests.at,
        work / 1000,
        _starts(start, starts),
        Service(settings.cost.cpus_per_pod, capacity.gateway_ms / 1000, capacity.waiting),
        capacity.knative,
        minimum=minimum,
        maximum=max(capacity.max_replicas, minimum),
        seconds=requests.seconds,
        random=balance,
    )


def lognormal(pair: tuple[float, float], count: int, random: "np.random.Generator") -> Any:
    """`count` draws with that median and 95th percentile; a constant where the two are equal."""
    spread = math.log(max(pair[1] / pair[0], 1.0)) / 1.6448536
    return pair[0] * random.lognormal(0.0, spread, count)


def _starts(pair: tuple[float, float], random: "np.random.Generator") -> Iterator[float]:
    while True:
        yield float(lognormal(pair, 1, random)[0])


def _trace(name: str, rate: float | None, duration: float | None, seed: int, usual: float) -> "Trace":
    import numpy as np

    from serving.capacity import traces

    if name not in traces.SHAPES:
        if rate is not None or duration is not None:
            raise UserError("--rate and --duration are for the shapes", todo="leave them out with a trace file")
        path = Path(name)
        if not path.exists():
            raise UserError("no such trace", name, f"name a csv file, or one of {', '.join(traces.SHAPES)}")
        return traces.read(path)
    seconds = _positive(duration, "--duration", DURATIONS[name])
    mean = _positive(rate, "--rate", usual)
    if mean * seconds > 2e7:
        raise UserError(f"{mean * seconds:,.0f} requests are too many", todo="lower --rate or --duration (20 million)")
    shape = next(shape for shape in traces.SHAPES if shape == name)
    return traces.draw(shape, mean, seconds, np.random.default_rng([seed, 0]))


def _minima(text: str, maximum: int) -> tuple[list[int], bool]:
    """The numbers, and whether n is among them."""
    parts = [part.strip() for part in text.split(",") if part.strip()]
    numbers = sorted({int(part) for part in parts if part.isascii() and part.isdigit()})
    strange = [part for part in parts if part != "n" and not (part.isascii() and part.isdigit())]
    if strange or not parts:
        raise UserError(f"--min-replicas {text!r} is not understood", todo="write numbers and n, as 0,1,n")
    if numbers and numbers[-1] > maximum:
        raise UserError(
            f"--min-replicas {numbers[-1]} is above maxReplicas {maximum}",
            todo=f"raise it with --set capacity.max_replicas={numbers[-1]}",
        )
    return numbers or [1], "n" in parts


def _pair(text: str | None, option: str) -> tuple[float, float] | None:
    if text is None:
        return None
    try:
        values = [float(part) for part in text.split(",")]
    except ValueError:
        values = []
    if len(values) not in (1, 2) or not all(math.isfinite(v) and v > 0 for v in values) or values[-1] < values[0]:
        raise UserError(f"{option} {text!r} is not understood", todo="write MEDIAN or MEDIAN,P95, as 4,6")
    return values[0], values[-1]


def _positive(value: float | None, option: str, usual: float) -> float:
    if value is None:
        return usual
    if not math.isfinite(value) or value <= 0:
        raise UserError(f"{option} {value:g} is not above zero")
    return value


def _print(report: dict[str, Any], priced: "list[Priced]", measured: "Measured | None", currency: str) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    from serving.capacity.choice import percent

    console = Console()
    about, times = report["trace"], report["times"]
    console.print(
        f"{about['name']}: {about['requests']:,} requests in {about['seconds']:,.0f} s (seed {about['seed']}); a "
        f"request takes {times['service_ms'][0]:g} ms of CPU (95 %: {times['service_ms'][1]:g}), a pod starts in "
        f"{times['cold_start_s'][0]:g} s (95 %: {times['cold_start_s'][1]:g})."
    )
    if measured is not None:
        console.print(
            f"Measured here: {measured.requests} requests, {measured.starts} starts; a start takes "
            f"{measured.start_s[0]:g} s of CPU, {measured.start_clock_s[0]:g} s by the clock; peak "
            f"{measured.memory_gb:g} GB. The starts above hold what a cluster adds (capacity.pod_start_s)."
        )
    table = Table(box=SIMPLE_HEAD, padding=(0, 1), pad_edge=False, collapse_padding=True)
    for column in ("min", "p50", "p95", "p99 ms", "in time", "cold", "pods", "hours", f"{currency}/month"):
        table.add_column(column, justify="right", no_wrap=True)
    for one in priced:
        table.add_row(
            str(one.min_replicas),
            *(f"{one.latency_ms.get(name, math.nan):,.1f}" for name in ("p50", "p95", "p99")),
            percent(one.met),
            percent(one.cold),
            str(one.most),
            f"{one.replica_hours:,.2f}",
            f"{one.month:,.2f}",
        )
    console.print(table)
    console.print(
        f"min: minReplicas; in time: within {report['objective']['ms']:g} ms; cold: found no pod ready; pods: most at "
        "once; hours: of all pods, starting and draining ones too."
    )
    for one in priced:
        if one.refused:
            console.print(f"minReplicas {one.min_replicas} refused {one.refused:,} requests (503): pods were full.")
    for minimum, found in (report["compared"] or {}).items():
        ratios = ", ".join(f"{name} {ratio:g}" for name, ratio in found["ratio"].items())
        console.print(
            f"Against what was observed, minReplicas {minimum}: simulated/observed {ratios}; in time "
            f"{percent(found['simulated']['met'])} and {percent(found['observed']['met'])}; distance of the "
            f"distributions {found['distance']:g}."
        )
    console.print(report["because"])
