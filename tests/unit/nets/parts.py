"""Parts of a split small enough for a test: twelve subheadings in three chapters, as the split step writes them."""

import json
from pathlib import Path
from typing import Any

import polars as pl

TEXTS = {
    "610910": "T-shirts of cotton, knitted",
    "610990": "T-shirts of other textile materials, knitted",
    "611020": "Pullovers of cotton, knitted",
    "611030": "Pullovers of man-made fibres, knitted",
    "640319": "Sports footwear with leather uppers",
    "640399": "Footwear with leather uppers",
    "640411": "Sports footwear with textile uppers",
    "640419": "Footwear with textile uppers",
    "850440": "Static converters, chargers",
    "850760": "Lithium-ion accumulators, batteries",
    "851830": "Headphones and earphones",
    "851822": "Multiple loudspeakers in one enclosure",
}
GOODS = {
    "610910": ("cotton tee", "cotton t shirt"),
    "610990": ("polyester tee", "polyester t shirt"),
    "611020": ("cotton jumper", "cotton pullover"),
    "611030": ("acrylic jumper", "acrylic pullover"),
    "640319": ("leather football boots", "leather golf shoes"),
    "640399": ("leather boots", "leather shoes"),
    "640411": ("canvas tennis shoes", "mesh trainers"),
    "640419": ("canvas shoes", "fabric slippers"),
    "850440": ("phone charger", "power adapter"),
    "850760": ("lithium battery", "power bank"),
    "851830": ("bluetooth headphones", "wireless earbuds"),
    "851822": ("speaker set", "bluetooth speakers"),
}
COLOURS = ("black", "white", "red", "blue", "green")


def write_parts(folder: Path, vague: bool = True, without: tuple[str, ...] = ()) -> Path:
    """Train, valid and test of a few dozen rows; `without` names codes that get no example, only their legal text."""
    rows: dict[str, list[dict[str, Any]]] = {"train": [], "valid": [], "test": []}

    def add(part: str, text: str, code: str | None, kind: str, weight: float = 1.0) -> None:
        number = sum(map(len, rows.values()))
        rows[part].append(
            {
                "id": f"{number:016x}",
                "description": text,
                "code": code or "VAGUE",
                "hs6": code,
                "source": "law" if kind == "nomenclature" else "traders",
                "weight": weight,
                "received_at": None,
                "label_kind": kind,
                "group": number,
            }
        )

    for code, text in TEXTS.items():
        add("train", text, code, "nomenclature", 0.3)
        for goods in GOODS[code]:
            for i, colour in enumerate(COLOURS):
                part = "valid" if i == 3 else "test" if i == 4 else "train"
                if part != "train" or code not in without:
                    add(part, f"{colour} {goods}", code, "given")
    if vague:
        for i, text in enumerate(("gift", "goods", "parcel", "sample", "items", "various", "stuff", "set")):
            add(("train", "train", "train", "train", "train", "train", "valid", "test")[i], text, None, "vague")
    folder.mkdir(parents=True, exist_ok=True)
    schema = {"received_at": pl.String, "hs6": pl.String, "group": pl.Int64}
    for part, content in rows.items():
        pl.DataFrame(content, schema_overrides=schema).write_parquet(folder / f"{part}.parquet")
    report = {
        "seed": 17,
        "test_share": 0.1,
        "valid_share": 0.1,
        "rows": {part: len(content) for part, content in rows.items()},
        "groups": {part: len(content) for part, content in rows.items()},
        "data_hash": "0" * 64,
    }
    (folder / "split.json").write_text(json.dumps(report), encoding="utf-8")
    (folder / "edition.json").write_text(json.dumps({"name": "HS2022", "texts": TEXTS}), encoding="utf-8")
    return folder
