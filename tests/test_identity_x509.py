"""control/identity/x509.py: what is signed, as OpenSSL and RFC 5280 see it, and what is refused."""

import datetime
import subprocess

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from control.identity import x509 as certificates

NOW = 1_800_000_000.0
ROOT_KEY = certificates.new_key()
ROOT = certificates.new_root("mesh", ROOT_KEY, NOW)
NAME = "spiffe://mesh/service/web"


def leaf(**changes):
    arguments = {"root": ROOT, "root_key": ROOT_KEY, "spiffe_id": NAME, "now": NOW, "lifetime": 100.0}
    return certificates.new_leaf(
        **{**arguments, "public_key": certificates.new_key().public_key(), **changes}
    )


def hand_made(*names, ca=False):
    """A leaf of the root as another program might sign it."""
    start = datetime.datetime.fromtimestamp(NOW, datetime.UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([]))
        .issuer_name(ROOT.subject)
        .public_key(certificates.new_key().public_key())
        .serial_number(1)
        .not_valid_before(start)
        .not_valid_after(start + datetime.timedelta(days=1))
    )
    if ca is not None:
        builder = builder.add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=True)
    return builder.sign(ROOT_KEY, hashes.SHA256())


def test_a_leaf_is_of_the_kind_that_peers_expect():
    found = leaf()
    extensions = found.extensions
    names = extensions.get_extension_for_class(x509.SubjectAlternativeName)
    assert names.critical
    assert list(names.value) == [x509.UniformResourceIdentifier(NAME)]
    assert not found.subject.rdns
    assert isinstance(found.public_key(), ec.EllipticCurvePublicKey)
    assert not extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    usage = extensions.get_extension_for_class(x509.KeyUsage).value
    assert usage.digital_signature
    assert not usage.key_cert_sign
    purposes = extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert {purpose._name for purpose in purposes} == {"serverAuth", "clientAuth"}
    assert certificates.check_leaf(found, [ROOT], NOW) == NAME


@pytest.mark.parametrize(
    ("lifetime", "before", "after"),
    [(86400.0, 300, 86400), (20.0, 10, 20), (20 * 365 * 86400.0, 300, 3650 * 86400)],
)
def test_a_leaf_is_backdated_and_never_outlives_its_root(lifetime, before, after):
    found = leaf(lifetime=lifetime)
    assert found.not_valid_before_utc.timestamp() == NOW - before
    assert found.not_valid_after_utc.timestamp() == NOW + after


def test_openssl_verifies_it_for_both_purposes(tmp_path):
    import time

    now = time.time()
    root = certificates.new_root("mesh", ROOT_KEY, now)
    (tmp_path / "root.pem").write_bytes(root.public_bytes(Encoding.PEM))
    (tmp_path / "leaf.pem").write_bytes(leaf(root=root, now=now).public_bytes(Encoding.PEM))
    for purpose in ("sslclient", "sslserver"):
        command = ["openssl", "verify", "-x509_strict", "-purpose", purpose]
        ran = subprocess.run(
            [*command, "-CAfile", tmp_path / "root.pem", tmp_path / "leaf.pem"],
            capture_output=True,
            text=True,
        )
        assert ran.returncode == 0, ran.stdout + ran.stderr


def test_two_roots_of_one_mesh_are_told_apart_by_name_too():
    assert certificates.new_root("mesh", certificates.new_key(), NOW).subject != ROOT.subject


OTHER_KEY = certificates.new_key()
OTHER = certificates.new_root("mesh", OTHER_KEY, NOW)
URI = x509.UniformResourceIdentifier


@pytest.mark.parametrize(
    ("found", "roots", "at", "reason"),
    [
        (leaf(), [OTHER], 0, "signed by none of the trusted roots"),
        (leaf(), [], 0, "signed by none of the trusted roots"),
        (leaf(root_key=OTHER_KEY), [ROOT, OTHER], 0, "signed by none of the trusted roots"),
        (leaf(), [ROOT], 101, "the certificate expired at 2027-01-15 08:01:40 UTC"),
        (leaf(), [ROOT], -51, "the certificate is not valid before 2027-01-15 07:59:10 UTC"),
        (hand_made(URI(NAME), URI("spiffe://mesh/service/b")), [ROOT], 1, "names 2 URIs, not one"),
        (hand_made(x509.DNSName("web")), [ROOT], 1, "names no URI"),
        (hand_made(), [ROOT], 1, "names no URI"),
        (hand_made(URI(NAME), ca=True), [ROOT], 1, "is an authority's, not a service's"),
        (hand_made(URI(NAME), ca=None), [ROOT], 1, "does not say that it is no authority's"),
    ],
)
def test_what_proves_nothing(found, roots, at, reason):
    with pytest.raises(ValueError, match=reason):
        certificates.check_leaf(found, roots, NOW + at)


def test_either_of_two_roots_is_enough():
    assert certificates.check_leaf(leaf(), [OTHER, ROOT], NOW) == NAME


@pytest.mark.parametrize(
    "key", [rsa.generate_private_key(65537, 2048), ec.generate_private_key(ec.SECP384R1())]
)
def test_keys_of_another_kind_are_refused(key):
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    with pytest.raises(ValueError, match=r"not a private key of P-256"):
        certificates.read_key(pem)


def test_a_key_comes_back_out_of_its_pem():
    key = certificates.new_key()
    read = certificates.read_key(certificates.key_pem(key))
    assert certificates.public_bytes(read.public_key()) == certificates.public_bytes(key.public_key())
