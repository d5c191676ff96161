"""The trust bundle as it stands in Redis: the mesh's roots, signed by each of them. Pure.

Redis is not trusted with it: a proxy takes a bundle only if a root that it trusts already has signed it, and never an
older one than it has seen. So roots change hands without anybody going to the proxies.
"""

import base64
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from control.identity import x509 as certificates
from control.identity.identity import read_certificates

_LABEL = b"mitmesh trust bundle 1\n"
_LONGEST = 100_000


@dataclass(frozen=True)
class Bundle:
    """serial: one more at each change. signing: the fingerprint of the root that signs new certificates."""

    serial: int
    roots: tuple[x509.Certificate, ...]
    signing: str

    @property
    def pem(self) -> bytes:
        return b"".join(root.public_bytes(Encoding.PEM) for root in self.roots)

    @property
    def fingerprints(self) -> frozenset[str]:
        return frozenset(certificates.fingerprint(root) for root in self.roots)

    def root_of(self, certificate: x509.Certificate) -> str:
        """The fingerprint of the root that signed it; empty: none of these."""
        for root in self.roots:
            if certificates.signed_by(certificate, root):
                return certificates.fingerprint(root)
        return ""


def write_bundle(mesh: str, bundle: Bundle, keys: Iterable[ec.EllipticCurvePrivateKey]) -> str:
    """`keys` are the roots' in the roots' order."""
    said = {
        "mesh": mesh,
        "serial": bundle.serial,
        "roots": [root.public_bytes(Encoding.PEM).decode() for root in bundle.roots],
        "signing": bundle.signing,
    }
    text = json.dumps(said)
    signatures = {
        certificates.fingerprint(root): base64.b64encode(
            key.sign(_LABEL + text.encode(), ec.ECDSA(hashes.SHA256()))
        ).decode()
        for root, key in zip(bundle.roots, keys, strict=True)
    }
    return json.dumps({"bundle": text, "signatures": signatures})


def read_bundle(text: str, mesh: str, trusted: Iterable[str], least: int = 0) -> Bundle:
    """The bundle in the text, if one of the `trusted` roots (their fingerprints) signed it.

    Raises ValueError with the reason, also for one whose serial is below `least`.
    """
    try:
        if len(text) > _LONGEST:
            raise ValueError
        outer = json.loads(text)
        signed, signatures = outer["bundle"], outer["signatures"]
        said = json.loads(signed)
        roots = tuple(read_certificates("".join(said["roots"]).encode(), "roots"))
        bundle = Bundle(int(said["serial"]), roots, str(said["signing"]))
        if bundle.signing not in bundle.fingerprints:
            raise ValueError
        known = frozenset(trusted)
        trustworthy = any(
            certificates.fingerprint(root) in known and _is_signed(signed, root, signatures) for root in roots
        )
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise ValueError("the trust bundle in Redis is spoiled") from None
    if not trustworthy:
        raise ValueError("the trust bundle in Redis is signed by no root that is trusted here")
    if said.get("mesh") != mesh:
        raise ValueError(f"the trust bundle in Redis is of mesh {said.get('mesh')!r}, not {mesh}")
    if bundle.serial < least:
        raise ValueError(
            f"the trust bundle in Redis is older than the one in force ({bundle.serial} < {least})"
        )
    return bundle


def _is_signed(text: str, root: x509.Certificate, signatures: dict[str, str]) -> bool:
    signature = signatures.get(certificates.fingerprint(root))
    return isinstance(signature, str) and verifies(root.public_key(), signature, _LABEL + text.encode())


def verifies(key: object, signature: str, message: bytes) -> bool:
    """Whether base64 `signature` is the P-256 key's for the message."""
    if not isinstance(key, ec.EllipticCurvePublicKey):
        return False
    try:
        key.verify(base64.b64decode(signature, validate=True), message, ec.ECDSA(hashes.SHA256()))
    except (InvalidSignature, ValueError):
        return False
    return True


def fingerprints(pem: bytes) -> Sequence[str]:
    """Those of PEM roots. Raises ValueError."""
    return [certificates.fingerprint(root) for root in read_certificates(pem, "roots")]
