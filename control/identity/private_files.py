"""Files that hold secrets: written in one step and for their owner alone, and not read where others could."""

import contextlib
import os
import stat
import tempfile
from pathlib import Path

OWNER_ALONE = 0o077
NOT_EVERYBODY = 0o007


def write_file(path: Path, data: bytes, mode: int = 0o600) -> None:
    """Replace the file in one step; its mode stands before a byte is in it. Raises OSError."""
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            os.fchmod(file.fileno(), mode)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


def read_secret(path: Path, closed_to: int = OWNER_ALONE) -> bytes:
    """The file's bytes. Raises OSError, and ValueError where the mode gives rights of `closed_to`."""
    with path.open("rb") as file:
        mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
        if os.name != "nt" and mode & closed_to:
            raise ValueError(
                f"{path} is open to others (mode {mode:04o}): chmod {mode & ~closed_to:04o} {path},"
                " and renew what they may have read"
            )
        return file.read()
