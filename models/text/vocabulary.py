"""The one place that touches torchtext: word lists by frequency, at training only."""

from collections import Counter
from collections.abc import Iterable, Sequence


def build_vocabulary(texts: Iterable[Sequence[str]], size: int, min_count: int) -> list[str]:
    """At most `size` words of tokenised texts that occur `min_count` times, most frequent first, ties by name."""
    from torchtext.vocab import Vocab

    counts = Counter(word for text in texts for word in text)
    words: list[str] = Vocab(counts, max_size=size, min_freq=max(1, min_count), specials=[]).itos
    return words
