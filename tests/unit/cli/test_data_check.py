import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cli.data import group
from models.errors import UserError

ROWS = "description,code\nCotton shirt,6109.10\ncotton shirt,610910\nasses,10130\nhorse,999999\n"


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    (tmp_path / "rows.csv").write_text(ROWS)
    (tmp_path / "nomenclature.csv").write_text("code,text\n610910,T-shirts\n010130,Asses\n")
    return ["check", str(tmp_path / "rows.csv"), "--nomenclature", str(tmp_path / "nomenclature.csv")]


def test_counts_are_of_the_file_alone(files: list[str]) -> None:
    done = CliRunner().invoke(group, [*files, "--json"], catch_exceptions=False)
    result = json.loads(done.stdout)
    assert [result[key] for key in ("read", "kept", "merged", "quarantined")] == [4, 2, 1, 1]
    assert list(result["sources"]) == ["rows"]
    (example,) = result["quarantine_examples"]
    assert (example["row"], example["original"]) == (4, "horse,999999")


def test_what_people_read(files: list[str]) -> None:
    done = CliRunner().invoke(group, files, catch_exceptions=False)
    assert "quarantined: 1 × code not in HS2022, such as row 4: 'horse,999999'" in done.stdout
    assert "repaired: 1 × leading zero restored" in done.stdout


def test_the_folder_is_kept_on_demand(files: list[str], tmp_path: Path) -> None:
    CliRunner().invoke(group, [*files, "--out", str(tmp_path / "out")], catch_exceptions=False)
    assert {"rows.parquet", "quarantine.jsonl", "report.html"} <= {path.name for path in (tmp_path / "out").iterdir()}


def test_vague_files_need_no_codes(tmp_path: Path) -> None:
    (tmp_path / "vague.csv").write_text("text\ngoods\ngifts\n")
    done = CliRunner().invoke(
        group, ["check", str(tmp_path / "vague.csv"), "--kind", "vague", "--json"], catch_exceptions=False
    )
    assert json.loads(done.stdout)["label_kinds"] == {"vague": 2}


def test_a_file_that_cannot_be_used_is_a_user_error(tmp_path: Path) -> None:
    for arguments, said in (
        ([str(tmp_path)], "is a folder"),
        ([str(tmp_path / "none.csv")], "no such file"),
        ([str(tmp_path / "none.csv"), "--kind", "wrong"], r"setting data\.sources"),
    ):
        with pytest.raises(UserError, match=said):
            CliRunner().invoke(group, ["check", *arguments], catch_exceptions=False)
