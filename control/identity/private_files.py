"""Files that hold secrets are not read where others could."""

import os
import stat
from pathlib import Path

OWNER_ALONE = 0o077
NOT_EVERYBODY = 0o007


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
