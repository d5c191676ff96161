"""Balancers and circuit breakers with real proxies: which endpoint each request reached, and what callers saw."""

import socket
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from control.breakers import breakers_of
from tests.conftest import free_port
from tests.mesh_process import LANES, PATIENCE, Answer, Client, World, eventually
from tests.upstream import Upstream, answer, in_turn, saying

pytestmark = pytest.mark.timeout(240)
MANY = 5000
CALLERS = 4


@pytest.fixture(scope="module", params=LANES)
def world(request, tmp_path_factory):
    with World(tmp_path_factory.mktemp("breaker"), **request.param) as world:
        yield world


def many(world: World, url: str, count: int) -> list[int]:
    """The statuses of so many requests over a few connections at once."""

    def call(share: int) -> list[int]:
        with Client(world.proxy.port) as client:
            return [client.get(url).status for _ in range(share)]

    with ThreadPoolExecutor(CALLERS) as pool:
        return [status for statuses in pool.map(call, [count // CALLERS] * CALLERS) for status in statuses]


def tried(world: World, service: str) -> list[dict[str, Any]]:
    return [line for line in world.proxy.lines() if line["service"] == service]


def endpoints_of(line: dict[str, Any]) -> list[str]:
    """Where its attempts went."""
    return [attempt["endpoint"] for attempt in line["attempts"]]


def test_one_good_endpoint_of_three_is_enough(world):
    """One is dead, one answers 500: callers notice nothing, and both are left alone but for probes."""
    dead = f"127.0.0.1:{free_port()}"
    # mitmproxy's own lane takes long for as many; what fails does so in the first moments.
    count = MANY // 5 if world.full else MANY
    with Upstream() as good, Upstream(saying(500, "bad")) as bad:
        service = world.serve(
            "retry: {attempts: 2, on: [connect-failure, reset, 5xx], backoff: {base: 1ms}}\n"
            "circuit_breaker: {consecutive_failures: 2, open_for: 1h, max_open: 1h, max_ejected: 100}",
            good.address,
            bad.address,
            dead,
        )
        url = f"http://{service}/"
        statuses = many(world, f"{url}first", 40) + many(world, f"{url}then", count - 40)
        assert count - statuses.count(200) <= MANY * 0.001, Counter(statuses)
        lines = eventually(lambda: len(found := tried(world, service)) == count and found)
        reached = {
            path: Counter(
                endpoint for line in lines if line["path"] == path for endpoint in endpoints_of(line)
            )
            for path in ("/first", "/then")
        }
        # open_for is longer than the test: not one probe is due.
        assert reached["/then"].keys() == {good.address}
        # Two failures in a row, and what was under way just then.
        for endpoint in (bad.address, dead):
            assert 2 <= reached["/first"][endpoint] <= 2 + CALLERS
        assert len(bad.requests) == reached["/first"][bad.address]
        console = world.proxy.console()
        for endpoint in (bad.address, dead):
            assert console.count(f"{service}: {endpoint}: closed -> open for 1h: 2 failures in a row") == 1

        def told() -> set[str]:
            node = world.mesh.nodes()[world.proxy.node]
            return {each.endpoint for each in breakers_of(node) if each.service == service}

        assert eventually(lambda: told() == {bad.address, dead})


def test_after_open_for_one_probe_at_a_time_and_all_is_well_again(world):
    with Upstream(saying(503, "bad")) as upstream:
        service = world.serve(
            "circuit_breaker: {consecutive_failures: 1, open_for: 200ms, max_open: 200ms}", upstream.address
        )
        url = f"http://{service}/"
        assert world.get(url).body == b"bad"
        hold, held = threading.Event(), threading.Event()

        def slow(request, connection):
            held.set()
            assert hold.wait(PATIENCE)
            return answer(200, "well")

        upstream.reply = slow
        with ThreadPoolExecutor(1) as pool:
            probe = pool.submit(lambda: eventually(lambda: (got := world.get(url)).flag != "UH" and got))
            assert held.wait(PATIENCE)
            for _ in range(5):
                got = world.get(url)
                assert (got.status, got.flag) == (503, "UH")
                assert got.text == f"the circuit breaker leaves every endpoint of service {service} alone\n"
            hold.set()
            assert probe.result().body == b"well"
        assert len(upstream.requests) == 2
        assert world.get(url).status == 200


def test_a_service_without_endpoints(world):
    port = free_port()
    service = world.name()
    world.apply(
        f'service: {service}\nhosts: ["127.0.0.1:{port}"]\n'
        "circuit_breaker: {consecutive_failures: 2, open_for: 1h, max_open: 1h}"
    )
    flags = [world.get(f"http://127.0.0.1:{port}/").flag for _ in range(4)]
    assert flags == ["UF", "UF", "UH", "UH"]


def test_streamed_requests_count_too(world):
    """Upgrades and the like go mitmproxy's own way in the full lane."""
    headers = {"connection": "Upgrade", "upgrade": "x"}
    with Upstream(saying(500, "bad")) as upstream:
        service = world.serve(
            "circuit_breaker: {consecutive_failures: 2, open_for: 1h, max_open: 1h}", upstream.address
        )
        got = [world.send("GET", f"http://{service}/", headers=headers) for _ in range(3)]
        assert [each.status for each in got] == [500, 500, 503]
        assert got[2].flag == "UH"
        assert len(upstream.requests) == 2


def test_faults_count_like_failures(world):
    with Upstream() as upstream:
        service = world.serve(
            "faults: [{abort: reset, first: 2}]\n"
            "circuit_breaker: {consecutive_failures: 2, open_for: 1h, max_open: 1h}",
            upstream.address,
        )
        assert [world.get(f"http://{service}/").flag for _ in range(3)] == ["UC", "UC", "UH"]
        assert upstream.requests == []


class Held:
    """An upstream's reply that waits; `count` requests have arrived."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.count = 0
        self.most = 0
        self._now = 0
        self._lock = threading.Lock()

    def __call__(self, request, connection) -> bytes:
        with self._lock:
            self.count += 1
            self._now += 1
            self.most = max(self.most, self._now)
        assert self.go.wait(PATIENCE)
        with self._lock:
            self._now -= 1
        return answer(200, "late")


def at_once(world: World, url: str, held: Held, refused: int, through: int, count: int) -> list[Answer]:
    """`count` requests at once, of which so many are refused at once and so many reach the upstream before it answers."""
    answers: list[Answer] = []
    with ThreadPoolExecutor(count) as pool:
        calls = [pool.submit(world.get, url) for _ in range(count)]
        eventually(lambda: sum(call.done() for call in calls) == refused and held.count == through)
        held.go.set()
        answers = [call.result() for call in calls]
    assert sorted(each.status for each in answers) == [200] * (count - refused) + [503] * refused
    assert {each.flag for each in answers if each.status == 503} == ({"UO"} if refused else set())
    return answers


def test_limits(world):
    for limits, refused, through in [
        ("{requests: 3}", 3, 3),
        ("{connections: 2}", 0, 2),
        ("{connections: 2, pending: 1}", 3, 2),
        ("{connections: 2, pending: 0}", 4, 2),
    ]:
        held = Held()
        with Upstream(held) as one, Upstream(held) as two:
            service = world.serve(f"circuit_breaker: {{limits: {limits}}}", one.address, two.address)
            url = f"http://{service}/"
            at_once(world, url, held, refused, through, 6)
            # Whatever it was, it is over.
            held.go.set()
            assert [world.get(url).status for _ in range(6)] == [200] * 6
            assert held.most <= through
            if "connections" in limits:
                # Idle ones made room: no more than two were ever open.
                eventually(lambda one=one, two=two: len(one._open) + len(two._open) <= 2)


def test_a_streamed_answer_holds_its_place_to_the_end(world):
    go = threading.Event()

    def streaming(request, connection):
        connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 3000000\r\n\r\n" + b"x" * 1000)
        assert go.wait(PATIENCE)
        return b"x" * 2_999_000

    with Upstream(in_turn(streaming, saying(200))) as upstream:
        service = world.serve("circuit_breaker: {limits: {requests: 1}}", upstream.address)
        with Client(world.proxy.port) as client:
            client.connection.request("GET", f"http://{service}/")
            response = client.connection.getresponse()
            assert response.read(1) == b"x"
            assert world.get(f"http://{service}/").flag == "UO"
            go.set()
            assert len(response.read()) == 2_999_999
        assert eventually(lambda: world.get(f"http://{service}/").status == 200)


def test_a_caller_who_leaves_gives_its_place_back(world):
    held = Held()
    with Upstream(held) as upstream:
        service = world.serve("circuit_breaker: {limits: {requests: 1}}", upstream.address)
        url = f"http://{service}/"
        with socket.create_connection(("127.0.0.1", world.proxy.port)) as client:
            client.sendall(f"GET {url} HTTP/1.1\r\nhost: {service}\r\n\r\n".encode())
            eventually(lambda: held.count == 1)
            assert world.get(url).flag == "UO"
        held.go.set()
        assert eventually(lambda: world.get(url).status == 200)


def test_retries_above_the_limit_are_not_made(world):
    with Upstream(saying(503, "busy")) as upstream:
        service = world.serve(
            "retry: {attempts: 3, on: [5xx]}\ncircuit_breaker: {consecutive_failures: 0, limits: {retries: 0}}",
            upstream.address,
        )
        got = world.get(f"http://{service}/none")
        assert (got.status, got.body, got.flag, got.header("x-mesh-attempts")) == (503, b"busy", "UO", "1")
        assert world.line("/none")["flags"] == "UO"


def test_hash_keeps_a_user_at_an_endpoint_and_the_address_counts(world):
    with (
        Upstream(saying(200, "1")) as one,
        Upstream(saying(200, "2")) as two,
        Upstream(saying(200, "3")) as three,
    ):
        addresses = [each.address for each in (one, two, three)]
        service = world.serve("load_balancer: {hash: {cookie: uid}}", *addresses)
        users = [f"user-{number}" for number in range(24)]

        def all_of(user: str) -> set[str]:
            return {world.get(f"http://{service}/", cookie=f"a=b; uid={user}").text for _ in range(2)}

        before = {user: all_of(user) for user in users}
        assert all(len(seen) == 1 for seen in before.values())
        assert {place for seen in before.values() for place in seen} == {"1", "2", "3"}
        world.change(service, "load_balancer: {hash: {cookie: uid}}", *addresses[:2])
        assert {user for user in users if all_of(user) != before[user]} == {
            user for user in users if before[user] == {"3"}
        }
        world.change(service, "load_balancer: {hash: source_ip}", *addresses)
        assert len({world.get(f"http://{service}/").text for _ in range(9)}) == 1


def test_least_request_leaves_a_slow_endpoint_alone(world):
    held = Held()
    with Upstream(held) as slow, Upstream() as quick:
        service = world.serve("load_balancer: least_request", slow.address, quick.address)
        url = f"http://{service}/"
        with ThreadPoolExecutor(1) as pool:
            # One gets stuck there; from then on the other has fewer under way.
            stuck = pool.submit(lambda: eventually(lambda: world.get(url).text == "late"))
            eventually(lambda: held.count == 1)
            assert [world.get(url).text for _ in range(30)] == ["ok"] * 30
            held.go.set()
            assert stuck.result()
