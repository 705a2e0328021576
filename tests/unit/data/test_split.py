import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from config.settings import Settings, load_settings
from models.data.ingest import ingest
from models.data.split import PARTS, SplitReport, assign, split
from models.data.upsample import upsample
from models.errors import UserError


def assigned(rows: list[tuple[int, str, str]], **cut: Any) -> tuple[list[int], SplitReport]:
    """Parts of rows of (group, label, kind)."""
    group, labels, kinds = zip(*rows, strict=True)
    chosen = load_settings(assignments=[f"split.{key}={value}" for key, value in cut.items()])
    ids = [f"{i:016x}" for i in range(len(rows))]
    part, report = assign(ids, np.array(group), np.array(labels), np.array(kinds), chosen)
    return part.tolist(), report


ROW = st.tuples(
    st.integers(0, 30),
    st.sampled_from(["610910", "610990", "851830", "8518", "010130", "VAGUE"]),
    st.sampled_from(["given", "given", "corrected", "nomenclature", "vague"]),
)


@hypothesis_settings(deadline=None)
@given(st.lists(ROW, min_size=1, max_size=200), st.integers(0, 3), st.sampled_from([0.1, 0.3]))
def test_what_always_holds(rows: list[tuple[int, str, str]], seed: int, share: float) -> None:
    try:
        part, _ = assigned(rows, seed=seed, test_share=share)
    except UserError:
        return
    assert set(part) == {0, 1, 2}
    parts_of_group: dict[int, set[int]] = {}
    judged: dict[int, bool] = {}
    for (group, _, kind), own in zip(rows, part, strict=True):
        parts_of_group.setdefault(group, set()).add(own)
        judged[group] = judged.get(group, False) or kind != "nomenclature"
    assert all(len(parts) == 1 for parts in parts_of_group.values()), "a group never crosses parts"
    if any(judged.values()):
        assert all(judged[group] or parts == {0} for group, parts in parts_of_group.items())
    in_train = {label for (_, label, _), own in zip(rows, part, strict=True) if own == 0}
    assert in_train == {label for _, label, _ in rows}, "train has every class"
    assert assigned(rows, seed=seed, test_share=share)[0] == part


def many(groups: int, headings: int = 40) -> list[tuple[int, str, str]]:
    """Groups of one to three rows, in headings of different size."""
    rows = []
    for group in range(groups):
        heading = int(headings * (group / groups) ** 2)
        for _ in range(1 + group % 3):
            rows.append((group, f"61{heading:02}{10 + group % 2}", "given"))
    return rows


def test_shares_and_strata() -> None:
    rows = many(6000)
    part, report = assigned(rows, test_share=0.1, valid_share=0.2)
    shares = np.bincount(part) / len(part)
    assert shares == pytest.approx([0.7, 0.2, 0.1], abs=0.01)
    heading = np.array([label[:4] for _, label, _ in rows])
    group = np.array([group for group, _, _ in rows])
    for each in np.unique(heading):
        own = np.unique(group[(heading == each) & (np.array(part) == 2)])
        expected = 0.1 * len(np.unique(group[heading == each]))
        assert abs(len(own) - expected) <= 1, "within a heading at most one group from the share"
    assert report.kept_in_train == {"only group of a class": 0, "too large a group": 0, "last group of a class": 0}


def test_the_seed_decides() -> None:
    rows = many(500)
    assert assigned(rows, seed=1)[0] == assigned(rows, seed=1)[0]
    assert assigned(rows, seed=1)[0] != assigned(rows, seed=2)[0]


def test_rows_that_come_later_leave_nearly_all_where_they_are() -> None:
    rows = many(3000)
    before = np.array(assigned(rows)[0])
    more = [(group + 10_000, label, kind) for group, label, kind in many(600)]
    after = np.array(assigned([*rows, *more])[0])[: len(rows)]
    assert np.mean(before == after) > 0.95
    learnt_and_judged = np.mean(before[after == 2] == 0)
    assert learnt_and_judged < 0.2, "far below the 0.8 that a fresh draw would give"


