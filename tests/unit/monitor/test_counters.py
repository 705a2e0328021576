"""Versions as labels: bounded, and open to the next one."""

from prometheus_client import generate_latest

from serving.control.monitor.counters import Counters


def versions(counters: Counters) -> set[str]:
    lines = generate_latest(counters.registry).decode().splitlines()
    return {line.split('version="')[1].split('"')[0] for line in lines if 'version="' in line}


def test_a_new_version_takes_the_place_of_the_one_counted_longest_ago() -> None:
    counters = Counters(3)
    for version in ("1", "2", "3", "1", ""):
        counters.of(counters.requests, version, "ok").inc()
        counters.of(counters.requests, version, "error").inc()
        counters.of(counters.latency, version).observe(0.1)
    counters.of(counters.answers, "4", "answered").inc()
    assert versions(counters) == {"1", "3", "4", "unknown"}
    assert counters.registry.get_sample_value("hs_requests_total", {"version": "1", "status": "ok"}) == 2
    for name in range(100):
        counters.of(counters.corrections, f"made up {name}", "recorded").inc()
    counters.of(counters.requests, "5", "ok").inc()
    assert versions(counters) == {"made up 98", "made up 99", "5", "unknown"}
