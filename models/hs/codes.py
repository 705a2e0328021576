"""Codes of the Harmonized System: two digits a chapter, four a heading, six a subheading; what follows is national."""

import re
import unicodedata
from collections.abc import Callable
from typing import NamedTuple

LEVELS = (2, 4, 6)
"""Digits of the levels that all countries share."""
LONGEST = 12
"""Digits of the longest national code that is taken for one."""

_SEPARATORS = str.maketrans("", "", " \t.-‐‑‒–—−_'’`\"=")
_FLOAT = re.compile(r"(\d+)\.0+")
_SCIENTIFIC = re.compile(r"\d+(?:[.,]\d+)?[eE][+-]?\d+")
_THOUSANDS = re.compile(r"\d{1,3}(?:,\d{3})+")
_TRAILING_ZERO_LOST = re.compile(r"\d{4}\.\d")
_SEVERAL = re.compile(r"[,;/|&+]")
_GROUPS = re.compile(r"\d+")

ZERO_RESTORED = "leading zero restored"
FROM_NUMBER = "read from a spreadsheet's number"


class Reading(NamedTuple):
    """What a raw code was read as."""

    digits: str | None
    """Digits only, national ones included; None where the raw value is refused."""
    reason: str
    """Why it was refused, or how it was repaired; empty where it was taken as given. Of a small, fixed vocabulary, so
    that rows can be counted by it."""


def normalise_code(raw: object, knows: Callable[[str], bool] | None = None) -> Reading:
    """Read a code as people and spreadsheets write it: ``8518.30.00``, ``8518 30``, ``851830.0``, ``'0101.21``.

    An odd number of digits is either a national code of odd length or one that lost its leading zero in a spreadsheet.
    `knows` (`Edition.knows`, or any function that says whether a 2-, 4- or 6-digit code exists) decides: the one
    reading that exists is taken; where both or none exist, or `knows` is not given, the code is refused. Whether the
    code of an even number of digits exists is not checked here (see `Edition.place`).

    >>> normalise_code("8518.30.00")
    Reading(digits='85183000', reason='')
    >>> normalise_code("101.21", {"0101", "010121"}.__contains__)
    Reading(digits='010121', reason='leading zero restored')
    """
    if isinstance(raw, str) and len(raw) in (6, 8, 10) and raw.isascii() and raw.isdigit() and raw[:2] != "00":
        return Reading(raw, "")
    text = "" if raw is None else str(raw).strip()
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text).strip()
    if not text or text.lower() in ("nan", "none", "null", "n/a", "na"):
        return Reading(None, "no code")
    if _SCIENTIFIC.fullmatch(text):
        return Reading(None, "code written as 8.5E+05 by a spreadsheet, digits are lost")
    if _TRAILING_ZERO_LOST.fullmatch(text) and not text.endswith(".0"):
        return Reading(None, "code read as a number by a spreadsheet, trailing zeros are lost")
    repaired = ""
    if number := _FLOAT.fullmatch(text):
        # "8518.00" is a dotted code of six digits; "851830.0" and "851830.00" can only be numbers.
        if text.endswith(".0") or len(number[1]) > 4:
            text, repaired = number[1], FROM_NUMBER
    elif _THOUSANDS.fullmatch(text):
        text, repaired = text.replace(",", ""), FROM_NUMBER
    if _SEVERAL.search(text) or sum(len(group) >= 6 for group in _GROUPS.findall(text)) > 1:
        return Reading(None, "more than one code")
    digits = text.translate(_SEPARATORS)
    if not (digits.isascii() and digits.isdigit()):
        return Reading(None, "code holds letters or signs")
    if len(digits) > LONGEST:
        return Reading(None, f"code has more than {LONGEST} digits")
    if len(digits) < 2:
        return Reading(None, "code has fewer than 2 digits")
    if len(digits) % 2 == 0:
        return Reading(None, "chapter 00 does not exist") if digits.startswith("00") else Reading(digits, repaired)
    return _read_odd(digits, repaired, knows)


def prefix(code: str, digits: int) -> str | None:
    """The first `digits` of `code`, or None where it is shorter: a code is never padded."""
    return code[:digits] if len(code) >= digits else None


def common_prefix(codes: tuple[str, ...]) -> str | None:
    """The longest code of 2, 4 or 6 digits that begins all `codes`; None where they are of several chapters."""
    for digits in reversed(LEVELS):
        begins = {prefix(code, digits) for code in codes}
        if len(begins) == 1 and None not in begins:
            return begins.pop()
    return None


def _read_odd(digits: str, repaired: str, knows: Callable[[str], bool] | None) -> Reading:
    if knows is None:
        return Reading(None, "code has an odd number of digits")

    def exists(code: str) -> bool:
        return knows(code[: max(level for level in LEVELS if level <= len(code))])

    with_zero = not digits.startswith("0") and exists("0" + digits)
    # Three digits cannot be a level and five cannot either; from seven on a national code may be of odd length.
    as_given = len(digits) > 6 and exists(digits)
    if with_zero and as_given:
        return Reading(None, "code has an odd number of digits and two readings exist")
    if with_zero:
        return Reading("0" + digits, ZERO_RESTORED)
    if as_given:
        return Reading(digits, repaired)
    return Reading(None, "code has an odd number of digits")
