"""Correlation tables: one to one, one to many, none."""

from pathlib import Path

import pytest

from models.errors import UserError
from models.hs.correlation import correlation_of, load_correlation


@pytest.mark.parametrize(
    ("old", "code", "how"),
    [
        ("010121", "010121", "kept"),
        ("111111", "222222", "renumbered"),
        ("030792", "030792", "narrowed"),
        ("851770", "8517", "split"),
        ("854890", "85", "split"),
        ("333333", None, "split"),
        ("444444", None, "deleted"),
        ("555555", None, "unknown"),
    ],
)
def test_what_an_old_code_is_now(old: str, code: str | None, how: str) -> None:
    table = correlation_of(
        [
            ("010121", "010121"),
            ("111111", "222222"),
            ("030792", "030792"),
            ("030792", "030990"),
            ("851770", "851779"),
            ("851770", "851771"),
            ("854890", "854911"),
            ("854890", "853333"),
            ("333333", "010121"),
            ("333333", "851771"),
            ("444444", ""),
        ]
    )
    assert table.resolve(old)[:2] == (code, how)
    assert (old in table) == (how != "unknown")


def test_the_real_table(shared_data: Path) -> None:
    table = load_correlation(shared_data / "correlation-hs2017-hs2022.csv")
    assert len(table.mapping) == 5362
    assert sum(len(new) > 1 for new in table.mapping.values()) == 122
    assert table.resolve("851770").code == "8517"


@pytest.mark.parametrize(
    ("content", "what"),
    [
        ("", "is empty"),
        ("hs2017,hs2022\n", "no rows"),
        ("hs2017\n010121\n", "one column"),
        ("010121,010121\n", "no header line"),
        ("a,b\n010121,01012x\n", "row 2, code '01012x'"),
        ("a,b\n0101,010121\n", "row 2, code '0101': not six digits"),
        ("a,b\n010121\n", "row 2 has one column"),
    ],
)
def test_a_bad_table_is_one_clear_line(tmp_path: Path, content: str, what: str) -> None:
    path = tmp_path / "table.csv"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(UserError, match=what):
        load_correlation(path)


def test_lost_zeros_dots_and_empty_successors_are_read(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text("HS2017,HS2022,note\n0101.21,10129,x\n20000,,gone\n", encoding="utf-8")
    table = load_correlation(path)
    assert table.mapping == {"010121": ("010129",), "020000": ()}
