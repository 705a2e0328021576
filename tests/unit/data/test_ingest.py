import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from config.settings import Settings, load_settings
from models.data import ingest as ingest_module
from models.data import sources
from models.data.ingest import IngestReport, fingerprint, ingest
from models.errors import UserError

ROOT = Path(__file__).resolve().parents[3]
NOMENCLATURE = "code,text\n010121,Pure-bred horses\n010130,Asses\n610910,T-shirts of cotton\n851830,Headphones\n"
NOMENCLATURE += "851771,Aerials\n851779,Other parts\n"


def chosen_for(folder: Path, *files: Path, **data: Any) -> Settings:
    """Settings for `files`, checked against the nomenclature above, whose texts are not added as rows."""
    (folder / "nomenclature.csv").write_text(NOMENCLATURE)
    found = [{"path": str(file)} for file in files]
    assignments = [
        f"data.sources={json.dumps(data.pop('sources', found))}",
        f"nomenclature.path={folder / 'nomenclature.csv'}",
        *(f"{key}={json.dumps(value)}" for key, value in {"nomenclature.train_weight": 0, **data}.items()),
    ]
    return load_settings(assignments=assignments)


def write(folder: Path, content: str, name: str = "rows.csv") -> Path:
    path = folder / name
    path.write_text(content)
    return path


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def check_counts(report: IngestReport, out: Path) -> None:
    """What must hold for every ingest."""
    assert report.read == report.kept + report.merged + report.quarantined
    for counts in report.sources.values():
        assert counts.read == counts.kept + counts.merged + counts.quarantined
    rows = pl.read_parquet(out / "rows.parquet")
    assert rows.height == report.kept == sum(report.classes.values()) == sum(report.label_kinds.values())
    assert rows["id"].n_unique() == rows.height
    assert len(lines(out / "quarantine.jsonl")) == report.quarantined == sum(report.reasons.values())
    assert len(lines(out / "conflicts.jsonl")) == report.conflicts
    assert json.loads((out / "ingest.json").read_text()) == report.to_json()
    assert rows["group"].n_unique() == report.groups
    assert "<h1>Ingest</h1>" in (out / "report.html").read_text()


ROWS = """description,code,source
Cotton T-shirt,6109.10.00,a
COTTON  t-shirt,610910,b
cotton t-shirt,851830,b
Donkeys,10130,a
telephone parts,85177000,a
over-ear headphones,8518.30,a
no such code,999999,a
,851830,b
12345,851830,b
goods,VAGUE,a
one field
"""


def test_rows_out_of_a_file(tmp_path: Path) -> None:
    correlation = write(tmp_path, "old,new\n851770,851771\n851770,851779\n", "correlation.csv")
    chosen = chosen_for(
        tmp_path,
        write(tmp_path, ROWS),
        **{"nomenclature.correlation": str(correlation), "data.source_weights": {"a": 3}},
    )
    report = ingest(chosen, tmp_path / "out")
    check_counts(report, tmp_path / "out")
    rows = pl.read_parquet(tmp_path / "out" / "rows.parquet")
    assert rows.drop("id", "group").to_dicts() == [
        {"description": text, "code": code, "hs6": hs6, "source": "a", "weight": 3.0, "received_at": None}
        | {"label_kind": kind}
        for text, code, hs6, kind in (
            ("Cotton T-shirt", "61091000", "610910", "given"),
            ("Donkeys", "010130", "010130", "given"),
            ("telephone parts", "8517", None, "given"),
            ("over-ear headphones", "851830", "851830", "given"),
            ("goods", "", None, "vague"),
        )
    ]
    assert (report.read, report.kept, report.merged, report.quarantined) == (11, 5, 2, 4)
    assert {name: counts.quarantined for name, counts in report.sources.items()} == {"a": 1, "b": 2, "rows": 1}
    refused = lines(tmp_path / "out" / "quarantine.jsonl")
    assert [(each["row"], each["line"], each["reason"], each["original"]) for each in refused] == [
        (11, 12, "1 fields, the header has 3", "one field"),
        (7, 8, "code not in HS2022", "no such code,999999,a"),
        (8, 9, "no description", ",851830,b"),
        (9, 10, "description without a letter", "12345,851830,b"),
    ]
    assert lines(tmp_path / "out" / "conflicts.jsonl") == [
        {
            "description": "Cotton T-shirt",
            "chosen": "610910",
            "labels": [
                {"label": "610910", "weight": 4.0, "rows": 2, "sources": ["a", "b"]},
                {"label": "851830", "weight": 1.0, "rows": 1, "sources": ["b"]},
            ],
        }
    ]
    assert report.repairs == {
        "leading zero restored": 1,
        "retired code shortened to what its successors share": 1,
    }


