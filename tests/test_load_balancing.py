"""The balancer of each version as the proxy keeps it: across policies, requests and tries."""

from random import Random

from addons.load_balancing import LoadBalancing
from addons.routing import Routing
from control.policy.snapshot import build
from tests.flows import attempted, make_flow, pinned, snapshot

TWO = 'service: web\nendpoints: ["a:1", "b:1"]\nload_balancer: {}\n'


def picked(balancing: LoadBalancing, policy, headers=None, peer: str = "10.0.0.1", **more) -> str:
    flow = make_flow("http://web/", headers=headers)
    flow.client_conn.peername = (peer, 1)
    exchange = pinned(flow, policy)
    Routing().request(flow)
    return balancing.pick(flow, exchange, exchange.share, **{"tried": (), **more}).host


def test_the_same_key_the_same_endpoint():
    balancing = LoadBalancing()
    policy = snapshot(TWO.format("{hash: {header: x-user}}"))
    for number in range(20):
        user = {"x-user": str(number)}
        assert len({picked(balancing, policy, user) for _ in range(3)}) == 1
    assert [picked(balancing, policy) for _ in range(4)] == ["a", "b", "a", "b"]


def test_the_address_of_the_client():
    balancing = LoadBalancing()
    policy = snapshot(TWO.format("{hash: source_ip}"))
    addresses = [f"10.0.0.{number}" for number in range(40)]
    first = [picked(balancing, policy, peer=address) for address in addresses]
    assert {*first} == {"a", "b"}
    assert [picked(balancing, policy, peer=address) for address in addresses] == first


def test_a_change_of_another_service_leaves_the_turn_alone():
    balancing = LoadBalancing(Random(1))
    policy = snapshot(TWO.format("{hash: {cookie: uid}}"))
    assert [picked(balancing, policy) for _ in range(3)] == ["a", "b", "a"]
    other = snapshot("service: other\nrespond: {body: x}")
    changed = build(2, {**policy.texts, **other.texts}, policy)
    balancing.mesh_policy(changed)
    assert picked(balancing, changed) == "b"
    # Compiled anew, because the defaults changed: still the same balancer.
    star = snapshot('service: "*"\ntimeout: 1s')
    again = build(3, {**changed.texts, **star.texts}, changed)
    balancing.mesh_policy(again)
    assert picked(balancing, again) == "a"
    balancing.mesh_policy(snapshot())
    assert balancing._balancers == {}


def test_another_services_version_is_balanced_as_that_service_says():
    reached = 'service: b\nendpoints: {v1: ["a:1", "c:1"]}\nload_balancer: {hash: {header: x-user}}'
    policy = snapshot(f"service: web\nto: b/v1\n---\n{reached}")
    balancing = LoadBalancing()
    assert len({picked(balancing, policy, {"x-user": "7"}) for _ in range(4)}) == 1
    changed = build(
        2, {**policy.texts, "b": policy.texts["b"].replace('{"hash":{"header":"x-user"}}', '"round_robin"')}
    )
    assert len({picked(balancing, changed, {"x-user": "7"}) for _ in range(4)}) == 2


def test_the_default_of_the_mesh():
    policy = snapshot(
        'service: web\nendpoints: ["a:1", "b:1"]\n---\nservice: "*"\nload_balancer: {hash: {header: x}}'
    )
    assert len({picked(LoadBalancing(), policy, {"x": "7"}) for _ in range(4)}) == 1


def test_least_request_counts_until_the_answer_is_over():
    balancing = LoadBalancing(Random(1))
    policy = snapshot(TWO.format("least_request"))
    flow = make_flow("http://web/")
    exchange = pinned(flow, policy)
    Routing().request(flow)
    (share,) = exchange.route.shares

    def attempt(**outcome):
        made = attempted(exchange, **outcome)
        made.endpoint = share.endpoints[0]
        balancing.mesh_attempt(flow, made)
        return made

    first = attempt(error="reset", pause=0.1)
    assert {picked(balancing, policy) for _ in range(20)} == {"b"}
    balancing.mesh_attempt_end(flow, first)
    assert {picked(balancing, policy) for _ in range(20)} == {"a", "b"}
    second = attempt(status=200)
    balancing.mesh_attempt_end(flow, second)
    assert {picked(balancing, policy) for _ in range(20)} == {"b"}
    balancing.response(flow)
    balancing.error(flow)
    assert {picked(balancing, policy) for _ in range(20)} == {"a", "b"}
    assert (balancing._active, balancing._answering) == ({}, {})


def test_of_several_tries_at_once_the_one_that_decides_counts_until_the_end():
    balancing = LoadBalancing(Random(1))
    policy = snapshot(TWO.format("least_request"))
    flow = make_flow("http://web/")
    exchange = pinned(flow, policy)
    Routing().request(flow)
    (share,) = exchange.route.shares
    made = []
    for endpoint in share.endpoints:
        attempt = attempted(exchange)
        attempt.endpoint = endpoint
        balancing.mesh_attempt(flow, attempt)
        made.append(attempt)
    made[0].status = 503
    balancing.mesh_attempt_end(flow, made[0])
    made[1].status = 200
    balancing.mesh_attempt_end(flow, made[1])
    assert {picked(balancing, policy) for _ in range(20)} == {"a"}
    balancing.response(flow)
    assert balancing._active == {}


def test_a_further_try_goes_elsewhere_with_every_balancer():
    for kind in ("random", "least_request", "round_robin", "{hash: {header: x-user}}"):
        policy = snapshot(TWO.format(kind))
        (share,) = policy.services["web"].own.shares
        for endpoint in share.endpoints:
            balancing = LoadBalancing(Random(1))
            assert {picked(balancing, policy, {"x-user": "7"}, tried=(endpoint,)) for _ in range(20)} == {
                "a",
                "b",
            } - {endpoint.host}
