"""Files by address: a local path, https:// or s3:// (fsspec), fetched to and stored from local files."""

import shutil
from pathlib import Path
from urllib.parse import urlparse

from models.errors import UserError


def fetched(address: str, folder: Path) -> Path:
    """The file as a local one: itself where it is local, else copied into `folder`. Raises UserError."""
    if urlparse(address).scheme in ("", "file"):
        path = Path(address.removeprefix("file://"))
        if not path.is_file():
            raise UserError("no such file", address)
        return path
    import fsspec

    target = folder / Path(urlparse(address).path).name
    try:
        with fsspec.open(address, "rb") as source, target.open("wb") as out:
            shutil.copyfileobj(source, out, 2**20)
    except Exception as error:
        raise UserError(f"cannot be read ({type(error).__name__}: {error})".splitlines()[0], address) from error
    return target


def stored(file: Path, address: str) -> None:
    """Copy a local file to an address; a local one appears whole or not at all. Raises UserError."""
    try:
        if urlparse(address).scheme in ("", "file"):
            target = Path(address.removeprefix("file://"))
            target.parent.mkdir(parents=True, exist_ok=True)
            draft = target.with_name(target.name + ".new")
            shutil.copyfile(file, draft)
            draft.replace(target)
            return
        import fsspec

        with file.open("rb") as source, fsspec.open(address, "wb") as out:
            shutil.copyfileobj(source, out, 2**20)
    except Exception as error:
        raise UserError(f"cannot be written ({type(error).__name__}: {error})".splitlines()[0], address) from error
