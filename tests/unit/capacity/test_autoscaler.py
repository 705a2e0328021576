"""The autoscaler against Knative's rules, by hand-made loads."""

import pytest

from config.settings import Knative
from serving.capacity.autoscaler import Autoscaler, Window


def fed(autoscaler: Autoscaler, load: float, begin: int, end: int, ready: int) -> list[int | None]:
    """Decisions of every tick from `begin` to `end` under a constant load."""
    decisions = []
    for second in range(begin, end):
        autoscaler.record(second, load)
        if second % 2 == 0:
            decisions.append(autoscaler.decide(second, ready))
    return decisions


def test_a_window_averages_over_what_it_knows() -> None:
    window = Window(60)
    assert window.empty(0)
    window.record(100, 6.0)
    assert window.average(100) == 6.0
    window.record(101, 0.0)
    assert window.average(101) == 3.0
    window.record(104, 8.0)
    assert window.average(104) == pytest.approx(14 / 5, abs=1e-6)


def test_a_window_forgets() -> None:
    window = Window(6)
    for second in range(6):
        window.record(second, 6.0)
    assert window.average(5) == 6.0
    assert window.average(8) == 6.0  # late by three seconds: the mean of the other three
    window.record(6, 0.0)
    assert window.average(6) == 5.0
    window.record(20, 2.0)
    assert window.average(20) == 2.0
    assert window.average(26) == 0.0
    assert not window.empty(26)
    assert window.empty(27)


def test_wants_load_over_the_target() -> None:
    autoscaler = Autoscaler(Knative(target=10, target_utilisation=0.7), 1, 0, ready=1)
    assert autoscaler.target == 7
    assert fed(autoscaler, 13.9, 0, 70, ready=2)[-1] == 2
    assert fed(autoscaler, 14.1, 70, 140, ready=2)[-1] == 3


def test_container_concurrency_bounds_the_target() -> None:
    assert Autoscaler(Knative(target=10, container_concurrency=4), 1, 0, ready=1).target == pytest.approx(2.8)
    assert Autoscaler(Knative(target=1), 1, 0, ready=1).target == 1


def test_panics_on_a_burst_and_holds_for_a_stable_window() -> None:
    autoscaler = Autoscaler(Knative(target=10, target_utilisation=1), 1, 0, ready=1)
    assert fed(autoscaler, 5, 0, 60, ready=1)[-1] == 1
    # 40 in flight for 6 s: the stable mean is still below 10 a pod, the panic mean is not.
    assert fed(autoscaler, 40, 60, 66, ready=1)[-1] == 4
    held = fed(autoscaler, 5, 66, 128, ready=4)
    assert held[0] == 4
    assert held[-2] == 4
    assert fed(autoscaler, 5, 128, 140, ready=4)[-1] == 2  # and then at most half of the ready ones go at once
    assert fed(autoscaler, 5, 140, 142, ready=2)[-1] == 1


def test_the_rate_up_is_bounded() -> None:
    autoscaler = Autoscaler(Knative(target=1, target_utilisation=1, max_scale_up_rate=1.1), 1, 0, ready=1)
    assert fed(autoscaler, 50, 0, 2, ready=1) == [2]


def test_bounds() -> None:
    assert fed(Autoscaler(Knative(target=1), 1, 4, ready=1), 50, 0, 2, ready=1) == [4]
    assert fed(Autoscaler(Knative(), 3, 4, ready=3), 0, 0, 200, ready=3)[-1] == 3


def test_scale_down_waits_for_the_delay() -> None:
    knative = Knative(target=10, target_utilisation=1, scale_down_delay_s=300)
    autoscaler = Autoscaler(knative, 1, 0, ready=1)
    assert fed(autoscaler, 15, 0, 100, ready=2)[-1] == 2
    assert fed(autoscaler, 5, 100, 400, ready=2)[-1] == 2
    # The mean falls to 10 at second 130 or so; five minutes later the last wish for two is forgotten.
    assert fed(autoscaler, 5, 400, 450, ready=2)[-1] == 1


def zero_after(knative: Knative) -> int:
    """Seconds from the last request to the decision for zero."""
    autoscaler = Autoscaler(knative, 0, 4, ready=1)
    for second in range(1, 1001):
        autoscaler.record(second, 1.0)
        autoscaler.decide(second, 1) if second % 2 == 0 else None
    for second in range(1001, 2000):
        autoscaler.record(second, 0.0)
        if second % 2 == 0 and autoscaler.decide(second, 1) == 0:
            return second - 1000
    raise AssertionError("never")


def test_the_last_pod_goes_after_the_stable_window() -> None:
    assert 60 <= zero_after(Knative()) <= 64
    # Without the activator in the way all along the grace period comes on top; retention is a floor.
    assert 90 <= zero_after(Knative(target_burst_capacity=0)) <= 94
    assert 160 <= zero_after(Knative(retention_s=100)) <= 164


def test_no_data_no_decision() -> None:
    assert Autoscaler(Knative(), 0, 4, ready=0).decide(100, 0) is None


def test_from_zero_at_once() -> None:
    autoscaler = Autoscaler(Knative(), 0, 4, ready=0)
    autoscaler.record(500, 1.0)
    assert autoscaler.decide(500, 0) == 1
    assert fed(autoscaler, 0, 501, 520, ready=0)[-1] == 1
