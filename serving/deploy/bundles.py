"""Where a revision's model lies on this machine: `storageUri` resolved, fetched where it is remote."""

import os
import shutil
from pathlib import Path
from urllib.parse import unquote, urlparse

from models.errors import UserError

CARD = "card.json"
"""Each bundle has one; its absence tells a wrong address before a process is started for it."""


def fetch(storage_uri: str, folder: Path) -> Path:
    """The folder of the bundle at `storage_uri`; ``s3://`` is downloaded into `folder` once. Raises UserError.

    S3's address and credentials are those of the environment (AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID, ...).
    """
    parsed = urlparse(storage_uri)
    if parsed.scheme in ("", "file"):
        local = Path(unquote(parsed.path))
        if not (local / CARD).is_file():
            raise UserError("no model bundle here" if local.is_dir() else "no such folder", storage_uri)
        return local
    if not (folder / CARD).is_file():
        _download(storage_uri, folder)
    return folder


def remove(folder: Path) -> None:
    """Remove what was kept for a revision."""
    shutil.rmtree(folder, ignore_errors=True)


def _download(storage_uri: str, folder: Path) -> None:
    try:
        import s3fs
    except ImportError:
        raise UserError("loading from s3:// needs s3fs", storage_uri, "pip install s3fs") from None
    part = folder.with_name(folder.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    try:
        # A new instance: the address may have changed since another was made in this process.
        files = s3fs.S3FileSystem(skip_instance_cache=True, endpoint_url=os.environ.get("AWS_ENDPOINT_URL"))
        if not files.exists(f"{storage_uri.rstrip('/')}/{CARD}"):
            raise UserError("no model bundle here", storage_uri)
        files.get(storage_uri.rstrip("/"), str(part), recursive=True)
    except UserError:
        raise
    except Exception as error:  # the many kinds of botocore, aiohttp and OS errors, all with the same remedy
        raise UserError(f"cannot load the model ({type(error).__name__}: {error})", storage_uri) from None
    shutil.rmtree(folder, ignore_errors=True)
    part.rename(folder)
