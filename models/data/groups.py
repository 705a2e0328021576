"""Near-duplicate groups: which descriptions say the same but for numbers, word order and small edits.

Two descriptions are near-duplicates when
1. their sets of words are equal (case, accents, punctuation and order do not count, every number is the same word), or
2. they are equal once white space and punctuation are left out (``tshirt``, ``t-shirt``, ``t shirt``), or
3. their sets of words are equal but for misspelt words and plurals, or
4. the Jaccard similarity of their sets of words, spelling aside, reaches the threshold.
A group is what such pairs connect.

1 to 3 are exact and need no comparison of rows: hashes of sets are grouped. Misspellings are found between words, of
which there are far fewer than rows. 4 is exact for short sets, where it means one word more; for longer ones it finds
candidates by MinHash and banding (a pair at the threshold meets in a band with a chance of 0.99 or more) and then
counts the words that both share. All is done on arrays; docs/decisions/0001-near-duplicates.md says what was weighed.
"""

import math
import re
import unicodedata
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Words = npt.NDArray[np.uint32]
Hashes = npt.NDArray[np.uint64]

_SEED = 20220101
_LETTER, _DIGIT = 1, 2
_LONGEST_TEXT = 1 << 14
_FOREIGN_SIGNS = re.compile(r"[^\w]+|_")
_ACCENTS = re.compile("[\u0300-\u036f]")
_NUMBER = re.compile(r"\d+")
# Scripts written without spaces: each character is a word.
_UNSPACED = re.compile("([\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff])")

SHORTEST_MISSPELT = 5
"""Letters from which two words one edit apart count as one misspelt: shorter ones (coat, boat) are mostly two words."""
SHORTEST_MISSPELT_ALONE = 7
"""The same where the word is the whole description."""
RARE = 20
"""A word in more rows than this is a word, not a misspelling, unless another one is `DOMINANT` times as frequent."""
DOMINANT = 200
"""How much more frequent a word must be than a frequent misspelling of it."""
NEIGHBOURS = (1, 2, 3, 4)
"""How far apart in a band, sorted, two texts may be and still be compared."""
FOUND = 0.99
"""Chance with which a pair of texts at the threshold becomes a candidate."""


class Grouper:
    """Collects texts in their final order, then says which belong together. Memory: about 100 bytes a text."""

    def __init__(self, similarity: float = 0.8) -> None:
        """`similarity` is the Jaccard similarity of word sets from which two texts are near-duplicates."""
        self._similarity = similarity
        self._vocabulary = _Vocabulary()
        self._words: list[Words] = []
        self._counts: list[npt.NDArray[np.uint16]] = []
        self._letters: list[Hashes] = []

    def add(self, texts: list[str], piece: int = 20_000) -> None:
        """Take the next texts, `piece` at a time."""
        for start in range(0, len(texts), piece):
            self._add(texts[start : start + piece])

    def _add(self, texts: list[str]) -> None:
        joined = "\n".join(texts)
        if not joined.isascii():
            joined = "\n".join(text if text.isascii() else _plain(text) for text in texts)
        data = np.frombuffer(joined.casefold().encode() + b"\n", dtype=np.uint8)
        kind = _KIND[data]
        # "t-shirt" is "tshirt": a sign after a single letter joins.
        joins = (
            (data == 0x2D) & (np.roll(kind, 1) == _LETTER) & (np.roll(kind, 2) == 0) & (np.roll(kind, -1) == _LETTER)
        )
        data, kind = data[~joins], kind[~joins]
        ends = np.flatnonzero(data == 0x0A)

        inside = kind > 0
        begins = inside & (kind != np.concatenate([[0], kind[:-1]]))
        # One digit stands for a number.
        used = inside & ((kind == _LETTER) | begins)
        at = np.flatnonzero(used)
        value = _BYTE_HASH[np.where(kind[at] == _DIGIT, 0x30, data[at])]
        row = np.searchsorted(ends, at)
        self._letters.append(_sums(value * _power(at, row, len(texts)), row, len(texts)))

        first = np.flatnonzero(begins[at])
        if not len(first):
            self._counts.append(np.zeros(len(texts), dtype=np.uint16))
            return
        length = np.diff(np.append(first, len(at)))
        place = np.arange(len(at)) - np.repeat(first, length)
        word_hash = _mix(np.add.reduceat(value * _POWERS[np.minimum(place, _LONGEST_TEXT - 1)], first))
        numbers = self._vocabulary.numbers(word_hash, data[at], first, length)
        # Each row's words once, sorted.
        pairs = _once(row[first].astype(np.uint64) << np.uint64(32) | numbers)
        self._words.append(pairs.astype(np.uint32))
        counts = np.bincount((pairs >> np.uint64(32)).astype(np.int64), minlength=len(texts))
        self._counts.append(counts.astype(np.uint16))

    def groups(self) -> Ints:
        """For each text the position of the first text of its group, shape (texts,)."""
        counts = np.concatenate([np.zeros(0, np.uint16), *self._counts])
        words = np.concatenate([np.zeros(0, np.uint32), *self._words])
        letters = np.concatenate([np.zeros(0, np.uint64), *self._letters])
        self._words, self._counts, self._letters = [], [], []
        sets = _Sets(words, np.concatenate([[0], np.cumsum(counts, dtype=np.int64)]))
        union = _Union(len(counts))
        nonempty = counts > 0
        union.equal(np.where(nonempty, letters, np.arange(len(letters), dtype=np.uint64)))
        del letters
        frequency = np.bincount(words, minlength=len(self._vocabulary))
        spelling = _Spelling(self._vocabulary, frequency)
        word_hash = self._vocabulary.hashes()
        sets = sets.mapped(spelling.settled)
        plain = sets.hashes(word_hash)
        union.equal(np.where(nonempty, plain, np.arange(len(plain), dtype=np.uint64)))
        known = _Known(plain)
        _join_misspelt(union, sets, known, word_hash, spelling)
        if self._similarity < 1:
            # k of k + 1 words is the most that unequal sets share; two words apart it is k of k + 2.
            one_apart = max(1, math.ceil(self._similarity / (1 - self._similarity) - 1e-9))
            two_apart = max(2, math.ceil(2 * self._similarity / (1 - self._similarity) - 1e-9))
            _join_without_one(union, sets, known, word_hash, one_apart + 1, two_apart + 1)
            _join_similar(union, sets, plain, word_hash, self._similarity, two_apart)
        return union.firsts()


