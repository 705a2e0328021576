"""Rows, nomenclature and fingerprint from a real S3 server."""

import gzip
import json
from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pytest

from config.settings import Settings, load_settings
from models.data.ingest import fingerprint, ingest
from models.errors import UserError
from tests.serving.s3 import S3, running_s3

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def s3() -> Iterator[S3]:
    with running_s3() as server:
        yield server


def chosen(address: str, name: str) -> Settings:
    sources = json.dumps([{"path": f"{address}/{name}"}])
    return load_settings(assignments=[f"data.sources={sources}", f"nomenclature.path={address}/nomenclature.csv.gz"])


def test_rows_from_s3(s3: S3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in s3.environment.items():
        monkeypatch.setenv(name, value)
    folder = tmp_path / "rows"
    folder.mkdir()
    rows = pl.DataFrame({"description": ["a cotton shirt", "asses"], "code": ["610910", "010130"]})
    rows.write_parquet(folder / "rows.parquet")
    (folder / "rows.csv.gz").write_bytes(gzip.compress(rows.write_csv().encode()))
    (folder / "nomenclature.csv.gz").write_bytes(gzip.compress(b"code,text\n610910,T-shirts\n010130,Asses\n"))
    address = s3.put(folder, "data")
    hashes = set()
    for name in ("rows.parquet", "rows.csv.gz"):
        report = ingest(chosen(address, name), tmp_path / "out")
        assert (report.sources["rows"].kept, report.edition_subheadings) == (2, 2)
        hashes.add(report.data_hash)
    assert len(hashes) == 1
    before = fingerprint(chosen(address, "rows.csv.gz"))
    assert fingerprint(chosen(address, "rows.csv.gz")) == before
    (folder / "rows.csv.gz").write_bytes(gzip.compress(rows.head(1).write_csv().encode()))
    s3.put(folder, "data")
    assert fingerprint(chosen(address, "rows.csv.gz")) != before
    with pytest.raises(UserError, match=r"s3://.*none\.csv: no such file"):
        ingest(chosen(address, "none.csv"), tmp_path / "out")
