"""Tries side by side, as callers and upstreams see them: real proxies, real sockets."""

import socket
import threading

import pytest

from tests.conftest import free_port
from tests.mesh_process import LANES, PATIENCE, Client, World, eventually
from tests.upstream import Upstream, answer, saying


@pytest.fixture(scope="module", params=LANES)
def world(request, tmp_path_factory):
    with World(tmp_path_factory.mktemp("hedging"), **request.param) as world:
        yield world


class Slow:
    """Answers no request before it is told to; knows which connections were ended by the other side."""

    def __init__(self, body: str = "late") -> None:
        self.go = threading.Event()
        self.left = 0
        self._body = body

    def __call__(self, request, connection: socket.socket) -> bytes | None:
        connection.settimeout(0.02)
        while not self.go.is_set():
            try:
                if not connection.recv(1, socket.MSG_PEEK):
                    self.left += 1
                    return None
            except TimeoutError:
                continue
            except OSError:
                self.left += 1
                return None
        connection.settimeout(PATIENCE)
        return answer(200, self._body)


HEDGE = "retry: {attempts: 3, on: [5xx], hedge: {after: 100ms, max: 2}, backoff: {base: 1ms, max: 1ms}}"


def outcomes(line) -> list:
    return [attempt.get("error") or attempt["status"] for attempt in line["attempts"]]


def test_a_slow_endpoint_loses_to_another_and_sees_its_connection_closed(world):
    slow = Slow()
    with Upstream(slow) as first, Upstream(saying(200, "quick")) as second:
        service = world.serve(HEDGE, first.address, second.address)
        # Whoever has the first turn: two requests have both.
        got = [world.get(f"http://{service}/race") for _ in range(2)]
        assert [each.body for each in got] == [b"quick"] * 2
        assert sorted(each.header("x-mesh-attempts") for each in got) == ["1", "2"]
        eventually(lambda: slow.left == 1)
        lines = eventually(
            lambda: (
                found
                if len(found := [each for each in world.proxy.lines() if each["path"] == "/race"]) == 2
                else None
            )
        )
        (hedged,) = [line for line in lines if len(line["attempts"]) == 2]
        assert outcomes(hedged) == ["cancelled", 200]
        assert [attempt["endpoint"] for attempt in hedged["attempts"]] == [first.address, second.address]
        assert hedged["flags"] == "-"
        metrics = world.get("http://mesh.local/metrics").text
        assert f'destination_service="{service}"' in metrics
        cancelled = [
            row
            for row in metrics.splitlines()
            if row.startswith("mitmesh_attempts_total") and service in row and 'error="cancelled"' in row
        ]
        assert len(cancelled) == 1


def test_a_quick_endpoint_is_asked_alone(world):
    with Upstream() as upstream:
        service = world.serve(HEDGE, upstream.address)
        with Client(world.proxy.port) as client:
            assert [client.get(f"http://{service}/").header("x-mesh-attempts") for _ in range(20)] == [
                "1"
            ] * 20
        assert len(upstream.requests) == 20


def test_the_first_may_still_win(world):
    first, second = Slow("first"), Slow("second")
    with Upstream(first) as one, Upstream(second) as two:
        service = world.serve(HEDGE, one.address, two.address)
        got = []
        caller = threading.Thread(target=lambda: got.append(world.get(f"http://{service}/first")))
        caller.start()
        eventually(lambda: one.requests and two.requests)
        first.go.set()
        caller.join(PATIENCE)
        assert (got[0].body, got[0].header("x-mesh-attempts")) == (b"first", "2")
        eventually(lambda: second.left == 1)
        assert outcomes(world.line("/first")) == ["cancelled", 200]


def test_a_bad_answer_does_not_win_and_another_try_takes_its_place(world):
    slow = Slow("at last")
    with Upstream(slow) as one, Upstream(saying(503, "busy")) as two:
        service = world.serve(HEDGE, one.address, two.address)
        got = []
        caller = threading.Thread(target=lambda: got.append(world.get(f"http://{service}/bad")))
        caller.start()
        eventually(lambda: len(one.requests) + len(two.requests) == 3)
        slow.go.set()
        caller.join(PATIENCE)
        assert (got[0].status, got[0].body, got[0].header("x-mesh-attempts")) == (200, b"at last", "3")
        assert sorted(map(str, outcomes(world.line("/bad")))) == ["200", "503", "cancelled"]
        assert world.line("/bad")["flags"] == "-"


