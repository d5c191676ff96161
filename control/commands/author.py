"""Who makes a change, for the history."""

import getpass
import os
import socket


def author() -> str:
    """USER@host of this process; the number of a user who has no name."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # no such user in the system's list; OSError since Python 3.13
        user = str(os.getuid()) if hasattr(os, "getuid") else "unknown"
    return storable(f"{user}@{socket.gethostname()}")


def storable(text: str) -> str:
    """What came in as bytes that are no UTF-8 cannot be stored; a mark stands in for each."""
    return text.encode("utf-8", "replace").decode()
