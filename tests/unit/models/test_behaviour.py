from pathlib import Path

import pytest

from models import behaviour
from models.behaviour import SUITES, examine
from models.bundle import Bundle
from models.report import Content, render
from tests.serving.tiny_bundle import write_tiny_bundle
from tests.unit.models.report_content import content


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return Bundle.load(write_tiny_bundle(tmp_path_factory.mktemp("bundle")))


def test_counts_add_up_and_failures_say_why(bundle: Bundle) -> None:
    suites = examine(bundle)["suites"]
    assert tuple(suites) == SUITES
    for suite, counts in suites.items():
        assert counts["passed"] + len(counts["failures"]) == counts["cases"]
        assert all(failure["suite"] == suite and failure["why"] for failure in counts["failures"])
    assert suites["case"]["cases"] == len(behaviour.CASES)
    assert suites["direction"]["skipped"] + suites["direction"]["cases"] == len(behaviour.DIRECTIONS)
    assert suites["direction"]["skipped"] > suites["direction"]["cases"] > 0
    assert suites["chapters"]["cases"] + suites["chapters"]["skipped"] == sum(map(len, behaviour.CHAPTERS.values()))


def test_each_rule_sees_what_it_is_for(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(behaviour, "CASES", ("wireless headphones",))
    monkeypatch.setattr(behaviour, "PLURALS", (("headphone", "headphones"), ("horse", "chairs")))
    monkeypatch.setattr(behaviour, "ORDERS", (("cotton shirt", "shirt cotton"), ("cotton shirt", "porcelain plate")))
    monkeypatch.setattr(behaviour, "SIZES", (("steel flask", "steel flask 500 ml"),))
    right = ("knitted cotton t shirt", "610910", "synthetic fibre t shirt", "610990")
    wrong = ("wireless headphones", "851840", "electric amplifier", "851830")
    monkeypatch.setattr(behaviour, "DIRECTIONS", (right, wrong, ("x", "999999", "y", "610910")))
    monkeypatch.setattr(behaviour, "CHAPTERS", {"01": ("live horses",), "69": ("horses",), "55": ("x",)})
    monkeypatch.setattr(behaviour, "VAGUE", ("", "gift items", "wireless headphone set"))
    suites = examine(bundle)["suites"]
    counted = {name: (s["passed"], s["cases"], s["skipped"]) for name, s in suites.items()}
    assert counted == {
        "case": (1, 1, 0),
        "plural": (1, 2, 0),
        "order": (1, 2, 0),
        "sizes": (1, 1, 0),
        "direction": (1, 2, 1),
        "chapters": (1, 2, 1),
        "vague": (2, 3, 0),
    }
    assert suites["plural"]["failures"][0]["why"] == "010121 became 940161"
    assert suites["vague"]["failures"][0]["why"].startswith("answered 851830")


@pytest.mark.slow
def test_failures_stand_in_the_report(bundle: Bundle) -> None:
    made = content()
    page = render(Content(made.models, behaviour={"tiny": examine(bundle)}))
    assert "What fails is listed" in page
    first = next(f for s in examine(bundle)["suites"].values() for f in s["failures"])
    assert first["why"] in page


def test_every_code_of_the_cases_is_in_the_edition(shared_data: Path) -> None:
    import csv
    import gzip

    with gzip.open(shared_data / "hs2022-nomenclature.csv.gz", "rt", encoding="utf-8") as file:
        known = {row["code"][:digits] for row in csv.DictReader(file) for digits in (2, 4, 6)}
    codes = {code for _, code, _, other in behaviour.DIRECTIONS for code in (code, other)} | set(behaviour.CHAPTERS)
    assert codes <= known
