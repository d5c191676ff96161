"""control/identity/tokens.py: what a token says, and that nothing of it can be changed."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from control.identity.tokens import make_token, proof, read_token, secret_of

KEY = b"k" * 32


def token(**changes):
    said = {"key": KEY, "mesh": "mesh", "service": "Web", "expires": 100.5, "uses": 2, "root": "ab" * 32}
    return make_token(**{**said, **changes})


def test_what_it_says_comes_back():
    read = read_token(token() + "\n")
    assert (read.mesh, read.service, read.expires, read.uses, read.root) == (
        "mesh",
        "web",
        100.5,
        2,
        "ab" * 32,
    )
    assert read.secret == secret_of(KEY, read.claims)


def test_no_two_are_alike_and_no_repr_tells_the_secret():
    assert token() != token()
    read = read_token(token())
    assert "secret" not in repr(read)


def test_it_can_stand_in_a_shell_a_url_and_a_file_name():
    assert all(letter.isalnum() or letter in "-_." for letter in token())


@given(data=st.data())
def test_altered_anywhere_it_proves_something_else(data):
    text = token()
    at = data.draw(st.integers(0, len(text) - 1))
    letter = data.draw(st.sampled_from("abAB01-_."))
    altered = text[:at] + letter + text[at + 1 :]
    try:
        read = read_token(altered)
    except ValueError:
        return
    genuine = read_token(text)
    if (read.claims, read.secret) != (genuine.claims, genuine.secret):
        assert proof(read.secret, b"x") != proof(secret_of(KEY, read.claims), b"x")


@pytest.mark.parametrize(
    "text", ["", "x", "mitmesh1.x.y", "mitmesh1.e30.AA", "mitmesh2." + token()[9:], "a" * 3000]
)
def test_what_is_no_token(text):
    with pytest.raises(ValueError, match=r"^not a join token: `mitmesh token SERVICE` makes one$"):
        read_token(text)


def test_a_token_is_for_a_service():
    with pytest.raises(ValueError, match="is no name"):
        token(service="a/b")
