"""Codes as people and spreadsheets write them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.hs.codes import FROM_NUMBER, LEVELS, LONGEST, ZERO_RESTORED, common_prefix, normalise_code, prefix

KNOWN = {"01", "0101", "010121", "10", "1012", "85", "8518", "851830", "101219", "0851"}


@pytest.mark.parametrize(
    ("raw", "digits"),
    [
        ("851830", "851830"),
        ("8518.30", "851830"),
        ("8518.30.00", "85183000"),
        ("8518.30.00.90", "8518300090"),
        ("8518 30 00", "85183000"),
        ("85.18.30", "851830"),
        ("8518-30", "851830"),
        ("8518\u00a030", "851830"),
        ("8518–30", "851830"),
        ("８５１８３０", "851830"),
        ("'0101.21", "010121"),
        ('="010121"', "010121"),
        ("8518.00", "851800"),
        ("85", "85"),
        ("8518", "8518"),
        (" 851830\t", "851830"),
        (851830, "851830"),
        ("851830001234", "851830001234"),
    ],
)
def test_codes_are_read_as_written(raw: object, digits: str) -> None:
    assert normalise_code(raw) == (digits, "")


@pytest.mark.parametrize("raw", ["851830.0", 851830.0, "851830.00", "851,830"])
def test_a_spreadsheets_number_is_the_code_and_says_so(raw: object) -> None:
    assert normalise_code(raw) == ("851830", FROM_NUMBER)


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (None, "no code"),
        ("", "no code"),
        ("  ", "no code"),
        ("nan", "no code"),
        (float("nan"), "no code"),
        ("8.5183E+05", "digits are lost"),
        ("8,5183e+09", "digits are lost"),
        ("8518.3", "trailing zeros are lost"),
        ("851830x", "letters or signs"),
        ("HS 851830", "letters or signs"),
        ("8518*", "letters or signs"),
        ("٨٥١٨٣٠x", "letters or signs"),
        ("1234567890123", "more than 12 digits"),
        ("8", "fewer than 2 digits"),
        ("...", "letters or signs"),
        ("851830, 851840", "more than one code"),
        ("851830/851840", "more than one code"),
        ("851830 851840", "more than one code"),
        ("001234", "chapter 00"),
        ("85183", "odd number"),
        ("8518300", "odd number"),
    ],
)
def test_what_is_no_code_is_refused_with_a_reason(raw: object, reason: str) -> None:
    digits, why = normalise_code(raw)
    assert digits is None
    assert reason in why


@pytest.mark.parametrize(
    ("raw", "digits", "reason"),
    [
        ("10121", "010121", ZERO_RESTORED),
        ("10121.0", "010121", ZERO_RESTORED),
        ("101.21", "010121", ZERO_RESTORED),
        ("1012100", "01012100", ZERO_RESTORED),
        ("101", "0101", ZERO_RESTORED),
        ("851830009", "851830009", ""),
        ("99999", None, "code has an odd number of digits"),
        ("999", None, "code has an odd number of digits"),
        # 101219.0 and 010121.90: the digits prove neither.
        ("101219000", None, None),
    ],
)
def test_a_lost_leading_zero_is_restored_only_where_the_edition_proves_it(
    raw: str, digits: str | None, reason: str | None
) -> None:
    reading = normalise_code(raw, KNOWN.__contains__)
    assert reading.digits == digits
    assert reading.reason == reason if reason is not None else "two readings" in reading.reason


@given(st.text(max_size=20))
def test_any_text_gives_digits_or_a_reason(raw: str) -> None:
    digits, reason = normalise_code(raw)
    if digits is None:
        assert reason
    else:
        assert digits.isascii()
        assert digits.isdigit()
        assert 2 <= len(digits) <= LONGEST
        assert len(digits) % 2 == 0
        assert normalise_code(digits).digits == digits


def test_reasons_do_not_quote_the_value() -> None:
    """Reasons are counted in reports and metrics: they must be few."""
    assert {normalise_code(f"85183{n}x")[1] for n in range(50)} == {"code holds letters or signs"}


def test_prefixes_shorten_and_never_pad() -> None:
    assert [prefix("851830", level) for level in LEVELS] == ["85", "8518", "851830"]
    assert prefix("8518", 6) is None
    assert common_prefix(("851830", "851830")) == "851830"
    assert common_prefix(("851830", "851840")) == "8518"
    assert common_prefix(("851830", "852910")) == "85"
    assert common_prefix(("851830", "902910")) is None
