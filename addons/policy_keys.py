"""What the option mesh_policy_key names: the public keys of those who may write policy."""

import contextlib
from collections.abc import Sequence
from pathlib import Path

from mitmproxy import exceptions

from addons.policy_cache import read_cache
from control.signing import Verifier, read_public

# Of the process: when mesh.py is edited, its addons are made anew, and what they had accepted must not become older.
_verifiers: dict[str, Verifier] = {}


def verifier_of(mesh: str, files: Sequence[str], cache: Path | None = None) -> Verifier | None:
    """Of the keys in the files; None without any. What is in the cache was in force before. Raises OptionsError."""
    keys = []
    for file in files:
        try:
            keys += read_public(Path(file).expanduser().read_bytes())
        except OSError as error:
            raise exceptions.OptionsError(f"mesh_policy_key: {file}: {error.strerror}") from None
        except ValueError as error:
            raise exceptions.OptionsError(f"mesh_policy_key: {file}: {error}") from None
    if not keys:
        return None
    verifier = _verifiers.setdefault(mesh, Verifier(mesh, keys))
    verifier.keys = tuple(keys)
    if cache is not None:
        # What is wrong with it is told when it is needed.
        with contextlib.suppress(OSError, ValueError):
            verifier.accept(verifier.check(*read_cache(cache, mesh)[:3]))
    return verifier
