"""The language of authorization: shorthands, and what is said about mistakes."""

import pytest

from control.policy.errors import PolicyErrors
from control.policy.reading import read_bytes


def read(text: str):
    (document,) = read_bytes(f"service: web\nauthorization: {text}\n".encode(), "web.yaml")
    return document.policy.authorization


def test_one_stands_for_a_list_of_it():
    short = read("{allow: {from: Web, methods: get, paths: /a}}")
    assert short == read("{allow: [{from: [web], methods: [GET], paths: [{exact: /a}]}]}")
    assert short.document() == {"allow": [{"from": ["web"], "methods": ["GET"], "paths": [{"exact": "/a"}]}]}


def test_nothing_in_it_opens_a_route():
    assert (read("{}").allow, read("{}").deny, read("{}").audit) == (None, None, False)


@pytest.mark.parametrize(
    ("text", "field", "said"),
    [
        ("{allow: []}", "allow", "write at least one"),
        ("{deny: {}, allow: 7}", "allow", "write a mapping such as {from: web"),
        ("{allow: {from: []}}", "allow.from", "write at least one"),
        ("{allow: {from: 'a b'}}", "allow.from", 'write a service such as web, web-* or "*"'),
        ("{allow: {from: 'spiffe://Mesh/x'}}", "allow.from", "its trust domain in lower case"),
        ("{allow: {from: 'spiffe:web'}}", "allow.from", "write a SPIFFE ID, such as"),
        ("{allow: {source: web}}", "allow.source", "unknown field: "),
        ("{allow: {paths: admin}}", "allow.paths", "a path starts with /"),
        ("{allow: {paths: {regex: '('}}}", "allow.paths.regex", "not an RE2 regular expression"),
        ("{allow: {methods: 'G T'}}", "allow.methods", "write a method, such as GET"),
        ("{audit: on}", "audit", "write true or false"),
        ("{forbid: {}}", "forbid", "unknown field"),
        ("allow", "", "write a mapping such as {allow: [{from: web}]"),
    ],
)
def test_a_mistake_is_told_with_its_place_and_a_remedy(text, field, said):
    with pytest.raises(PolicyErrors) as caught:
        read(text)
    (problem,) = caught.value.problems
    assert problem.field == ".".join(filter(None, ("authorization", field)))
    assert said in problem.message
