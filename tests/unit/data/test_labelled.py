from pathlib import Path

import pytest

from config.settings import Settings, load_settings
from models.data.labelled import read_labelled
from models.errors import UserError
from models.evaluation import true_codes
from models.hs.edition import Edition

EDITION = Edition("HS2022", {"010121": "pure-bred", "010129": "other", "851830": "headphones"})


def write(tmp_path: Path, text: str) -> str:
    path = tmp_path / "rows.csv"
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_every_row_counts_and_keeps_its_place(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        "description,code,source\nhorse,0101.21.00,a\nhorse,010121,a\nhorse,0101,b\nthing,VAGUE,b\n,010121,b\n"
        "headphones,851830,us_hts_2026\nodd,999999,b\n",
    )
    got = read_labelled(path, Settings(), EDITION)
    assert got.frame["description"].to_list() == ["horse", "horse", "horse", "thing", "headphones"]
    assert true_codes(got.frame) == ["010121", "010121", "0101", None, "851830"]
    assert got.frame["label_kind"].to_list() == ["given", "given", "given", "vague", "nomenclature"]
    assert got.frame["source"].to_list() == ["a", "a", "b", "b", "us_hts_2026"]
    assert got.frame["group"].to_list() == [0, 1, 2, 3, 4]
    assert sum(got.refused.values()) == 2
    assert "no description" in got.refused


def test_without_an_edition_unknown_codes_are_judged(tmp_path: Path) -> None:
    got = read_labelled(write(tmp_path, "description,code\nodd,847999\n"), Settings(), None)
    assert true_codes(got.frame) == ["847999"]
    assert got.frame["source"].to_list() == ["rows"]


def test_retired_codes_go_through_the_correlation_table(tmp_path: Path) -> None:
    table = tmp_path / "old-new.csv"
    table.write_text("hs2017,hs2022\n010190,010129\n", encoding="utf-8")
    path = write(tmp_path, "description,code\nhorse,010190\n")
    settings = load_settings(assignments=[f"nomenclature.correlation={table}"])
    assert true_codes(read_labelled(path, settings, EDITION).frame) == ["010129"]


def test_a_file_without_a_row_to_judge_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"rows\.csv: no row to judge \(1 code not in HS2022"):
        read_labelled(write(tmp_path, "description,code\nodd,999999\n"), Settings(), EDITION)
    with pytest.raises(UserError, match="no such file"):
        read_labelled(str(tmp_path / "none.csv"), Settings(), EDITION)
