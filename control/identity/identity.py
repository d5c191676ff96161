"""What a proxy shows to prove who it is: certificate, key, and the roots by which it checks others."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509

from control.files import write_file
from control.identity import x509 as certificates
from control.identity.names import parse_spiffe_id
from control.identity.private_files import NOT_EVERYBODY, read_secret

CERTIFICATE, KEY, BUNDLE = "cert.pem", "key.pem", "bundle.pem"


@dataclass(frozen=True)
class Identity:
    """A service's certificate at one moment. All PEM; the key is not encrypted and in no repr."""

    spiffe_id: str
    certificate: bytes
    """The leaf first, then what leads to a root, if anything."""
    key: bytes
    bundle: bytes
    """The trusted roots, one or more."""
    not_before: float
    not_after: float
    """Unix seconds; the leaf's."""
    generation: int = 1
    """One more at each change in a process, so that TLS contexts can be kept by it."""

    def __repr__(self) -> str:
        return f"Identity({self.spiffe_id!r}, generation={self.generation}, not_after={self.not_after:.0f})"

    @property
    def service(self) -> str:
        return parse_spiffe_id(self.spiffe_id)[1]

    @staticmethod
    def of(certificate: bytes, key: bytes, bundle: bytes, generation: int = 1) -> "Identity":
        """Checks that the three belong together. Raises ValueError with one sentence; the time is not looked at."""
        leaf, roots = read_certificates(certificate, CERTIFICATE)[0], read_certificates(bundle, BUNDLE)
        try:
            private = certificates.read_key(key)
        except ValueError as error:
            raise ValueError(f"{KEY}: {error}") from None
        if certificates.public_bytes(private.public_key()) != certificates.public_bytes(leaf.public_key()):
            raise ValueError(f"{KEY} does not belong to {CERTIFICATE}")
        after = leaf.not_valid_after_utc.timestamp()
        try:
            name = certificates.check_leaf(leaf, roots, after)
            parse_spiffe_id(name)
        except ValueError as error:
            raise ValueError(f"{CERTIFICATE} under {BUNDLE}: {error}") from None
        before = leaf.not_valid_before_utc.timestamp()
        return Identity(name, certificate, key, bundle, before, after, generation)

    @staticmethod
    def read(directory: Path, generation: int = 1) -> "Identity":
        """From cert.pem, key.pem and bundle.pem. Raises OSError, and ValueError with one sentence."""
        key = read_secret(directory / KEY, closed_to=NOT_EVERYBODY)
        certificate, bundle = (directory / CERTIFICATE).read_bytes(), (directory / BUNDLE).read_bytes()
        return Identity.of(certificate, key, bundle, generation)

    def write(self, directory: Path) -> None:
        """As read takes it; the folder is made, for its owner alone, where it is not there. Raises OSError."""
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_file(directory / KEY, self.key)
        write_file(directory / CERTIFICATE, self.certificate, 0o644)
        write_file(directory / BUNDLE, self.bundle, 0o644)


def read_certificates(pem: bytes, what: str) -> Sequence[x509.Certificate]:
    """At least one certificate out of PEM. Raises ValueError that begins with `what`; only P-256 keys are taken."""
    try:
        found = x509.load_pem_x509_certificates(pem)
        suitable = all(certificates.is_p256(each.public_key()) for each in found)
    except certificates.UNREADABLE:
        raise ValueError(f"{what}: no certificates in PEM") from None
    if not suitable:
        raise ValueError(f"{what}: a certificate's key is not of P-256")
    return found