def test_several_sources_with_weight_and_kind(tmp_path: Path) -> None:
    first = write(tmp_path, "text,hs6\nearphones,851830\ndonkey,010130\n", "first.csv")
    vague = write(tmp_path, "description\ngoods\nEarphones\n", "vague.csv")
    corrected = write(tmp_path, '{"item": "donkey", "label": "010121", "received_at": "2026-01-02"}\n', "new.jsonl")
    chosen = chosen_for(
        tmp_path,
        sources=[
            {"path": str(first), "weight": 1, "name": "declared"},
            {"path": str(vague), "kind": "vague"},
            {"path": str(corrected), "weight": 5, "kind": "corrected"},
        ],
    )
    report = ingest(chosen, tmp_path / "out")
    check_counts(report, tmp_path / "out")
    rows = pl.read_parquet(tmp_path / "out" / "rows.parquet")
    picked = rows.select("description", "hs6", "source", "weight", "label_kind", "received_at").rows()
    assert picked == [
        ("earphones", "851830", "declared", 1.0, "given", None),
        ("goods", None, "vague", 1.0, "vague", None),
        ("donkey", "010121", "new", 5.0, "corrected", "2026-01-02"),
    ]
    assert report.conflicts == 2


def test_legal_texts_become_rows_of_little_weight(tmp_path: Path) -> None:
    path = write(tmp_path, "description,code,source\nasses,010130,us_hts_2026\nearphones,851830,shop\n")
    report = ingest(chosen_for(tmp_path, path, **{"nomenclature.train_weight": 0.25}), tmp_path / "out")
    check_counts(report, tmp_path / "out")
    rows = pl.read_parquet(tmp_path / "out" / "rows.parquet")
    assert rows.filter(source="us_hts_2026").select("weight", "label_kind").rows() == [(0.25, "nomenclature")]
    legal = rows.filter(source="legal texts HS2022")
    assert legal.height == 5, "the sixth is the text that a row had already"
    assert set(legal.select("weight", "label_kind").rows()) == {(0.25, "nomenclature")}
    assert report.sources["legal texts HS2022"].merged == 1
    without = ingest(
        chosen_for(tmp_path, path, **{"nomenclature.train_weight": 0.25}), tmp_path / "out", legal_texts=False
    )
    assert without.kept == 2


def test_without_a_nomenclature_the_codes_seen_are_the_edition(tmp_path: Path) -> None:
    path = write(tmp_path, "description,code\nx y,851830\nz,420100\nw,770000\nv,8517\n")
    ingest(load_settings(assignments=[f"data.sources=[{{path: {path}}}]"]), tmp_path / "out")
    assert json.loads((tmp_path / "out" / "edition.json").read_text()) == {
        "name": "HS2022",
        "texts": {"420100": "", "851830": ""},
    }


def test_long_texts_are_cut_and_counted(tmp_path: Path) -> None:
    path = write(tmp_path, f"description,code\n{'word ' * 100},851830\nshort,851830\n")
    report = ingest(chosen_for(tmp_path, path, **{"data.max_text_chars": 20}), tmp_path / "out")
    assert report.repairs == {"text cut": 1}
    assert pl.read_parquet(tmp_path / "out" / "rows.parquet")["description"][0] == "word word word word"


# --- always -----------------------------------------------------------------------------------------------------------

TEXT = st.sampled_from(["cotton shirt", "Cotton  SHIRT", "donkey", '"quoted', 'say "so"', "a,b", "", "12", "\x00", "é"])
CODE = st.sampled_from(["610910", "6109.10", "10130", "85", "8517", "VAGUE", "", "999999", "x", "85183000"])
LINE = st.one_of(
    st.builds(lambda text, code: f"{text},{code}", TEXT, CODE),
    st.builds(lambda text, code: '"{}",{}'.format(text.replace('"', '""'), code), TEXT, CODE),
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\n\r"), max_size=30),
    st.sampled_from(['"open', '"a\nb",851830', "x" * 300 + ",851830", "café,851830\xff"]),
)


@settings(max_examples=40, deadline=None)
@given(st.lists(LINE, min_size=1, max_size=30))
def test_counts_add_up_whatever_the_lines(tmp_path_factory: pytest.TempPathFactory, content: list[str]) -> None:
    folder = tmp_path_factory.mktemp("any")
    path = folder / "rows.csv"
    path.write_bytes(b"description,code\n" + "\n".join(content).encode("latin-1", "replace"))
    chosen = chosen_for(folder, path, **{"data.max_line_bytes": 200})
    try:
        report = ingest(chosen, folder / "out")
    except UserError:
        assert sorted(each.name for each in folder.iterdir()) == ["nomenclature.csv", "rows.csv"]
        return
    check_counts(report, folder / "out")
    assert report.read <= sum(bool(line.strip()) for line in "\n".join(content).split("\n"))


