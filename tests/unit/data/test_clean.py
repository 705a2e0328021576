import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.data.clean import clean_text, identity


@pytest.mark.parametrize(
    ("raw", "cleaned"),
    [
        ("Cotton Shirt", "Cotton Shirt"),
        ("  two\t words\r\n", "two words"),
        ("Men&#39;s &amp; boys&rsquo; socks", "Men's & boys’ socks"),
        ("&amp;amp; twice", "& twice"),
        ("salt &pepper; AT&T", "salt &pepper; AT&T"),
        ("a&nbsp;b", "a b"),
        ("ｆｕｌｌ ｗｉｄｔｈ", "full width"),
        ("ﬁne ½ cm²", "fine 1⁄2 cm2"),
        ("a\u200bb\ufeffc\u00add", "abcd"),
        ("bell\x07 tab\x00x\x85y", "bell tab x y"),
        ("cafe\u0301", "café"),
        ("&#0;&#xD800;x", "\ufffd\ufffdx"),
        ("", ""),
        ("\u3000 \u2003", ""),
    ],
)
def test_cleaned(raw: str, cleaned: str) -> None:
    assert clean_text(raw) == cleaned


@settings(deadline=None)
@given(st.text() | st.text("&;#x39amplt<\u200b \tＡé"))
def test_cleaning_again_changes_nothing(text: str) -> None:
    once = clean_text(text)
    assert clean_text(once) == once


@settings(deadline=None)
@given(st.text())
def test_what_is_never_left(text: str) -> None:
    cleaned = clean_text(text)
    assert cleaned == " ".join(cleaned.split())
    assert not any(unicodedata.category(character) in ("Cc", "Cs") for character in cleaned)
    assert unicodedata.is_normalized("NFKC", cleaned)


def test_identity_ignores_case_and_nothing_else() -> None:
    assert identity("COTTON Straße") == identity("cotton STRASSE")
    assert identity("cotton shirt") != identity("shirt cotton")
    assert identity("cotton") == 16063382981138118008, "identities are written into rows: they must not change"
