"""The addon: who passes, what the others are told, and that it fails closed."""

import asyncio

import pytest

from addons.policy_feed import PolicyFeed
from addons.rate_limit import RateLimit
from control.policy.facts import RequestFacts
from tests.flows import make_answer, make_flow, pinned, snapshot


class Clock:
    def __init__(self):
        self.now = 0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def limit(clock):
    return RateLimit(PolicyFeed(), clock)


def asked(limit, policy, source="", **flow):
    made = make_flow(**flow)
    exchange = pinned(made, policy if not isinstance(policy, str) else f"service: web\n{policy}", source)
    exchange.service = "web"
    exchange.route = exchange.snapshot.services["web"].own
    exchange.facts = RequestFacts("GET", "web", 80, "/", made.request.headers.fields, source)
    if (rest := limit.mesh_routed(made)) is not None:
        asyncio.run(rest)
    return made.response, exchange


def test_what_exceeds_the_limit_is_told_how_long_to_wait(limit, clock):
    policy = "rate_limit: {requests: 2, per: 3s}"
    assert [asked(limit, policy)[0] for _ in range(2)] == [None, None]
    response, exchange = asked(limit, policy)
    assert (response.status_code, response.headers["x-mesh-flag"], response.headers["retry-after"]) == (
        429,
        "RL",
        "2",
    )
    assert response.text == "more than 2 requests in 3s: wait as long as retry-after says\n"
    assert exchange.flags == ["RL"]
    clock.now += 1_500_000
    assert asked(limit, policy)[0] is None
    assert asked(limit, policy)[0] is not None


def test_clients_and_callers_and_headers_are_counted_apart(limit):
    by_header = "rate_limit: {requests: 1, per: 1h, by: {header: x-user}}"
    passed = [asked(limit, by_header, headers={"x-user": user})[0] is None for user in ("ann", "bob", "ann")]
    assert passed == [True, True, False]
    by_source = "rate_limit: {requests: 1, per: 1h, by: source}"
    assert [asked(limit, by_source, source)[0] is None for source in ("a", "b", "a")] == [True, True, False]
    by_client = "rate_limit: {requests: 1, per: 1h, by: client_ip}"
    assert [asked(limit, by_client)[0] is None for _ in range(2)] == [True, False]


def test_the_count_outlives_a_change_that_leaves_the_limit_alone(limit):
    policy = "rate_limit: {requests: 1, per: 1h}"
    assert asked(limit, policy)[0] is None
    limit.mesh_policy(snapshot(f"service: web\ntimeout: 3s\n{policy}"))
    assert asked(limit, policy)[0] is not None
    limit.mesh_policy(snapshot("service: web"))
    assert asked(limit, policy)[0] is None


def test_what_is_answered_is_not_counted(limit):
    flow = make_flow()
    exchange = pinned(flow, "service: web\nrate_limit: {requests: 1, per: 1h}")
    exchange.route = exchange.snapshot.services["web"].own
    flow.response = made = make_answer(403)
    assert limit.mesh_routed(flow) is None
    assert flow.response is made
    assert len(limit.buckets) == 0


@pytest.mark.parametrize(
    ("said", "passes"), [("", True), (", without_redis: allow", True), (", without_redis: deny", False)]
)
def test_without_redis_the_policy_decides(limit, said, passes):
    response, exchange = asked(limit, f"rate_limit: {{requests: 5, per: 1s, scope: mesh{said}}}")
    assert (response is None) is passes
    if not passes:
        assert (response.status_code, response.headers["retry-after"], exchange.flags) == (429, "1", ["RL"])
        assert "Redis is away" in response.text
    assert [counts.values for counts in limit.counts()] == [[((), 1.0)]]


def test_it_fails_closed(limit):
    flow = make_flow()
    exchange = pinned(flow, "service: web\nrate_limit: {requests: 1, per: 1h}")
    exchange.route = exchange.snapshot.services["web"].own
    limit.mesh_routed(flow)  # nobody has noted the facts
    assert (flow.response.status_code, flow.response.headers["x-mesh-flag"]) == (500, "IE")
