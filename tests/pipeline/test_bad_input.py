"""A user's mistake is one line that says what, where and what to do, with exit code 2, and nothing is registered."""

import gzip
import http.server
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

HEADER = "description,code\n"


def hscode(*arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "cli.main", *map(str, arguments)],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
    )


def assert_one_line(done: subprocess.CompletedProcess[str], said: str) -> None:
    assert done.returncode == 2, (done.returncode, done.stderr[-1500:])
    assert said in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert "Traceback" not in done.stderr + done.stdout


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


def _missing(folder: Path) -> Path:
    return folder / "missing.csv"


def _empty(folder: Path) -> Path:
    (folder / "empty.csv").write_text("")
    return folder / "empty.csv"


def _no_code(folder: Path) -> Path:
    (folder / "x.csv").write_text("description,colour\nshirt,red\n")
    return folder / "x.csv"


def _all_invalid(folder: Path) -> Path:
    (folder / "x.csv").write_text(HEADER + "shirt,abc\nshoe,\n,610910\n")
    return folder / "x.csv"


def _binary(folder: Path) -> Path:
    (folder / "x.csv").write_bytes(bytes(range(256)) * 40)
    return folder / "x.csv"


def _long_line(folder: Path) -> Path:
    (folder / "x.csv").write_text(HEADER + "a" * 50_000_000)
    return folder / "x.csv"


def _encoding(folder: Path) -> Path:
    (folder / "x.csv").write_bytes((HEADER + "Stühle,940161\n" * 50).encode("latin-1"))
    return folder / "x.csv"


def _folder(folder: Path) -> Path:
    return folder


def _cut_gzip(folder: Path) -> Path:
    (folder / "x.csv.gz").write_bytes(gzip.compress((HEADER + "shirt,610910\n" * 5000).encode())[:-40])
    return folder / "x.csv.gz"


def _broken_parquet(folder: Path) -> Path:
    (folder / "x.parquet").write_bytes(b"PAR1 nothing PAR1")
    return folder / "x.parquet"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make", "said"),
    [
        (_missing, "missing.csv"),
        (_empty, "empty"),
        (_no_code, "colour"),
        (_all_invalid, "x.csv"),
        (_binary, "x.csv"),
        (_long_line, "1000000"),
        (_encoding, "utf-8"),
        (_folder, "folder"),
        (_cut_gzip, "x.csv.gz"),
        (_broken_parquet, "x.parquet"),
    ],
    ids=lambda value: value.__name__[1:] if callable(value) else "",
)
def test_a_file_that_cannot_be_used(make: object, said: str, tmp_path: Path, home: Path) -> None:
    path = make(tmp_path)  # type: ignore[operator]
    assert_one_line(hscode("run", "--data", path, "--home", home), said)
    assert_one_line(hscode("data", "check", path), said)
    assert not (home / "mlflow-artifacts").exists()
    lines = [line for file in home.glob("runs/*/progress.jsonl") for line in file.read_text().splitlines()]
    assert sum('"started"' in line for line in lines) <= 1, "a file is no better at the second try"


@pytest.fixture
def nothing_there() -> Iterator[str]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_error(404)

        do_HEAD = do_GET

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/rows.csv"
    server.shutdown()


@pytest.mark.slow
def test_an_address_that_answers_404(nothing_there: str, home: Path) -> None:
    assert_one_line(hscode("run", "--data", nothing_there, "--home", home), "404")


@pytest.mark.slow
def test_an_unknown_encoding(tmp_path: Path, home: Path) -> None:
    (tmp_path / "x.csv").write_text(HEADER + "shirt,610910\n")
    done = hscode("run", "--data", tmp_path / "x.csv", "--home", home, "--set", "data.encoding=klingon")
    assert_one_line(done, "klingon")


@pytest.mark.slow
def test_an_unknown_setting_names_the_nearest(home: Path) -> None:
    assert_one_line(hscode("run", "--home", home, "--set", "trian.epochs=1"), "the nearest is train")
    assert_one_line(hscode("run", "--home", home, HSCODE__TRAIN__EPOCH="1"), "the nearest is train.epochs")
    assert_one_line(hscode("run", "--home", home, "--set", "models.kinds=[gpt]"), "gpt")


@pytest.mark.slow
def test_a_home_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert_one_line(hscode("run", "--home", tmp_path / "file" / "home"), "choose another --home")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    small = tmp_path / "small"
    small.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=240m", "tmpfs", str(small)], capture_output=True)
    if done.returncode:
        pytest.skip("mounting a small tmpfs is not allowed here")
    yield small
    subprocess.run(["umount", "-l", str(small)], check=True)


def fill(disk: Path) -> None:
    with (disk / "filler").open("wb", buffering=0) as file:
        try:
            while file.write(bytes(2**20)):
                pass
        except OSError:
            return


@pytest.mark.slow
def test_a_full_disk_at_the_start(small_disk: Path) -> None:
    fill(small_disk)
    assert_one_line(hscode("run", "--home", small_disk), "free")


@pytest.mark.slow
def test_a_disk_that_fills_on_the_way(small_disk: Path) -> None:
    def follow() -> None:
        while not list(small_disk.glob("home/runs/*/progress.jsonl")):
            if ended.wait(0.01):
                return
        fill(small_disk)

    ended = threading.Event()
    thread = threading.Thread(target=follow)
    thread.start()
    done = hscode("run", "--home", small_disk / "home", HSCODE__DATA__SAMPLE_ROWS="3000")
    ended.set()
    thread.join()
    assert_one_line(done, str(small_disk / "home"))
    assert "free space" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments", [("models", "show", "champion"), ("models", "lineage", "3"), ("models", "rollback"), ("serve",)]
)
def test_a_home_without_models(arguments: tuple[str, ...], home: Path) -> None:
    done = hscode(*arguments, "--home", home)
    assert_one_line(done, "no version")
