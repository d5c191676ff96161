"""Routing: which facts the policy sees, what it decides, and what happens when nothing can be decided."""

import asyncio
import random
from collections import Counter

import pytest
from mitmproxy import flow as mitmproxy_flow

from addons import routing
from addons.exchange import exchange_of
from addons.routing import Routing, facts_of
from tests.flows import loaded, make_answer, make_flow, pinned, snapshot

TWO = """\
service: web
endpoints: {v1: ["10.0.0.1:80"], v2: ["10.0.0.2:80"]}
"""


def routed(flow, policy="", seed=1, **pin):
    exchange = pinned(flow, policy, **pin)
    Routing(random.Random(seed)).request(flow)
    return exchange


def test_the_facts_are_what_the_client_named():
    facts = facts_of(make_flow("http://Web.Test:8080/a%20b?c=d", "PUT", {"X-A": "1"}), "shop")
    assert (facts.method, facts.host, facts.port, facts.target, facts.source) == (
        "PUT", "Web.Test".lower(), 8080, "/a%20b?c=d", "shop",
    )  # fmt: skip
    assert facts.header("x-a") == "1"


@pytest.mark.parametrize(
    ("mode", "host"),
    [
        ("regular", "10.1.1.1"),
        ("reverse:http://10.1.1.1", "10.1.1.1"),
        ("transparent", "web"),
        ("wireguard", "web"),
    ],
)
def test_where_the_client_knows_an_address_alone_its_host_header_names_the_service(mode, host):
    flow = make_flow("http://10.1.1.1/", mode=mode)
    flow.request.headers["host"] = "web"
    assert facts_of(flow, "").host == host


def test_a_route_its_share_and_its_headers():
    policy = TWO + (
        "routes: [{name: canary, match: {path: /c}, to: v2, request_headers: {set: {x-a: new}}}]\n"
        "response_headers: {set: {x-b: own}}\n"
    )
    flow = make_flow("http://web/c", headers={"x-a": "old"})
    exchange = routed(flow, policy)
    assert (exchange.service, exchange.route.label, exchange.share.version) == ("web", "canary", "v2")
    assert flow.request.headers["x-a"] == "new"
    flow.response = make_answer(x_b="theirs")
    Routing().responseheaders(flow)
    assert flow.response.headers["x-b"] == "own"
    assert exchange.flags == []


def test_shares_are_drawn_from_the_random_source():
    policy = snapshot(TWO + "to: {v1: 3, v2: 1}")

    def draw(seed: int) -> list[str]:
        addon = Routing(random.Random(seed))
        drawn = []
        for _ in range(1000):
            flow = make_flow("http://web/")
            exchange = pinned(flow, policy)
            addon.request(flow)
            drawn.append(exchange.share.version)
        return drawn

    drawn = draw(7)
    assert drawn == draw(7)
    # A quarter of 1000; 68 are five standard deviations.
    assert abs(Counter(drawn)["v2"] - 250) < 68


def test_a_host_that_nobody_claims():
    exchange = routed(make_flow("http://other/"), TWO)
    assert (exchange.service, exchange.share, exchange.routed) == ("", None, True)
    flow = make_flow("http://other:81/")
    exchange = routed(flow, 'service: "*"\nunknown_hosts: refuse')
    assert (flow.response.status_code, flow.response.headers["x-mesh-flag"]) == (404, "NR")
    assert "other:81" in flow.response.text
    assert exchange.flags == ["NR"]


class Gate:
    """A feature that acts once the route is known."""

    def __init__(self, answer=None):
        self.answer = answer
        self.seen = []

    def mesh_routed(self, flow):
        exchange = exchange_of(flow)
        self.seen.append((exchange.route.label, exchange.share))
        flow.response = self.answer


class SlowGate(Gate):
    async def mesh_routed(self, flow):
        await asyncio.sleep(0)
        Gate.mesh_routed(self, flow)


GATED = TWO + "to: v1\nroutes: [{name: gated, match: {path: /gated}, rewrite: {path: /x}}]"


