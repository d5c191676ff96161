"""control/signing.py: what a signature of policy proves, and that nothing of it can be changed or brought back."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from control.signing import Signer, UntrustedError, Verifier, new_key, read_private, read_public, sign, verify

PRIVATE, PUBLIC = new_key()
OTHER_PRIVATE, OTHER_PUBLIC = new_key()
KEY, KEYS = read_private(PRIVATE), read_public(PUBLIC)
DOCUMENTS = {"a": "{}", "b": '{"retry":2}'}
SIGNED = sign(KEY, "mesh", 7, 100.0, DOCUMENTS).write()


def test_what_was_signed_is_believed():
    found = verify(SIGNED, "mesh", 7, DOCUMENTS, KEYS)
    assert (found.revision, found.time) == (7, 100.0)
    assert verify(SIGNED, "mesh", 7, DOCUMENTS, read_public(OTHER_PUBLIC + PUBLIC)) == found


def altered(**changes):
    return json.dumps({**json.loads(SIGNED), **changes})


@pytest.mark.parametrize(
    ("text", "mesh", "revision", "documents", "reason"),
    [
        ("", "mesh", 7, DOCUMENTS, "it is not signed"),
        ("x", "mesh", 7, DOCUMENTS, "its signature is spoiled"),
        ("[]", "mesh", 7, DOCUMENTS, "its signature is spoiled"),
        ("[" * 9999, "mesh", 7, DOCUMENTS, "its signature is spoiled"),
        (altered(value="é"), "mesh", 7, DOCUMENTS, "its signature is spoiled"),
        (altered(value="AAAA"), "mesh", 7, DOCUMENTS, "its signature is forged"),
        (altered(revision=8), "mesh", 8, DOCUMENTS, "its signature is forged"),
        (altered(time=1e10), "mesh", 7, DOCUMENTS, "its signature is forged"),
        (altered(key="00"), "mesh", 7, DOCUMENTS, "it is signed with the key 00, which is not trusted here"),
        (SIGNED, "other", 7, DOCUMENTS, "its signature is forged"),
        (SIGNED, "mesh", 8, DOCUMENTS, "it is not what was signed as revision 7"),
        (SIGNED, "mesh", 7, {"a": "{}"}, "it is not what was signed as revision 7"),
        (SIGNED, "mesh", 7, {**DOCUMENTS, "c": "{}"}, "it is not what was signed as revision 7"),
        (SIGNED, "mesh", 7, {**DOCUMENTS, "a": "{ }"}, "it is not what was signed as revision 7"),
        (sign(read_private(OTHER_PRIVATE), "mesh", 7, 1.0, DOCUMENTS).write(), "mesh", 7, DOCUMENTS, "not trusted here"),
    ],
)  # fmt: skip
def test_what_is_not_believed(text, mesh, revision, documents, reason):
    with pytest.raises(UntrustedError, match=reason):
        verify(text, mesh, revision, documents, KEYS)


TEXTS = st.dictionaries(st.text(max_size=3), st.text(max_size=3), max_size=3)


@given(signed=TEXTS, shown=TEXTS)
def test_a_signature_is_of_these_documents_alone(signed, shown):
    text = sign(KEY, "mesh", 1, 1.0, signed).write()
    if signed == shown:
        verify(text, "mesh", 1, shown, KEYS)
    else:
        with pytest.raises(UntrustedError):
            verify(text, "mesh", 1, shown, KEYS)


def test_nothing_older_than_what_was_accepted():
    verifier = Verifier("mesh", KEYS)
    old, new = (sign(KEY, "mesh", revision, revision * 10.0, DOCUMENTS).write() for revision in (1, 2))
    verifier.accept(verifier.check(1, DOCUMENTS, old))
    # What was seen but not put in force makes nothing older.
    verifier.check(2, DOCUMENTS, new)
    verifier.check(1, DOCUMENTS, old)
    verifier.accept(verifier.check(2, DOCUMENTS, new))
    verifier.check(2, DOCUMENTS, new)
    with pytest.raises(
        UntrustedError, match="signed before revision 2, which is in force: somebody put back"
    ):
        verifier.check(1, DOCUMENTS, old)


def test_a_redis_that_was_restored_is_followed_once_somebody_signs_anew():
    """The revision is lower than before, the signature newer."""
    verifier = Verifier("mesh", KEYS)
    verifier.accept(verifier.check(50, {}, sign(KEY, "mesh", 50, 100.0, {}).write()))
    verifier.check(41, {}, sign(KEY, "mesh", 41, 101.0, {}).write())


def test_a_signers_slow_clock_makes_no_signature_older():
    signer = Signer("mesh", KEY)
    first = signer.sign(None, 1, {}, now=100.0)
    assert signer.sign(first, 2, {}, now=50.0).time > first.time
    assert signer.sign(first, 2, {}, now=200.0).time == 200.0


def test_what_is_no_key():
    for pem in (b"", b"x", PUBLIC, PRIVATE[:40]):
        with pytest.raises(ValueError, match="not a policy key: `mitmesh key init` makes one"):
            read_private(pem)
    for pem in (b"", b"x", PRIVATE, PUBLIC[:40], PUBLIC + PUBLIC[:40]):
        with pytest.raises(ValueError, match="not a public policy key"):
            read_public(pem)
