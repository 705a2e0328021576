"""Traces: the shapes have their rate, a file's mistakes are said in one line."""

from pathlib import Path

import numpy as np
import pytest

from models.errors import UserError
from serving.capacity import traces


def drawn(shape: traces.Shape, rate: float, seconds: float, seed: int = 1) -> np.ndarray:
    trace = traces.draw(shape, rate, seconds, np.random.default_rng(seed))
    assert (np.diff(trace.at) >= 0).all()
    assert trace.at[0] >= 0
    assert trace.at[-1] <= seconds
    return trace.at


def test_flat_is_poisson() -> None:
    at = drawn("flat", 10, 10_000)
    assert abs(len(at) - 100_000) < 4 * 100_000**0.5
    counts = np.histogram(at, 10_000, (0, 10_000))[0]
    assert 0.94 < counts.var() / counts.mean() < 1.06


def test_diurnal_peaks_at_noon_and_keeps_its_mean() -> None:
    at = drawn("diurnal", 1, 86_400)
    assert abs(len(at) - 86_400) < 4 * 86_400**0.5
    hours = np.histogram(at, 24, (0, 86_400))[0]
    assert hours[[11, 12]].min() > 1.8 * 3600
    assert hours[[0, 23]].max() < 0.15 * 3600


def test_bursty_is_silent_most_of_the_time_and_keeps_its_mean() -> None:
    lengths = [len(drawn("bursty", 1, 14_400, seed)) for seed in range(40)]
    assert 0.75 < np.mean(lengths) / 14_400 < 1.25
    busy = np.histogram(drawn("bursty", 1, 100_000), 10_000, (0, 100_000))[0] > 0
    assert 0.05 < busy.mean() < 0.2


def test_the_same_seed_gives_the_same_trace() -> None:
    assert np.array_equal(drawn("bursty", 1, 5000), drawn("bursty", 1, 5000))


def read(folder: Path, text: str) -> traces.Trace:
    path = folder / "trace.csv"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return traces.read(path)


def test_reads_seconds_sorted_with_texts_and_latencies(tmp_path: Path) -> None:
    trace = read(tmp_path, "at,texts,latency_ms\n3.5,1,20\n1,4,\n2,2,7\n")
    assert trace.at.tolist() == [1, 2, 3.5]
    assert trace.texts.tolist() == [4, 2, 1]
    assert trace.seconds == 3.5
    assert trace.latency_ms is not None
    assert np.array_equal(trace.latency_ms, [np.nan, 7, 20], equal_nan=True)


@pytest.mark.parametrize(
    "rows",
    [
        "2025-11-24T10:00:00Z\n2025-11-24T10:00:01.5+00:00",
        "1764000000\n1764000001.5",
        "2025-11-24\n2025-11-24T00:00:01.5",
    ],
)
def test_times_of_the_clock_count_from_the_first(tmp_path: Path, rows: str) -> None:
    assert read(tmp_path, f"\ufeffat\n{rows}\n").at.tolist() == [0, 1.5]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "empty"),
        ("at\n", "no requests"),
        ("time\n1\n", "no column 'at'"),
        ("at\n1\nsoon\n", "line 3: at is 'soon'"),
        ("at\n1\n-2\n", "line 3: at is -2"),
        ("at\nnan\n", "line 2: at is nan"),
        ("at\ninf\n", "at is inf"),
        ("at,texts\n1,0\n", "texts is '0'"),
        ("at,texts\n1\n", "texts is None"),
        ("at,latency_ms\n1,-4\n", "latency_ms is '-4'"),
        ("at\n5\n2025-11-24T10:00:00Z\n", "mixes"),
    ],
)
def test_bad_files_give_one_line(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(UserError, match=said) as error:
        read(tmp_path, text)
    assert "\n" not in str(error.value)
    assert "trace.csv" in str(error.value)


def test_not_text(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_bytes(b"at\n\xff\xfe\n")
    with pytest.raises(UserError, match="UTF-8"):
        traces.read(tmp_path / "x.csv")
    with pytest.raises(UserError, match="cannot read"):
        traces.read(tmp_path)