def test_the_result_does_not_depend_on_chunks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = "description,code,source\n" + "".join(
        f"{word} {kind} {i % 7},{code},{'ab'[i % 2]}\n"
        for i, (word, kind, code) in enumerate(
            (word, kind, code)
            for word in ("red", "blue", "green", "Red")
            for kind in ("shirt", "shirts", "donkey", "headphones", "hedphones")
            for code in ("610910", "010130", "851830", "8517", "bad")
        )
    )
    chosen = chosen_for(tmp_path, write(tmp_path, content))

    def result() -> tuple[Any, ...]:
        report = ingest(chosen, tmp_path / "out")
        names = ("rows.parquet", "conflicts.jsonl", "quarantine.jsonl", "report.html", "ingest.json")
        rows = pl.read_parquet(tmp_path / "out" / names[0]).to_dicts()
        return report, rows, *((tmp_path / "out" / name).read_bytes() for name in names[1:])

    whole = result()
    assert result() == whole
    monkeypatch.setattr(sources, "_BLOCK", 100)
    monkeypatch.setattr(ingest_module, "_CHUNK", 3)
    assert result() == whole


def test_the_data_hash_is_of_the_rows(tmp_path: Path) -> None:
    def hashed(content: str, **data: Any) -> str:
        return ingest(chosen_for(tmp_path, write(tmp_path, content), **data), tmp_path / "out").data_hash

    first = hashed("description,code\ndonkey,010130\nmule,010130\n")
    assert hashed("code,description\n0101.30,donkey\n010130, mule\nbad,x\n010130,donkey\n") == first
    assert hashed("description,code\ndonkey,010130\nmules,010130\n") != first
    assert hashed("description,code\ndonkey,010130\nmule,010121\n") != first
    assert hashed("description,code\ndonkey,010130\nmule,010130\n", **{"data.source_weights": {"rows": 2}}) != first


# --- what goes wrong --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("description,code\n", r"rows\.csv: no rows; the file has a header only"),
        (
            "description,code\nx,999999\n",
            r"no valid row \(the one row: code not in HS2022\), such as row 1: 'x,999999'",
        ),
        ("description,code\nx,1\ny,2\n,851830\n", r"no valid row \(2 of 3 rows: code has fewer than 2 digits\)"),
        ("description,code\n" + "x" * 5_000_000 + ",851830\n", "the one row: line longer than 1000000 bytes"),
        ("", "the file is empty"),
        ("a,b\n1,2\n", "no description column .* it has a, b"),
    ],
)
def test_a_file_without_a_row_is_one_clear_line(tmp_path: Path, content: str, said: str) -> None:
    chosen = chosen_for(tmp_path, write(tmp_path, content))
    with pytest.raises(UserError, match=said) as error:
        ingest(chosen, tmp_path / "out")
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 400
    assert sorted(each.name for each in tmp_path.iterdir()) == ["nomenclature.csv", "rows.csv"]


def test_what_was_there_before_stays_when_it_fails(tmp_path: Path) -> None:
    out = tmp_path / "out"
    ingest(chosen_for(tmp_path, write(tmp_path, ROWS)), out)
    before = (out / "ingest.json").read_bytes()
    with pytest.raises(UserError):
        ingest(chosen_for(tmp_path, tmp_path / "none.csv"), out)
    assert (out / "ingest.json").read_bytes() == before
    assert sorted(each.name for each in tmp_path.iterdir()) == ["nomenclature.csv", "out", "rows.csv"]


RUN = """import sys
from pathlib import Path
from config.settings import Settings
from models.data.ingest import ingest
ingest(Settings.from_json(sys.argv[1]), Path(sys.argv[2]))
"""


@pytest.mark.slow
def test_killed_half_way_leaves_nothing_that_looks_whole(tmp_path: Path) -> None:
    content = "description,code\n" + "".join(f"thing {i} {i * 7919 % 1013},851830\n" for i in range(300_000))
    chosen = chosen_for(tmp_path, write(tmp_path, content))
    out = tmp_path / "out"
    process = subprocess.Popen(
        [sys.executable, "-c", RUN, chosen.to_json(), str(out)], cwd=ROOT, stderr=subprocess.DEVNULL
    )
    spilled = tmp_path / ".out.partial" / "scratch" / "000000.parquet"
    deadline = time.monotonic() + 60
    while not spilled.exists():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not out.exists()
    write(tmp_path, ROWS)
    check_counts(ingest(chosen, out), out)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["nomenclature.csv", "out", "rows.csv"]


