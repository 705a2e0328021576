"""What a model must do whatever its figures: cases by hand, run on any bundle, failures counted and listed.

Suites, each with its rule:
- case, plural: the likeliest subheading stays when letters change their case, one becomes many.
- order, sizes: the likeliest heading stays when attributes change places, a size or a count is added.
- direction: a word of material, gender or state moves the answer to its branch: each text of a pair prefers its own
  code to the other's.
- chapters: common goods, a few for each chapter, get their chapter.
- vague: texts that say nothing get no code.
A case whose codes the model does not know (it was trained on fewer classes) is skipped and counted as skipped.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from models.answer import Levels

if TYPE_CHECKING:
    from models.bundle import Bundle

SUITES = ("case", "plural", "order", "sizes", "direction", "chapters", "vague")

CASES = (
    "cotton t-shirt, knitted", "leather handbag", "wooden dining table", "stainless steel kitchen knife",
    "frozen salmon fillet", "roasted coffee beans", "wireless bluetooth headphones", "ladies wool coat",
    "plastic food container", "electric hair dryer", "running shoes", "porcelain coffee cup", "dog food",
    "red wine", "baby doll toy", "led light bulb", "silver necklace", "paper notebook", "motorcycle helmet",
    "acoustic guitar",
)  # fmt: skip
"""Shown in lower case, in capitals, and with capital initials."""

PLURALS = (
    ("leather wallet", "leather wallets"), ("cotton sock", "cotton socks"), ("wrist watch", "wrist watches"),
    ("wooden chair", "wooden chairs"), ("glass bottle", "glass bottles"), ("ceramic tile", "ceramic tiles"),
    ("paint brush", "paint brushes"), ("lithium battery", "lithium batteries"), ("steel bolt", "steel bolts"),
    ("car tyre", "car tyres"), ("ladies dress", "ladies dresses"), ("umbrella", "umbrellas"),
    ("apple, fresh", "apples, fresh"), ("carpet", "carpets"), ("toothbrush", "toothbrushes"),
)  # fmt: skip

ORDERS = (
    ("cotton shirt for men", "men shirt cotton"), ("black leather belt", "belt leather black"),
    ("blue plastic bucket", "plastic bucket blue"),
    ("ladies cotton knitted pullover", "pullover knitted cotton ladies"),
    ("stainless steel water bottle", "bottle water stainless steel"), ("wooden toy train", "toy train wooden"),
    ("fresh red apples", "apples red fresh"), ("electric kettle 1.7 l", "kettle electric 1.7 l"),
    ("silk scarf printed", "printed silk scarf"), ("glass vase hand made", "hand made vase glass"),
    ("mens running shoes", "running shoes mens"), ("frozen shrimps peeled", "peeled shrimps frozen"),
)  # fmt: skip

SIZES = (
    ("cotton t-shirt", "cotton t-shirt XL"), ("cotton t-shirt", "5 x cotton t-shirt"), ("olive oil", "olive oil 500ml"),
    ("shampoo", "shampoo 250 ml 12 pcs"), ("copper wire", "copper wire 2.5mm 100m"),
    ("bed sheet", "bed sheet 160x200 cm"),
    ("drill bit", "drill bit 8mm"), ("chocolate bar", "chocolate bar 100g (24 pieces)"),
    ("car tyre", "car tyre 205/55 R16"),
    ("laptop computer", "laptop computer 15.6 inch"), ("leather shoes", "leather shoes size 42"),
    ("steel pipe", "steel pipe 50mm x 6m"), ("diapers for babies", "diapers for babies 4-9 kg 60 pcs"),
)  # fmt: skip

DIRECTIONS = (
    ("cotton t-shirt, knitted", "610910", "t-shirt of synthetic fibres, knitted", "610990"),
    ("men's cotton trousers, woven", "6203", "women's cotton trousers, woven", "6204"),
    ("men's cotton shirt, woven", "6205", "women's cotton blouse, woven", "6206"),
    ("men's suit, woven", "6203", "women's suit, woven", "6204"),
    ("wooden furniture for the kitchen", "940340", "metal furniture", "940320"),
    ("wooden statuette", "44", "ceramic statuette", "69"),
    ("plastic bottle", "39", "glass bottle", "70"),
    ("steel kitchen pot", "7323", "aluminium kitchen pot", "7615"),
    ("copper tube", "74", "aluminium tube", "76"),
    ("beef, fresh", "0201", "beef, frozen", "0202"),
    ("live horse", "0101", "horse meat", "0205"),
    ("fresh apples", "0808", "apple juice", "2009"),
    ("cotton yarn", "5205", "cotton fabric, woven", "5208"),
    ("wool carpet", "57", "wool coat for women", "62"),
    ("rubber gloves", "40", "leather gloves", "42"),
    ("leather shoes", "6403", "rubber shoes", "6402"),
    ("coffee, roasted", "0901", "black tea", "0902"),
    ("bicycle", "8712", "motorcycle", "8711"),
    ("gold necklace", "7113", "imitation necklace of base metal", "7117"),
    ("paper bag", "4819", "plastic bag", "3923"),
    ("natural rubber, smoked sheets", "4001", "synthetic rubber", "4002"),
    ("wine, red", "2204", "beer, lager", "2203"),
    ("tomatoes, fresh", "0702", "tomatoes, canned", "2002"),
    ("porcelain plate", "6911", "plastic plate", "3924"),
)  # fmt: skip
"""Two texts, each with the code that it must prefer to the other's."""

