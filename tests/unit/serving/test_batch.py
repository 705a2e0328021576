"""Files in, files out: same rows, same order, all columns, resumed parts, one line for what is wrong."""

import csv
import gzip
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from models.errors import UserError
from serving.predictor.batch import (
    ANSWER_COLUMNS,
    BatchReport,
    Question,
    merge,
    predict_file,
    predict_shard,
    read_report,
    shard,
)


class Counting:
    """An answerer that says what it was asked; stops by an error after so many calls."""

    version, edition = "4", "HS2022"

    def __init__(self, stops_after: int | None = None) -> None:
        self.asked: list[str] = []
        self.calls, self.stops_after = 0, stops_after

    def answer(self, instances: Sequence[Any], /, digits: int = 6, limit: int = 5) -> list[dict[str, Any]]:
        self.calls += 1
        if self.stops_after is not None and self.calls > self.stops_after:
            raise KeyboardInterrupt
        self.asked += instances
        candidates = [
            {"code": "610910", "confidence": 0.9, "text": "t"},
            {"code": "610990", "confidence": 0.1, "text": ""},
        ]
        return [
            {
                "code": f"{len(text):06d}"[:digits],
                "digits": digits,
                "confidence": 0.9,
                "status": "answered",
                "candidates": candidates[:limit],
            }
            for text in instances
        ]


def rows_of(path: Path) -> list[dict[str, Any]]:
    if path.suffix == ".parquet":
        import pyarrow.parquet as parquet

        return parquet.read_table(path).to_pylist()
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rt", encoding="utf-8", newline="") as file:
        if ".jsonl" in path.suffixes:
            return [json.loads(line) for line in file]
        return list(csv.DictReader(file, delimiter="\t" if ".tsv" in path.suffixes else ","))


def write_csv(path: Path, count: int) -> Path:
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "description", "note"])
        writer.writerows([i, f'goods "{i}", of\nsteel {"ß" * (i % 7)}', f"n{i}"] for i in range(count))
    return path


@pytest.mark.parametrize("out", ["out.csv", "out.tsv", "out.jsonl", "out.parquet", "out.csv.gz"])
def test_every_row_comes_out_in_order_with_its_columns(tmp_path: Path, out: str) -> None:
    source = write_csv(tmp_path / "in.csv", 1000)
    report = predict_file(Counting(), source, tmp_path / out, rows_a_part=300)
    assert (report.rows, report.statuses, report.failed) == (1000, {"answered": 1000}, 0)
    rows = rows_of(tmp_path / out)
    given = rows_of(source)
    assert [{k: r[k] for k in ("id", "description", "note")} for r in rows] == given
    assert [r["hs_code"] for r in rows] == [f"{len(r['description']):06d}" for r in given]
    assert rows[0]["hs_candidates"] == "610910:0.9 610990:0.1"
    assert {(r["hs_version"], r["hs_edition"]) for r in rows} == {("4", "HS2022")}
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(["in.csv", out])