def _plain(text: str) -> str:
    """Beyond ASCII: accents off, signs to spaces, numbers to 0, a space around characters that are words."""
    text = _ACCENTS.sub("", unicodedata.normalize("NFD", text.casefold()))
    text = unicodedata.normalize("NFC", _NUMBER.sub("0", _FOREIGN_SIGNS.sub(" ", text)))
    return _UNSPACED.sub(r" \1 ", text)


# --- hashing ----------------------------------------------------------------------------------------------------------


def _mix(values: Hashes) -> Hashes:
    """The finaliser of splitmix64: every bit of the result depends on every bit of the value."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def _numbers(count: int, seed: int) -> Hashes:
    """`count` fixed odd random numbers."""
    return _mix(np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(seed)) | np.uint64(
        1
    )


_KIND = np.zeros(256, dtype=np.uint8)
_KIND[[*range(0x61, 0x7B), *range(0x80, 0x100)]] = _LETTER
_KIND[0x30:0x3A] = _DIGIT
_BYTE_HASH = _numbers(256, _SEED)
_POWERS = np.cumprod(np.concatenate([[np.uint64(1)], np.full(_LONGEST_TEXT - 1, np.uint64(0x5851F42D4C957F2D))]))


def _power(at: Ints, row: Ints, rows: int) -> Hashes:
    """The power for the place of each used byte within its row."""
    count = np.bincount(row, minlength=rows)
    start = np.cumsum(count) - count
    return _POWERS[np.minimum(np.arange(len(at)) - start[row], _LONGEST_TEXT - 1)]


def _sums(values: Hashes, row: Ints, rows: int) -> Hashes:
    """Sum of `values` by row (sorted), zero for rows without any."""
    result = np.zeros(rows, dtype=np.uint64)
    if len(values):
        first = np.flatnonzero(np.concatenate([[True], row[1:] != row[:-1]]))
        result[row[first]] = _mix(np.add.reduceat(values, first))
    return result


# --- words ------------------------------------------------------------------------------------------------------------


class _Vocabulary:
    """Hash → number of a word, and the words' letters."""

    def __init__(self) -> None:
        self._sorted = np.zeros(0, dtype=np.uint64)
        self._number = np.zeros(0, dtype=np.uint32)
        self._spelt: list[npt.NDArray[np.uint8]] = []
        self._lengths: list[Ints] = []

    def __len__(self) -> int:
        return len(self._sorted)

    def numbers(self, hashes: Hashes, data: npt.NDArray[np.uint8], first: Ints, length: Ints) -> Hashes:
        """The number of each occurrence; new words are added. Word i is ``data[first[i] : first[i] + length[i]]``."""
        own, index, inverse = np.unique(hashes, return_index=True, return_inverse=True)
        place = np.searchsorted(self._sorted, own)
        known = np.zeros(len(own), dtype=bool)
        within = place < len(self._sorted)
        known[within] = self._sorted[place[within]] == own[within]
        new = ~known
        if new.any():
            # In the order of their first occurrence, so that numbers do not depend on hashes.
            order = np.argsort(index[new])
            number = np.empty(len(order), dtype=np.uint32)
            number[order] = np.arange(len(self), len(self) + len(order), dtype=np.uint32)
            where = index[new][order]
            self._lengths.append(length[where])
            self._spelt.append(data[_ranges(first[where], length[where])])
            self._sorted = np.insert(self._sorted, place[new], own[new])
            self._number = np.insert(self._number, place[new], number)
            place = np.searchsorted(self._sorted, own)
        result: Hashes = self._number[place].astype(np.uint64)[inverse]
        return result

    def hashes(self) -> Hashes:
        """The hash of each word, by number."""
        result = np.empty(len(self), dtype=np.uint64)
        result[self._number] = self._sorted
        return result

    def words(self) -> list[str]:
        """The letters of each word, by number."""
        if not self._spelt:
            return []
        ends = np.cumsum(np.concatenate(self._lengths))
        data = np.concatenate(self._spelt).tobytes()
        starts = ends - np.concatenate(self._lengths)
        return [data[a:b].decode("utf-8", "replace") for a, b in zip(starts.tolist(), ends.tolist(), strict=True)]


