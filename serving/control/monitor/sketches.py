"""What is kept of a stretch of time: counts of words, lengths, scripts and answers, no texts. Pure; sketches add up.

The cells are those of the bundle's reference (`models.reference`), so that the two can be compared.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, NamedTuple, Self

from models.reference import LONGEST, main_script, token_bucket
from models.text.normalise import words

Knows = Callable[[str], bool]


class Told(NamedTuple):
    """What drift needs of one answer."""

    status: str
    code: str
    confidence: float
    """Of `code`; 0 where there is none."""
    chapter: str
    """The best chapter, also where none was given; "" where the answer does not say."""
    sure: float | None
    """Probability of the best subheading; None where the answer does not say."""


@dataclass
class Sketch:
    """Counts of one version in one stretch of time."""

    requests: int = 0
    responses: int = 0
    texts: int = 0
    judged: int = 0
    """Words of versions whose vocabulary is known here."""
    unknown: int = 0
    """Those of them that the vocabulary lacks."""
    answers: int = 0
    given: int = 0
    """Answers that gave a code."""
    confidence_sum: float = 0.0
    """Sum of their confidences."""
    tokens: Counter[str] = field(default_factory=Counter)
    """Words by hash bucket."""
    lengths: Counter[str] = field(default_factory=Counter)
    """Texts by words, the last cell for `LONGEST` and more."""
    scripts: Counter[str] = field(default_factory=Counter)
    """Texts by the script of most of their letters."""
    chapters: Counter[str] = field(default_factory=Counter)
    """Answers by best chapter."""
    confidence: Counter[str] = field(default_factory=Counter)
    """Answers by tenth of the best subheading's probability."""
    statuses: Counter[str] = field(default_factory=Counter)
    """Answers by status."""

    def add_texts(self, texts: Iterable[str], knows: Knows | None) -> None:
        """Count the descriptions of one request; `knows` says whether a word is in the version's vocabulary."""
        for text in texts:
            found = words(text)
            self.texts += 1
            self.lengths[str(min(len(found), LONGEST))] += 1
            for word in found:
                self.tokens[str(token_bucket(word))] += 1
            if knows is not None:
                self.judged += len(found)
                self.unknown += sum(not knows(word) for word in found)
            main = main_script(text)
            if main:
                self.scripts[main] += 1

    def add_answers(self, answers: Iterable[Told]) -> None:
        """Count the answers of one response."""
        for told in answers:
            self.answers += 1
            self.statuses[told.status] += 1
            if told.code:
                self.given += 1
                self.confidence_sum += told.confidence
            if told.chapter:
                self.chapters[told.chapter] += 1
            if told.sure is not None:
                self.confidence[str(min(9, max(0, int(told.sure * 10))))] += 1

    def add(self, other: "Sketch") -> None:
        """Take over another's counts."""
        for entry in fields(Sketch):
            mine, theirs = getattr(self, entry.name), getattr(other, entry.name)
            if isinstance(mine, Counter):
                mine.update(theirs)
            else:
                setattr(self, entry.name, mine + theirs)

    def to_json(self) -> dict[str, Any]:
        """Plain values; what is zero is left out."""
        tree = {entry.name: getattr(self, entry.name) for entry in fields(Sketch)}
        return {name: dict(value) if isinstance(value, Counter) else value for name, value in tree.items() if value}

    @classmethod
    def from_json(cls, tree: Mapping[str, Any]) -> Self:
        """Read what `to_json` wrote."""
        sketch = cls()
        for entry in fields(cls):
            if entry.name in tree:
                value = tree[entry.name]
                setattr(sketch, entry.name, Counter(value) if isinstance(value, dict) else value)
        return sketch