def test_parquet_keeps_its_types(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as parquet

    table = pa.table({"text": ["a", None, "c"], "n": pa.array([1, 2, None], pa.int16()), "l": [[1], [], None]})
    parquet.write_table(table, tmp_path / "in.parquet")
    report = predict_file(Counting(), tmp_path / "in.parquet", tmp_path / "out.parquet", rows_a_part=2)
    got = parquet.read_table(tmp_path / "out.parquet")
    assert got.select(["text", "n", "l"]).equals(table)
    assert got.column_names == ["text", "n", "l", *ANSWER_COLUMNS]
    assert got["hs_error"].to_pylist() == [None, "no text", None]
    assert report.problems == [{"row": 2, "reason": "no text"}]


def test_rows_that_cannot_be_answered_say_why_and_stay(tmp_path: Path) -> None:
    source = tmp_path / "in.jsonl"
    source.write_text(
        '{"description": "a", "x": 1}\nnot json\n{"x": 2}\n[1]\n{"description": 5}\n{"description": "e"}\n'
    )
    report = predict_file(Counting(), source, tmp_path / "out.jsonl")
    rows = rows_of(tmp_path / "out.jsonl")
    assert [bool(r.get("hs_error")) for r in rows] == [False, True, True, True, True, False]
    assert rows[1]["hs_original"] == "not json"
    assert (report.rows, report.failed, report.statuses) == (6, 4, {"answered": 2})
    assert [p["row"] for p in report.problems] == [2, 3, 4, 5]


def test_ragged_rows_of_a_csv_and_texts_too_long(tmp_path: Path) -> None:
    source = tmp_path / "in.csv"
    source.write_text("description,x\na,1\nb\nc,1,2\n" + "d" * 2001 + ",1\n")
    report = predict_file(Counting(), source, tmp_path / "out.csv")
    reasons = [r["hs_error"] for r in rows_of(tmp_path / "out.csv")]
    assert reasons[0] == ""
    assert reasons[1] == "1 cells under 2 columns"
    assert reasons[2] == "3 cells under 2 columns; beyond: ['2']"
    assert "the limit is 2000" in reasons[3]
    assert report.failed == 3


def test_stopped_and_called_again_it_goes_on(tmp_path: Path) -> None:
    source = write_csv(tmp_path / "in.csv", 1200)
    stopped = Counting(stops_after=3)
    with pytest.raises(KeyboardInterrupt):
        predict_file(stopped, source, tmp_path / "out.csv", rows_a_part=300)
    assert not (tmp_path / "out.csv").exists()
    again = Counting()
    report = predict_file(again, source, tmp_path / "out.csv", rows_a_part=300)
    assert report.rows == len(rows_of(tmp_path / "out.csv")) == 1200
    assert len(again.asked) == 900
    whole = Counting()
    predict_file(whole, source, tmp_path / "whole.csv")
    assert (tmp_path / "out.csv").read_bytes() == (tmp_path / "whole.csv").read_bytes()


def test_a_report_that_is_not_whole_was_not_written(tmp_path: Path) -> None:
    """As after a full disk or a kill: the part is answered again, not read for ever."""
    source = write_csv(tmp_path / "in.csv", 600)
    with pytest.raises(KeyboardInterrupt):
        predict_file(Counting(stops_after=2), source, tmp_path / "out.csv", rows_a_part=300)
    for whole in ("", '{"rows": 3', "[1]", '{"colour": "red"}'):
        part = tmp_path / "part.csv"
        predict_shard(Counting(), source, part)
        (tmp_path / "part.csv.json").write_text(whole)
        assert read_report(part) is None
        (tmp_path / "part.csv.job").write_text(whole)
        again = Counting()
        assert predict_shard(again, source, part).rows == len(again.asked) == 600
    (tmp_path / "out.csv.parts" / "00000.csv.json").write_text("")
    assert predict_file(Counting(), source, tmp_path / "out.csv", rows_a_part=300).rows == 600
    assert not list(tmp_path.glob("*.parts"))


def test_parts_of_another_question_or_model_are_not_taken(tmp_path: Path) -> None:
    source = write_csv(tmp_path / "in.csv", 600)
    for change in ("question", "version"):
        with pytest.raises(KeyboardInterrupt):
            predict_file(Counting(stops_after=2), source, tmp_path / "out.csv", rows_a_part=300)
        again = Counting()
        again.version = "5" if change == "version" else "4"
        question = Question(digits=4) if change == "question" else None
        predict_file(again, source, tmp_path / "out.csv", question, rows_a_part=300)
        assert len(again.asked) == 600
        (tmp_path / "out.csv").unlink()


@pytest.mark.parametrize("name", ["in.csv", "in.jsonl", "in.parquet", "in.tsv"])
@pytest.mark.parametrize("count", [1, 3, 7])
def test_shards_answered_and_merged_are_the_whole(tmp_path: Path, name: str, count: int) -> None:
    source = tmp_path / name
    predict_file(Counting(), write_csv(tmp_path / "first.csv", 100), tmp_path / f"made{source.suffix}")
    from serving.predictor.files import open_writer, read_rows

    columns, rows = read_rows(tmp_path / f"made{source.suffix}")
    kept = [c for c in columns if not c.startswith("hs_")]
    with open_writer(source, kept) as write:
        for row in rows:
            write({k: row.cells[k] for k in kept})
    shards = shard(source, tmp_path / "shards", count)
    assert len(shards) == count
    parts = [tmp_path / "parts" / s.name for s in shards]
    for one, part in zip(shards, parts, strict=True):
        predict_shard(Counting(), one, part)
    out = tmp_path / f"out{source.suffix}"
    report = merge(parts, out)
    predict_file(Counting(), source, tmp_path / f"whole{source.suffix}")
    assert report.rows == 100
    assert rows_of(out) == rows_of(tmp_path / f"whole{source.suffix}")


def test_a_shard_keeps_what_was_wrong_in_the_file(tmp_path: Path) -> None:
    source = tmp_path / "in.csv"
    source.write_text("description,x\na,1\nb\nc,3\n")
    parts = []
    for one in shard(source, tmp_path / "shards", 2):
        parts.append(tmp_path / "parts" / one.name)
        predict_shard(Counting(), one, parts[-1])
    assert merge(parts, tmp_path / "out.csv").failed == 1
    rows = rows_of(tmp_path / "out.csv")
    assert [r["hs_error"] for r in rows] == ["", "1 cells under 2 columns", ""]
    assert list(rows[0]) == ["description", "x", *ANSWER_COLUMNS]


def test_a_finished_shard_is_not_done_again_unless_it_changed(tmp_path: Path) -> None:
    source = write_csv(tmp_path / "in.csv", 10)
    part = tmp_path / "part.csv"
    first = predict_shard(Counting(), source, part)
    again = Counting()
    assert predict_shard(again, source, part) == first
    assert again.asked == []
    write_csv(source, 11)
    assert predict_shard(again, source, part).rows == 11
    assert read_report(part) == BatchReport(11, {"answered": 11}, version="4", edition="HS2022")


def test_an_empty_table_gives_an_empty_table(tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_text("description\n")
    assert predict_file(Counting(), tmp_path / "in.csv", tmp_path / "out.csv").rows == 0
    assert (tmp_path / "out.csv").read_text() == ",".join(["description", *ANSWER_COLUMNS]) + "\n"


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("in.csv", b"", "empty"),
        ("in.csv", b"\x00\xff\xfe\x00binary", "not utf-8 text"),
        ("in.csv", b"a,b\n1,2\n", "no column"),
        ("in.csv", b"text,text\n1,2\n", "twice"),
        ("in.parquet", b"PAR0", "not a parquet file"),
        ("in.csv.gz", b"not gzip", "cannot read"),
        ("in.docx", b"", "not a known kind of file"),
        ("in.csv", b"description,hs_code\na,1\n", "hs_code"),
    ],
)
def test_a_wrong_file_is_one_clear_line(tmp_path: Path, name: str, content: bytes, says: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError) as raised:
        predict_file(Counting(), tmp_path / name, tmp_path / "out.csv")
    assert [p.name for p in tmp_path.iterdir() if p.suffix == ".parts"] == []
    assert says in str(raised.value)
    assert "\n" not in str(raised.value)


def test_missing_folder_and_the_same_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        predict_file(Counting(), tmp_path / "none.csv", tmp_path / "out.csv")
    (tmp_path / "in.csv").write_text("description\na\n")
    with pytest.raises(UserError, match="same file"):
        predict_file(Counting(), tmp_path / "in.csv", tmp_path / "in.csv")
    with pytest.raises(UserError, match="unknown encoding"):
        predict_file(Counting(), tmp_path / "in.csv", tmp_path / "out.csv", Question(encoding="klingon"))