def _ranges(start: Ints, length: Ints) -> Ints:
    """``start[0], start[0] + 1, …`` for each of the ranges, one after the other."""
    ends = np.cumsum(length)
    result: Ints = np.arange(ends[-1] if len(ends) else 0) + np.repeat(start - (ends - length), length)
    return result


def _once(values: Hashes) -> Hashes:
    """Sorted, each once. (`np.unique` hashes, and takes ten times as long where keys share their low bits.)"""
    values = np.sort(values)
    return values[np.append(True, values[1:] != values[:-1])] if len(values) else values


class _Spelling:
    """Which words are plurals or misspellings of others."""

    def __init__(self, vocabulary: _Vocabulary, frequency: Ints) -> None:
        words = vocabulary.words()
        self.settled = np.arange(len(words), dtype=np.uint32)
        """Word → the word that it surely is a form of, or itself."""
        number = {word: n for n, word in enumerate(words)}
        for n, word in enumerate(words):
            for singular in _singulars(word):
                if singular in number:
                    self.settled[n] = number[singular]
                    break
        frequency = np.bincount(self.settled, weights=frequency, minlength=len(words)).astype(np.int64)
        rare, common = self._near(words, frequency)
        self.length = np.array([len(word) for word in words], dtype=np.int64)
        sure = (frequency[common] >= 10 * frequency[rare]) & (frequency[rare] <= 3)
        sure |= frequency[common] >= DOMINANT * frequency[rare]
        sure &= self.length[rare] > SHORTEST_MISSPELT
        # The most frequent of the sure ones comes last and stays.
        order = np.argsort(frequency[common[sure]], kind="stable")
        self.settled[rare[sure][order]] = common[sure][order].astype(np.uint32)
        self.settled = self.settled[self.settled]
        open_ = ~sure & (frequency[rare] <= RARE) & (self.settled[rare] == rare) & (self.settled[common] == common)
        self.rare, self.common = rare[open_], common[open_]
        """Pairs of words one edit apart of which the first may be misspelt, sorted by the first, best second first."""
        order = np.lexsort((self.common, -frequency[self.common], self.rare))
        self.rare, self.common = self.rare[order], self.common[order]

    def _near(self, words: list[str], frequency: Ints) -> tuple[Ints, Ints]:
        """All pairs of words one edit or swap apart with the same first letter: the rarer (later) and the other."""
        from rapidfuzz.distance import OSA
        from rapidfuzz.process import cpdist

        own = np.flatnonzero(frequency)
        own = own[[SHORTEST_MISSPELT <= len(words[n]) <= 24 for n in own.tolist()]]
        if len(own) < 2:
            return np.zeros(0, np.int64), np.zeros(0, np.int64)
        # Words that share a spelling with one letter less are at most one edit or swap apart, or two that touch.
        letters = np.array([words[n] for n in own.tolist()]).view(np.uint32).reshape(len(own), -1).astype(np.uint64)
        length = np.count_nonzero(letters, axis=1)
        value = _mix(letters * np.uint64(0x9E3779B97F4A7C15)) * (letters > 0)
        ahead = np.cumsum(value * _POWERS[: letters.shape[1]], axis=1, dtype=np.uint64)
        whole = ahead[:, -1]
        keys, owners = [whole], [own]
        inverse = np.uint64(pow(0x5851F42D4C957F2D, -1, 1 << 64))
        for drop in range(1, letters.shape[1]):
            has = length > drop
            rest = (whole[has] - ahead[has, drop]) * inverse
            keys.append(ahead[has, drop - 1] + rest)
            owners.append(own[has])
        key, owner = np.concatenate(keys), np.concatenate(owners)
        order = np.lexsort((owner, -frequency[owner], key))
        key, owner = key[order], owner[order]
        start = np.flatnonzero(np.concatenate([[True], key[1:] != key[:-1]]))
        head = np.repeat(owner[start], np.diff(np.append(start, len(key))))
        follows = np.flatnonzero(key[1:] == key[:-1]) + 1
        pairs = [(head[follows], owner[follows]), (owner[follows - 1], owner[follows])]
        one = np.concatenate([a for a, _ in pairs])
        two = np.concatenate([b for _, b in pairs])
        swap = (frequency[two] > frequency[one]) | ((frequency[two] == frequency[one]) & (two < one))
        common, rare = np.where(swap, two, one), np.where(swap, one, two)
        both = np.unique(np.stack([rare, common], axis=1)[rare != common], axis=0)
        texts = [[words[n] for n in column.tolist()] for column in both.T]
        if not len(both):
            return np.zeros(0, np.int64), np.zeros(0, np.int64)
        near = cpdist(texts[0], texts[1], scorer=OSA.distance, score_cutoff=1, dtype=np.uint8, workers=1) <= 1
        near &= [a[0] == b[0] for a, b in zip(*texts, strict=True)]
        return both[near, 0], both[near, 1]


