"""Folders that appear whole or not at all, and what a full disk looks like."""

import errno
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from models.errors import UserError, made_folder

CHOOSE = "choose another folder"


@contextmanager
def whole_folder(out: Path) -> Iterator[Path]:
    """A folder beside `out` that takes its name only when all went well: a process killed half-way leaves no `out`.

    An `out` that was there before is replaced. Raises UserError where it cannot be made.
    """
    if out.exists() and not out.is_dir():
        raise UserError("is not a folder", str(out), CHOOSE)
    made_folder(out.parent, CHOOSE)
    partial, old = (out.parent / f".{out.name}.{mark}" for mark in ("partial", "old"))
    for left in (partial, old):
        shutil.rmtree(left, ignore_errors=True)
    try:
        partial.mkdir()
    except OSError as error:
        raise UserError(f"cannot be written ({error.strerror})", str(out), CHOOSE) from None
    try:
        yield partial
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    if out.exists():
        out.rename(old)
    partial.rename(out)
    shutil.rmtree(old, ignore_errors=True)


@contextmanager
def disk_errors(out: Path) -> Iterator[None]:
    """Turn a full disk into one UserError that names `out`."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT) or "No space left" in str(error):
            raise UserError("the disk is full", str(out), f"free some space or {CHOOSE}") from None
        raise


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented UTF-8 JSON."""
    path.write_text(json.dumps(value, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
