"""What faults do to answers and requests, as a caller sees it: real proxies, real sockets."""

import http.client
import socket
import threading
import time

import pytest

from tests.mesh_process import LANES, PATIENCE, Client, World, curl, eventually
from tests.upstream import Upstream, saying

BODY = bytes(range(256)) * 4


@pytest.fixture(scope="module", params=LANES)
def world(request, tmp_path_factory):
    with World(tmp_path_factory.mktemp("faults"), **request.param) as world:
        yield world


def chunked(request, connection: socket.socket) -> None:
    """BODY in chunks, of a length that nobody is told."""
    connection.sendall(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
    for start in range(0, len(BODY), 256):
        connection.sendall(b"100\r\n" + BODY[start : start + 256] + b"\r\n")
    connection.sendall(b"0\r\n\r\n")


def faults_counted(world: World, service: str) -> dict[str, float]:
    """Kind of fault -> how often it was counted for this service."""
    text = world.get("http://mesh.local/metrics").text
    found = {}
    for line in text.splitlines():
        if line.startswith("mitmesh_faults_injected_total{") and f'destination_service="{service}"' in line:
            found[line.split('fault="')[1].split('"')[0]] = float(line.rsplit(" ", 1)[1])
    return found


@pytest.mark.parametrize("reply", [saying(200, BODY), chunked], ids=["length", "chunked"])
def test_a_truncated_answer_can_be_told_from_a_whole_one(world, reply, request):
    with Upstream(reply) as upstream:
        service = world.serve("faults: [{truncate: 100}]", upstream.address)
        path = f"/cut-{request.node.callspec.id}"
        with Client(world.proxy.port) as client, pytest.raises(http.client.IncompleteRead) as seen:
            client.get(f"http://{service}{path}")
        assert seen.value.partial == BODY[:100]
        line = world.line(path)
        assert (line["status"], line["bytes_out"]) == (200, 100)
        assert "FI" in line["flags"]
        assert line["attempts"][0]["injected"] is True
        assert eventually(lambda: faults_counted(world, service)) == {"truncate": 1}


def test_curl_says_that_a_truncated_answer_is_not_whole(world):
    with Upstream(saying(200, BODY)) as upstream:
        service = world.serve("faults: [{truncate: 1KB}]", upstream.address)
        got = curl("-x", f"127.0.0.1:{world.proxy.port}", "-o", "/dev/null", f"http://{service}/")
        assert got.returncode == 18  # partial file


def test_an_answer_no_longer_than_that_is_whole(world):
    with Upstream(saying(200, BODY)) as upstream:
        service = world.serve("faults: [{truncate: 1024}]", upstream.address)
        got = world.get(f"http://{service}/whole")
        assert (got.status, got.body) == (200, BODY)
        assert world.line("/whole")["flags"] == "-"


def test_a_truncated_answer_is_tried_again_where_its_body_decides(world):
    with Upstream(saying(200, BODY)) as upstream:
        policy = "retry: {attempts: 2, on: [reset, {body: busy}]}\nfaults: [{truncate: 10, first: 1}]"
        service = world.serve(policy, upstream.address)
        got = world.get(f"http://{service}/again")
        assert (got.status, got.body, got.header("x-mesh-attempts")) == (200, BODY, "2")
        assert [attempt.get("detail") for attempt in world.line("/again")["attempts"]] == [
            "cut by a fault",
            None,
        ]


@pytest.mark.parametrize("reply", [saying(200, BODY), chunked], ids=["length", "chunked"])
def test_a_seed_corrupts_the_same_bytes(world, reply):
    with Upstream(reply) as upstream:
        bodies = []
        for _ in range(2):
            service = world.serve("faults: [{corrupt: 5, seed: 7}]", upstream.address)
            bodies.append(world.get(f"http://{service}/").body)
        assert bodies[0] == bodies[1] != BODY
        differing = [a ^ b for a, b in zip(BODY, bodies[0], strict=True) if a != b]
        assert 20 <= len(differing) <= 90
        assert all(bits.bit_count() == 1 for bits in differing)
        assert eventually(lambda: faults_counted(world, service)) == {"corrupt": 1}


def test_bandwidth_lets_the_first_bytes_through_and_the_rest_by_and_by(world):
    with Upstream(saying(200, BODY)) as upstream:
        service = world.serve("faults: [{bandwidth: 1KiB/s}]", upstream.address)
        begun = time.monotonic()
        got = world.get(f"http://{service}/slow")
        took = time.monotonic() - begun
        assert got.body == BODY
        assert took > 0.9
        line = world.line("/slow")
        assert line["flags"] == "DI"
        assert line["duration_ms"] > 900
        assert eventually(lambda: faults_counted(world, service)) == {"bandwidth": 1}


def test_a_throttled_upstream_is_held_back_and_let_go_when_the_fault_is_gone(world):
    sent = []

    def endless(request, connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 50000000\r\n\r\n")
        for _ in range(500):
            connection.sendall(b"x" * 100_000)
            sent.append(100_000)

    with Upstream(endless) as upstream:
        service = world.serve("faults: [{bandwidth: 50KiB/s}]", upstream.address)
        connection = http.client.HTTPConnection("127.0.0.1", world.proxy.port, timeout=PATIENCE)
        connection.request("GET", f"http://{service}/")
        response = connection.getresponse()
        got = len(response.read(20_000))
        assert sum(sent) < 20_000_000
        world.change(service, "", upstream.address)
        # What would have taken a quarter of an hour.
        while data := response.read(1_000_000):
            got += len(data)
        assert got == 50_000_000
        connection.close()


def test_a_timeout_ends_a_throttled_answer(world):
    with Upstream(saying(200, BODY)) as upstream:
        service = world.serve("timeout: 300ms\nfaults: [{bandwidth: 10B/s}]", upstream.address)
        with Client(world.proxy.port) as client, pytest.raises(http.client.HTTPException):
            client.get(f"http://{service}/never")
        assert "UT" in world.line("/never")["flags"]


def test_a_slow_close_ends_the_connection_late(world):
    with Upstream(saying(200, BODY)) as upstream:
        service = world.serve("faults: [{slow_close: 400ms}]", upstream.address)
        with socket.create_connection(("127.0.0.1", world.proxy.port), timeout=PATIENCE) as client:
            client.sendall(f"GET http://{service}/late HTTP/1.1\r\nhost: {service}\r\n\r\n".encode())
            stream = client.makefile("rb")
            head = b"".join(iter(stream.readline, b"\r\n"))
            assert b"connection: close" in head.lower()
            assert stream.read(len(BODY)) == BODY
            whole = time.monotonic()
            assert stream.read() == b""
            assert time.monotonic() - whole > 0.3
        assert world.line("/late")["flags"] == "DI"


@pytest.mark.parametrize("fault", ["delay: 1h", "abort: hang", "delay: 1h, scope: request"])
def test_a_wait_ends_with_the_policy_that_made_it(world, fault):
    with Upstream() as upstream:
        service = world.serve(f"faults: [{{{fault}}}]", upstream.address)
        got = []
        caller = threading.Thread(target=lambda: got.append(world.get(f"http://{service}/held")))
        caller.start()
        with Client(world.proxy.port) as client:
            client.get("http://mesh.local/metrics")
        assert not got
        world.change(service, "", upstream.address)
        caller.join(PATIENCE)
        assert [each.status for each in got] == [200]


def test_a_fault_of_the_request_acts_once_above_its_retries(world):
    with Upstream(saying(503, "busy")) as upstream:
        policy = "retry: {attempts: 3, on: [5xx]}\nfaults: [{abort: 503, scope: request, first: 1}]"
        service = world.serve(policy, upstream.address)
        got = world.get(f"http://{service}/above")
        assert (got.status, got.body, got.flag, got.header("x-mesh-attempts")) == (503, b"", "FI", None)
        line = world.line("/above")
        assert (line["flags"], line["attempts"]) == ("FI", [])
        assert world.get(f"http://{service}/").header("x-mesh-attempts") == "3"
        assert eventually(lambda: faults_counted(world, service)) == {"abort": 1}


def test_a_request_is_throttled_and_cut_as_a_whole_too(world):
    with Upstream(saying(200, BODY)) as upstream:
        service = world.serve("faults: [{truncate: 7, scope: request}]", upstream.address)
        with Client(world.proxy.port) as client, pytest.raises(http.client.IncompleteRead) as seen:
            client.get(f"http://{service}/")
        assert seen.value.partial == BODY[:7]


def test_a_header_asks_for_a_fault_only_where_the_policy_lets_it(world):
    with Upstream() as upstream:
        allowed = world.serve("faults: [{allow_header: true}]", upstream.address)
        other = world.serve("faults: [{abort: 500, percent: 0}]", upstream.address)
        asked = {"x_mesh_fault": "delay=1ms, abort=418"}
        got = world.get(f"http://{allowed}/asked", **asked)
        assert (got.status, got.flag) == (418, "FI")
        assert world.line("/asked")["flags"] == "DI,FI"
        assert world.get(f"http://{allowed}/").status == 200
        assert world.get(f"http://{other}/", **asked).status == 200
        # As Envoy's: it is passed on.
        assert upstream.requests[-1].header("x-mesh-fault") == "delay=1ms, abort=418"
        wrong = world.get(f"http://{allowed}/", x_mesh_fault="delay=fast")
        assert (wrong.status, wrong.flag) == (400, "FI")
        assert wrong.text.startswith("x-mesh-fault: delay: write a duration")


def test_a_grpc_call_is_aborted_in_grpc(world):
    with Upstream() as upstream:
        service = world.serve("faults: [{abort: {grpc: UNAVAILABLE, body: gone fishing}}]", upstream.address)
        call = {"content-type": "application/grpc", "te": "trailers"}
        got = world.send("POST", f"http://{service}/pkg.Service/Method", b"\0\0\0\0\0", call)
        assert (got.status, got.body, got.flag) == (200, b"", "FI")
        assert (got.header("grpc-status"), got.header("grpc-message")) == ("14", "gone fishing")
        assert got.header("content-type") == "application/grpc"
        assert world.get(f"http://{service}/").status == 503


def test_no_more_hits_at_once_than_max_active(world):
    with Upstream() as upstream:
        service = world.serve("faults: [{abort: hang, max_active: 2}]", upstream.address)
        held = []
        for _ in range(2):
            client = socket.create_connection(("127.0.0.1", world.proxy.port), timeout=PATIENCE)
            client.sendall(f"GET http://{service}/held HTTP/1.1\r\nhost: {service}\r\n\r\n".encode())
            held.append(client)
        # As soon as both hang, everybody else is let through.
        for client in held:
            client.settimeout(0.2)
            with pytest.raises(TimeoutError):
                client.recv(1)
        assert [world.get(f"http://{service}/").status for _ in range(3)] == [200] * 3
        held[0].close()

        def hangs() -> bool:
            with Client(world.proxy.port, timeout=0.5) as client:
                try:
                    return client.get(f"http://{service}/").status != 200
                except TimeoutError:
                    return True

        eventually(hangs)
        held[1].close()


# What mitmproxy's own stack streams where it serves HTTP/1.1: to it, these are gRPC calls.


def call(world: World, service: str, path: str = "/pkg.Service/Method"):
    kind = {"content-type": "application/grpc", "te": "trailers"}
    return world.send("POST", f"http://{service}{path}", b"\0\0\0\0\0", kind)


@pytest.mark.parametrize("reply", [saying(200, BODY), chunked], ids=["length", "chunked"])
@pytest.mark.parametrize("scope", ["attempt", "request"])
def test_a_stream_is_cut(world, reply, scope, request):
    with Upstream(reply) as upstream:
        service = world.serve(f"faults: [{{truncate: 100, scope: {scope}}}]", upstream.address)
        path = f"/stream-{request.node.callspec.id}"
        with pytest.raises(http.client.IncompleteRead) as seen:
            call(world, service, path)
        assert seen.value.partial == BODY[:100]
        line = world.line(path)
        assert "FI" in line["flags"]
        assert eventually(lambda: faults_counted(world, service)) == {"truncate": 1}


def test_a_stream_is_corrupted_and_whole_where_it_is_short(world):
    with Upstream(chunked) as upstream:
        service = world.serve("faults: [{corrupt: 100, truncate: 1024, seed: 1}]", upstream.address)
        got = call(world, service)
        assert (got.status, len(got.body)) == (200, len(BODY))
        assert all(a != b for a, b in zip(BODY, got.body, strict=True))


def test_a_stream_is_throttled_and_let_go(world):
    sent = []

    def endless(request, connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 50000000\r\n\r\n")
        for _ in range(500):
            connection.sendall(b"x" * 100_000)
            sent.append(100_000)

    with Upstream(endless) as upstream:
        service = world.serve("faults: [{bandwidth: 50KiB/s}]", upstream.address)
        connection = http.client.HTTPConnection("127.0.0.1", world.proxy.port, timeout=PATIENCE)
        connection.request("POST", f"http://{service}/", b"", {"content-type": "application/grpc"})
        response = connection.getresponse()
        got = len(response.read(20_000))
        assert sum(sent) < 20_000_000
        world.change(service, "", upstream.address)
        while data := response.read(1_000_000):
            got += len(data)
        assert got == 50_000_000
        connection.close()


def test_a_stream_ends_late(world):
    with Upstream(chunked) as upstream:
        service = world.serve("faults: [{slow_close: 400ms}]", upstream.address)
        begun = time.monotonic()
        got = call(world, service, "/stream-late")
        assert (got.status, got.body) == (200, BODY)
        assert time.monotonic() - begun > 0.4
        assert world.line("/stream-late")["flags"] == "DI"