def _singulars(word: str) -> Iterator[str]:
    if len(word) > 3 and word[-1] == "s" and word[-2] != "s":
        if word.endswith("ies"):
            yield word[:-3] + "y"
        if word.endswith(("xes", "ches", "shes", "sses", "zes")):
            yield word[:-2]
        yield word[:-1]


# --- sets of words ----------------------------------------------------------------------------------------------------


class _Sets:
    """Each row's words: sorted numbers, and where each row's begin."""

    def __init__(self, words: Words, begins: Ints) -> None:
        self.words, self.begins = words, begins
        self.size = np.diff(begins)

    def pieces(self, words: int = 1 << 21) -> Iterator[tuple[int, int]]:
        """Ranges of rows with about so many words together."""
        start = 0
        while start < len(self.size):
            stop = int(np.searchsorted(self.begins, self.begins[start] + words, side="right")) - 1
            stop = max(stop, start + 1)
            yield start, stop
            start = stop

    def mapped(self, to: Words) -> "_Sets":
        """With each word replaced, each row's words once and sorted again. The old sets are overwritten."""
        sizes = np.zeros(len(self.size), dtype=np.int64)
        filled = 0
        for start, stop in self.pieces():
            row = np.repeat(np.arange(stop - start, dtype=np.uint64), self.size[start:stop])
            words = to[self.words[self.begins[start] : self.begins[stop]]]
            pairs = _once(row << np.uint64(32) | words)
            sizes[start:stop] = np.bincount((pairs >> np.uint64(32)).astype(np.int64), minlength=stop - start)
            self.words[filled : filled + len(pairs)] = pairs.astype(np.uint32)
            filled += len(pairs)
        return _Sets(self.words[:filled], np.concatenate([[0], np.cumsum(sizes)]))

    def hashes(self, word_hash: Hashes) -> Hashes:
        """A hash of each row's set, shape (rows,); 0 for an empty one."""
        result = np.zeros(len(self.size), dtype=np.uint64)
        for start, stop in self.pieces():
            _reduce(np.add, word_hash[self.words[self.begins[start] : self.begins[stop]]], self, start, stop, result)
        return result


