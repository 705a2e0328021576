import pytest

from config.settings import Cost as Prices
from models.cost import Usage, price

USAGE = Usage(
    train_seconds=1800, train_cpus=2, train_gb=4, predict_seconds=0.006, serve_gb=1.0, bundle_bytes=500_000_000
)
PRICES = Prices(
    cpu_hour=0.04, gb_hour=0.005, gb_month=0.02, answers_per_second=200, utilisation=0.6, cpus_per_pod=1,
    least_pods=1, trainings_per_month=4, kept_versions=10,
)  # fmt: skip


def test_money_by_hand() -> None:
    cost = price(USAGE, PRICES)
    assert cost.training == pytest.approx(0.5 * (2 * 0.04 + 4 * 0.005))
    assert cost.pods == pytest.approx(2.0)  # 100 answers a second and pod
    assert cost.million_answers == pytest.approx(10_000 / 3600 * 0.045)
    assert cost.serving_month == pytest.approx(2 * 730 * 0.045)
    assert cost.month == pytest.approx(2 * 730 * 0.045 + 4 * 0.05 + 0.5 * 0.02 * 10)


def test_under_a_small_load_speed_saves_nothing_but_memory_does() -> None:
    quiet = PRICES.model_copy(update={"answers_per_second": 1.0})
    fast = price(Usage(1800, 2, 4, 0.001, 1.0, 500_000_000), quiet)
    assert price(USAGE, quiet).serving_month == fast.serving_month
    assert price(Usage(1800, 2, 4, 0.006, 0.5, 500_000_000), quiet).month < fast.month


def test_without_load_and_least_pods_only_training_and_storage_cost() -> None:
    asleep = PRICES.model_copy(update={"answers_per_second": 0.0, "least_pods": 0.0})
    cost = price(USAGE, asleep)
    assert cost.serving_month == 0
    assert cost.month == pytest.approx(4 * cost.training + 0.1)
