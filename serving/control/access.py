"""Who may change something over HTTP: the holder of a bearer token."""

import hmac
import os
from pathlib import Path

from models.errors import UserError


def read_token(file: str | None, variable: str) -> str | None:
    """The token: content of `file`, else of the environment variable; None where neither is given.

    Raises UserError for a file that cannot be read or is empty.
    """
    if file is None:
        return os.environ.get(variable) or None
    try:
        token = Path(file).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read the token ({getattr(error, 'strerror', 'not text')})", file) from None
    if not token:
        raise UserError("the token is empty", file)
    return token


def allowed(authorization: str | None, token: str) -> bool:
    """Whether the header is ``Bearer TOKEN``; takes as long whatever is wrong with it."""
    scheme, _, given = (authorization or "").partition(" ")
    same = hmac.compare_digest(given.strip().encode(), token.encode())
    return same and scheme.lower() == "bearer"
