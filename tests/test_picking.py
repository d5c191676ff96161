"""The short way to an endpoint and the long one give the same."""

import pytest

from addons.picking import Picking
from addons.routing import Routing
from tests.flows import make_flow, pinned, snapshot

BREAKER = "circuit_breaker: {consecutive_failures: 0}"


@pytest.mark.parametrize("retry", ["", "retry: 9", "retry: {attempts: 9, other_endpoint: false}"])
@pytest.mark.parametrize("weights", [(1, 1, 1), (3, 1, 2)])
def test_a_breaker_without_anything_to_break_changes_no_turn(retry, weights):
    endpoints = ", ".join(
        f'{{address: "h{place}:1", weight: {weight}}}' for place, weight in enumerate(weights)
    )

    def chosen(rest: str) -> list[list[str]]:
        policy = snapshot(f"service: web\nendpoints: [{endpoints}]\n{retry}\n{rest}")
        picking = Picking()
        found = []
        for tries in (1, 3, 1, 5, 2, 1, 1, 4):
            flow = make_flow("http://web/")
            exchange = pinned(flow, policy)
            Routing().request(flow)
            tried = []
            found.append([picking.begin(flow, exchange, tried).host for _ in range(tries)])
        return found

    assert chosen(BREAKER) == chosen("") == chosen("load_balancer: round_robin")


def test_no_endpoint_with_a_weight_is_not_the_breakers_fault():
    flow = make_flow("http://web/")
    exchange = pinned(flow, f'service: web\nendpoints: ["a:1", {{address: "b:1", weight: 0}}]\n{BREAKER}')
    Routing().request(flow)
    exchange.share = type(exchange.share)("v", "web", "v", exchange.share.endpoints[1:], 1.0)
    picking = Picking()
    assert picking.begin(flow, exchange, []) is None
    picking.answer_unsent(flow, exchange)
    assert flow.response.text == "service web has no endpoint to send to\n"
