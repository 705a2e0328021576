"""How the program ends: exit code and one line."""

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
