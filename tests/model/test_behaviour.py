"""The behaviour suite on every kind of model. Small trainings on synthetic rows fail some cases; none may fail many."""

from collections.abc import Callable
from pathlib import Path

import pytest

from models.behaviour import examine
from models.bundle import Bundle
from tests.model.conftest import KINDS

pytestmark = pytest.mark.slow

LEAST = {"case": 1.0, "plural": 0.8, "order": 0.7, "sizes": 0.7, "direction": 0.5, "chapters": 0.5, "vague": 0.85}
"""Share of the cases of a suite that must pass, whatever the kind."""


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_behaves(kind: str, trained: Callable[[str], Bundle]) -> None:
    for suite, counts in examine(trained(kind))["suites"].items():
        assert counts["cases"] > 0, suite
        told = "; ".join(f"{f['text']}: {f['why']}" for f in counts["failures"])
        assert counts["passed"] / counts["cases"] >= LEAST[suite], f"{suite}: {told}"


@pytest.mark.parametrize("kind", KINDS)
def test_explanations_of_every_kind_are_deterministic_and_point_at_words(
    kind: str, trained: Callable[[str], Bundle]
) -> None:
    bundle = trained(kind)
    texts = ["cotton t-shirt for men", "leather handbag", "12345", "gift"]
    got = bundle.explain(texts)
    assert got == Bundle.load(bundle.folder).explain(texts) == [bundle.explain([text])[0] for text in texts]
    for each in got[:2]:
        assert max(word["effect"] for word in each["words"]) > 0
        assert each["nearest"]


@pytest.mark.parametrize("kind", KINDS)
def test_answers_do_not_depend_on_the_batch(kind: str, trained: Callable[[str], Bundle]) -> None:
    bundle = trained(kind)
    texts = ["cotton t-shirt for men", "", "leather handbag " * 40, "gift", "Edelstahl Wasserflasche 500ml", "12345"]
    assert bundle.answer(texts) == [bundle.answer([text])[0] for text in texts]
    assert bundle.answer(list(reversed(texts))) == list(reversed(bundle.answer(texts)))


def test_figures_of_a_kind_on_its_test_part(trained: Callable[[str], Bundle], sample_parts: Path) -> None:
    """Wrong columns, a shifted class order or a lost temperature would show here at once."""
    import polars as pl

    from config.settings import Settings
    from models.comparison import Judged, train_counts

    frame = pl.read_parquet(sample_parts / "test.parquet")
    for kind in ("svc", "textcnn"):
        trader = Judged(trained(kind), frame).figures(train_counts(sample_parts), Settings())["groups"]["trader"]
        top1 = [trader["levels"][d]["top1"]["value"] for d in ("2", "4", "6")]
        assert top1 == sorted(top1, reverse=True)
        assert top1[0] > 0.5
        assert trader["levels"]["6"]["ece"] < 0.2
        given = trader["answers"]["given"]["value"]
        assert given == 0 or trader["answers"]["precision"]["high"] > 0.85
