"""Certificates: what the authority signs and what anybody checks. Pure: time is an argument, nothing is stored.

ECDSA on P-256 throughout. A leaf is signed by a root directly and names its owner in one URI, as
https://github.com/spiffe/spiffe/blob/main/standards/X509-SVID.md asks for.
"""

import datetime
from collections.abc import Sequence

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

ROOT_LIFETIME = 3650 * 86400.0
LEAF_LIFETIME = 86400.0
UNREADABLE = (
    ValueError,
    TypeError,
    UnsupportedAlgorithm,
    x509.InvalidVersion,
    x509.DuplicateExtension,
    x509.UnsupportedGeneralNameType,
)
"""What reading the parts of a stranger's certificate or request may raise."""
BACKDATED = 300.0
"""Seconds that a certificate is valid before its making, for clocks that are behind; for a short-lived one less."""
_PEM = serialization.Encoding.PEM


def new_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    """PKCS #8, not encrypted."""
    return key.private_bytes(_PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())


def read_key(pem: bytes) -> ec.EllipticCurvePrivateKey:
    """Raises ValueError for what is no P-256 key."""
    try:
        key = serialization.load_pem_private_key(pem, password=None)
    except (ValueError, TypeError):
        key = None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not is_p256(key.public_key()):
        raise ValueError("not a private key of P-256 in PEM")
    return key


def is_p256(key: object) -> bool:
    return isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, ec.SECP256R1)


def fingerprint(certificate: x509.Certificate) -> str:
    """SHA-256 in hexadecimal, as `openssl x509 -fingerprint -sha256` prints it but for the colons."""
    return certificate.fingerprint(hashes.SHA256()).hex()


def public_bytes(key: object) -> bytes:
    """A public key's SubjectPublicKeyInfo, to compare it by."""
    assert isinstance(key, ec.EllipticCurvePublicKey)
    return key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def new_root(
    mesh: str, key: ec.EllipticCurvePrivateKey, now: float, lifetime: float = ROOT_LIFETIME
) -> x509.Certificate:
    """A certificate of a root, signed by its own `key`; `now` in Unix seconds, `lifetime` in seconds."""
    # Two roots that are trusted at once need names that differ: some verifiers look no further.
    mark = x509.SubjectKeyIdentifier.from_public_key(key.public_key()).digest.hex()[:8]
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"mitmesh {mesh[:40]} {mark}")])
    builder = _builder(name, name, key.public_key(), now, lifetime).add_extension(
        x509.BasicConstraints(ca=True, path_length=0), critical=True
    )
    builder = builder.add_extension(_usage(signs_certificates=True), critical=True)
    identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    builder = builder.add_extension(identifier, critical=False)
    trust_domain = x509.UniformResourceIdentifier(f"spiffe://{mesh.lower()}")
    builder = builder.add_extension(x509.SubjectAlternativeName([trust_domain]), critical=False)
    return builder.sign(key, hashes.SHA256())


def new_leaf(
    root: x509.Certificate,
    root_key: ec.EllipticCurvePrivateKey,
    spiffe_id: str,
    public_key: ec.EllipticCurvePublicKey,
    now: float,
    lifetime: float = LEAF_LIFETIME,
) -> x509.Certificate:
    """A certificate that `public_key` belongs to `spiffe_id`, for servers and clients; it never outlives its root."""
    lifetime = min(lifetime, root.not_valid_after_utc.timestamp() - now)
    # An empty subject, as the URI says all; then the names are critical (RFC 5280, 4.2.1.6).
    builder = _builder(x509.Name([]), root.subject, public_key, now, lifetime)
    names = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(spiffe_id)])
    builder = builder.add_extension(names, critical=True)
    builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    builder = builder.add_extension(_usage(signs_certificates=False), critical=True)
    purposes = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH])
    builder = builder.add_extension(purposes, critical=False)
    own = x509.SubjectKeyIdentifier.from_public_key(public_key)
    builder = builder.add_extension(own, critical=False)
    issuer = root.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    authority = x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(issuer)
    builder = builder.add_extension(authority, critical=False)
    return builder.sign(root_key, hashes.SHA256())


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, now: float, lifetime: float
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(_time(now - min(BACKDATED, lifetime / 2)))
        .not_valid_after(_time(now + lifetime))
    )


def made_at(certificate: x509.Certificate) -> float:
    """Unix seconds at which the authority made it, to the second: it is backdated."""
    start, end = certificate.not_valid_before_utc.timestamp(), certificate.not_valid_after_utc.timestamp()
    return start + min(BACKDATED, (end - start) / 3)


def _time(seconds: float) -> datetime.datetime:
    return datetime.datetime.fromtimestamp(int(seconds), datetime.UTC)


def _usage(signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def uri_of(certificate: x509.Certificate | x509.CertificateSigningRequest) -> str:
    """The one URI among the names of a certificate or of a request for one. Raises ValueError if there is none, or more than one: then it is no SPIFFE ID."""
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        raise ValueError("it names no URI") from None
    except UNREADABLE:
        raise ValueError("its names cannot be read") from None
    uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    if len(uris) != 1:
        raise ValueError(f"it names {len(uris) or 'no'} URI{'s' if uris else ''}, not one")
    return uris[0]


def check_leaf(certificate: x509.Certificate, roots: Sequence[x509.Certificate], now: float) -> str:
    """The SPIFFE ID that the certificate proves under one of the roots at this time. Raises ValueError with the reason."""
    signer = next((root for root in roots if signed_by(certificate, root)), None)
    if signer is None:
        raise ValueError("the certificate is signed by none of the trusted roots")
    for whose, each in (("the certificate", certificate), ("its root", signer)):
        if now > each.not_valid_after_utc.timestamp():
            raise ValueError(f"{whose} expired at {each.not_valid_after_utc:%Y-%m-%d %H:%M:%S} UTC")
        if now < each.not_valid_before_utc.timestamp():
            raise ValueError(f"{whose} is not valid before {each.not_valid_before_utc:%Y-%m-%d %H:%M:%S} UTC")
    try:
        if certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca:
            raise ValueError("the certificate is an authority's, not a service's")
    except x509.ExtensionNotFound:
        raise ValueError("the certificate does not say that it is no authority's") from None
    return uri_of(certificate)


def signed_by(certificate: x509.Certificate, root: x509.Certificate) -> bool:
    """Whether the root itself, by name and key, has signed the certificate."""
    try:
        certificate.verify_directly_issued_by(root)
    except (*UNREADABLE, InvalidSignature):
        return False
    return True
