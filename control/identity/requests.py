"""Certificate requests as proxies put them into Redis, and what each of them proves. Pure.

A request is a CSR, signed by the new key as every CSR is, and a proof of who asks: an HMAC with a join token, or a
signature with the key of the present certificate. Both cover the CSR, the mesh and the request's id.
"""

import base64
import hashlib
import hmac
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from control.identity import tokens
from control.identity import x509 as certificates
from control.identity.bundles import verifies
from control.identity.identity import Identity, read_certificates
from control.identity.tokens import Token

_LABEL = "mitmesh certificate request 1"
# It becomes part of a key in Redis.
_ID = re.compile(r"[0-9a-f]{32}")
LONGEST = 20_000
"""Characters."""


class Refused(Exception):
    """Why a request gets no certificate; a sentence for a person. `service`, `node`: who asked, as far as it is known."""

    def __init__(self, reason: str, service: str = "", node: str = "") -> None:
        super().__init__(reason)
        self.reason = reason
        self.service = service
        self.node = node


@dataclass(frozen=True)
class Request:
    """What was asked for; nothing of it is proved yet. `proof` is a token's HMAC or a signature."""

    id: str
    node: str
    csr: x509.CertificateSigningRequest
    claims: str
    certificate: bytes
    proof: str
    message: bytes

    @property
    def public_key(self) -> ec.EllipticCurvePublicKey:
        key = self.csr.public_key()
        assert isinstance(key, ec.EllipticCurvePublicKey)
        return key

    @property
    def key_digest(self) -> str:
        """The new key's mark: asked for twice, one key counts once."""
        return hashlib.sha256(certificates.public_bytes(self.public_key)).hexdigest()[:32]


def make_request(
    key: ec.EllipticCurvePrivateKey, name: str, mesh: str, node: str, request_id: str, shown: Token | Identity
) -> str:
    """A request for a certificate of the SPIFFE ID `name`; `shown` is what proves it, `request_id` 32 random hex digits."""
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    names = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(name)])
    csr = builder.add_extension(names, critical=True).sign(key, hashes.SHA256())
    said = {"id": request_id, "node": node, "csr": csr.public_bytes(Encoding.PEM).decode()}
    message = _message(mesh, request_id, csr)
    if isinstance(shown, Token):
        said |= {"token": shown.claims, "proof": tokens.proof(shown.secret, message)}
    else:
        present = certificates.read_key(shown.key)
        signature = base64.b64encode(present.sign(message, ec.ECDSA(hashes.SHA256()))).decode()
        said |= {"certificate": shown.certificate.decode(), "proof": signature}
    return json.dumps(said)


def _message(mesh: str, request_id: str, csr: x509.CertificateSigningRequest) -> bytes:
    digest = hashlib.sha256(csr.public_bytes(Encoding.DER)).hexdigest()
    return f"{_LABEL}\n{mesh}\n{request_id}\n{digest}".encode()


def read_request(text: str, mesh: str) -> Request:
    """Raises Refused for what is no request."""
    said: dict[str, Any] = {}
    try:
        if len(text) > LONGEST:
            raise ValueError
        said = json.loads(text)
        parts = {name: said.get(name, "") for name in ("id", "node", "csr", "token", "certificate", "proof")}
        if not all(isinstance(part, str) and len(part) < LONGEST for part in parts.values()):
            raise ValueError
        csr = x509.load_pem_x509_csr(parts["csr"].encode())
        if not _ID.fullmatch(parts["id"]) or bool(parts["token"]) == bool(parts["certificate"]):
            raise ValueError
        if not csr.is_signature_valid or not certificates.is_p256(csr.public_key()):
            raise ValueError
    except (*certificates.UNREADABLE, AttributeError, RecursionError):
        raise Refused("it is no certificate request") from None
    certificate, message = parts["certificate"].encode(), _message(mesh, parts["id"], csr)
    return Request(parts["id"], parts["node"], csr, parts["token"], certificate, parts["proof"], message)


def proved_by_token(request: Request, key: bytes, mesh: str, now: float) -> Token:
    """The token that the sender has, checked but for how often it was used. Raises Refused."""
    try:
        token = tokens.read_claims(request.claims)
    except ValueError:
        raise Refused("its token is no join token", node=request.node) from None
    # compare_digest takes no other characters.
    expected = tokens.proof(tokens.secret_of(key, request.claims), request.message)
    if not request.proof.isascii() or not hmac.compare_digest(expected, request.proof):
        raise Refused("its token was not made by this authority, or was altered", node=request.node)
    if token.mesh != mesh:
        raise Refused(f"its token is for mesh {token.mesh}", token.service, request.node)
    if now > token.expires:
        raise Refused("its token has expired", token.service, request.node)
    return token


def proved_by_certificate(
    request: Request, roots: Sequence[x509.Certificate], now: float
) -> x509.Certificate:
    """The certificate whose key the sender has, valid now. Raises Refused."""
    try:
        shown = read_certificates(request.certificate, "its certificate")[0]
    except ValueError as error:
        raise Refused(str(error), node=request.node) from None
    try:
        certificates.check_leaf(shown, roots, now)
    except ValueError as error:
        raise Refused(f"it was asked with a certificate, but {error}", node=request.node) from None
    if not verifies(shown.public_key(), request.proof, request.message):
        raise Refused("it was asked with a certificate whose key the sender does not have", node=request.node)
    return shown


def name_wanted(request: Request) -> str:
    """The one URI that the CSR asks for. Raises Refused."""
    try:
        return certificates.uri_of(request.csr)
    except ValueError as error:
        raise Refused(f"its CSR is for no service: {error}", node=request.node) from None