CHAPTERS = {
    "01": ("live cattle", "live horses"), "02": ("beef, frozen", "pork, fresh"),
    "03": ("frozen salmon fillet", "shrimps"), "04": ("cheese", "butter", "honey"), "06": ("cut roses", "tulip bulbs"),
    "07": ("potatoes, fresh", "onions", "tomatoes"), "08": ("bananas", "fresh apples", "almonds"),
    "09": ("roasted coffee", "green tea", "black pepper"), "10": ("rice", "wheat"), "11": ("wheat flour",),
    "12": ("soya beans", "sunflower seeds"), "15": ("olive oil", "sunflower oil"), "16": ("sausages", "canned tuna"),
    "17": ("sugar", "chewing gum"), "18": ("chocolate bar", "cocoa powder"), "19": ("pasta", "biscuits"),
    "20": ("orange juice", "strawberry jam"), "21": ("tomato ketchup", "soup"),
    "22": ("red wine", "beer", "mineral water"),
    "23": ("dog food",), "24": ("cigarettes",), "25": ("portland cement", "salt"), "27": ("diesel fuel", "coal"),
    "30": ("antibiotic tablets", "bandages", "vaccine"), "31": ("fertiliser",), "32": ("paint", "printing ink"),
    "33": ("perfume", "shampoo", "lipstick"), "34": ("soap", "candles"), "39": ("plastic bags", "plastic pipe"),
    "40": ("car tyres", "rubber gloves"), "42": ("leather handbag", "suitcase", "leather wallet"),
    "44": ("plywood", "wooden pallet"), "48": ("toilet paper", "cardboard boxes"), "49": ("books", "calendar"),
    "52": ("woven fabric of cotton",), "57": ("carpets",), "61": ("t-shirt", "knitted pullover", "socks"),
    "62": ("men's woven cotton trousers", "women's woven dress"), "63": ("bed linen", "blankets"),
    "64": ("leather shoes", "sports shoes", "rubber boots"), "65": ("hats", "safety helmet"), "66": ("umbrella",),
    "69": ("ceramic tiles", "porcelain plates"), "70": ("glass bottles", "glass mirror"),
    "71": ("gold ring", "silver necklace", "diamonds"), "73": ("steel pipes", "steel screws"), "74": ("copper wire",),
    "76": ("aluminium foil",), "82": ("hammer", "kitchen knife", "scissors"), "83": ("padlock",),
    "84": ("washing machine", "laptop computer", "water pump", "refrigerator"),
    "85": ("headphones", "mobile phone", "lithium ion battery", "television"),
    "87": ("passenger car", "bicycle", "motorcycle"), "89": ("sailing yacht",),
    "90": ("sunglasses", "microscope", "thermometer"), "91": ("wrist watch", "wall clock"), "92": ("guitar", "piano"),
    "94": ("sofa", "mattress", "table lamp"), "95": ("toys", "video game console", "playing cards"),
    "96": ("toothbrush", "ballpoint pen", "baby diapers"), "97": ("oil painting",),
}  # fmt: skip
"""Chapter → goods that nobody doubts."""

