"""`hscode simulate` as it is called."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer import Typer
from typer.testing import CliRunner

from cli.simulate import register
from models.errors import UserError

app = Typer()
register(app)
app.callback()(lambda: None)


def run(*arguments: str) -> dict[str, Any]:
    result = CliRunner().invoke(app, ["simulate", *arguments, "--json"])
    if result.exception is not None:
        raise result.exception
    found = json.loads(result.stdout)
    assert isinstance(found, dict)
    return found


def test_a_rare_request_needs_a_standing_replica(tmp_path: Path) -> None:
    trace = tmp_path / "rare.csv"
    trace.write_text("at\n" + "\n".join(str(600 * n) for n in range(1, 20)))
    found = run("--trace", str(trace), "--min-replicas", "0,1")
    zero, one = found["settings"]
    assert zero["met"] == 0
    assert one["met"] == 1
    assert zero["money"] < one["money"] / 3
    assert found["take"] == 1
    assert run("--trace", str(trace), "--objective-ms", "10000")["take"] == 0


def test_n_is_searched_where_neither_zero_nor_one_keeps_the_promise(tmp_path: Path) -> None:
    trace = tmp_path / "burst.csv"
    trace.write_text("at\n" + "\n".join(str(300 + n / 600) for n in range(1200)))
    found = run("--trace", str(trace), "--service-ms", "3", "--objective-ms", "50")
    assert [one["min_replicas"] for one in found["settings"]] == [0, 1, 2]
    assert found["take"] == 2


def test_the_same_seed_gives_the_same_answer() -> None:
    arguments = ("--trace", "bursty", "--rate", "2", "--duration", "1200")
    assert run(*arguments) == run(*arguments) != run(*arguments, "--seed", "3")


def test_observed_latencies_are_compared(tmp_path: Path) -> None:
    trace = tmp_path / "seen.csv"
    trace.write_text("at,latency_ms\n" + "\n".join(f"{n},7" for n in range(60)))
    found = run("--trace", str(trace), "--min-replicas", "1", "--service-ms", "4")
    assert found["compared"]["1"]["ratio"]["p50"] == 1.0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--trace", "nowhere.csv"], "no such trace"),
        (["--trace", "flat", "--rate", "0"], "--rate 0 is not above zero"),
        (["--trace", "flat", "--rate", "1e6", "--duration", "1e6"], "too many"),
        (["--trace", "flat", "--duration", "nan"], "--duration nan"),
        (["--trace", "flat", "--service-ms", "fast"], "--service-ms 'fast'"),
        (["--trace", "flat", "--cold-start-s", "3,1"], "--cold-start-s '3,1'"),
        (["--trace", "flat", "--min-replicas", "0,x"], "--min-replicas '0,x'"),
        (["--trace", "flat", "--min-replicas", "9"], "above maxReplicas 4"),
        (["--trace", "flat", "--share", "99"], "--share 99"),
        (["--trace", "flat", "--rate", "1e-9", "--duration", "1"], "no request"),
        (["--trace", "flat", "--measure", "nowhere"], "no model bundle there"),
    ],
)
def test_mistakes_are_one_line(arguments: list[str], said: str) -> None:
    with pytest.raises(UserError, match=said):
        run(*arguments)