def _reduce(how: np.ufunc, values: Hashes, sets: _Sets, start: int, stop: int, result: Hashes) -> None:
    """Reduce the `values` of the words of rows start..stop by row into `result[start:stop]`; empty rows stay."""
    filled = np.flatnonzero(sets.size[start:stop])
    if len(filled):
        result[start + filled] = how.reduceat(values, sets.begins[start:stop][filled] - sets.begins[start])


class _Known:
    """Rows by the hash of their set."""

    def __init__(self, hashes: Hashes) -> None:
        self.hashes = hashes
        self._order = np.argsort(hashes, kind="stable")
        self._sorted = hashes[self._order]

    def join(self, union: "_Union", rows: Ints, hashes: Hashes) -> None:
        """Join each of `rows` with the row, if there is one, whose set has the hash beside it."""
        # Looked up in their order, neighbours are found in the same lines of memory.
        order = np.argsort(hashes)
        rows, hashes = rows[order], hashes[order]
        place = np.minimum(np.searchsorted(self._sorted, hashes), len(self._sorted) - 1)
        found = self._sorted[place] == hashes
        union.join(rows[found], self._order[place[found]])


def _join_misspelt(union: "_Union", sets: _Sets, known: _Known, word_hash: Hashes, spelling: _Spelling) -> None:
    """Join rows that are equal once one word, or every word that may be misspelt, is replaced by one near it."""
    if not len(spelling.rare):
        return
    plain = known.hashes
    begins = np.searchsorted(spelling.rare, np.arange(len(word_hash) + 1))
    neighbours = np.diff(begins)
    best = np.zeros(len(word_hash), dtype=np.uint64)
    has = neighbours > 0
    best[has] = word_hash[spelling.common[begins[:-1][has]]] - word_hash[has]

    every = np.zeros(len(plain), dtype=np.uint64)
    for start, stop in sets.pieces():
        words = sets.words[sets.begins[start] : sets.begins[stop]]
        row = np.repeat(np.arange(start, stop), sets.size[start:stop])
        _reduce(np.add, best[words], sets, start, stop, every)
        at = np.flatnonzero(has[words])
        alone = sets.size[row[at]] == 1
        at = at[~alone | (spelling.length[words[at]] >= SHORTEST_MISSPELT_ALONE)]
        if not len(at):
            continue
        count = neighbours[words[at]]
        common = spelling.common[_ranges(begins[words[at]], count)]
        rows = np.repeat(row[at], count)
        known.join(union, rows, plain[rows] - np.repeat(word_hash[words[at]], count) + word_hash[common])
    changed = np.flatnonzero((every != 0) & (sets.size > 1))
    corrected = plain[changed] + every[changed]
    known.join(union, changed, corrected)
    union.equal(corrected, changed)


def _join_without_one(union: "_Union", sets: _Sets, known: _Known, word_hash: Hashes, fewest: int, most: int) -> None:
    """Join rows of `fewest` to `most` words with those that have all of them but one."""
    wanted = (sets.size >= fewest) & (sets.size <= most)
    for start, stop in sets.pieces():
        row = np.repeat(np.arange(start, stop), sets.size[start:stop])
        at = np.flatnonzero(wanted[row])
        words = sets.words[sets.begins[start] : sets.begins[stop]][at]
        known.join(union, row[at], known.hashes[row[at]] - word_hash[words])


def _join_similar(
    union: "_Union", sets: _Sets, plain: Hashes, word_hash: Hashes, similarity: float, fewest: int
) -> None:
    """Join rows of `fewest` words or more whose sets reach the Jaccard `similarity`."""
    _, first = np.unique(plain, return_index=True)
    rows = np.sort(first[sets.size[first] >= fewest])
    if len(rows) < 2:
        return
    chosen = _Sets(sets.words[_ranges(sets.begins[rows], sets.size[rows])], np.cumsum(np.append(0, sets.size[rows])))
    sketch = np.zeros(len(rows), dtype=np.uint64)
    bit = np.uint64(1) << (word_hash & np.uint64(63))
    for start, stop in chosen.pieces():
        words = chosen.words[chosen.begins[start] : chosen.begins[stop]]
        _reduce(np.bitwise_or, bit[words], chosen, start, stop, sketch)
    least = np.zeros(len(rows), dtype=np.uint64)

    def smallest(factor: np.uint64) -> Hashes:
        """The smallest hash of each row's words."""
        turned = _mix(word_hash * factor)
        for start, stop in chosen.pieces():
            words = chosen.words[chosen.begins[start] : chosen.begins[stop]]
            _reduce(np.minimum, turned[words], chosen, start, stop, least)
        return least

    bands, width = _banding(similarity)
    factors = _numbers(bands * (width + 2), _SEED + 1).reshape(bands, width + 2)
    for band in range(bands):
        key = np.zeros(len(rows), dtype=np.uint64)
        for factor in factors[band, :width]:
            key = _mix(key + smallest(factor))
        # 40 bits make the band; 24 bits of further hashes put the most alike of a band next to each other.
        key &= ~np.uint64(0xFFFFFF)
        for factor, shift in zip(factors[band, width:], (12, 0), strict=True):
            key |= (_mix(smallest(factor)) >> np.uint64(52)) << np.uint64(shift)
        order = np.argsort(key, kind="stable")
        key = key[order] >> np.uint64(24)
        for step in NEIGHBOURS:
            near = np.flatnonzero(key[step:] == key[:-step])
            if len(near):
                _join_checked(union, chosen, rows, sketch, order[near], order[near + step], similarity)


