"""Endpoints that register themselves, in the language and in snapshots: only what uses them is compiled again."""

import pytest

from control.policy.checking import check
from control.policy.endpoints import Registered
from control.policy.errors import PolicyErrors
from control.policy.facts import RequestFacts
from control.policy.reading import normalize, read_bytes, to_yaml
from control.policy.snapshot import Snapshot, build

V1, V2 = Registered("v1", "10.0.0.1:80"), Registered("v2", "10.0.0.2:80", True)


def texts(policy: str) -> dict[str, str]:
    return {each.policy.service: normalize(each.policy) for each in read_bytes(policy.encode(), "x.yaml")}


def made(policy: str, *registered: Registered) -> Snapshot:
    return build(1, texts(policy), registered={"web": registered})


def shares(snapshot: Snapshot, service: str = "web") -> list[tuple[str, list[str]]]:
    route = snapshot.services[service].own
    return [(share.name, [endpoint.address for endpoint in share.endpoints]) for share in route.shares]


@pytest.mark.parametrize(
    ("endpoints", "found"),
    [
        ("auto", ["10.0.0.1:80", "10.0.0.2:80"]),
        ("{v1: auto}", ["10.0.0.1:80"]),
        ("{v1: ['a:1'], '*': auto}", ["a:1", "10.0.0.2:80"]),
        ("{v1: auto, v3: ['a:1']}", ["10.0.0.1:80", "a:1"]),
        ("{v3: auto}", []),
        ("['a:1']", ["a:1"]),
    ],
)
def test_which_of_those_that_are_registered_are_used(endpoints, found):
    ((_, addresses),) = shares(made(f"service: web\nendpoints: {endpoints}", V1, V2))
    assert sorted(addresses) == sorted(found)


def test_a_version_may_come_later():
    policy = "service: web\nendpoints: auto\nto: {v1: 1, v9: 1}"
    assert check(read_bytes(policy.encode(), "x")) == []
    assert shares(made(policy, V1)) == [("v1", ["10.0.0.1:80"]), ("v9", [])]
    other = "service: shop\nto: web/v9\n---\nservice: web\nendpoints: auto"
    assert check(read_bytes(other.encode(), "x")) == []


def test_a_version_that_is_listed_otherwise_is_checked():
    documents = read_bytes(b"service: web\nendpoints: {v1: auto}\nto: v1", "x")
    assert check(documents) == []
    with pytest.raises(PolicyErrors) as caught:
        build(1, texts("service: web\nendpoints: {v1: auto}\nto: v1") | texts("service: a\nto: web/v2"))
    assert "web has no version v2: known are v1" in str(caught.value)


def test_nobody_registered_is_not_the_same_as_no_endpoints():
    assert shares(made("service: web\nendpoints: auto")) == [("", [])]
    assert shares(made("service: web")) == []


def test_mutual_tls_is_spoken_where_the_registration_says_so():
    permissive = made("service: web\nmtls: permissive\nendpoints: auto", V1, V2)
    assert {each.address: each.mtls for each in permissive.tables["web"][None]} == {
        "10.0.0.1:80": None,
        "10.0.0.2:80": "permissive",
    }
    strict = made("service: web\nmtls: strict\nendpoints: auto", V1, V2)
    assert {each.mtls for each in strict.tables["web"][None]} == {"strict"}


POLICY = """
service: web
endpoints: auto
---
service: shop
endpoints: ["a:1"]
routes: [{match: {path: /w}, to: web/v1}]
---
service: other
endpoints: auto
---
service: plain
"""


def test_a_change_of_registrations_compiles_what_uses_them_and_nothing_else():
    documents = texts(POLICY)
    first = build(7, documents, registered={"web": (V1,)})
    second = build(7, documents, first, registered={"web": (V1, V2)})
    assert second.registering == {"web", "other"}
    for service in ("other", "plain"):
        assert second.services[service] is first.services[service]
    for service in ("web", "shop"):
        assert second.services[service] is not first.services[service]
    assert shares(second) == [("", ["10.0.0.1:80", "10.0.0.2:80"])]
    assert second.find("web", 80) is second.services["web"]
    third = build(7, documents, second, registered={"web": (V2,)})
    facts = RequestFacts("GET", "shop", 80, "/w", ())
    import random

    route = third.services["shop"].route(facts, random.Random(1))
    assert [share.endpoints for share in route.shares] == [()]
    same = build(7, documents, third, registered={"web": (V2,), "nobody-knows": (V1,)})
    assert all(same.services[name] is third.services[name] for name in third.services)


def test_a_change_of_policy_keeps_who_is_registered():
    first = build(1, texts(POLICY), registered={"web": (V1,)})
    second = build(2, texts(POLICY.replace("service: web", "service: web\ntimeout: 1s")), first)
    assert shares(second) == [("", ["10.0.0.1:80"])]
    listed = build(
        3,
        texts(
            POLICY.replace("endpoints: auto", "endpoints: ['b:1']", 1).replace(
                "to: web/v1", "to: web/default"
            )
        ),
        second,
    )
    assert (shares(listed), listed.registering) == ([("", ["b:1"])], {"other"})


def test_it_is_written_as_it_is_read():
    (document,) = read_bytes(b"service: web\nendpoints: {v2: auto, v1: ['a:1']}", "x")
    assert "v2: auto" in to_yaml([document.policy])
    (short,) = read_bytes(b"service: web\nendpoints: auto", "x")
    assert read_bytes(to_yaml([short.policy]).encode(), "x")[0].policy == short.policy
