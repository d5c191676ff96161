"""The circuit breaker in the proxy, on a fake clock: who is picked, what is told, what a change of policy keeps."""

import json
import logging
from random import Random

import pytest
from mitmproxy.connection import ConnectionState

from addons.circuit_breaker import CircuitBreaker
from addons.load_balancing import LoadBalancing
from addons.picking import Picking
from addons.routing import Routing
from control.breakers import breakers_of
from control.policy.snapshot import Snapshot, build
from control.store import NodeReport
from tests.flows import attempted, make_flow, pinned, snapshot

THREE = 'service: web\nendpoints: ["a:1", "b:1", "c:1"]\n'
BREAKER = "circuit_breaker: {consecutive_failures: 2, open_for: 10s, max_ejected: 100}\n"


class World:
    def __init__(self, policy: str) -> None:
        self.now = 1000.0
        balancing = LoadBalancing(Random(1))
        self.breaking = CircuitBreaker(balancing, lambda: self.now)
        self.picking = Picking(balancing, self.breaking)
        self.snapshot = snapshot(policy)

    def apply(self, *documents: str, without: str = "") -> None:
        texts = {name: text for name, text in self.snapshot.texts.items() if name != without}
        for document in documents:
            texts |= snapshot(document).texts
        self.snapshot: Snapshot = build(self.snapshot.revision + 1, texts, self.snapshot)
        self.breaking.mesh_policy(self.snapshot)

    def flow(self, url: str = "http://web/"):
        flow = make_flow(url)
        flow.client_conn.state = ConnectionState.OPEN
        exchange = pinned(flow, self.snapshot)
        Routing().request(flow)
        return flow, exchange

    def attempt(self, url: str = "http://web/"):
        flow, exchange = self.flow(url)
        return flow, exchange, self.picking.begin(flow, exchange, [])

    def end(self, flow, attempt, status=None, error=None) -> None:
        attempt.status, attempt.error = status, error
        self.breaking.mesh_attempt_end(flow, attempt)

    def send(self, url: str = "http://web/", bad=(), status: int = 503) -> str | None:
        """A request with one try; the host it went to."""
        flow, _, attempt = self.attempt(url)
        if attempt is None:
            return None
        self.end(flow, attempt, status if attempt.host in bad else 200)
        return attempt.host

    def ejected(self) -> set[str]:
        report = self.breaking.report()
        return {row["endpoint"] for row in json.loads(report or "[]")}


def test_those_that_fail_are_left_alone_and_probed_by_one_request():
    world = World(THREE + BREAKER)
    seen = [world.send(bad="ab") for _ in range(30)]
    assert (seen.count("a"), seen.count("b"), seen.count("c")) == (2, 2, 26)
    world.now += 10
    seen = [world.send(bad="a") for _ in range(30)]
    assert seen.count("a") == 1
    assert seen.count("b") > 10
    world.now += 10
    assert "a" not in [world.send() for _ in range(30)]
    world.now += 10
    assert {world.send() for _ in range(30)} == {"a", "b", "c"}


@pytest.mark.parametrize("balancer", ["random", "least_request", "{hash: {header: host}}", "round_robin"])
def test_with_every_balancer(balancer):
    world = World(THREE + BREAKER + f"load_balancer: {balancer}")
    for _ in range(40):
        world.send(bad="ab", status=500)
    assert {world.send(bad="ab") for _ in range(20)} == {"c"}


def test_while_a_probe_is_under_way_all_others_go_elsewhere():
    world = World('service: web\nendpoints: ["a:1"]\n' + BREAKER)
    world.send(bad="a")
    world.send(bad="a")
    assert world.send() is None
    world.now += 10
    flow, _, probe = world.attempt()
    assert probe.host == "a"
    assert world.send() is None
    world.now += 100
    assert world.send() is None
    world.end(flow, probe, 204)
    assert world.send() == "a"


def test_a_further_try_is_a_probe_only_if_there_is_nothing_else():
    world = World('service: web\nendpoints: ["a:1", "b:1"]\nretry: 3\n' + BREAKER)
    for _ in range(8):
        world.send(bad="a")
    assert world.ejected() == {"a:1"}
    world.now += 10
    for _ in range(4):
        flow, exchange = world.flow()
        exchange.attempts.append(attempted(exchange))
        b = exchange.share.endpoints[1]
        assert world.picking.begin(flow, exchange, [b]).host == "b"
    assert {world.send(bad="ab") for _ in range(4)} >= {"a", "b"}
    assert world.ejected() == {"a:1", "b:1"}
    world.now += 30
    flow, exchange = world.flow()
    exchange.attempts.append(attempted(exchange))
    assert world.picking.begin(flow, exchange, []).host in "ab"


@pytest.mark.parametrize(
    ("status", "error", "ejects"),
    [
        (500, None, True),
        (404, None, False),
        (None, "reset", True),
        (None, "timeout", True),
        (None, None, False),
    ],
)
def test_what_ejects(status, error, ejects):
    world = World(THREE + BREAKER)
    for _ in range(6):
        flow, _, attempt = world.attempt()
        world.end(flow, attempt, status, error)
    assert world.ejected() == ({"a:1", "b:1", "c:1"} if ejects else set())


