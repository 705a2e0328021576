"""A search stays within its budget, goes on where it stopped, and its result is a config file."""

import json
from pathlib import Path

import polars as pl
import pytest

from config.settings import Settings, load_settings
from models.errors import UserError
from models.tuning import SPACES, tune, tuned, with_values

TEXTS = {"610910": "T-shirts; of cotton", "640411": "Sports footwear", "732690": "Articles of iron or steel"}
ROWS = [("cotton tee", "610910"), ("tennis shoe", "640411"), ("steel hook", "732690"), ("cotton vest", "610910")]


@pytest.fixture
def parts(tmp_path: Path) -> Path:
    folder = tmp_path / "parts"
    folder.mkdir()
    frame = pl.DataFrame(
        {
            "description": [text for text, _ in ROWS] + list(TEXTS.values()),
            "code": [code for _, code in ROWS] + list(TEXTS),
            "hs6": [code for _, code in ROWS] + list(TEXTS),
            "source": "shop",
            "weight": 1.0,
            "label_kind": ["given"] * len(ROWS) + ["nomenclature"] * len(TEXTS),
        }
    )
    for name in ("train", "valid"):
        frame.write_parquet(folder / f"{name}.parquet")
    (folder / "edition.json").write_text(json.dumps({"name": "HS2022", "texts": TEXTS}))
    (folder / "split.json").write_text(json.dumps({"data_hash": "0" * 64}))
    return folder


def settings(trials: int) -> Settings:
    return load_settings(None, None, [f"tune.trials={trials}", "tune.random_trials=1", "train.threads=1"])


def test_a_stopped_search_goes_on(parts: Path, tmp_path: Path) -> None:
    first = tune("svc", parts, None, settings(2), tmp_path / "a", tmp_path / "study")
    more = tune("svc", parts, None, settings(3), tmp_path / "b", tmp_path / "study")
    assert [trial["number"] for trial in first["trials"]] == [0, 1]
    assert more["trials"][:2] == first["trials"]
    assert len(more["trials"]) == 3
    assert more["best"]["score"] == max(trial["score"] for trial in more["trials"])


def test_the_first_trial_is_what_the_settings_say(parts: Path, tmp_path: Path) -> None:
    result = tune("svc", parts, None, settings(1), tmp_path / "a")
    assert result["trials"][0]["values"]["models.svc.cost"] == settings(1).models.svc.cost


def test_what_is_found_is_a_config_file(parts: Path, tmp_path: Path) -> None:
    result = tune("svc", parts, None, settings(2), tmp_path / "a")
    read = load_settings(tmp_path / "a" / "best.yaml")
    assert read.models.svc.cost == result["best"]["values"]["models.svc.cost"]
    assert tuned(settings(2), tmp_path / "a").models.svc == read.models.svc
    assert (tmp_path / "a" / "history.svg").read_text().startswith("<?xml")
    assert (tmp_path / "a" / "slices.svg").exists()


def test_no_time_no_result(parts: Path, tmp_path: Path) -> None:
    short = settings(9).model_copy(update={"tune": settings(9).tune.model_copy(update={"seconds": 1e-9})})
    with pytest.raises(UserError, match="no trial was finished"):
        tune("svc", parts, None, short, tmp_path / "a")


def test_a_pool_has_nothing_to_search(parts: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nothing to search"):
        tune("pool", parts, None, settings(1), tmp_path / "a")


@pytest.mark.parametrize("kind", sorted(SPACES))
def test_every_place_searched_is_a_setting(kind: str) -> None:
    middle = {c.key: c.options[0] if c.options else type(c.low)((c.low + c.high) / 2) for c in SPACES[kind]}
    tree = with_values(Settings(), middle)
    assert tree.digest() != Settings().digest()
