"""`hscode`: the verbs of the README, one file a group; this one gathers them and turns errors into exit codes."""

import errno
import os
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
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            sys.stderr.write(f"hscode: {error.filename or 'the disk'}: no space left; free space, then run it again\n")
            sys.exit(2)
        if os.environ.get("HSCODE_DEBUG"):
            raise
        sys.stderr.write(f"hscode: failed: {type(error).__name__}: {error} (HSCODE_DEBUG=1 shows where)\n")
        sys.exit(1)


if __name__ == "__main__":
    main()
