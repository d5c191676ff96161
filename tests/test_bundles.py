"""control/identity/bundles.py: which trust bundle a proxy takes from Redis."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from control.identity import x509 as certificates
from control.identity.bundles import Bundle, read_bundle, write_bundle

NOW = 1_800_000_000.0
KEYS = [certificates.new_key() for _ in range(3)]
ROOTS = [certificates.new_root("mesh", key, NOW) for key in KEYS]
OLD, NEW, FOREIGN = (certificates.fingerprint(root) for root in ROOTS)


def bundle(serial=7, numbers=(0, 1), keys=None, mesh="mesh"):
    roots = tuple(ROOTS[number] for number in numbers)
    said = Bundle(serial, roots, certificates.fingerprint(roots[0]))
    return write_bundle(mesh, said, [KEYS[number] for number in keys or numbers])


@pytest.mark.parametrize("trusted", [[OLD], [NEW], [FOREIGN, NEW]])
def test_who_trusts_one_root_takes_the_other(trusted):
    read = read_bundle(bundle(), "mesh", trusted, least=7)
    assert (read.serial, read.signing, read.fingerprints) == (7, OLD, {OLD, NEW})
    assert read.pem.count(b"BEGIN CERTIFICATE") == 2


@pytest.mark.parametrize(
    ("text", "trusted", "least", "reason"),
    [
        (bundle(), [FOREIGN], 0, "is signed by no root that is trusted here"),
        (bundle(), [], 0, "is signed by no root that is trusted here"),
        (bundle(numbers=(0, 2), keys=(2, 2)), [OLD], 0, "is signed by no root that is trusted here"),
        (bundle(), [OLD], 8, "is older than the one in force (7 < 8)"),
        (bundle(mesh="other"), [OLD], 0, "is of mesh 'other', not mesh"),
        ("", [OLD], 0, "is spoiled"),
        ("{}", [OLD], 0, "is spoiled"),
        ("[" * 9999, [OLD], 0, "is spoiled"),
        ("x" * 200_000, [OLD], 0, "is spoiled"),
    ],
)
def test_what_is_not_taken(text, trusted, least, reason):
    with pytest.raises(ValueError, match="the trust bundle in Redis") as refused:
        read_bundle(text, "mesh", trusted, least)
    assert reason in str(refused.value)


def test_a_root_slipped_in_is_not_signed():
    genuine, forged = json.loads(bundle()), json.loads(bundle(numbers=(0, 2)))
    with pytest.raises(ValueError, match="signed by no root"):
        read_bundle(json.dumps({**forged, "signatures": genuine["signatures"]}), "mesh", [OLD])


@given(
    text=st.recursive(st.none() | st.text() | st.integers(), lambda x: st.dictionaries(st.text(), x)),
    signatures=st.dictionaries(st.sampled_from([OLD, NEW]), st.text() | st.none()),
)
def test_anything_may_stand_in_redis(text, signatures):
    for said in (text, {"bundle": json.dumps(text), "signatures": signatures}):
        with pytest.raises(ValueError, match="the trust bundle in Redis"):
            read_bundle(json.dumps(said), "mesh", [OLD])
