"""How the program ends: exit code and one line."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest
import typer

from cli import commands, main
from models.errors import UserError


def ends(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> int:
    """Exit code of a verb that ends with `error`."""
    app = typer.Typer()

    @app.command()
    def verb() -> None:
        raise error

    monkeypatch.setattr(main, "app", app)
    monkeypatch.setattr(commands, "register", lambda _app: None)
    monkeypatch.setattr("sys.argv", ["hscode"])
    monkeypatch.delenv("HSCODE_DEBUG", raising=False)
    with pytest.raises(SystemExit) as end:
        main.main()
    return int(end.value.code or 0)


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (
            KeyboardInterrupt(),
            130,
            "hscode: stopped; the same command goes on from what is finished (a loop: anew)\n",
        ),
        (UserError("is empty", "rows.csv", "add rows"), 2, "hscode: rows.csv: is empty; add rows\n"),
        (RuntimeError("gone"), 1, "hscode: failed: RuntimeError: gone (HSCODE_DEBUG=1 shows where)\n"),
        (OSError(28, "No space left on device", "a"), 2, "hscode: a: no space left; free space, then run it again\n"),
    ],
)
def test_each_end_has_its_code_and_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: BaseException, code: int, line: str
) -> None:
    assert ends(monkeypatch, error) == code
    assert capsys.readouterr().err == line


def told(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *words: str) -> str:
    """What a command that ends with 2 says: one line."""
    monkeypatch.setattr("sys.argv", ["hscode", *words])
    monkeypatch.setattr(main, "app", typer.Typer())
    monkeypatch.delenv("HSCODE_DEBUG", raising=False)
    with pytest.raises(SystemExit) as end:
        main.main()
    said = capsys.readouterr().err
    assert (end.value.code, said.count("\n")) == (2, 1), said
    return said


@pytest.mark.parametrize(
    ("module", "extras"), [("mlflow", "control or training"), ("kfp", "pipelines"), ("sklearn", "training")]
)
def test_a_missing_extra_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], module: str, extras: str
) -> None:
    assert ends(monkeypatch, ModuleNotFoundError(f"No module named '{module}.x'", name=f"{module}.x")) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"hscode: {module} is not installed: it comes with the extra {extras}; pip install '.[")
    assert said.count("\n") == 1


def test_a_missing_module_of_no_extra_is_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    assert ends(monkeypatch, ModuleNotFoundError("No module named 'cli.x'", name="cli.x")) == 1


def test_serving_the_champion_without_mlflow_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "mlflow", None)
    said = told(capsys, monkeypatch, "serve", "--home", str(tmp_path), "--port", "0")
    assert "pip install '.[control]'" in said


@pytest.mark.parametrize(
    "verb",
    [
        "trigger list",
        "trigger serve",
        "canary status",
        "canary start",
        "models list",
        "models promote 1",
        "runs show a-run",
        "runs list",
        "loop",
        "predict shirt",
        "schedule show",
        "serve",
        "state migrate",
        "corrections list",
        "corrections add 610910 --text shirt",
    ],
)
def test_a_home_that_is_a_file_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, verb: str
) -> None:
    home = tmp_path / "file"
    home.write_text("")
    for asked in (home, home / "below"):
        said = told(capsys, monkeypatch, *verb.split(), "--home", str(asked))
        assert said.startswith(f"hscode: {home}: is not a folder; choose another --home")


def test_an_out_that_cannot_be_made_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    rows = tmp_path / "rows.csv"
    rows.write_text("description,code\nshirt,610910\n")
    for out, why in ((rows, "is not a folder"), (rows / "below", "cannot be written")):
        assert why in told(capsys, monkeypatch, "data", "check", str(rows), "--out", str(out))
    assert rows.read_text().startswith("description")


@contextmanager
def another_server() -> Iterator[str]:
    """A server that is no MLflow."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_error(404)

        def log_message(self, format: str, *args: object) -> None:
            """Quiet."""

    server = HTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def test_a_wrong_registry_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")

    def asked(uri: str) -> str:
        return told(capsys, monkeypatch, "models", "list", "--set", f"registry.uri={uri}")

    assert "setting registry.uri: no answer from http://127.0.0.1:1;" in asked("http://127.0.0.1:1")
    with another_server() as address:
        assert "setting registry.uri: the answer is not MLflow's, status 404;" in asked(address)
    for uri in ("foo", "ftp://x", "http://"):
        assert "sqlite:///FILE" in asked(uri)
