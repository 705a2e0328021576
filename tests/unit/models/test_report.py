"""The page: whole, self-contained, the same bytes twice, and right figures in it."""

import re
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from typing import Any

import pytest

from models.report import Content, render
from tests.unit.models.report_content import content


class Balanced(HTMLParser):
    """Counts what a page would load, and checks that tables are closed."""

    def __init__(self) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.loads += [v or "" for k, v in attrs if k in ("src", "href") and not (v or "").startswith("#")]
        if tag in ("table", "div", "details", "figure", "ul"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag in ("table", "div", "details", "figure", "ul"):
            assert self.open.pop() == tag


@pytest.fixture(scope="module")
def page() -> str:
    return render(content())


def test_page_is_whole_and_loads_nothing(page: str) -> None:
    parser = Balanced()
    parser.feed(page)
    assert parser.open == []
    assert parser.loads == []
    assert "<script" not in page
    for picture in re.findall(r"<svg.*?</svg>", page, re.DOTALL):
        ET.fromstring(picture)
    assert len(re.findall(r"<svg", page)) == 8


def test_page_says_what_the_figures_say(page: str) -> None:
    made = content()
    for kind in made.models:
        for digits in "246":
            value = made.models[kind]["groups"]["trader"]["levels"][digits]["top1"]["value"]
            assert f">{100 * value:.1f}<" in page
    assert made.selection is not None
    assert made.gate is not None
    assert made.selection["reason"].split(",")[0] in page
    assert "synthetic" in page
    assert "610910 became 610990" in page
    assert "HS6 never" in page


def test_texts_of_users_are_escaped(page: str) -> None:
    assert "<i>goods" not in page
    assert "&lt;i&gt;goods &amp;" in page


@pytest.mark.slow
def test_same_content_same_bytes(page: str) -> None:
    assert render(content()) == page


@pytest.mark.slow
def test_a_report_of_figures_alone(tmp_path: Any) -> None:
    made = content()
    only = Content({"mine": made.models["svc"]})
    assert "mine" in render(only, tmp_path / "deep" / "report.html")
    assert (tmp_path / "deep" / "report.html").exists()
    assert "No model" in render(Content({}))
