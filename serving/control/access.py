"""Who may change something over HTTP: the holder of a bearer token."""

import hmac
import os
import secrets
from pathlib import Path

from models.errors import UserError


def bearer_token(file: str | None, variable: str, made: Path | None = None) -> str | None:
    """The token: of `file`, else of the environment variable, else of `made`, which is written once (mode 0600).

    None where nothing is given. Raises UserError for a file that cannot be read or is empty.
    """
    if file is None:
        if given := os.environ.get(variable):
            return given.strip()
        if made is None:
            return None
        try:
            with os.fdopen(os.open(made, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as new:
                new.write(secrets.token_urlsafe(32))
        except FileExistsError:
            pass
        except OSError as error:
            raise UserError(f"cannot be written ({error.strerror})", str(made)) from None
        file = str(made)
    try:
        token = Path(file).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read the bearer token ({type(error).__name__})", file) from None
    if not token:
        raise UserError("the bearer token is empty", file)
    return token


def allowed(authorization: str | None, token: str) -> bool:
    """Whether the header is ``Bearer TOKEN``; takes as long whatever is wrong with it."""
    scheme, _, given = (authorization or "").partition(" ")
    same = hmac.compare_digest(given.strip().encode(), token.encode())
    return same and scheme.lower() == "bearer"
