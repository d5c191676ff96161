"""Sticky splits in the proxy: who is known gets the same version, who is not gets a name."""

from random import Random

import pytest

from addons.routing import Routing
from addons.sticky import StickySplits
from tests.flows import make_answer, make_flow, pinned, snapshot

SPLIT = 'service: web\nendpoints: {v1: ["a:1"], v2: ["b:1"]}\nto: {v1: 50, v2: 50}\nsticky: '


def routed(policy, headers=None, seed: int = 1):
    flow = make_flow("http://web/", headers=headers)
    exchange = pinned(flow, policy)
    Routing(Random(seed)).request(flow)
    return flow, exchange


def version(policy, headers=None, seed: int = 1) -> str:
    return routed(policy, headers, seed)[1].share.name


@pytest.mark.parametrize(
    ("sticky", "header", "text"),
    [("{header: x-user}", "x-user", "{}"), ("{cookie: uid}", "cookie", "a=b; uid={}; c=d")],
)
def test_the_same_user_the_same_version(sticky, header, text):
    policy = snapshot(SPLIT + sticky)
    seen = [
        {version(policy, {header: text.format(number)}, seed) for seed in range(3)} for number in range(40)
    ]
    assert all(len(each) == 1 for each in seen)
    assert {name for each in seen for name in each} == {"v1", "v2"}


@pytest.mark.parametrize("headers", [None, {"x-user": ""}])
def test_without_the_header_by_chance(headers):
    policy = snapshot(SPLIT + "{header: x-user}")
    assert {version(policy, headers, seed) for seed in range(40)} == {"v1", "v2"}
    flow, _ = routed(policy, headers)
    flow.response = make_answer()
    StickySplits().responseheaders(flow)
    assert "set-cookie" not in flow.response.headers


def test_without_the_cookie_one_is_set_that_leads_to_the_same_version():
    policy = snapshot(SPLIT + "{cookie: mesh-canary, ttl: 1h}")
    met = set()
    for seed in range(30):
        flow, exchange = routed(policy, seed=seed)
        flow.response = make_answer(set_cookie="own=1")
        StickySplits().responseheaders(flow)
        own, field = flow.response.headers.get_all("set-cookie")
        assert own == "own=1"
        pair, *rest = field.split("; ")
        assert rest == ["Max-Age=3600", "Path=/", "HttpOnly", "SameSite=Lax"]
        name, _, value = pair.partition("=")
        assert (name, len(value)) == ("mesh-canary", 32)
        assert version(policy, {"cookie": pair}) == exchange.share.name
        met.add(exchange.share.name)
    assert met == {"v1", "v2"}


def test_a_cookie_that_is_there_is_left_alone():
    flow, _ = routed(snapshot(SPLIT + "{cookie: mesh-canary}"), {"cookie": "mesh-canary=mine"})
    flow.response = make_answer()
    StickySplits().responseheaders(flow)
    assert "set-cookie" not in flow.response.headers


def test_where_there_is_nothing_to_split_nobody_gets_a_name():
    flow, exchange = routed(snapshot(SPLIT.replace("v2: 50", "v2: 0") + "{cookie: mesh-canary}"))
    flow.response = make_answer()
    StickySplits().responseheaders(flow)
    assert exchange.share.name == "v1"
    assert "set-cookie" not in flow.response.headers
