"""TLS contexts of one identity: for the engine by Python's ssl, for mitmproxy's own stack by pyOpenSSL."""

import hashlib
import logging
import os
import ssl
import tempfile
import time
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from cryptography import x509
from OpenSSL import SSL, crypto

from addons.engine.tls import Untrusted
from addons.engine.tls_transport import words_of
from addons.peer import Peer
from control.identity.identity import Identity
from control.identity.names import parse_spiffe_id
from control.identity.peers import Distrust, chain_distrust, expect, handshake_distrust, proven_id

logger = logging.getLogger("mesh.mtls")

_SERVED = ["http/1.1", "h2"]
"""In this order: whoever can is served in the fast lane."""


_MOST_KNOWN = 1024


class Verdict:
    """On a connection of mitmproxy's stack: whom it expects ("": anybody of the mesh), and why it was refused."""

    def __init__(self, expected: str = "") -> None:
        self.expected = expected
        self.distrust: Distrust | None = None


@dataclass(frozen=True, slots=True)
class _Known:
    """A peer whose certificate was judged, and between which Unix seconds that holds."""

    peer: Peer
    before: float
    after: float


class Contexts:
    """Each is made when first asked for, and is good for new connections as long as the identity is the present one."""

    def __init__(self, identity: Identity, mesh: str) -> None:
        self.identity = identity
        self.mesh = mesh
        self._known: dict[tuple[bytes, str, str], _Known] = {}

    @cached_property
    def server(self) -> ssl.SSLContext:
        context = self._context(ssl.PROTOCOL_TLS_SERVER)
        context.set_alpn_protocols(_SERVED)
        # A caller keeps the last one; making each takes as long as verifying its certificate.
        context.num_tickets = 1
        return context

    @cached_property
    def client(self) -> ssl.SSLContext:
        context = self._context(ssl.PROTOCOL_TLS_CLIENT)
        # The name that counts is the URI, which is looked at after the handshake.
        context.check_hostname = False
        context.set_alpn_protocols(["http/1.1"])
        return context

    def _context(self, protocol: int) -> ssl.SSLContext:
        context = ssl.SSLContext(protocol)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.options |= ssl.OP_NO_RENEGOTIATION
        context.check_hostname = False
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(cadata=self.identity.bundle.decode("ascii", "ignore"))
        _load_chain(context, self.identity.certificate + b"\n" + self.identity.key)
        return context

    def judge(self, tls: ssl.SSLObject, expected: str = "") -> Peer:
        """Who is at the other end of a connection whose chain is verified. Raises Untrusted from Distrust."""
        der = tls.getpeercert(binary_form=True)
        try:
            if der is None:
                raise handshake_distrust("peer did not return a certificate")
            version = tls.version() or ""
            # A caller comes again and again with the same certificate.
            key = (der, version, expected)
            known = self._known.get(key)
            if known is not None and known.before <= time.time() <= known.after:
                return known.peer
            certificate = x509.load_der_x509_certificate(der)
            peer = self.peer(certificate, der, version, expected)
            if len(self._known) >= _MOST_KNOWN:
                self._known.clear()
            self._known[key] = _Known(
                peer,
                certificate.not_valid_before_utc.timestamp(),
                certificate.not_valid_after_utc.timestamp(),
            )
            return peer
        except Distrust as distrust:
            raise Untrusted(str(distrust)) from distrust

    def peer(self, certificate: x509.Certificate, der: bytes, version: str, expected: str = "") -> Peer:
        """Raises Distrust."""
        found = proven_id(certificate, self.mesh, time.time())
        if expected:
            expect(found, expected)
        digest = hashlib.sha256(der).hexdigest()
        forwarded = f"By={self.identity.spiffe_id};Hash={digest};URI={found}".encode()
        return Peer(found, parse_spiffe_id(found)[1], version, forwarded)

    # For mitmproxy's own stack

    @cached_property
    def own_server(self) -> SSL.Context:
        context = self._own()
        select: Any = _select
        context.set_alpn_select_callback(select)
        # Without a name of its own, OpenSSL refuses to resume what was verified.
        context.set_session_id(b"mitmesh")
        return context

    @cached_property
    def own_client(self) -> SSL.Context:
        return self._own()

    def _own(self) -> SSL.Context:
        context = SSL.Context(SSL.TLS_METHOD)
        context.set_min_proto_version(SSL.TLS1_2_VERSION)
        context.set_options(SSL.OP_NO_RENEGOTIATION | SSL.OP_NO_TICKET)
        context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
        leaf, *rest = x509.load_pem_x509_certificates(self.identity.certificate)
        context.use_certificate(crypto.X509.from_cryptography(leaf))
        for certificate in rest:
            context.add_extra_chain_cert(crypto.X509.from_cryptography(certificate))
        context.use_privatekey(crypto.load_privatekey(crypto.FILETYPE_PEM, self.identity.key))
        store = context.get_cert_store()
        assert store is not None
        for root in x509.load_pem_x509_certificates(self.identity.bundle):
            store.add_cert(crypto.X509.from_cryptography(root))
        context.set_verify(SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT, self._verify)
        return context

    def _verify(
        self, connection: SSL.Connection, certificate: crypto.X509, error: int, depth: int, ok: int
    ) -> bool:
        """Never raises: pyOpenSSL would take that for consent in some versions."""
        verdict = connection.get_app_data()
        if not isinstance(verdict, Verdict):
            return False
        try:
            if not ok:
                verdict.distrust = chain_distrust(error, f"verify error {error}")
            elif depth == 0:
                found = proven_id(certificate.to_cryptography(), self.mesh, time.time())
                if verdict.expected:
                    expect(found, verdict.expected)
        except Distrust as distrust:
            verdict.distrust = distrust
        except Exception:
            logger.exception("a certificate could not be judged; it was refused")
            verdict.distrust = Distrust("handshake", "its certificate could not be judged")
        return verdict.distrust is None


def distrust_of(error: BaseException) -> Distrust:
    """The reason in a failed handshake of the engine."""
    if isinstance(error, Untrusted) and isinstance(error.__cause__, Distrust):
        return error.__cause__
    if isinstance(error, ssl.SSLCertVerificationError):
        return chain_distrust(error.verify_code, error.verify_message)
    if isinstance(error, ssl.SSLError):
        return handshake_distrust(words_of(error))
    return Distrust("left", str(error) or "it left during the handshake")


def _select(connection: SSL.Connection, offered: list[bytes]) -> bytes | object:
    for known in _SERVED:
        if known.encode() in offered:
            return known.encode()
    return SSL.NO_OVERLAPPING_PROTOCOLS


def _load_chain(context: ssl.SSLContext, pem: bytes) -> None:
    """Python's ssl takes a key from a file alone; this one is in memory where there is a way, and gone at once."""
    if hasattr(os, "memfd_create"):
        handle = os.memfd_create("mitmesh", os.MFD_CLOEXEC)
        try:
            os.write(handle, pem)
            context.load_cert_chain(f"/proc/self/fd/{handle}")
        finally:
            os.close(handle)
    else:
        with tempfile.NamedTemporaryFile() as file:
            file.write(pem)
            file.flush()
            context.load_cert_chain(file.name)
