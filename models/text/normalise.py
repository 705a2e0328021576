"""From a description as written to the words that models read; light: standard library only."""

import html
import re
import unicodedata

_DIGITS = re.compile(r"\d+")
_LETTERS_AND_DIGITS = re.compile(r"\d+|[^\W\d_]+")
_ONE_LETTER_BEFORE = re.compile(r"\b([^\W\d_])-(?=[^\W\d_]{2})|\b(t) (?=shirt)")


def normalise(text: str) -> str:
    """NFKC, HTML entities resolved, case folded, accents dropped, each run of digits masked as ``0``, single spaces.

    Digits are masked because sizes and counts seldom decide a code and are never the same twice.

    >>> normalise("  Café-Tisch 120x60&nbsp;cm ")
    'cafe-tisch 0x0 cm'
    """
    if "&" in text:
        text = html.unescape(text)
    if text.isascii():
        text = text.lower()
    else:
        decomposed = unicodedata.normalize("NFKD", unicodedata.normalize("NFKC", text).casefold())
        text = "".join(c for c in decomposed if not unicodedata.combining(c))
    return " ".join(_DIGITS.sub("0", text).split())


def words(text: str, stem: bool = True) -> list[str]:
    """Words of a raw text, in order: runs of letters, runs of digits as ``0``; English plurals singular if `stem`.

    A letter before a hyphen belongs to its word: a t-shirt is no shirt, an e-cigarette no cigarette.

    >>> words("Ladies' T-shirts, 12pcs")
    ['lady', 'tshirt', '0', 'pcs']
    """
    found = _LETTERS_AND_DIGITS.findall(_ONE_LETTER_BEFORE.sub(r"\1\2", normalise(text)))
    return [singular(word) for word in found] if stem else found


def singular(word: str) -> str:
    """The singular of a regular English plural, after Harman's S-stemmer (How effective is suffixing?, 1991); other
    words as they are.

    >>> singular("ladies"), singular("dishes"), singular("shoes"), singular("glass"), singular("chassis")
    ('lady', 'dish', 'shoe', 'glass', 'chassis')
    """
    if len(word) < 4 or word[-1] != "s" or word[-2] in "sui":
        return word
    if word.endswith("ies") and len(word) > 4 and word[-4] not in "ae":
        return word[:-3] + "y"
    if word.endswith(("shes", "ches", "xes", "sses", "zzes")):
        return word[:-2]
    return word[:-1]


def ngrams(word: str, shortest: int, longest: int) -> list[str]:
    """Character n-grams of ``<word>``, each once, in order of length and place.

    >>> ngrams("cup", 3, 4)
    ['<cu', 'cup', 'up>', '<cup', 'cup>']
    """
    marked = f"<{word[:30]}>"
    found = (
        marked[at : at + size] for size in range(shortest, longest + 1) for at in range(max(0, len(marked) - size + 1))
    )
    return list(dict.fromkeys(found))