@pytest.mark.parametrize("kind", [Gate, SlowGate])
@pytest.mark.parametrize("answer", [None, make_answer(418)])
def test_features_that_a_route_asks_for_act_before_a_version_is_chosen(kind, answer):
    gate, addon = kind(answer), Routing()

    async def run(path):
        flow = make_flow(f"http://web{path}")
        exchange = pinned(flow, GATED)
        if (rest := addon.request(flow)) is not None:
            await rest
        return exchange.share, flow.response

    with loaded(addon, gate):
        share, response = asyncio.run(run("/gated"))
        assert gate.seen == [("gated", None)]
        assert response is answer
        assert (share is None) is (answer is not None)
        assert asyncio.run(run("/plain"))[0].version == "v1"
        assert len(gate.seen) == 1


def test_a_route_that_asks_for_features_fails_closed_without_them():
    flow = make_flow("http://web/gated")
    routed(flow, GATED)
    assert (flow.response.status_code, flow.response.headers["x-mesh-flag"]) == (500, "IE")


def test_inbound_is_not_decided_again():
    flow = make_flow("http://web/")
    exchange = routed(flow, TWO + "respond: {body: no}", inbound=True)
    assert (flow.response, exchange.share, exchange.routed) == (None, None, True)
    assert exchange.route.shares == ()
    assert exchange.facts.host == "web"


def test_a_request_id_is_made_once():
    flow = make_flow()
    exchange = routed(flow)
    assert flow.request.headers["x-request-id"] == exchange.request_id == flow.id
    kept = make_flow(headers={"X-Request-Id": "mine"})
    assert routed(kept).request_id == "mine"
    assert kept.request.headers.get_all("x-request-id") == ["mine"]


def test_ids_differ():
    assert len({routed(make_flow()).request_id for _ in range(100)}) == 100


def test_what_is_decided_stays():
    flow = make_flow("http://web/")
    exchange = routed(flow, TWO + "to: v1")
    share = exchange.share
    exchange.snapshot = snapshot(TWO + "to: v2")
    Routing().request(flow)
    assert exchange.share is share


def test_what_is_answered_or_killed_or_unknown_is_left_alone():
    answered = make_flow("http://web/")
    answered.response = make_answer(201)
    assert routed(answered, TWO).route is None
    killed = make_flow("http://web/")
    killed.live = True
    killed.kill()
    assert routed(killed, TWO).route is None
    unknown = make_flow("http://web/")
    Routing().request(unknown)
    Routing().responseheaders(unknown)
    assert unknown.response is None


def test_an_error_that_an_addon_sets_is_no_way_past_it():
    flow = make_flow("http://web/")
    flow.error = mitmproxy_flow.Error("an addon's")
    assert routed(flow, TWO).route is not None


def test_a_failure_stops_the_request(monkeypatch, caplog):
    monkeypatch.setattr(routing, "facts_of", lambda *_: 1 / 0)
    flow = make_flow("http://web/")
    exchange = routed(flow, TWO)
    assert (flow.response.status_code, flow.response.headers["x-mesh-flag"]) == (500, "IE")
    assert exchange.flags == ["IE"]
    assert "ZeroDivisionError" in caplog.text


@pytest.mark.parametrize(
    ("policy", "flag"),
    [
        ("", None),
        ('service: "*"\nunknown_hosts: refuse', "NR"),
        ('service: db\n---\nservice: "*"\nunknown_hosts: refuse', None),
    ],
)
def test_a_tunnel_leads_only_where_requests_may_go(policy, flag):
    for opened in (None, make_answer(200)):
        flow = make_flow("http://db:5432/", "CONNECT")
        flow.response = opened
        exchange = pinned(flow, policy)
        Routing().http_connect(flow)
        assert (flow.response.headers.get("x-mesh-flag") if flow.response else None) == flag
        assert exchange.flags == ([flag] if flag else [])


def test_a_tunnel_that_cannot_be_judged_is_refused():
    unseen = make_flow("http://db:5432/", "CONNECT")
    broken = make_flow("http://db:5432/", "CONNECT")
    pinned(broken).snapshot = None
    for flow in (unseen, broken):
        Routing().http_connect(flow)
        assert (flow.response.status_code, flow.response.headers["x-mesh-flag"]) == (500, "IE")
    answered = make_flow("http://db:5432/", "CONNECT")
    answered.response = make_answer(503)
    Routing().http_connect(answered)
    assert answered.response.status_code == 503