def _join_checked(
    union: "_Union", sets: _Sets, rows: Ints, sketch: Hashes, one: Ints, two: Ints, similarity: float
) -> None:
    """Join those pairs of `one` and `two` (positions in `sets`) whose similarity is high enough."""
    for start in range(0, len(one), 1 << 18):
        a, b = one[start : start + (1 << 18)], two[start : start + (1 << 18)]
        apart = union.firsts_of(rows[a]) != union.firsts_of(rows[b])
        a, b = a[apart], b[apart]
        needed = np.ceil(similarity / (1 + similarity) * (sets.size[a] + sets.size[b]) - 1e-9).astype(np.int64)
        # A word whose bit the other's sketch lacks is not in the other.
        most = np.minimum(
            sets.size[a] - np.bitwise_count(sketch[a] & ~sketch[b]),
            sets.size[b] - np.bitwise_count(sketch[b] & ~sketch[a]),
        )
        possible = most >= needed
        a, b, needed = a[possible], b[possible], needed[possible]
        if not len(a):
            continue
        pair = np.concatenate([np.repeat(np.arange(len(a)), sets.size[a]), np.repeat(np.arange(len(b)), sets.size[b])])
        words = sets.words[
            np.concatenate([_ranges(sets.begins[a], sets.size[a]), _ranges(sets.begins[b], sets.size[b])])
        ]
        both = np.sort(pair.astype(np.uint64) << np.uint64(32) | words)
        shared = np.bincount((both[1:][both[1:] == both[:-1]] >> np.uint64(32)).astype(np.int64), minlength=len(a))
        same = shared >= needed
        union.join(rows[a[same]], rows[b[same]])


def _banding(similarity: float) -> tuple[int, int]:
    """Bands and hashes a band: a pair at the threshold meets in a band with the chance `FOUND`, others seldom."""
    for width in (4, 3, 2, 1):
        bands = math.ceil(math.log(1 - FOUND) / math.log(1 - similarity**width))
        if bands * width <= 64:
            return bands, width
    return 64, 1


class _Union:
    """Sets of rows that grow by joining pairs; each is known by its first row."""

    def __init__(self, rows: int) -> None:
        self._parent = np.arange(rows, dtype=np.int32 if rows < 1 << 31 else np.int64)

    def join(self, one: Ints, two: Ints) -> None:
        """Join each pair of rows."""
        parent = self._parent
        while len(one):
            one, two = self.firsts_of(one), self.firsts_of(two)
            apart = one != two
            low, high = np.minimum(one, two)[apart], np.maximum(one, two)[apart]
            np.minimum.at(parent, high, low.astype(parent.dtype))
            one, two = low, high

    def equal(self, keys: Hashes, rows: Ints | None = None) -> None:
        """Join the rows (None: all) that have the same key."""
        order = np.argsort(keys, kind="stable")
        same = np.flatnonzero(keys[order[1:]] == keys[order[:-1]])
        one, two = order[same], order[same + 1]
        self.join(one if rows is None else rows[one], two if rows is None else rows[two])

    def firsts_of(self, rows: Ints) -> Ints:
        """The first row of each row's set."""
        found = self._parent[rows]
        while not np.array_equal(further := self._parent[found], found):
            found = further
        self._parent[rows] = found
        return found.astype(np.int64)

    def firsts(self) -> Ints:
        """The first row of every row's set."""
        return self.firsts_of(np.arange(len(self._parent)))
