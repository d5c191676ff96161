"""Where the authority's folder is, and what is said when it cannot be used."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path


class AuthorityError(Exception):
    """The folder cannot be used: one line for a person, with what to do."""


def default_folder(mesh: str) -> Path:
    """Where the authority of the mesh is kept unless told otherwise; see the XDG Base Directory Specification."""
    data = os.environ.get("XDG_DATA_HOME", "")
    base = Path(data) if data.startswith("/") else Path.home() / ".local/share"
    return base / "mitmesh" / "ca" / mesh


@contextlib.contextmanager
def told() -> Iterator[None]:
    """What goes wrong with the files becomes an AuthorityError."""
    try:
        yield
    except OSError as error:
        raise AuthorityError(f"{error.filename}: {error.strerror}") from None
    except ValueError as error:
        raise AuthorityError(str(error)) from None