@pytest.fixture
def small_disk(tmp_path: Path) -> Any:
    """A file system of 200 KB."""
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", folder], capture_output=True, text=True
    )
    if mounted.returncode:
        pytest.skip(f"cannot mount a small file system here ({mounted.stderr.strip()})")
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_a_full_disk_is_one_clear_line(tmp_path: Path, small_disk: Path) -> None:
    content = "description,code\n" + "".join(f"thing {i * 7919 % 100_003} {i},851830\n" for i in range(40_000))
    with pytest.raises(UserError, match="the disk is full; free some space"):
        ingest(chosen_for(tmp_path, write(tmp_path, content)), small_disk / "out")
    assert list(small_disk.iterdir()) == []


def test_a_source_column_that_names_rows_is_refused(tmp_path: Path) -> None:
    content = "description,code,source\n" + "".join(f"thing {i},851830,order {i}\n" for i in range(1500))
    chosen = chosen_for(tmp_path, write(tmp_path, content))
    with pytest.raises(UserError, match="column 'source' has more than 1000 values"):
        ingest(chosen, tmp_path / "out")
    named = [{"path": str(tmp_path / "rows.csv"), "name": "orders"}]
    assert set(ingest(chosen_for(tmp_path, sources=named), tmp_path / "out").sources) == {"orders"}


def test_odd_values_in_jsonl(tmp_path: Path) -> None:
    rows = [
        {"description": "lone \ud83d surrogate", "code": 851830, "source": "shop \ud83d", "received_at": "\ud83d"},
        {"description": 42, "code": "851830", "source": ["a"]},
        {"description": None, "code": "851830"},
        {"description": float("nan"), "code": "851830"},
        {"description": {"en": "x"}, "code": {"hs": "851830"}},
        {"description": "asses", "code": 10130.0, "received_at": 20260102},
    ]
    path = write(tmp_path, "".join(json.dumps(row) + "\n" for row in rows), "rows.jsonl")
    report = ingest(chosen_for(tmp_path, path), tmp_path / "out")
    check_counts(report, tmp_path / "out")
    assert (report.kept, report.quarantined) == (2, 4)
    rows_out = pl.read_parquet(tmp_path / "out" / "rows.parquet").select("description", "source", "received_at").rows()
    assert rows_out == [("lone surrogate", "shop", None), ("asses", "rows", "20260102")]


# --- fingerprint ------------------------------------------------------------------------------------------------------


def test_the_fingerprint_is_of_the_content(tmp_path: Path) -> None:
    path = write(tmp_path, ROWS)
    chosen = chosen_for(tmp_path, path)
    first = fingerprint(chosen)
    os.utime(path, (1, 1))
    assert fingerprint(chosen) == first
    write(tmp_path, ROWS + "x,851830,a\n")
    assert fingerprint(chosen) != first
    assert fingerprint(Settings()) != fingerprint(load_settings(assignments=["data.sample_rows=7"]))
    with pytest.raises(UserError, match="no such file"):
        fingerprint(chosen_for(tmp_path, tmp_path / "none.csv"))


# --- real rows --------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_open_corpus(tmp_path: Path, shared_data: Path) -> None:
    chosen = load_settings(
        assignments=[
            "data.sources="
            + json.dumps(
                [
                    {"path": str(shared_data / "hs-open-corpus.csv.gz")},
                    {"path": str(shared_data / "vague-terms.csv.gz"), "kind": "vague"},
                ]
            ),
            f"nomenclature.path={shared_data / 'hs2022-nomenclature.csv.gz'}",
            f"nomenclature.correlation={shared_data / 'correlation-hs2017-hs2022.csv'}",
        ]
    )
    report = ingest(chosen, tmp_path / "out")
    check_counts(report, tmp_path / "out")
    assert report.sources["uk_vague_terms"].read == 4339
    assert report.read - report.sources["legal texts HS2022"].read == 35286 + 4339
    assert report.reasons == {"code not in HS2022": 13}, "as many as the corpus marks as not in HS 2022"
    rows = pl.read_parquet(tmp_path / "out" / "rows.parquet")
    assert Counter(rows["label_kind"])["given"] > 6000
    assert rows.filter(pl.col("hs6").is_not_null())["hs6"].n_unique() >= 5612
