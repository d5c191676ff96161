"""Signed policy: who may write it is decided by a key, not by Redis. Pure.

What is signed (Ed25519) is the whole policy at one revision: mesh, revision, time of signing, digest of all documents. So
neither a document nor a deletion can be put in, left out, or brought back by somebody who has seen it before.
"""

import base64
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

_PEM = serialization.Encoding.PEM
_BEGIN = b"-----BEGIN PUBLIC KEY-----"


class UntrustedError(ValueError):
    """Why a policy is not believed: the rest of a sentence that begins with it."""


@dataclass(frozen=True)
class Signature:
    """time: Unix seconds, by the signer's clock, and later than that of the signature before."""

    revision: int
    time: float
    digest: str
    key: str
    value: str

    def write(self) -> str:
        return json.dumps(vars(self))


def digest_of(documents: Mapping[str, str]) -> str:
    return hashlib.sha256(json.dumps(sorted(documents.items())).encode()).hexdigest()


def _message(mesh: str, revision: int, time: float, digest: str) -> bytes:
    return f"mitmesh signed policy 1\n{mesh}\n{revision}\n{time!r}\n{digest}".encode()


def new_key() -> tuple[bytes, bytes]:
    """A private and its public key, PEM."""
    key = Ed25519PrivateKey.generate()
    private = key.private_bytes(_PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return private, key.public_key().public_bytes(_PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


def read_private(pem: bytes) -> Ed25519PrivateKey:
    """Raises ValueError."""
    try:
        key = serialization.load_pem_private_key(pem, password=None)
    except (ValueError, TypeError):
        key = None
    if not isinstance(key, Ed25519PrivateKey):
        raise ValueError("not a policy key: `mitmesh key init` makes one")
    return key


def read_public(pem: bytes) -> list[Ed25519PublicKey]:
    """One key or several, one after the other. Raises ValueError."""
    keys: list[Ed25519PublicKey] = []
    try:
        for part in pem.split(_BEGIN)[1:]:
            key = serialization.load_pem_public_key(_BEGIN + part)
            if not isinstance(key, Ed25519PublicKey):
                raise ValueError
            keys.append(key)
    except ValueError:
        keys = []
    if not keys:
        raise ValueError("not a public policy key: `mitmesh key init` makes one, policy.pub")
    return keys


def name_of(key: Ed25519PublicKey) -> str:
    """The first digits of its SHA-256, to speak of it by."""
    raw = key.public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
    return hashlib.sha256(raw).hexdigest()[:16]


def sign(
    key: Ed25519PrivateKey, mesh: str, revision: int, time: float, documents: Mapping[str, str]
) -> Signature:
    digest = digest_of(documents)
    value = base64.b64encode(key.sign(_message(mesh, revision, time, digest))).decode()
    return Signature(revision, time, digest, name_of(key.public_key()), value)


def verify(
    text: str, mesh: str, revision: int, documents: Mapping[str, str], keys: Sequence[Ed25519PublicKey]
) -> Signature:
    """The signature in `text`, if it is one of the keys' for exactly this. Raises UntrustedError with the reason."""
    if not text:
        raise UntrustedError("it is not signed")
    try:
        said = json.loads(text)
        found = Signature(
            int(said["revision"]),
            float(said["time"]),
            str(said["digest"]),
            str(said["key"]),
            str(said["value"]),
        )
        value = base64.b64decode(found.value, validate=True)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise UntrustedError("its signature is spoiled") from None
    key = next((key for key in keys if name_of(key) == found.key), None)
    if key is None:
        raise UntrustedError(f"it is signed with the key {found.key[:16]}, which is not trusted here")
    try:
        key.verify(value, _message(mesh, found.revision, found.time, found.digest))
    except InvalidSignature:
        raise UntrustedError("its signature is forged") from None
    if found.revision != revision or found.digest != digest_of(documents):
        raise UntrustedError(f"it is not what was signed as revision {found.revision}")
    return found


class Verifier:
    """What a proxy accepts: signed with one of the keys, and not before what it accepted last."""

    def __init__(self, mesh: str, keys: Iterable[Ed25519PublicKey]) -> None:
        self.mesh = mesh
        self.keys = tuple(keys)
        self._last: Signature | None = None

    def check(self, revision: int, documents: Mapping[str, str], text: str) -> Signature:
        """Raises UntrustedError with the reason; `accept` what it gives once it is in force."""
        found = verify(text, self.mesh, revision, documents, self.keys)
        if self._last is not None and found.time < self._last.time:
            raise UntrustedError(
                f"it was signed before revision {self._last.revision}, which is in force: somebody put back an older policy"
            )
        return found

    def accept(self, signature: Signature) -> None:
        self._last = signature


class Signer:
    """What the command signs with: only what follows from a policy that was signed, so that nothing slips in unseen."""

    def __init__(self, mesh: str, key: Ed25519PrivateKey) -> None:
        self.mesh = mesh
        self._key = key
        self.keys = (key.public_key(),)

    def check(self, revision: int, documents: Mapping[str, str], text: str) -> Signature | None:
        """The signature of what is stored; None for a mesh without any policy. Raises UntrustedError with the reason."""
        if not revision and not documents:
            return None
        return verify(text, self.mesh, revision, documents, self.keys)

    def sign(
        self, before: Signature | None, revision: int, documents: Mapping[str, str], now: float
    ) -> Signature:
        """`before`: that of what is stored, so that clocks that disagree cannot make the new one older."""
        time = now if before is None else max(now, before.time + 0.001)
        return sign(self._key, self.mesh, revision, time, documents)
