"""The simulation against closed forms, and what must hold for any trace."""

import math
from itertools import repeat

import numpy as np
import pytest

from config.settings import Knative
from serving.capacity.simulation import Outcome, Service, simulate


def erlang_c_wait(rate: float, mean: float, servers: int) -> float:
    """Mean wait of M/M/c: Erlang's C formula (Kleinrock, Queueing Systems I, 3.5)."""
    load = rate * mean
    full = load**servers / math.factorial(servers) / (1 - load / servers)
    waits = full / (sum(load**k / math.factorial(k) for k in range(servers)) + full)
    return waits * mean / (servers - load)


def poisson(rate: float, count: int, seed: int) -> np.ndarray:
    return np.cumsum(np.random.default_rng(seed).exponential(1 / rate, count))


def run(at: np.ndarray, work: np.ndarray, knative: Knative, minimum: int, cpus: float = 1, **more: float) -> Outcome:
    options = {"maximum": max(4, minimum), "seconds": float(at[-1]), "start": 2.0, "waiting": 10**9, "scaling": True}
    options.update(more)
    return simulate(
        at,
        work,
        repeat(float(options["start"])),
        Service(cpus, 0.0, int(options["waiting"])),
        knative,
        minimum=minimum,
        maximum=int(options["maximum"]),
        seconds=float(options["seconds"]),
        random=np.random.default_rng(5),
        scaling=bool(options["scaling"]),
    )


@pytest.mark.parametrize(
    ("servers", "load", "one_pod"), [(1, 0.7, True), (2, 0.8, True), (4, 0.75, True), (3, 0.8, False)]
)
def test_agrees_with_erlang(servers: int, load: float, one_pod: bool) -> None:
    # One pod with c CPUs, or c pods that take one request each from the activator's line: both are M/M/c.
    mean, runs = 0.01, 8
    rate = load * servers / mean
    knative = Knative() if one_pod else Knative(container_concurrency=1)
    waits = []
    for seed in range(runs):
        at = poisson(rate, 8_000, seed)
        work = np.random.default_rng(1000 + seed).exponential(mean, len(at))
        # With c CPUs a pod runs c requests at a time, each on one of them.
        out = run(at, work, knative, 1 if one_pod else servers, cpus=servers if one_pod else 1, scaling=False)
        waits.append((out.latency - work)[1000:].mean())
    error = np.std(waits, ddof=1) / math.sqrt(runs)
    assert abs(np.mean(waits) - erlang_c_wait(rate, mean, servers)) < 3.5 * error  # t with 7 degrees: 99 %
    assert 3.5 * error < 0.4 * erlang_c_wait(rate, mean, servers)


def test_power_of_two_lies_between_one_line_and_none() -> None:
    at = poisson(240, 40_000, 3)
    work = np.random.default_rng(4).exponential(0.01, len(at))
    wait = (run(at, work, Knative(), 3, scaling=False).latency - work).mean()
    assert erlang_c_wait(240, 0.01, 3) < wait < erlang_c_wait(80, 0.01, 1)


def test_half_a_cpu_takes_twice_as_long() -> None:
    out = run(np.array([1.0]), np.array([0.01]), Knative(), 1, cpus=0.5)
    assert out.latency[0] == pytest.approx(0.02)


def test_a_first_request_waits_for_the_start_and_later_ones_do_not() -> None:
    out = run(np.array([100.2, 101.0, 110.0]), np.full(3, 0.01), Knative(), 0, start=2.5)
    assert out.latency == pytest.approx([2.51, 1.72, 0.01])
    assert out.cold.tolist() == [True, True, False]
    assert out.starts == 1


def test_zero_is_reached_between_and_paid_for_up_to_the_end_of_draining() -> None:
    at = np.array([10.0, 1000.0])
    out = run(at, np.full(2, 0.01), Knative(), 0, seconds=2000.0)
    assert out.cold.all()
    assert out.starts == 2
    # Each pod: 2 s start, then a window of 60 s without requests (decided at ticks, twice), then 30 s of draining.
    assert 2 * 92 <= out.replica_seconds <= 2 * 100


def test_a_standing_replica_is_paid_for_the_whole_trace() -> None:
    out = run(np.array([10.0]), np.array([0.01]), Knative(), 1, seconds=3600.0)
    assert out.replica_seconds == 3600.0
    assert not out.cold.any()


def test_a_burst_brings_more_pods_up_to_the_bound() -> None:
    at = np.sort(np.random.default_rng(1).uniform(60, 120, 18_000))
    out = run(at, np.full(len(at), 0.01), Knative(), 1, seconds=600.0)
    assert out.most == 4
    alone = run(at, np.full(len(at), 0.01), Knative(), 1, maximum=1, seconds=600.0)
    assert np.quantile(out.latency, 0.95) < np.quantile(alone.latency, 0.95) / 2
    assert out.replica_seconds < 4 * 600


def test_full_pods_refuse() -> None:
    out = run(np.full(50, 1.0) + np.arange(50) * 1e-4, np.full(50, 1.0), Knative(), 1, maximum=1, waiting=20)
    assert np.isnan(out.latency).sum() == 30
    assert np.nanmax(out.latency) == pytest.approx(20, abs=0.1)


@pytest.mark.parametrize("limit", [0, 1, 8])
@pytest.mark.parametrize("minimum", [0, 1, 3])
def test_every_request_is_answered_once_and_the_same_again(limit: int, minimum: int) -> None:
    random = np.random.default_rng(9)
    at = np.sort(np.concatenate((random.uniform(0, 600, 400), random.uniform(200, 230, 3000))))
    work = random.exponential(0.01, len(at))
    knative = Knative(container_concurrency=limit)
    first, again = (run(at, work, knative, minimum) for _ in range(2))
    assert np.isfinite(first.latency).all()
    assert (first.latency >= work - 1e-9).all()
    assert np.array_equal(first.latency, again.latency)
    assert first.replica_seconds == again.replica_seconds
    assert first.replica_seconds >= minimum * 600 * 0.99
