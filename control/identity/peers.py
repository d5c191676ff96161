"""What a peer's certificate proves, and in what words it is refused. Pure: time is an argument.

https://github.com/spiffe/spiffe/blob/main/standards/X509-SVID.md, 5.2: a leaf, one URI, of a trust domain that is ours.
"""

from cryptography import x509

from control.identity.names import parse_spiffe_id
from control.identity.x509 import uri_of


class Distrust(ValueError):
    """Why a peer is refused: one phrase for a person, and a `code` to count it by."""

    def __init__(self, code: str, text: str) -> None:
        super().__init__(text)
        self.code = code


def proven_id(certificate: x509.Certificate, mesh: str, now: float) -> str:
    """The SPIFFE ID that a certificate with a verified chain proves. Raises Distrust.

    A resumed session brings the certificate of the first handshake along, so its time is looked at here too.
    """
    before, after = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if now > after.timestamp():
        raise Distrust("expired", f"its certificate expired at {after:%Y-%m-%d %H:%M:%S} UTC")
    if now < before.timestamp():
        raise Distrust("not-yet-valid", f"its certificate is not valid before {before:%Y-%m-%d %H:%M:%S} UTC")
    if _is_authority(certificate):
        raise Distrust("no-identity", "its certificate is an authority's, not a service's")
    try:
        uri = uri_of(certificate)
        owner, _ = parse_spiffe_id(uri)
    except ValueError as error:
        raise Distrust("no-identity", f"its certificate proves no service: {error}") from None
    if owner != mesh.lower():
        raise Distrust(
            "wrong-mesh", f"its certificate is of {uri}, a service of another mesh than {mesh.lower()}"
        )
    return uri


def expect(found: str, expected: str) -> None:
    """Raises Distrust where the certificate is not of the service that was meant."""
    if found != expected:
        raise Distrust("wrong-service", f"its certificate is of {found}, not of {expected}")


def chain_distrust(code: int, words: str) -> Distrust:
    """For an error of OpenSSL's X509_verify_cert(3), by its number and words."""
    if code == 10:
        return Distrust("expired", "its certificate has expired")
    if code == 9:
        return Distrust("not-yet-valid", "its certificate is not valid yet")
    if code in (18, 19, 20, 21):
        return Distrust("untrusted", f"its certificate is signed by no root that this mesh trusts ({words})")
    return Distrust("untrusted", f"its certificate does not hold: {words}")


def handshake_distrust(reason: str) -> Distrust:
    """For any other failed handshake, by OpenSSL's reason in its own spelling or in lower case with spaces."""
    words = reason.replace("_", " ").lower()
    if words == "peer did not return a certificate":
        return Distrust("no-certificate", "it shows no certificate")
    if words in ("unsupported protocol", "tlsv1 alert protocol version", "version too low"):
        return Distrust("version", f"it speaks no TLS 1.2 or newer ({words})")
    if words in ("wrong version number", "http request", "packet length too long", "record layer failure"):
        return Distrust("plaintext", f"it does not speak TLS ({words})")
    if "alert" in words:
        return Distrust("refused-by-peer", f"it refuses this proxy: {words}")
    return Distrust("handshake", f"the handshake failed: {words}")


def _is_authority(certificate: x509.Certificate) -> bool:
    try:
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except x509.ExtensionNotFound:
        return False
