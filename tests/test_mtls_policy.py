"""Where mutual TLS is spoken, by the policy alone: what a service says, what `"*"` says, what an endpoint says."""

from typing import Any

import pytest

from control.policy.explain import explain
from control.policy.facts import RequestFacts
from control.policy.model import Policy
from control.policy.mtls import endpoint_mode, mode
from control.policy.reading import normalize
from control.policy.snapshot import EMPTY, Snapshot, build

ENDPOINTS = ["10.0.0.1:80", {"address": "10.0.0.2:80", "mtls": True}]


def snapshot(*raw: dict[str, Any], previous: Snapshot | None = None) -> Snapshot:
    policies = [Policy.model_validate(each) for each in raw]
    return build(1, {policy.service: normalize(policy) for policy in policies}, previous)


def modes(of: Snapshot, service: str = "a") -> list[str | None]:
    return [endpoint.mtls for share in of.services[service].own.shares for endpoint in share.endpoints]


@pytest.mark.parametrize(
    ("said", "otherwise", "expected"),
    [
        (None, None, None),
        (None, "strict", "strict"),
        ("off", "strict", None),
        ("permissive", "strict", "permissive"),
        ("strict", None, "strict"),
    ],
)
def test_the_document_wins_over_the_defaults(said, otherwise, expected):
    assert mode(said, otherwise) == expected


@pytest.mark.parametrize(
    ("service", "speaks", "expected"),
    [
        ("strict", False, "strict"),
        ("strict", True, "strict"),
        ("permissive", False, None),
        ("permissive", True, "permissive"),
        (None, True, None),
    ],
)
def test_how_an_endpoint_is_reached(service, speaks, expected):
    assert endpoint_mode(service, speaks) == expected


@pytest.mark.parametrize(
    ("document", "star", "expected"),
    [
        ({}, {}, [None, None]),
        ({"mtls": "strict"}, {}, ["strict", "strict"]),
        ({"mtls": "permissive"}, {}, [None, "permissive"]),
        ({}, {"mtls": "strict"}, ["strict", "strict"]),
        ({"mtls": "off"}, {"mtls": "strict"}, [None, None]),
    ],
)
def test_endpoints_know_how_they_are_reached(document, star, expected):
    compiled = snapshot({"service": "a", "endpoints": ENDPOINTS, **document}, {"service": "*", **star})
    assert modes(compiled) == expected


def test_a_change_of_the_mode_reaches_who_reaches_the_service():
    other = {"service": "b", "to": "a/default"}
    first = snapshot({"service": "a", "endpoints": ENDPOINTS}, other)
    then = snapshot({"service": "a", "endpoints": ENDPOINTS, "mtls": "strict"}, other, previous=first)
    assert modes(then, "b") == ["strict", "strict"]
    assert then.services["b"].own.mtls is None


def test_a_change_of_the_defaults_renews_only_whom_it_concerns():
    documents: list[dict[str, Any]] = [
        {"service": "a", "endpoints": ENDPOINTS},
        {"service": "b", "endpoints": ENDPOINTS, "mtls": "permissive"},
    ]
    first = snapshot(*documents)
    then = snapshot(*documents, {"service": "*", "mtls": "strict"}, previous=first)
    assert modes(then) == ["strict", "strict"]
    assert then.tables["b"] is first.tables["b"]
    assert modes(snapshot(*documents, previous=then)) == [None, None]


@pytest.mark.parametrize(
    ("documents", "service", "expected"),
    [
        ([], "a", None),
        ([{"service": "a", "mtls": "strict"}], "a", "strict"),
        ([{"service": "a", "mtls": "strict"}], "b", None),
        ([{"service": "a"}, {"service": "*", "mtls": "permissive"}], "a", "permissive"),
        ([{"service": "*", "mtls": "strict"}], "not in the policy", "strict"),
        ([{"service": "*", "mtls": "strict"}, {"service": "a", "mtls": "off"}], "a", None),
    ],
)
def test_what_inbound_ports_take(documents, service, expected):
    assert (snapshot(*documents) if documents else EMPTY).inbound_mtls(service) == expected


def test_whom_nobody_claims_nobody_has_a_certificate_for():
    compiled = snapshot({"service": "*", "mtls": "strict"})
    assert compiled.unknown is not None
    assert compiled.unknown.own.mtls is None


def test_explain_says_it_and_where_it_is_said():
    policy = snapshot({"service": "a", "endpoints": ENDPOINTS}, {"service": "*", "mtls": "permissive"})
    explanation = explain(policy, RequestFacts("GET", "a", 80, "/", (), ""))
    assert explanation.data()["mtls"] == "permissive"
    assert 'mtls             permissive   (from "*")' in explanation.lines()