def test_a_class_seen_once_stays_in_train() -> None:
    rows = [(i, f"61{i % 99:02}{10 + i // 99}", "given") for i in range(300)] + [
        (1000 + i, "851830", "given") for i in range(50)
    ]
    part, report = assigned(rows, test_share=0.4, valid_share=0.4)
    assert set(part[:300]) == {0}
    assert set(part[300:]) == {0, 1, 2}
    assert report.kept_in_train["only group of a class"] == 300


def test_one_group_of_a_class_is_brought_back_when_all_were_drawn() -> None:
    rows = [(i, f"61{i // 2 % 99:02}{10 + i // 198}", "given") for i in range(800)]
    part, report = assigned(rows, test_share=0.45, valid_share=0.45)
    in_train = {label for (_, label, _), own in zip(rows, part, strict=True) if own == 0}
    assert len(in_train) == 400
    assert report.kept_in_train["last group of a class"] > 100


def test_a_large_group_does_not_decide_a_score() -> None:
    rows = many(1000) + [(5000, "610110", "given")] * 300
    for seed in range(20):
        part, report = assigned(rows, seed=seed)
        assert set(part[-300:]) == {0}
        assert report.kept_in_train["too large a group"] == 1


def test_nomenclature_stays_in_train_but_for_near_duplicates_of_what_is_judged() -> None:
    rows = many(1000) + [(i, "610110", "nomenclature") for i in (*range(0, 1000, 10), *range(2000, 2500))]
    part, _ = assigned(rows)
    by_group = {group: own for (group, _, kind), own in zip(rows, part, strict=True) if kind == "given"}
    for (group, _, kind), own in zip(rows, part, strict=True):
        if kind == "nomenclature":
            assert own == by_group.get(group, 0)
    assert len({own for (group, _, kind), own in zip(rows, part, strict=True) if kind == "nomenclature"}) == 3


def test_nomenclature_alone_is_judged_itself() -> None:
    part, report = assigned([(i, f"6109{10 + i % 5}", "nomenclature") for i in range(200)])
    assert set(part) == {0, 1, 2}
    assert "all rows are of kind nomenclature" in report.rule


def test_few_rows_still_give_three_parts_and_too_few_are_one_clear_line() -> None:
    assert sorted(assigned([(i, "610910", "given") for i in range(3)])[0]) == [0, 1, 2]
    for rows in ([(0, "610910", "given")], [(i, f"6109{i + 10}", "given") for i in range(20)]):
        with pytest.raises(UserError, match="too few rows for train, valid and test"):
            assigned(rows)


# --- folders ----------------------------------------------------------------------------------------------------------


def rows_folder(folder: Path, **more: Any) -> tuple[Path, Settings]:
    """An ingest of a few hundred rows with near-duplicates in two sources."""
    goods = [
        ("shirt", "610910"),
        ("donkey", "010130"),
        ("headphones", "851830"),
        ("telephone", "851713"),
        ("mule", "010190"),
    ]
    colours = ["red", "blue", "green", "brown", "black", "white", "yellow", "purple", "orange", "grey", "pink"]
    lines = ["description,code,source"]
    for i, colour in enumerate(colours):
        for material in ("wooden", "woollen", "metal", "paper"):
            for good, code in goods:
                lines.append(f"{colour} {material} {good} {i},{code},{'shop' if i % 2 else 'us_hts_2026'}")
                lines.append(f"{good} {material} {colour} {i + 7},{code},broker")
    lines += [f"{colour} {word},VAGUE,broker" for colour in colours for word in ("goods", "parts", "things", "gift")]
    (folder / "rows.csv").write_text("\n".join(lines) + "\n")
    sources = json.dumps([{"path": str(folder / "rows.csv")}])
    chosen = load_settings(assignments=[f"data.sources={sources}", *(f"{k}={json.dumps(v)}" for k, v in more.items())])
    ingest(chosen, folder / "ingest")
    return folder / "ingest", chosen


