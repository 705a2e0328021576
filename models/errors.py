"""The one error a user can cause: one clear line, exit code 2 (REST: 4xx)."""

from pathlib import Path


class UserError(Exception):
    """A user's mistake, said as one line: what is wrong, where, and what to do.

    The command line prints it without a traceback and ends with exit code 2; a REST endpoint answers 4xx with it.

    >>> str(UserError("no column 'code'", "rows.csv", "name the column with --set data.code_column=NAME"))
    "rows.csv: no column 'code'; name the column with --set data.code_column=NAME"
    """

    def __init__(self, what: str, where: str = "", todo: str = "") -> None:
        self.what, self.where, self.todo = what, where, todo
        super().__init__((f"{where}: " if where else "") + what + (f"; {todo}" if todo else ""))


def made_folder(folder: Path, todo: str) -> Path:
    """The folder, made where it is not there yet. Raises UserError with what to do where it cannot be."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot be written ({error.strerror})", str(folder), todo) from None
    return folder
