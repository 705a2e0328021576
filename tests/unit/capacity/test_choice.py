"""Prices by hand, the cheapest that keeps the promise, and the comparison with what was observed."""

import numpy as np
import pytest

from config.settings import Cost
from serving.capacity.choice import Priced, cheapest, compare, price, sentence
from serving.capacity.simulation import Outcome


def outcome(latency: list[float], replica_seconds: float = 7200.0) -> Outcome:
    values = np.array(latency)
    return Outcome(values, np.zeros(len(values), bool), replica_seconds, 2, 1, 3600.0)


def priced(minimum: int, met: float, money: float) -> Priced:
    return Priced(minimum, 100, {}, met, 0.0, 0, 0, minimum, 1.0, money, 730 * money)


def test_prices_by_hand() -> None:
    cost = Cost(cpu_hour=0.04, gb_hour=0.01, cpus_per_pod=2)
    one = price(outcome([0.1, 0.6, np.nan, 0.5]), 1, 500, cost, memory_gb=0.5)
    assert one.replica_hours == 2
    assert one.money == pytest.approx(2 * (2 * 0.04 + 0.5 * 0.01))
    assert one.month == pytest.approx(730 * one.money)
    assert one.met == 0.5
    assert one.refused == 1
    assert one.latency_ms["p50"] == 500
    assert one.latency_ms["max"] == 600


def test_the_cheapest_that_keeps_the_promise() -> None:
    table = [priced(0, 0.95, 1.0), priced(1, 0.995, 3.0), priced(2, 0.999, 6.0)]
    assert cheapest(table, 0.99) is table[1]
    assert cheapest(table, 0.9) is table[0]
    assert cheapest(table, 1.0) is None
    said = sentence(table, 500, 0.99, "USD")
    assert said.startswith(
        "Take minReplicas 1: it answers 99.5 % within 500 ms (promised: 99 %) for 2,190.00 USD a month"
    )
    assert "0 reaches only 95 %" in said
    assert "2 costs 4,380.00" in said
    assert "2 comes nearest with 99.9 %: raise maxReplicas" in sentence(table, 500, 1.0, "USD")


def test_of_nearly_equal_cost_the_safer() -> None:
    table = [priced(0, 0.995, 3.0), priced(1, 1.0, 3.01)]
    assert cheapest(table, 0.99) is table[1]


def test_compare() -> None:
    values = np.linspace(0.01, 1, 100)
    same = compare(values, values, 500)
    assert same["distance"] == 0
    assert set(same["ratio"].values()) == {1.0}
    twice = compare(values * 2, values, 500)
    assert twice["ratio"]["p95"] == pytest.approx(2)
    assert 0.3 < twice["distance"] < 0.7
    assert twice["simulated"]["met"] < twice["observed"]["met"]
    assert compare(values, np.array([np.nan, np.nan]), 500)["distance"] == 1