def test_parts_are_the_rows(tmp_path: Path) -> None:
    rows_dir, chosen = rows_folder(tmp_path)
    report = split(rows_dir, chosen, tmp_path / "out")
    rows = pl.read_parquet(rows_dir / "rows.parquet")
    parts = {name: pl.read_parquet(tmp_path / "out" / f"{name}.parquet") for name in PARTS}
    together = pl.concat(parts.values())
    assert together.drop("weight").sort("id").equals(rows.drop("weight").sort("id"))
    assert {name: part.height for name, part in parts.items()} == report.rows
    assert sum(report.sources["broker"].values()) == rows.filter(source="broker").height
    assert report.sources["broker"]["test"] == parts["test"].filter(source="broker").height > 0
    for one, two in (("train", "valid"), ("train", "test"), ("valid", "test")):
        assert not set(parts[one]["group"]) & set(parts[two]["group"])
    written = json.loads((tmp_path / "out" / "split.json").read_text())
    assert written == report.to_json()
    assert written["data_hash"] == json.loads((rows_dir / "ingest.json").read_text())["data_hash"]
    assert (tmp_path / "out" / "edition.json").read_bytes() == (rows_dir / "edition.json").read_bytes()


def test_weights_and_up_sampling_touch_the_training_part_only(tmp_path: Path) -> None:
    """Whatever weights and up-sampling the settings ask for, valid and test are the same bytes."""
    judged: list[dict[str, bytes]] = []
    drawn: list[int] = []
    weights: list[list[float]] = []
    for name, more in (
        ("plain", {"train.upsample": 0}),
        (
            "weighted",
            {"data.source_weights": {"broker": 0.2, "shop": 7}, "nomenclature.train_weight": 2, "train.upsample": 1},
        ),
    ):
        (tmp_path / name).mkdir()
        rows_dir, chosen = rows_folder(tmp_path / name, **more)
        out = tmp_path / name / "out"
        split(rows_dir, chosen, out)
        judged.append({part: (out / f"{part}.parquet").read_bytes() for part in ("valid", "test")})
        train = pl.read_parquet(out / "train.parquet")
        weights.append(sorted(set(train["weight"])))
        labels = train["hs6"].fill_null("").cast(pl.Categorical).to_physical().to_numpy().astype(np.int64)
        chosen_rows = upsample(labels, train["weight"].to_numpy(), chosen.train.upsample, chosen.train.seed)
        # What is up-sampled are rows of train: its ids, and no other part's.
        assert set(train["id"].gather(chosen_rows)) == set(train["id"])
        drawn.append(len(chosen_rows) - train.height)
    assert judged[0] == judged[1]
    assert weights == [[0.3, 1.0], [0.2, 2.0, 7.0]]
    assert drawn[0] == 0 < drawn[1]


@pytest.mark.slow
def test_the_open_corpus(tmp_path: Path, shared_data: Path) -> None:
    from models.data.groups import Grouper

    found = [
        {"path": str(shared_data / "hs-open-corpus.csv.gz")},
        {"path": str(shared_data / "vague-terms.csv.gz"), "kind": "vague"},
    ]
    nomenclature = shared_data / "hs2022-nomenclature.csv.gz"
    chosen = load_settings(assignments=[f"data.sources={json.dumps(found)}", f"nomenclature.path={nomenclature}"])
    ingest(chosen, tmp_path / "rows")
    report = split(tmp_path / "rows", chosen, tmp_path / "out")
    traders = ("uk_search_references", "uk_extra_references", "uk_brands")
    assert 600 <= sum(report.sources[name]["test"] for name in traders) <= 680
    assert report.sources["us_hts_2026"]["test"] == 0
    assert report.classes["train"] >= 5612
    parts = [pl.read_parquet(tmp_path / "out" / f"{name}.parquet") for name in PARTS]
    grouper = Grouper(chosen.data.near_duplicate_similarity)
    for part in parts:
        grouper.add(part["description"].to_list())
    groups = np.split(grouper.groups(), np.cumsum([part.height for part in parts])[:-1])
    assert not set(groups[0]) & set(groups[2]), "no near-duplicate of a test row is trained on"
    assert not set(groups[0]) & set(groups[1])
