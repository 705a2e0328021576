"""Why an answer: the words that carried it, the nearest known descriptions, the legal text of each level. Light.

Words: each distinct word is left out in turn, in all its places, and the probability of the explained code is taken
again (occlusion). A text goes through the model with all its variants in one call: memory is bounded by VARIANTS, and
an explanation is as deterministic as an answer. Nearest descriptions: `index.npz` in the bundle, written at training by
`build_index`.
"""

import functools
import html
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zlib import crc32

import numpy as np
import numpy.typing as npt

from models.answer import DIGITS, Floats, answers
from models.text.normalise import ngrams, words

if TYPE_CHECKING:
    import polars as pl

    from models.bundle import Bundle

INDEX = "index.npz"
VARIANTS = 48
"""Variants of a text at most; in a longer text neighbouring words are left out together."""
NEAREST = 5
"""Known descriptions listed."""
COMMON = 0.1
"""A feature of a larger share of the descriptions says nothing of nearness and is left out of the index."""
GRAM = 0.4
"""Weight of a trigram beside that of a whole word: enough to find misspelt words, too little to outweigh right ones."""
_WORD = re.compile(r"\S+")


def explain(bundle: "Bundle", instances: Sequence[str | Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One explanation for each instance (a text, or ``{"description", "digits"?, "limit"?}``).

    ``{"answer": the prediction object, "explained": {"code", "digits", "confidence"}, "words": [{"word", "effect"}],
    "legal": {"2": {"code", "text"}, "4": …, "6": …}, "nearest": [{"description", "code", "similarity"}]}``. Explained
    is the code given, else the likeliest of the length asked for. `effect` is by how much its probability falls when
    the word is left out (negative: the word speaks against it), in the order of the text. `similarity` is 0..1.
    """
    index = _index(bundle.folder / INDEX)
    return [_explained(bundle, {"description": one} if isinstance(one, str) else one, index) for one in instances]


def cost(text: str) -> int:
    """How many texts go through the model to explain this one: itself and its variants."""
    return 1 + len(_parts(text))


def _explained(bundle: "Bundle", asked: Mapping[str, Any], index: "Index | None") -> dict[str, Any]:
    text, wanted = str(asked["description"]), int(asked.get("digits") or 6)
    limit = int(asked.get("limit") or bundle.calibration.get("candidates", 5))
    parts = _parts(text)
    probabilities = bundle.probabilities([text, *(_without(text, part) for part in parts)])
    own, left = probabilities[:1], probabilities[1:]
    informative = bundle.informative([text])
    (answer,) = answers(bundle.levels, own, bundle.thresholds, bundle.texts, [wanted], [limit], informative)
    digits = answer["digits"] or wanted
    code = answer["code"] or answer["levels"][str(digits)]["code"]
    at = bundle.levels.indices([code], digits)[0]
    before = bundle.levels.probabilities(own, digits)[0, at]
    after = bundle.levels.probabilities(left, digits)[:, at]
    return {
        "answer": answer,
        "explained": {"code": code, "digits": digits, "confidence": round(float(before), 4)},
        "words": [
            {"word": text[part[0][0] : part[0][1]], "effect": round(float(before - value), 4)}
            for part, value in zip(parts, after, strict=True)
        ],
        "legal": {str(d): {"code": code[:d], "text": bundle.texts.get(code[:d], "")} for d in DIGITS if d <= digits},
        "nearest": index.nearest(text) if index else [],
    }


def _parts(text: str) -> list[list[tuple[int, int]]]:
    """What is left out at a time: spans of one word's places, or of neighbours where there are too many words."""
    spans = [match.span() for match in _WORD.finditer(text)]
    places: dict[str, list[tuple[int, int]]] = {}
    for start, end in spans:
        places.setdefault(text[start:end].strip(",.;:()[]\"'").lower() or text[start:end], []).append((start, end))
    if len(places) <= VARIANTS:
        return list(places.values())
    together = -(-len(spans) // VARIANTS)
    return [[(spans[i][0], spans[min(i + together, len(spans)) - 1][1])] for i in range(0, len(spans), together)]


def _without(text: str, part: Sequence[tuple[int, int]]) -> str:
    kept, at = [], 0
    for start, end in part:
        kept.append(text[at:start])
        at = end
    return " ".join(" ".join([*kept, text[at:]]).split())


# -- nearest known descriptions ------------------------------------------------------------------------------------


def build_index(frame: "pl.DataFrame", out: Path, rows: int = 20_000) -> int:
    """Write ``index.npz`` into the folder `out`: an inverted index of known descriptions. Returns how many it holds.

    `frame` has columns `description`, `hs6`, and where they exist `code` and `label_kind` (the training part).
    Traders' descriptions come first, nomenclature texts fill what is left of `rows`; vague ones are left out. Same
    rows, same bytes.
    """
    kinds = frame["label_kind"].to_list() if "label_kind" in frame.columns else ["given"] * frame.height
    shorter = frame["code"].to_list() if "code" in frame.columns else [None] * frame.height
    known: dict[str, tuple[bool, str, str]] = {}
    for text, hs6, code, kind in zip(frame["description"], frame["hs6"], shorter, kinds, strict=True):
        label = hs6 or (code or "")[:6]
        if label and kind != "vague":
            entry = (kind == "nomenclature", str(text), str(label))
            known[str(text).lower()] = min(entry, known.get(str(text).lower(), entry))
    kept = sorted(known.values())[:rows] if len(known) <= rows else _spread(list(known.values()), rows)
    rows_of, buckets, counts = _postings([text for _, text, _ in kept])
    names, at, frequency = np.unique(buckets, return_inverse=True, return_counts=True)
    idf = np.log((1 + len(kept)) / np.maximum(frequency, 1))
    values = counts * idf[at]
    said = (frequency <= max(20.0, COMMON * len(kept)))[at]
    rows_of, at, values = rows_of[said], at[said], values[said]
    lengths = np.sqrt(np.bincount(rows_of, weights=values**2, minlength=len(kept)))
    order = np.lexsort((rows_of, at))
    used, starts = np.unique(at[order], return_index=True)
    texts = [text.encode() for _, text, _ in kept]
    np.savez_compressed(
        out / INDEX,
        buckets=names[used].astype(np.uint32),
        idf=idf[used].astype(np.float32),
        starts=starts.astype(np.uint32),
        rows=rows_of[order].astype(np.uint32),
        values=(values / np.maximum(lengths[rows_of], 1e-9))[order].astype(np.float16),
        codes=np.array([code for _, _, code in kept], dtype="S6"),
        texts=np.frombuffer(b"".join(texts), dtype=np.uint8),
        ends=np.cumsum([len(t) for t in texts]).astype(np.uint32),
    )
    return len(kept)


def _postings(
    texts: Sequence[str],
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.uint32], npt.NDArray[np.float64]]:
    """(entries,) row, bucket and weight of all features of all texts."""
    rows: list[int] = []
    buckets: list[int] = []
    weights: list[float] = []
    for row, text in enumerate(texts):
        features = _features(text)
        rows += [row] * len(features)
        buckets += features.keys()
        weights += features.values()
    return np.array(rows, dtype=np.int64), np.array(buckets, dtype=np.uint32), np.array(weights)


def _spread(entries: list[tuple[bool, str, str]], rows: int) -> list[tuple[bool, str, str]]:
    """`rows` of the entries: traders' before others, and among these a few of every code before many of one."""
    taken: Counter[tuple[bool, str]] = Counter()
    ranked = []
    for nomenclature, text, code in sorted(entries, key=lambda e: (e[0], crc32(e[1].encode()), e[1])):
        taken[nomenclature, code] += 1
        ranked.append((nomenclature, taken[nomenclature, code], text, code))
    return sorted((nomenclature, text, code) for nomenclature, _, text, code in sorted(ranked)[:rows])


def _features(text: str) -> dict[int, float]:
    """Hash of each word and trigram → weight. Runs of digits say nothing; a word said twice counts once."""
    features: dict[int, float] = {}
    for word in words(text):
        if word != "0":
            features.update(_word_features(word))
    return features


@functools.lru_cache(maxsize=100_000)
def _word_features(word: str) -> dict[int, float]:
    return {**{crc32(gram.encode()): GRAM for gram in ngrams(word, 3, 3)}, crc32(word.encode()): 1.0}


class Index:
    """Known descriptions by their words and trigrams; `nearest` by cosine similarity of TF-IDF weights."""

    def __init__(self, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
        self._buckets, self._idf = arrays["buckets"], arrays["idf"].astype(np.float64)
        self._starts = np.append(arrays["starts"], len(arrays["rows"])).astype(np.int64)
        self._rows, self._values = arrays["rows"], arrays["values"]
        self._codes, self._texts, self._ends = arrays["codes"], arrays["texts"], arrays["ends"].astype(np.int64)

    def __len__(self) -> int:
        return len(self._codes)

    def nearest(self, text: str, limit: int = NEAREST) -> list[dict[str, Any]]:
        """The `limit` nearest descriptions, nearest first, ties by their order in the index; none that shares
        nothing."""
        scores = self._scores(text)
        found = np.flatnonzero(scores > 0.05)
        order = found[np.lexsort((found, -np.round(scores[found], 6)))][:limit]
        return [
            {
                "description": bytes(self._texts[self._ends[i - 1] if i else 0 : self._ends[i]]).decode(),
                "code": self._codes[i].decode(),
                "similarity": round(min(1.0, float(scores[i])), 4),
            }
            for i in order
        ]

    def _scores(self, text: str) -> Floats:
        scores = np.zeros(len(self._codes))
        if not len(self._buckets):
            return scores
        features = sorted(_features(text).items())
        at = np.searchsorted(self._buckets, np.array([b for b, _ in features], dtype=np.uint32))
        weighed = [
            (int(i), count * self._idf[i])
            for i, (bucket, count) in zip(at, features, strict=True)
            if i < len(self._buckets) and self._buckets[i] == bucket
        ]
        length = float(np.sqrt(sum(w * w for _, w in weighed))) or 1.0
        for i, weight in weighed:
            part = slice(self._starts[i], self._starts[i + 1])
            scores[self._rows[part]] += self._values[part].astype(np.float64) * (weight / length)
        return scores


def _index(path: Path) -> Index | None:
    return _read_index(path, path.stat().st_mtime_ns) if path.is_file() else None


@functools.lru_cache(maxsize=4)
def _read_index(path: Path, changed: int) -> Index:
    with np.load(path, allow_pickle=False) as arrays:
        return Index({name: arrays[name] for name in arrays.files})


# -- for people ----------------------------------------------------------------------------------------------------


def to_html(explanations: Sequence[Mapping[str, Any]], texts: Sequence[str], model: Mapping[str, str]) -> str:
    """One page for some explanations of `texts`, `model` with name, version, edition. Nothing is loaded from
    elsewhere."""
    body = "".join(_one(text, each) for text, each in zip(texts, explanations, strict=True))
    foot = " ".join(html.escape(str(model.get(key, ""))) for key in ("name", "version", "edition"))
    return _PAGE.format(body=body, foot=foot)


def _one(text: str, explanation: Mapping[str, Any]) -> str:
    answer, explained = explanation["answer"], explanation["explained"]
    said = {
        "answered": f"{answer['code']} at {answer['confidence']:.0%}",
        "shortened": f"{answer['code']} at {answer['confidence']:.0%}; a longer code is not sure enough",
        "vague": f"too vague to classify; the likeliest code would be {explained['code']}",
        "unsure": f"no code is sure enough; the likeliest is {explained['code']} at {explained['confidence']:.0%}",
    }[answer["status"]]
    effects = [(str(w["word"]), float(w["effect"])) for w in explanation["words"]]
    most = max((abs(effect) for _, effect in effects), default=0.0) or 1.0
    marks = " ".join(
        f'<mark style="background:rgba({"31,122,77" if effect >= 0 else "179,38,30"},{0.65 * abs(effect) / most:.2f})" '
        f'title="{effect:+.4f}">{html.escape(word)}<small>{effect:+.2f}</small></mark>'
        for word, effect in effects
    )
    legal = "".join(
        f"<tr><td>{html.escape(level['code'])}</td><td>{html.escape(level['text'])}</td></tr>"
        for level in explanation["legal"].values()
    )
    nearest = "".join(
        f"<tr><td>{html.escape(n['code'])}</td><td>{html.escape(n['description'])}</td><td>{n['similarity']:.2f}</td></tr>"
        for n in explanation["nearest"]
    )
    candidates = "".join(
        f"<tr><td>{html.escape(c['code'])}</td><td>{html.escape(c['text'])}</td><td>{c['confidence']:.1%}</td></tr>"
        for c in answer["candidates"]
    )
    return (
        f"<section><h2>{html.escape(text)}</h2><p><b>{html.escape(said)}</b></p>"
        f"<h3>Words that carried {html.escape(explained['code'])}</h3><p class=words>{marks}</p>"
        f"<h3>Legal text</h3><table>{legal}</table>"
        + (f"<h3>Nearest known descriptions</h3><table>{nearest}</table>" if nearest else "")
        + f"<h3>Candidates</h3><table>{candidates}</table></section>"
    )


_PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>Why these codes</title>
<style>
body {{ font: 15px/1.5 system-ui, sans-serif; color: #222; background: #fff; max-width: 52rem; margin: 2rem auto;
padding: 0 1rem; }}
h2 {{ font-size: 1.25rem; margin: 0 0 .3rem; }} h3 {{ font-size: .95rem; margin: 1.2rem 0 .3rem; color: #555; }}
section {{ border-top: 1px solid #ddd; padding: 1.4rem 0; }}
table {{ border-collapse: collapse; width: 100%; font-size: .92rem; }}
td {{ padding: .25rem .6rem .25rem 0; border-bottom: 1px solid #eee; vertical-align: top; }}
td:first-child {{ font-variant-numeric: tabular-nums; width: 5rem; }}
td:nth-child(3) {{ text-align: right; width: 4rem; }}
mark {{ color: inherit; border-radius: .25rem; padding: .15rem .35rem; line-height: 2.2; }}
small {{ color: #666; margin-left: .3rem; font-size: .7rem; }} footer {{ color: #777; font-size: .85rem; }}
</style>
{body}<footer>Model {foot}. The number beside a word: by how much the code's probability falls without it.</footer>
</html>
"""
