"""Join tokens: what a proxy has instead of a certificate the first time. Pure.

A token is its claims and a secret that the authority computes from them with a key of its own (HMAC-SHA256). So nothing
that is stored anywhere lets its reader use a token, and no claim can be changed. The secret is never sent: a request
carries the claims and an HMAC with it.
"""

import base64
import binascii
import hashlib
import hmac
import json
import secrets
from dataclasses import dataclass, field

from control.identity.names import spiffe_id

MOST_USES = 1000
_PREFIX = "mitmesh1"


@dataclass(frozen=True)
class Token:
    """expires: Unix seconds. uses: how many keys may get a certificate by it. root: the fingerprint to trust first."""

    mesh: str
    service: str
    expires: float
    uses: int
    root: str
    claims: str = ""
    """The above as the token has it, in base64."""
    secret: bytes = field(default=b"", repr=False)

    @property
    def digest(self) -> str:
        return digest_of(self.claims)


def digest_of(claims: str) -> str:
    """By what the authority remembers a token."""
    return hashlib.sha256(claims.encode()).hexdigest()


def make_token(key: bytes, mesh: str, service: str, expires: float, uses: int, root: str) -> str:
    """A new token; `key` is the authority's. Raises ValueError for a name that is none."""
    spiffe_id(mesh, service)
    said = [mesh, service.lower(), expires, uses, root, secrets.token_hex(8)]
    claims = _encode(json.dumps(said, separators=(",", ":")).encode())
    return f"{_PREFIX}.{claims}.{_encode(secret_of(key, claims))}"


def secret_of(key: bytes, claims: str) -> bytes:
    return hmac.digest(key, f"{_PREFIX}.{claims}".encode(), "sha256")


def read_token(text: str) -> Token:
    """Raises ValueError; whether it is genuine only the authority can tell."""
    prefix, _, rest = text.strip().partition(".")
    claims, _, secret = rest.partition(".")
    try:
        if prefix != _PREFIX or len(text) > 2000:
            raise ValueError
        found = read_claims(claims)
        return Token(**{**vars(found), "secret": _decode(secret)})
    except ValueError:
        raise ValueError("not a join token: `mitmesh token SERVICE` makes one") from None


def read_claims(claims: str) -> Token:
    """Raises ValueError."""
    try:
        mesh, service, expires, uses, root, _ = json.loads(_decode(claims))
        spiffe_id(mesh, service)
        if isinstance(uses, int) and uses > 0 and isinstance(root, str):
            return Token(mesh, service, float(expires), uses, root, claims)
    except (ValueError, TypeError, AttributeError, RecursionError):
        pass
    raise ValueError("no claims of a join token")


def proof(secret: bytes, message: bytes) -> str:
    """What shows that the sender has the token, without giving it away."""
    return hmac.new(secret, message, "sha256").hexdigest()


def _encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _decode(text: str) -> bytes:
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except binascii.Error:
        raise ValueError("not base64") from None
