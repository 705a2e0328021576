"""Descriptions and labels as they come in, made comparable: the one place that says what a clean text is."""

import html
import re
import unicodedata
from hashlib import blake2b

_ENTITY = re.compile(r"&(?:#\d{1,7}|#[xX][0-9a-fA-F]{1,6}|[A-Za-z][A-Za-z0-9]{1,31});")
# Characters that show nothing: soft hyphen, zero-width space, word joiner, byte order mark, direction marks.
_UNSEEN = dict.fromkeys(
    [0xAD, 0x200B, 0x2060, 0xFEFF, 0xFFFC, *range(0x200E, 0x2010), *range(0x202A, 0x202F), *range(0x2066, 0x206A)]
)
_CONTROL = dict.fromkeys((*range(32), *range(127, 160)), " ")
_SURROGATE = re.compile("[\ud800-\udfff]")


def clean_text(text: str) -> str:
    """NFKC, HTML entities resolved, control characters out, white space collapsed; case is kept.

    Idempotent: cleaning twice gives the same.

    >>> clean_text("  Men&#39;s \\tT-shirt\\uff0c\\u200b100% cotton ")
    "Men's T-shirt,100% cotton"
    """
    if text.isascii() and "&" not in text:
        return " ".join((text if text.isprintable() else text.translate(_CONTROL)).split())
    while True:
        cleaned = _ENTITY.sub(lambda match: html.unescape(match[0]), text) if "&" in text else text
        cleaned = unicodedata.normalize("NFKC", cleaned).translate(_UNSEEN).translate(_CONTROL)
        cleaned = " ".join(_SURROGATE.sub(" ", cleaned).split())
        if cleaned == text:
            return cleaned
        text = cleaned


def identity(text: str) -> int:
    """64-bit number of a clean text, case ignored: texts that share it are exact duplicates. The same everywhere.

    >>> identity("Cotton Shirt") == identity("cotton shirt")
    True
    """
    return int.from_bytes(blake2b(text.casefold().encode(), digest_size=8).digest(), "little")