def test_a_caller_who_leaves_says_nothing_about_the_endpoint():
    world = World(THREE + BREAKER)
    for _ in range(6):
        flow, _, attempt = world.attempt()
        flow.client_conn.state = ConnectionState.CAN_WRITE
        world.end(flow, attempt, error="timeout")
    assert world.ejected() == set()


def test_all_ejected_is_503_uh_that_says_when_or_panic():
    world = World(THREE + BREAKER)
    for _ in range(6):
        world.send(bad="abc")
    world.now += 7.5
    flow, exchange, attempt = world.attempt()
    assert attempt is None
    world.picking.answer_unsent(flow, exchange)
    assert (flow.response.status_code, flow.response.headers["x-mesh-flag"]) == (503, "UH")
    assert flow.response.text == (
        "the circuit breaker leaves every endpoint of service web alone; the next is tried in 2.5 s\n"
    )
    world.apply(THREE + BREAKER.replace("10s,", "10s, panic: true,"))
    assert world.ejected() == {"a:1", "b:1", "c:1"}
    assert {world.send(bad="abc") for _ in range(6)} == {"a", "b", "c"}
    assert world.ejected() == {"a:1", "b:1", "c:1"}


def test_a_service_without_endpoints_is_judged_by_the_address_that_was_named():
    world = World("service: web\nhosts: [other]\n" + BREAKER)
    for _ in range(2):
        world.send(bad=["web"])
    assert world.send() is None
    assert world.send("http://web:81/") == "web"
    assert world.send("http://other/") == "other"
    assert world.ejected() == {"web:80"}


def test_state_belongs_to_the_document():
    world = World(THREE + BREAKER)
    for _ in range(6):
        world.send(bad="ab")
    world.apply("service: other\nrespond: {body: x}")
    assert world.ejected() == {"a:1", "b:1"}
    # Of this service: what still applies is kept.
    world.apply('service: web\nendpoints: ["a:1", "d:1"]\nretry: 2\n' + BREAKER)
    assert world.ejected() == {"a:1"}
    world.apply('service: web\nendpoints: ["a:1", "d:1"]\n')
    assert world.ejected() == set()
    world.apply('service: web\nendpoints: ["a:1", "d:1"]\n' + BREAKER)
    assert {world.send() for _ in range(4)} == {"a", "d"}
    world.apply(without="web")
    assert world.breaking._breakers == {}


def test_a_routes_breaker_is_its_own_and_the_meshs_is_each_services():
    world = World(
        THREE
        + BREAKER
        + "routes:\n  - {match: {path: /own}, circuit_breaker: {consecutive_failures: 1}}\n"
        + "  - {match: {path: /as-all}}\n"
        + '---\nservice: other\nendpoints: ["a:1"]\n---\nservice: "*"\ncircuit_breaker: {consecutive_failures: 1}'
    )
    world.send("http://web/own", bad="abc")
    assert "a" in {world.send("http://web/as-all") for _ in range(6)}
    assert "a" not in {world.send("http://web/own") for _ in range(6)}
    assert world.send("http://other/", bad="a") == "a"
    assert world.send("http://other/") is None
    # A route more, before: still the same one.
    world.apply(
        THREE
        + BREAKER
        + "routes:\n  - {match: {path: /new}, circuit_breaker: {consecutive_failures: 1}}\n"
        + "  - {match: {path: /own}, circuit_breaker: {consecutive_failures: 1}}\n"
    )
    assert "a" not in {world.send("http://web/own") for _ in range(6)}
    assert "a" in {world.send("http://web/new") for _ in range(6)}


def test_one_line_for_each_change(caplog):
    world = World('service: web\nendpoints: ["a:1"]\n' + BREAKER)
    with caplog.at_level(logging.INFO, logger="mesh.circuit_breaker"):
        for _ in range(3):
            world.send(bad="a")
        world.now += 10
        world.send(bad="a")
        world.now += 20
        flow, _, probe = world.attempt()
        world.end(flow, probe)
        world.send()
        world.send()
    assert [record.getMessage() for record in caplog.records] == [
        "web: a:1: closed -> open for 10s: 2 failures in a row, the last: status 503",
        "web: a:1: open -> half-open: one request is let through",
        "web: a:1: half-open -> open for 20s: its probe failed: status 503",
        "web: a:1: open -> half-open: one request is let through",
        "web: a:1: half-open -> open: its probe told nothing; the next request is one",
        "web: a:1: open -> half-open: one request is let through",
        "web: a:1: half-open -> closed: its probe succeeded",
    ]
    assert world.breaking.ejections == {("web", "a:1"): 2}


def test_the_report_says_what_is_ejected_and_for_how_long():
    world = World(THREE + BREAKER)
    assert world.breaking.report() == ""
    for _ in range(6):
        world.send(bad="a")
    world.now += 4
    node = NodeReport("n", "s", 1, extra={"breakers": world.breaking.report()})
    assert [each.data() for each in breakers_of(node)] == [
        {"service": "web", "endpoint": "a:1", "state": "open", "since": 4.0, "left": 6.0, "ejections": 1}
    ]


@pytest.mark.parametrize("text", ["x", "{}", "[1]", '[{"service": "a"}]', "null"])
def test_a_report_that_cannot_be_read_tells_nothing(text):
    assert breakers_of(NodeReport("n", "s", 1, extra={"breakers": text})) == []
