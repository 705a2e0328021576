"""`hscode`: the verbs of the README, one file a group; this one gathers them and turns errors into exit codes."""

import errno
import os
import re
import sys

import typer

from models.errors import UserError

app = typer.Typer(name="hscode", no_args_is_help=True, pretty_exceptions_enable=False, add_completion=False)

INTERRUPTED = 130
"""What Typer turns Ctrl-C into, without a word."""


def main() -> None:
    """Entry point. Exit codes: 0 done, 1 failed, 2 wrong use (one line on standard error)."""
    from cli import commands

    commands.register(app)
    try:
        app()
    except UserError as error:
        sys.stderr.write(f"hscode: {error}\n")
        sys.exit(2)
    except SystemExit as end:
        if end.code == INTERRUPTED:
            sys.stderr.write("hscode: stopped; the same command goes on from what is finished (a loop: anew)\n")
        raise
    except Exception as error:
        if line := _of_a_missing_extra(error) or _of_a_silent_registry(error):
            sys.stderr.write(f"hscode: {line}\n")
            sys.exit(2)
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            sys.stderr.write(f"hscode: {error.filename or 'the disk'}: no space left; free space, then run it again\n")
            sys.exit(2)
        if os.environ.get("HSCODE_DEBUG"):
            raise
        sys.stderr.write(f"hscode: failed: {type(error).__name__}: {error} (HSCODE_DEBUG=1 shows where)\n")
        sys.exit(1)


def _of_a_missing_extra(error: Exception) -> str | None:
    """What to install, where a package of an extra of ours is not there."""
    if not isinstance(error, ModuleNotFoundError) or not error.name:
        return None
    from importlib.metadata import PackageNotFoundError, requires

    package = error.name.partition(".")[0]
    try:
        asked = requires("hscode") or []
    except PackageNotFoundError:
        return None
    name = re.escape({"sklearn": "scikit-learn"}.get(package, package)).replace("_", "[-_]")
    found = (re.match(rf"{name}\b(?!-).*extra == ['\"](\w+)['\"]", one) for one in asked)
    extras = [match[1] for match in found if match]
    if not extras:
        return None
    return f"{package} is not installed: it comes with the extra {' or '.join(extras)}; pip install '.[{extras[0]}]'"


def _of_a_silent_registry(error: Exception) -> str | None:
    """MLflow's client raises one kind of exception for all that a server does not answer as one of its kind."""
    if type(error).__name__ != "MlflowException":
        return None
    told = "setting registry.uri: {}; is MLflow up, and is this its address?"
    if match := re.match(r"API request to (\w+://[^/\s]+)\S* failed with exception", str(error)):
        return told.format(f"no answer from {match[1]}")
    if match := re.match(r"API request to endpoint \S+ failed with error code (\d+)", str(error)):
        return told.format(f"the answer is not MLflow's, status {match[1]}")
    return None


if __name__ == "__main__":
    main()
