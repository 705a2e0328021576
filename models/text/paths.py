"""Texts of tariff lines that are paths: ``Footwear > Other > With outer soles of rubber > Sports footwear > Other``."""

SEPARATOR = " > "
_EMPTY = frozenset({"other", "others", "other:", "other.", "nesoi", "others:"})


def informative_tail(text: str, parts: int) -> str:
    """The last `parts` parts of a path that say something, the longest part where none does; other texts as they are.

    >>> informative_tail("Footwear > Other > Of rubber > Sports footwear > Other", 2)
    'Of rubber > Sports footwear'
    """
    if SEPARATOR not in text:
        return text
    path = [part.strip() for part in text.split(SEPARATOR)]
    telling = [part for part in path if part and part.lower() not in _EMPTY]
    return SEPARATOR.join(telling[-parts:]) if telling else max(path, key=len)
