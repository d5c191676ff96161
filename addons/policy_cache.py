"""The last good policy in a file, for a proxy that starts while Redis is away."""

import contextlib
import json
import os
import tempfile
from pathlib import Path


def write_cache(path: Path, mesh: str, revision: int, documents: dict[str, str], signature: str = "") -> None:
    """Replace the file in one step, so that a reader never sees half of it. Raises OSError."""
    said = {"mesh": mesh, "revision": revision, "documents": documents}
    text = json.dumps({**said, "signature": signature} if signature else said)
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


def read_cache(path: Path, mesh: str) -> tuple[int, dict[str, str], str]:
    """Revision, documents and signature of the mesh's policy. Raises OSError, or ValueError if the file is not such a cache."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        if data["mesh"] != mesh:
            raise ValueError(f"it is of mesh {data['mesh']!r}, not {mesh!r}")
        documents = {str(service): str(text) for service, text in data["documents"].items()}
        return int(data["revision"]), documents, str(data.get("signature", ""))
    except (KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"not a policy cache: {error!r}") from None
