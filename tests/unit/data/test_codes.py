"""Codes of a file, counted."""

from pathlib import Path

import pytest

from config.settings import Settings
from models.data.codes import count_codes
from models.errors import UserError

KNOWN = {"01", "0101", "010121", "85", "8518", "851830"}


def test_codes_are_counted_by_their_international_digits(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text(
        "description,code\na,8518.30.00\nb,8518300090\nc,10121\nd,VAGUE\ne,\nf,85x\ng,8518\n", encoding="utf-8"
    )
    counts = count_codes(str(path), Settings(), KNOWN.__contains__)
    assert counts.codes == {"010121": 1, "8518": 1, "851830": 2}
    assert counts.vague == 1
    assert counts.refused == {"no code": 1, "code holds letters or signs": 1}


def test_a_folder_that_ingest_wrote_is_taken(tmp_path: Path) -> None:
    import polars as pl

    pl.DataFrame({"description": ["a", "b"], "code": ["851830", None]}).write_parquet(tmp_path / "rows.parquet")
    counts = count_codes(str(tmp_path), Settings(), KNOWN.__contains__)
    assert counts.codes == {"851830": 1}


def test_a_file_without_a_code_is_one_clear_line(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("description,code\na,x\n", encoding="utf-8")
    with pytest.raises(UserError, match="no row with a code"):
        count_codes(str(path), Settings(), KNOWN.__contains__)
