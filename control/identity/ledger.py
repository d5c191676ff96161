"""What the authority remembers between requests: how often each token was used, and whom it renews no more.

It is a file beside the keys, not in Redis: whoever could write it could use a token once more. Tokens are in it by their
digest, so that the file lets nobody use one.
"""

import json
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from control.files import write_file
from control.identity.tokens import Token

_FORGOTTEN_AFTER = 86400.0


@dataclass(frozen=True)
class Entry:
    """used: the marks of the keys that got a certificate by this token."""

    service: str
    expires: float
    uses: int
    used: tuple[str, ...] = ()


@dataclass(frozen=True)
class Ledger:
    """tokens: by digest. revoked: service -> Unix seconds; what was given to it before then counts no more."""

    tokens: dict[str, Entry] = field(default_factory=dict)
    revoked: dict[str, float] = field(default_factory=dict)

    @staticmethod
    def read(path: Path) -> "Ledger":
        """Empty where there is no file. Raises OSError, and ValueError for one that is spoiled."""
        try:
            said = json.loads(path.read_text())
            found = {
                digest: Entry(**{**entry, "used": tuple(entry["used"])})
                for digest, entry in said["tokens"].items()
            }
            return Ledger(found, {str(name): float(at) for name, at in said["revoked"].items()})
        except FileNotFoundError:
            return Ledger()
        except (ValueError, TypeError, KeyError, AttributeError):
            raise ValueError(f"{path} is spoiled: put it back from a backup") from None

    def write(self, path: Path) -> None:
        write_file(path, json.dumps(asdict(self), indent=1).encode() + b"\n")

    def with_token(self, token: Token, now: float) -> "Ledger":
        """A new token in it, and without those that ended long ago."""
        kept = {
            digest: entry for digest, entry in self.tokens.items() if entry.expires + _FORGOTTEN_AFTER > now
        }
        new = Entry(token.service, token.expires, token.uses)
        return replace(self, tokens={**kept, token.digest: new})

    def used(self, digest: str, key_digest: str) -> "Ledger":
        """The token used for one more key; itself if it was for this very key. Raises ValueError with the reason."""
        entry = self.tokens.get(digest)
        if entry is None:
            raise ValueError("its token was revoked, or is not in the authority's ledger")
        if key_digest in entry.used:
            # Asked again, as after an answer that got lost: nobody gets more by it.
            return self
        if len(entry.used) >= entry.uses:
            times = "once" if entry.uses == 1 else f"{entry.uses} times"
            raise ValueError(f"its token was used {times} already, as often as it may be")
        return replace(self, tokens={**self.tokens, digest: replace(entry, used=(*entry.used, key_digest))})

    def revoke(self, service: str, now: float) -> "Ledger":
        """Neither its tokens nor its certificates from before now get new certificates."""
        kept = {digest: entry for digest, entry in self.tokens.items() if entry.service != service}
        return Ledger(kept, {**self.revoked, service: now})

    def open_tokens(self, now: float) -> dict[str, Entry]:
        """Those that can still be used, by digest."""
        return {
            digest: entry
            for digest, entry in self.tokens.items()
            if entry.expires > now and len(entry.used) < entry.uses
        }
