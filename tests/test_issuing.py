"""control/identity/issuing.py and requests.py: what a request proves, and what is refused, each with its reason."""

import base64
import json

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from control.identity import x509 as certificates
from control.identity.authority import Authority
from control.identity.identity import Identity
from control.identity.issuing import answer
from control.identity.names import spiffe_id
from control.identity.requests import Refused, make_request, read_request
from control.identity.tokens import read_token

START = 1_800_000_000.0
ID = "0" * 32


class Clock:
    def __init__(self):
        self.now = START

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def authority(tmp_path, clock):
    return Authority.create(tmp_path / "ca", "mesh", clock)


def request(shown, service="web", mesh="mesh", key=None, request_id=ID):
    return make_request(
        key or certificates.new_key(), spiffe_id(mesh, service), mesh, "node-1", request_id, shown
    )


def token(authority, service="web", ttl=3600.0, uses=1):
    return read_token(authority.new_token(service, ttl, uses))


def reason(authority, text):
    with pytest.raises(Refused) as refused:
        answer(authority, text, 60.0)
    return refused.value


def test_a_token_gets_the_certificate_of_its_service(authority):
    key = certificates.new_key()
    issued = answer(authority, request(token(authority), key=key), 60.0)
    assert (issued.service, issued.node, issued.by) == ("web", "node-1", "token")
    identity = Identity.of(issued.certificate, certificates.key_pem(key), authority.bundle().pem)
    assert identity.spiffe_id == "spiffe://mesh/service/web"
    assert identity.not_after == START + 60


def test_a_certificate_gets_the_next_one(authority, clock):
    identity = authority.issue("web", 60.0)
    clock.now += 59
    issued = answer(authority, request(identity), 60.0)
    assert (issued.service, issued.by) == ("web", "certificate")
    clock.now += 2
    refused = reason(authority, request(identity))
    assert (
        refused.reason
        == "it was asked with a certificate, but the certificate expired at 2027-01-15 08:01:00 UTC"
    )
    assert refused.node == "node-1"


def test_a_token_is_used_up(authority):
    once, thrice = token(authority), token(authority, uses=3)
    answer(authority, request(once), 60.0)
    refused = reason(authority, request(once))
    assert (refused.reason, refused.service) == (
        "its token was used once already, as often as it may be",
        "web",
    )
    for _ in range(3):
        answer(authority, request(thrice), 60.0)
    assert reason(authority, request(thrice)).reason.startswith("its token was used 3 times already")


def test_asking_again_with_the_same_key_is_no_second_use(authority):
    once, key = token(authority), certificates.new_key()
    for request_id in ("1" * 32, "2" * 32):
        answer(authority, request(once, key=key, request_id=request_id), 60.0)
    assert "used once" in reason(authority, request(once)).reason


def test_a_refused_request_uses_nothing_up(authority):
    once = token(authority)
    reason(authority, request(once, service="other"))
    answer(authority, request(once), 60.0)


def test_an_expired_token(authority, clock):
    early = token(authority, ttl=10.0)
    clock.now += 10.5
    assert reason(authority, request(early)).reason == "its token has expired"


def test_a_token_or_a_certificate_of_another_service(authority):
    refused = reason(authority, request(token(authority), service="bank"))
    assert refused.reason == "it wants 'spiffe://mesh/service/bank', but its token is of web"
    refused = reason(authority, request(authority.issue("web"), service="bank"))
    assert refused.reason == "it wants 'spiffe://mesh/service/bank', but its certificate is of web"
    assert (refused.service, refused.node) == ("web", "node-1")


def test_a_token_of_another_authority(authority, tmp_path, clock):
    other = Authority.create(tmp_path / "other", "mesh", clock)
    said = "its token was not made by this authority, or was altered"
    assert reason(authority, request(token(other))).reason == said


def test_tampered_claims(authority):
    """Whoever sees a request may copy its claims, but proves nothing by them."""
    genuine = token(authority)
    forged = read_token(authority.new_token("bank", 3600.0, 1))
    for claims, secret in (
        (forged.claims, genuine.secret),
        (genuine.claims, b""),
        (genuine.claims, b"x" * 32),
    ):
        stolen = type(genuine)(**{**vars(genuine), "claims": claims, "secret": secret})
        assert "was not made by this authority, or was altered" in reason(authority, request(stolen)).reason


def test_what_stands_in_a_request_lets_nobody_ask_for_another_key(authority):
    seen = json.loads(request(token(authority)))
    mine = json.loads(request(token(authority)))
    assert "altered" in reason(authority, json.dumps({**seen, "csr": mine["csr"]})).reason
    assert "altered" in reason(authority, json.dumps({**seen, "id": "1" * 32})).reason
    shown = json.loads(request(authority.issue("web")))
    forged = {**shown, "csr": mine["csr"]}
    assert reason(authority, json.dumps(forged)).reason.endswith("whose key the sender does not have")


def test_a_certificate_of_another_authority(authority, tmp_path, clock):
    other = Authority.create(tmp_path / "other", "mesh", clock).issue("web")
    assert "signed by none of the trusted roots" in reason(authority, request(other)).reason


def test_a_certificate_without_its_key(authority):
    stolen, own = authority.issue("web"), authority.issue("other")
    shown = type(stolen)(**{**vars(stolen), "key": own.key})
    assert reason(authority, request(shown)).reason.endswith("whose key the sender does not have")


def test_a_root_is_nobody(authority):
    root = Identity("x", authority.bundle().pem, certificates.key_pem(authority.root_key(1)), b"", 0, 0)
    assert "is an authority's, not a service's" in reason(authority, request(root)).reason


