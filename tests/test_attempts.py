"""The parts of an attempt that need no upstream: which endpoint, and what is said where there is none."""

import asyncio
import itertools

from mitmproxy import http

from addons.attempts import Attempts
from addons.deadline import Deadline
from addons.engine.client import Client
from addons.engine.hooks import HookTable
from addons.picking import Picking
from addons.routing import Routing
from tests.flows import make_flow, pinned, snapshot


class NoAddons:
    def __init__(self) -> None:
        self.chain: list[object] = []
        self.lookup: dict[str, object] = {}


def attempts() -> Attempts:
    return Attempts(Client(), HookTable(NoAddons()), Picking())


def routed(policy: str, url: str = "http://web/"):
    flow = make_flow(url)
    exchange = pinned(flow, policy)
    Routing().request(flow)
    return flow, exchange


def picks(policy: str, tries: list[int], url: str = "http://web/") -> list[list[str]]:
    """The endpoints of so many tries of each request, one request after the other."""
    shared = attempts()
    chosen = []
    compiled = snapshot(policy)
    for count in tries:
        flow = make_flow(url)
        exchange = pinned(flow, compiled)
        Routing().request(flow)
        tried: list = []
        chosen.append([shared.begin(flow, exchange, tried).host for _ in range(count)])
    return chosen


THREE = 'service: web\nendpoints: ["a:1", "b:1", "c:1"]\n'


def test_first_tries_rotate():
    assert picks(THREE, [1] * 6) == [["a"], ["b"], ["c"]] * 2


def test_further_tries_go_where_this_request_was_not_and_do_not_turn_the_first_ones():
    chosen = picks(THREE + "retry: 9", [3] * 6)
    assert [each[0] for each in chosen] == ["a", "b", "c"] * 2
    assert all(sorted(each) == ["a", "b", "c"] for each in chosen)


def test_after_all_of_them_another_round_begins_elsewhere():
    (chosen,) = picks(THREE + "retry: 9", [9])
    assert all(sorted(chosen[start : start + 3]) == ["a", "b", "c"] for start in (0, 3, 6))
    assert all(before != after for before, after in itertools.pairwise(chosen))


def test_the_same_endpoint_again_where_the_policy_says_so():
    (chosen,) = picks('service: web\nendpoints: ["a:1"]\nretry: {attempts: 3, other_endpoint: false}', [3])
    assert chosen == ["a", "a", "a"]


def test_an_only_endpoint_is_tried_again():
    (chosen,) = picks('service: web\nendpoints: ["a:1"]\nretry: 3', [3])
    assert chosen == ["a", "a", "a"]


def test_without_endpoints_what_the_caller_named():
    shared = attempts()
    flow, exchange = routed("service: web", "http://web:81/")
    attempt = shared.begin(flow, exchange, [])
    assert (attempt.endpoint, attempt.address, attempt.number) == (None, "web:81", 1)
    assert shared.begin(flow, exchange, []).number == 2
    assert exchange.attempts[0] is attempt


def test_an_ipv6_address_is_shown_in_brackets():
    flow, exchange = routed('service: web\nendpoints: ["[::1]:80"]')
    assert attempts().begin(flow, exchange, []).address == "[::1]:80"


async def test_no_endpoint_with_a_weight():
    shared = attempts()
    policy = 'service: web\nendpoints: {v1: [{address: "a:1", weight: 1}], v2: [{address: "b:1", weight: 0}, {address: "c:1", weight: 1}]}\nto: v2'
    flow, exchange = routed(policy)
    exchange.share = type(exchange.share)("v2", "web", "v2", exchange.share.endpoints[:1], 1.0)
    assert (
        await shared.run(flow, exchange, exchange.route, None, Deadline(asyncio.get_running_loop())) is None
    )
    response: http.Response = flow.response
    assert (response.status_code, response.headers["x-mesh-flag"]) == (503, "UH")
    assert response.text == "service web has no endpoint to send to\n"
    assert exchange.attempts == []