VAGUE = (
    "", " ", "?", "...", "12345", "n/a", "goods", "gift", "gifts", "items", "samples", "sample of no value", "parts",
    "spare parts", "accessories", "various items", "miscellaneous", "as per invoice", "personal items", "other",
)  # fmt: skip


@dataclass(frozen=True)
class _Case:
    suite: str
    texts: tuple[str, ...]
    codes: tuple[str, ...] = ()


def examine(bundle: "Bundle") -> dict[str, Any]:
    """Run all suites: ``{"suites": {suite: {"cases", "passed", "skipped", "failures": [{"suite", "text",
    "why"}]}}}``."""
    cases = list(_cases())
    texts = [text for case in cases for text in case.texts]
    probabilities = bundle.probabilities(texts)
    given = bundle.answer(texts)
    suites: dict[str, dict[str, Any]] = {
        suite: {"cases": 0, "passed": 0, "skipped": 0, "failures": []} for suite in SUITES
    }
    at = 0
    for case in cases:
        part = slice(at, at + len(case.texts))
        at += len(case.texts)
        counts = suites[case.suite]
        if not all(_known(bundle.levels, code) for code in case.codes):
            counts["skipped"] += 1
            continue
        why = _judge(case, bundle.levels, probabilities[part], given[part])
        counts["cases"] += 1
        counts["passed"] += not why
        if why:
            counts["failures"].append({"suite": case.suite, "text": " | ".join(case.texts), "why": why})
    return {"suites": suites}


def _cases() -> Iterator[_Case]:
    for text in CASES:
        yield _Case("case", (text, text.upper(), text.title()))
    for suite, pairs in (("plural", PLURALS), ("order", ORDERS), ("sizes", SIZES)):
        for pair in pairs:
            yield _Case(suite, pair)
    for one, code, other, other_code in DIRECTIONS:
        yield _Case("direction", (one, other), (code, other_code))
    for chapter, goods in CHAPTERS.items():
        for text in goods:
            yield _Case("chapters", (text,), (chapter,))
    for text in VAGUE:
        yield _Case("vague", (text,))


def _known(levels: Levels, code: str) -> bool:
    return bool(levels.indices([code], len(code))[0] >= 0)


def _judge(case: _Case, levels: Levels, p: np.ndarray[Any, Any], given: list[dict[str, Any]]) -> str:
    """Why the case fails, "" where it passes."""
    if case.suite == "vague":
        return f"answered {given[0]['code']}" if given[0]["code"] else ""
    if case.suite == "chapters":
        best = levels.codes[2][int(levels.probabilities(p, 2)[0].argmax())]
        return "" if best == case.codes[0] else f"chapter {best}, not {case.codes[0]}"
    if case.suite == "direction":
        for row, (text, own, other) in enumerate(zip(case.texts, case.codes, reversed(case.codes), strict=True)):
            mine, theirs = (
                float(levels.probabilities(p[row : row + 1], len(code))[0, levels.indices([code], len(code))[0]])
                for code in (own, other)
            )
            if mine <= theirs:
                return f"{text!r}: {own} has {mine:.3f}, {other} has {theirs:.3f}"
        return ""
    digits = 6 if case.suite in ("case", "plural") else 4
    best_codes = [levels.codes[digits][i] for i in levels.probabilities(p, digits).argmax(axis=1)]
    changed = next((code for code in best_codes[1:] if code != best_codes[0]), None)
    return "" if changed is None else f"{best_codes[0]} became {changed}"