def test_revoked_are_tokens_and_certificates_from_before(authority, clock):
    before, identity = token(authority), authority.issue("web", 3600.0)
    others = authority.issue("other", 3600.0)
    clock.now += 5
    authority.revoke("Web")
    assert (
        reason(authority, request(before)).reason
        == "its token was revoked, or is not in the authority's ledger"
    )
    assert reason(authority, request(identity)).reason == (
        "certificates of web from before were revoked: it needs a new token"
    )
    answer(authority, request(others, service="other"), 60.0)
    clock.now += 5
    answer(authority, request(token(authority)), 60.0)
    answer(authority, request(authority.issue("web", 3600.0)), 60.0)


def test_both_roots_of_a_rotation_are_known(authority):
    old = authority.issue("web")
    authority.begin_rotation()
    assert authority.issue("web").bundle.count(b"BEGIN") == 2
    authority.sign_with_newest()
    issued = answer(authority, request(old), 60.0)
    roots = authority.bundle().roots
    leaf = x509.load_pem_x509_certificate(issued.certificate)
    assert [certificates.signed_by(leaf, root) for root in roots] == [True, False]
    authority.drop_old_roots()
    assert "signed by none of the trusted roots" in reason(authority, request(old)).reason
    assert not (authority.folder / "root-1.key").exists()


def csr(*names):
    key = certificates.new_key()
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=True)
    return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM).decode()


NOTHING = "it is no certificate request"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x",
        "[]",
        "{}",
        "null",
        "[" * 10_000,
        "x" * 30_000,
        json.dumps({"id": ID, "csr": csr(), "token": "x", "proof": 7}),
        json.dumps({"id": ID, "csr": csr(), "proof": "x"}),
        json.dumps({"id": ID, "csr": csr(), "token": "x", "certificate": "x", "proof": "x"}),
        json.dumps({"id": "../7", "csr": csr(), "token": "x", "proof": "x"}),
        json.dumps({"id": ID, "csr": "x", "token": "x", "proof": "x"}),
    ],
)
def test_what_is_no_request(authority, text):
    assert reason(authority, text).reason == NOTHING


@given(
    text=st.text()
    | st.recursive(st.text() | st.none(), lambda x: st.dictionaries(st.text(), x)).map(json.dumps)
)
def test_anything_may_stand_in_redis(text):
    with pytest.raises(Refused):
        read_request(text, "mesh")


SHOWN = x509.load_pem_x509_csr(csr(x509.UniformResourceIdentifier("spiffe://mesh/service/web")).encode())
DER = SHOWN.public_bytes(Encoding.DER)


def pem(kind, der):
    text = base64.encodebytes(der).decode()
    return f"-----BEGIN {kind}-----\n{text}-----END {kind}-----\n"


@settings(max_examples=500)
@given(at=st.integers(0, len(DER) - 1), byte=st.integers(0, 255))
def test_a_spoilt_csr_is_refused(at, byte):
    """Some are of curves or versions that nobody knows, of which the library speaks by exceptions of their own."""
    der = DER[:at] + bytes([byte]) + DER[at + 1 :]
    said = {"id": ID, "csr": pem("CERTIFICATE REQUEST", der), "token": "x", "proof": "x"}
    if der == DER:
        read_request(json.dumps(said), "mesh")
    else:
        with pytest.raises(Refused):
            read_request(json.dumps(said), "mesh")


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(at=st.integers(0, 2**16), change=st.integers(1, 255))
def test_a_spoilt_certificate_is_refused(authority, at, change):
    shown = authority.issue("web")
    der = bytearray(x509.load_pem_x509_certificate(shown.certificate).public_bytes(Encoding.DER))
    der[at % len(der)] ^= change
    said = {**json.loads(request(shown)), "certificate": pem("CERTIFICATE", bytes(der))}
    try:
        answer(authority, json.dumps(said), 60.0)
    except Refused:
        return
    # How many bits at the signature's end are unused may be said in two ways where the last one is 0.
    spoilt, whole = (
        x509.load_der_x509_certificate(bytes(der)),
        x509.load_pem_x509_certificate(shown.certificate),
    )
    assert spoilt.tbs_certificate_bytes == whole.tbs_certificate_bytes
    assert spoilt.signature == whole.signature


@pytest.mark.parametrize("old", ["1.2.840.10045.3.1.7", "version"])
def test_a_curve_and_a_version_that_nobody_knows(authority, old):
    curve, version = bytes.fromhex("06082a8648ce3d030107"), bytes.fromhex("020100")
    der = (
        DER.replace(curve, curve[:-1] + b"\x63")
        if old != "version"
        else DER.replace(version, b"\x02\x01\x63", 1)
    )
    assert der != DER
    said = {"id": ID, "csr": pem("CERTIFICATE REQUEST", der), "token": "x", "proof": "x"}
    assert reason(authority, json.dumps(said)).reason == NOTHING


def test_claims_that_are_none(authority):
    said = {"id": ID, "csr": csr(), "token": "x", "proof": "x"}
    assert reason(authority, json.dumps(said)).reason == "its token is no join token"
    said = {"id": ID, "csr": csr(), "certificate": "x", "proof": "é"}
    assert reason(authority, json.dumps(said)).reason == "its certificate: no certificates in PEM"
    said = json.loads(request(token(authority)))
    assert "altered" in reason(authority, json.dumps({**said, "proof": "é"})).reason
