"""Identities of a mesh for the tests: the right ones, and one for each way in which one can be wrong."""

import ssl
import time
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509 as cryptography_x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding

from control.identity import x509
from control.identity.authority import Authority
from control.identity.identity import Identity
from control.identity.names import spiffe_id


@dataclass(frozen=True)
class Shown:
    """What a peer shows, as files that any tool takes. folder: as mesh_identity takes it."""

    folder: Path

    @property
    def certificate(self) -> str:
        return str(self.folder / "cert.pem")

    @property
    def key(self) -> str:
        return str(self.folder / "key.pem")

    @property
    def bundle(self) -> str:
        return str(self.folder / "bundle.pem")

    def client(self) -> ssl.SSLContext:
        """Python's ssl as a caller who shows this; it trusts the bundle."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.load_verify_locations(self.bundle)
        context.load_cert_chain(self.certificate, self.key)
        return context

    def server(self) -> ssl.SSLContext:
        """Python's ssl as a service that shows this and wants a certificate of the bundle."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.certificate, self.key)
        context.load_verify_locations(self.bundle)
        context.verify_mode = ssl.CERT_REQUIRED
        return context


class Identities:
    """An authority of the mesh in a folder, and what it signs."""

    def __init__(self, folder: Path, mesh: str = "mesh") -> None:
        self.folder = folder
        self.mesh = mesh
        self.authority = Authority.create(folder / "ca", mesh)

    def of(self, service: str, name: str = "", lifetime: float = x509.LEAF_LIFETIME) -> Shown:
        """A service's, as it should be."""
        shown = Shown(self.folder / (name or service))
        self.authority.issue(service, lifetime).write(shown.folder)
        return shown

    def at(self, service: str, name: str, start: float, lifetime: float) -> Shown:
        """Made so many seconds from now, valid for that long."""
        key = x509.new_key()
        leaf = x509.new_leaf(
            self.authority.root(1),
            self.authority.root_key(1),
            spiffe_id(self.mesh, service),
            key.public_key(),
            time.time() + start,
            lifetime,
        )
        return self._write(name, leaf.public_bytes(Encoding.PEM), x509.key_pem(key))

    def expired(self, service: str) -> Shown:
        return self.at(service, f"{service}-expired", -7200, 3600)

    def not_yet_valid(self, service: str) -> Shown:
        return self.at(service, f"{service}-early", 7200, 3600)

    def without_uri(self, *, names: tuple[str, ...] = ("reviews.example",)) -> Shown:
        """Signed by the mesh's root, but naming a host instead of a service."""
        root, key = self.authority.root(1), x509.new_key()
        now = time.time()
        leaf = (
            x509._builder(cryptography_x509.Name([]), root.subject, key.public_key(), now, 3600)
            .add_extension(
                cryptography_x509.SubjectAlternativeName([cryptography_x509.DNSName(name) for name in names]),
                critical=True,
            )
            .add_extension(
                cryptography_x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(
                    root.extensions.get_extension_for_class(cryptography_x509.SubjectKeyIdentifier).value
                ),
                critical=False,
            )
            .sign(self.authority.root_key(1), hashes.SHA256())
        )
        return self._write("without-uri", leaf.public_bytes(Encoding.PEM), x509.key_pem(key))

    def of_another_authority(self, service: str) -> Shown:
        """The right name, signed by somebody else; it trusts this mesh's root."""
        folder = self.folder / "other-ca"
        other = (
            Authority.create(folder, self.mesh) if not folder.exists() else Authority.open(folder, self.mesh)
        )
        issued = other.issue(service)
        return self._write(f"{service}-forged", issued.certificate, issued.key)

    def _write(self, name: str, certificate: bytes, key: bytes) -> Shown:
        shown = Shown(self.folder / name)
        identity = Identity("", certificate, key, self.authority.bundle().pem, 0, 0)
        identity.write(shown.folder)
        return shown