def test_all_tries_used_the_last_answer_is_passed_on(world):
    with Upstream(saying(503, "busy")) as upstream:
        service = world.serve(HEDGE, upstream.address, f"127.0.0.1:{free_port()}")
        got = world.get(f"http://{service}/used")
        assert (got.status, got.header("x-mesh-attempts")) == (503, "3")
        assert len(world.line("/used")["attempts"]) == 3
        assert "URX" in world.line("/used")["flags"]


def test_what_may_not_be_sent_twice_is_not_hedged(world):
    slow = Slow()
    with Upstream(slow) as one, Upstream() as two:
        service = world.serve(HEDGE + "\ntimeout: 600ms", one.address, two.address)
        got = [world.send("POST", f"http://{service}/once", b"order") for _ in range(2)]
        assert sorted(each.status for each in got) == [200, 504]
        assert {each.header("x-mesh-attempts") for each in got} == {"1"}
        assert len(one.requests) == len(two.requests) == 1


def test_the_timeout_ends_all_of_them(world):
    one, two = Slow(), Slow()
    with Upstream(one) as first, Upstream(two) as second:
        service = world.serve(HEDGE + "\ntimeout: 3s", first.address, second.address)
        got = world.get(f"http://{service}/late")
        assert (got.status, got.flag, got.header("x-mesh-attempts")) == (504, "UT", "2")
        eventually(lambda: one.left == two.left == 1)
        assert outcomes(world.line("/late")) == ["timeout", "timeout"]


def test_a_client_that_leaves_ends_all_of_them(world):
    one, two = Slow(), Slow()
    with Upstream(one) as first, Upstream(two) as second:
        service = world.serve(HEDGE, first.address, second.address)
        client = socket.create_connection(("127.0.0.1", world.proxy.port), timeout=PATIENCE)
        client.sendall(f"GET http://{service}/gone HTTP/1.1\r\nhost: {service}\r\n\r\n".encode())
        eventually(lambda: first.requests and second.requests)
        client.close()
        eventually(lambda: one.left == two.left == 1)


def test_a_body_that_streams_comes_from_the_winner(world):
    slow = Slow()
    body = bytes(range(256)) * 4096

    def chunked(request, connection):
        connection.sendall(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
        for start in range(0, len(body), 65536):
            connection.sendall(b"10000\r\n" + body[start : start + 65536] + b"\r\n")
        return b"0\r\n\r\n"

    with Upstream(slow) as one, Upstream(chunked) as two:
        service = world.serve(HEDGE + "\ntimeout: 20s", one.address, two.address)
        assert [world.get(f"http://{service}/").body == body for _ in range(2)] == [True, True]
        eventually(lambda: slow.left == 1)


def test_the_budget_limits_hedges_too(world):
    slow = Slow()
    with Upstream(slow) as one, Upstream(slow) as two:
        budget = ", budget: {percent: 0, min_concurrent: 0}"
        service = world.serve(HEDGE.replace(", backoff", budget + ", backoff") + "\ntimeout: 500ms", one.address, two.address)  # fmt: skip
        got = world.get(f"http://{service}/budget")
        assert (got.status, got.header("x-mesh-attempts")) == (504, "1")


def test_a_fault_on_one_try_is_overtaken(world):
    with Upstream() as upstream:
        service = world.serve(HEDGE + "\nfaults: [{delay: 1h, first: 1}]", upstream.address)
        got = world.get(f"http://{service}/fault")
        assert (got.status, got.header("x-mesh-attempts")) == (200, "2")
        line = world.line("/fault")
        assert (line["flags"], outcomes(line)) == ("DI", ["cancelled", 200])
        assert len(upstream.requests) == 1
