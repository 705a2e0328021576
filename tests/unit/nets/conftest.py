"""A few rows of three chapters, as the split and embed steps leave them."""

import json
from pathlib import Path

import polars as pl
import pytest

from config.settings import Settings, load_settings
from models.text.embedding import train_embedding

TEXTS = {
    "010121": "Horses; live, pure-bred breeding animals",
    "610910": "T-shirts, singlets and other vests; of cotton, knitted or crocheted",
    "610990": "T-shirts, singlets and other vests; of textile materials other than cotton",
    "640411": "Sports footwear; with outer soles of rubber or plastics and uppers of textile materials",
    "640419": "Footwear, not sports footwear; with outer soles of rubber and uppers of textile materials",
    "732690": "Iron or steel; articles n.e.c.",
}
TRADERS = {
    "610910": ["ladies cotton t-shirt", "mens cotton tee", "cotton vest top"],
    "610990": ["polyester t-shirt", "viscose tee ladies", "nylon singlet"],
    "640411": ["running shoes", "tennis trainers", "sports sneaker"],
    "640419": ["canvas slippers", "espadrilles", "canvas shoe woman"],
    "732690": ["steel hook", "metal clip steel", "steel bracket 40mm"],
}
VAGUE = ["gift", "goods", "various items", "sample of no value"]
SHORTENED = [("6404", "shoes")]


@pytest.fixture(scope="session")
def settings() -> Settings:
    """Small and quick."""
    return load_settings(
        None,
        None,
        [
            "text.dimensions=16", "text.buckets=200", "text.min_count=1", "text.vocabulary=200",
            "train.epochs=2", "train.batch=16", "train.threads=1", "models.textcnn.filters=8",
            "models.bilstm.units=8", "models.transformer.width=16", "models.transformer.heads=2", "models.dnn.width=16",
            "models.svc.min_rows=1",
        ],
    )  # fmt: skip


@pytest.fixture(scope="session")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a split; the class 010121 has a legal text alone."""
    folder = tmp_path_factory.mktemp("parts")
    rows = [(text, code, "given", 1.0) for code, texts in TRADERS.items() for text in texts]
    rows += [(text, code, "given", 1.0) for code, text in SHORTENED]
    legal = [(text, code, "nomenclature", 0.3) for code, text in TEXTS.items()]
    legal += [("Footwear > Other > Sports footwear > Other", "640411", "nomenclature", 0.3)]
    vague = [(text, "", "vague", 1.0) for text in VAGUE]
    for name, part in (("train", rows + legal + vague), ("valid", rows + vague[:2]), ("test", rows)):
        pl.DataFrame(
            {
                "id": [f"{name}{i}" for i in range(len(part))],
                "description": [text for text, *_ in part],
                "code": [code or None for _, code, *_ in part],
                "hs6": [code if len(code) == 6 else None for _, code, *_ in part],
                "source": ["shop"] * len(part),
                "weight": [weight for *_, weight in part],
                "label_kind": [kind for *_, kind, _ in part],
                "group": list(range(len(part))),
            },
            schema_overrides={"hs6": pl.String, "code": pl.String},
        ).write_parquet(folder / f"{name}.parquet")
    (folder / "edition.json").write_text(json.dumps({"name": "HS2022", "texts": TEXTS}))
    counts = {"train": 1, "valid": 1, "test": 1}
    split = {"data_hash": "d1", "seed": 17, "test_share": 0.1, "valid_share": 0.1, "rows": counts, "groups": counts}
    (folder / "split.json").write_text(json.dumps(split))
    return folder


@pytest.fixture(scope="session")
def embedding(parts: Path, settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of an embed step."""
    out = tmp_path_factory.mktemp("embed") / "embedding"
    train_embedding(parts, settings, out)
    return out
