"""The last good policy in a file, for a proxy that starts while Redis is away."""

import asyncio
import json
import logging
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from control.files import write_file
from control.policy.endpoints import NOBODY, Registered, Registry
from control.policy.errors import PolicyErrors
from control.policy.snapshot import Snapshot
from control.signing import UntrustedError

logger = logging.getLogger("mesh.policy_feed")


class PolicyCache:
    """Option mesh_cache. path None: there is none. What is wrong with it is said in the log, and does no other harm."""

    def __init__(self, path: Path | None, mesh: str) -> None:
        self._path = path
        self._mesh = mesh

    async def save(
        self, revision: int, documents: dict[str, str], signature: str, registered: Registry
    ) -> None:
        """After each change."""
        path = self._path
        if path is not None:
            try:
                kept = (path, self._mesh, revision, documents, signature, registered)
                await asyncio.to_thread(write_cache, *kept)
            except OSError as error:
                logger.warning(f"mesh_cache {path}: not written: {error.strerror}")

    async def load(self, build: Callable[[int, dict[str, str], str, Registry], Snapshot]) -> Snapshot | None:
        """What `build` makes of its revision, documents, signature and registered endpoints."""
        path = self._path
        if path is None:
            return None
        try:
            found = await asyncio.to_thread(read_cache, path, self._mesh)
            snapshot = await asyncio.to_thread(build, *found)
        except FileNotFoundError:
            logger.warning(f"mesh_cache {path}: no such file yet")
        except OSError as error:
            logger.warning(f"mesh_cache {path}: not readable: {error.strerror}")
        except (ValueError, PolicyErrors, UntrustedError) as error:
            logger.warning(f"mesh_cache {path}: not usable: {error}")
        else:
            logger.warning(f"mesh_cache {path}: revision {found[0]} in force until Redis gives a newer one")
            return snapshot
        return None


def write_cache(
    path: Path,
    mesh: str,
    revision: int,
    documents: dict[str, str],
    signature: str = "",
    registered: Registry = NOBODY,
) -> None:
    """Replace the file in one step, so that a reader never sees half of it. Raises OSError."""
    said: dict[str, Any] = {"mesh": mesh, "revision": revision, "documents": documents}
    if signature:
        said["signature"] = signature
    if registered:
        said["registered"] = {
            service: [asdict(each) for each in found] for service, found in registered.items()
        }
    text = json.dumps(said)
    write_file(path, text.encode())


def read_cache(path: Path, mesh: str) -> tuple[int, dict[str, str], str, dict[str, tuple[Registered, ...]]]:
    """Revision, documents, signature and registered endpoints of the mesh.

    Raises OSError, or ValueError if the file is not such a cache.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        if data["mesh"] != mesh:
            raise ValueError(f"it is of mesh {data['mesh']!r}, not {mesh!r}")
        documents = {str(service): str(text) for service, text in data["documents"].items()}
        registered = {
            str(service): tuple(Registered(**each) for each in found)
            for service, found in data.get("registered", {}).items()
        }
        return int(data["revision"]), documents, str(data.get("signature", "")), registered
    except (KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"not a policy cache: {error!r}") from None
