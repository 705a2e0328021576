"""Tariff paths cut to what tells siblings apart."""

import pytest

from models.text.paths import informative_tail


@pytest.mark.parametrize(
    ("text", "tail"),
    [
        ("Footwear > Other > Of rubber > Sports footwear > Other", "Of rubber > Sports footwear"),
        ("Mica; waste", "Mica; waste"),
        ("Other > Other", "Other"),
        ("Tea > Green", "Tea > Green"),
        ("a > b > c > Other:", "b > c"),
    ],
)
def test_tail(text: str, tail: str) -> None:
    assert informative_tail(text, 2) == tail
