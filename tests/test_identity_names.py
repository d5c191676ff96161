"""control/identity/names.py: which SPIFFE IDs there are, and that a name comes back out of its ID."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from control.identity.names import parse_spiffe_id, spiffe_id

NAMES = st.from_regex(r"[a-z0-9]([a-z0-9._-]{0,20}[a-z0-9])?", fullmatch=True)


@given(mesh=NAMES, service=NAMES)
def test_a_name_comes_back_out_of_its_id(mesh, service):
    assert parse_spiffe_id(spiffe_id(mesh, service)) == (mesh, service)


def test_case_does_not_matter_as_in_hosts():
    assert spiffe_id("Staging", "Reviews") == "spiffe://staging/service/reviews"


@pytest.mark.parametrize("service", ["", "*", "a/b", "a b", "-a", "a%2fb", "é", "a" * 254, "a\n"])
def test_what_is_no_service(service):
    with pytest.raises(ValueError, match="is no name: use letters, digits"):
        spiffe_id("mesh", service)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "spiffe://mesh/service/",
        "spiffe://mesh/service/a/b",
        "spiffe://mesh/service/a/",
        "spiffe://mesh/ns/default/sa/a",
        "spiffe://mesh/Service/a",
        "SPIFFE://mesh/service/a",
        "https://mesh/service/a",
        "spiffe://mesh:80/service/a",
        "spiffe://user@mesh/service/a",
        "spiffe://mesh/service/a?x=1",
        "spiffe://mesh/service/a#x",
        "spiffe://mesh/service/..",
        "spiffe://mesh/service/A",
        "spiffe://mesh/service/a\n",
        " spiffe://mesh/service/a",
    ],
)
def test_what_is_no_id(text):
    with pytest.raises(ValueError, match=re.escape(f"{text!r} is no SPIFFE ID")):
        parse_spiffe_id(text)
