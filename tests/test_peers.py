"""What a certificate proves, and the words and codes of what it does not."""

import time
from pathlib import Path

import pytest
from cryptography import x509 as cryptography_x509

from control.identity.peers import Distrust, chain_distrust, expect, handshake_distrust, proven_id
from tests.identities import Identities, Shown


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Identities:
    return Identities(tmp_path_factory.mktemp("ca"))


def leaf(shown: Shown) -> cryptography_x509.Certificate:
    return cryptography_x509.load_pem_x509_certificate(Path(shown.certificate).read_bytes())


def test_a_service_of_the_mesh(made):
    assert proven_id(leaf(made.of("web")), "mesh", time.time()) == "spiffe://mesh/service/web"
    assert proven_id(leaf(made.of("web")), "MESH", time.time()) == "spiffe://mesh/service/web"


@pytest.mark.parametrize(
    ("make", "mesh", "code", "text"),
    [
        (lambda made: leaf(made.expired("a")), "mesh", "expired", "expired at 2"),
        (lambda made: leaf(made.not_yet_valid("a")), "mesh", "not-yet-valid", "is not valid before 2"),
        (lambda made: leaf(made.without_uri()), "mesh", "no-identity", "proves no service: "),
        (lambda made: leaf(made.of("a")), "other", "wrong-mesh", "a service of another mesh than other"),
        (lambda made: made.authority.root(1), "mesh", "no-identity", "an authority's"),
    ],
)  # fmt: skip
def test_what_proves_nothing(made, make, mesh, code, text):
    with pytest.raises(Distrust) as caught:
        proven_id(make(made), mesh, time.time() + 1)
    assert caught.value.code == code
    assert text in str(caught.value)


def test_another_service_than_was_meant():
    expect("spiffe://mesh/service/a", "spiffe://mesh/service/a")
    with pytest.raises(
        Distrust, match="is of spiffe://mesh/service/a, not of spiffe://mesh/service/b"
    ) as caught:
        expect("spiffe://mesh/service/a", "spiffe://mesh/service/b")
    assert caught.value.code == "wrong-service"


@pytest.mark.parametrize(
    ("found", "code"),
    [
        (chain_distrust(10, "certificate has expired"), "expired"),
        (chain_distrust(9, "certificate is not yet valid"), "not-yet-valid"),
        (chain_distrust(19, "self-signed certificate in certificate chain"), "untrusted"),
        (chain_distrust(20, "unable to get local issuer certificate"), "untrusted"),
        (chain_distrust(26, "unsuitable certificate purpose"), "untrusted"),
        (handshake_distrust("PEER_DID_NOT_RETURN_A_CERTIFICATE"), "no-certificate"),
        (handshake_distrust("unsupported protocol"), "version"),
        (handshake_distrust("TLSV1_ALERT_PROTOCOL_VERSION"), "version"),
        (handshake_distrust("WRONG_VERSION_NUMBER"), "plaintext"),
        (handshake_distrust("HTTP_REQUEST"), "plaintext"),
        (handshake_distrust("TLSV1_ALERT_UNKNOWN_CA"), "refused-by-peer"),
        (handshake_distrust("NO_SHARED_CIPHER"), "handshake"),
    ],
)
def test_openssls_words(found, code):
    assert found.code == code
    assert "\n" not in str(found)
