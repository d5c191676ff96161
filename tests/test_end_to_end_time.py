"""Time limits and faults as a caller sees them: a real mitmdump, real sockets."""

import http.client
import socket
import threading
import time

import pytest

from tests.mesh_process import LANES, Client, World, eventually
from tests.upstream import Upstream, in_turn, saying


@pytest.fixture(scope="module", params=LANES)
def world(request, tmp_path_factory):
    with World(tmp_path_factory.mktemp("time"), **request.param) as world:
        yield world


def silent(request, connection: socket.socket) -> None:
    """No answer until the other side gives up."""
    connection.settimeout(30)
    while connection.recv(65536):
        pass


def timed(call):
    start = time.monotonic()
    got = call()
    return got, time.monotonic() - start


def test_the_timeout_runs_out_during_a_try(world):
    with Upstream(silent) as upstream:
        service = world.serve("timeout: 300ms", upstream.address)
        got, seconds = timed(lambda: world.get(f"http://{service}/try"))
        assert (got.status, got.flag, got.header("x-mesh-attempts")) == (504, "UT", "1")
        assert got.text == "the timeout of 0.3 s ran out after 1 try\n"
        assert 0.28 <= seconds < 5
        line = world.line("/try")
        assert (line["status"], line["flags"]) == (504, "UT")
        assert line["attempts"][0]["error"] == "timeout"


def test_the_timeout_begins_when_the_request_is_there(world):
    with Upstream() as upstream:
        service = world.serve("timeout: 300ms", upstream.address)
        with socket.create_connection(("127.0.0.1", world.proxy.port), timeout=20) as client:
            client.sendall(
                f"PUT http://{service}/ HTTP/1.1\r\nhost: {service}\r\ncontent-length: 2\r\n\r\no".encode()
            )
            time.sleep(0.5)
            client.sendall(b"k")
            assert client.recv(1000).startswith(b"HTTP/1.1 200 ")


def test_the_timeout_includes_all_tries(world):
    with Upstream(silent) as upstream:
        service = world.serve(
            "timeout: 500ms\nretry: {attempts: 100, on: [timeout], per_try_timeout: 100ms, backoff: {base: 1ms, max: 1ms}}",
            upstream.address,
        )
        got, seconds = timed(lambda: world.get(f"http://{service}/tries"))
        assert (got.status, got.flag) == (504, "UT")
        assert 0.48 <= seconds < 5
        assert 2 <= int(got.header("x-mesh-attempts")) <= 5


def test_the_timeout_runs_out_during_a_pause_and_is_told_at_that_moment(world):
    with Upstream(saying(503, "later", retry_after="60")) as upstream:
        service = world.serve("timeout: 400ms\nretry: {attempts: 2, on: [503]}", upstream.address)
        got, seconds = timed(lambda: world.get(f"http://{service}/pause"))
        assert (got.status, got.flag, got.header("x-mesh-attempts")) == (504, "UT", "1")
        assert 0.38 <= seconds < 5
        assert world.line("/pause")["flags"] == "UT"


def test_a_per_try_timeout_ends_a_try_and_the_next_succeeds(world):
    with Upstream(in_turn(silent, saying(200, "second"))) as upstream:
        service = world.serve("retry: {attempts: 2, on: [timeout], per_try_timeout: 300ms}", upstream.address)
        got = world.get(f"http://{service}/per-try")
        assert (got.status, got.body) == (200, b"second")
        assert [attempt.get("error") for attempt in world.line("/per-try")["attempts"]] == ["timeout", None]


def test_a_per_try_timeout_does_not_judge_a_body_that_takes_its_time(world):
    go = threading.Event()

    def reply(request, connection):
        connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nab")
        go.wait(10)
        connection.sendall(b"cd")

    with Upstream(reply) as upstream:
        service = world.serve("retry: {attempts: 2, on: [timeout], per_try_timeout: 200ms}", upstream.address)
        threading.Timer(0.6, go.set).start()
        got = world.get(f"http://{service}/slow-body")
        assert (got.status, got.body, got.header("x-mesh-attempts")) == (200, b"abcd", "1")


@pytest.mark.parametrize("framing", [b"content-length: 2000000", b"transfer-encoding: chunked"])
def test_a_body_that_streams_is_cut_when_time_runs_out(world, framing):
    def reply(request, connection):
        piece = b"x" * 70000
        data = piece if framing.startswith(b"content") else b"%x\r\n%b\r\n" % (len(piece), piece)
        connection.sendall(b"HTTP/1.1 200 OK\r\n" + framing + b"\r\n\r\n" + data)
        silent(request, connection)

    with Upstream(reply) as upstream:
        service = world.serve("timeout: 500ms", upstream.address)
        path = "/cut/" + framing[:5].decode()
        start = time.monotonic()
        with Client(world.proxy.port) as client:
            client.connection.request("GET", f"http://{service}{path}")
            response = client.connection.getresponse()
            assert response.status == 200
            with pytest.raises((http.client.IncompleteRead, ConnectionError)):
                response.read()
        assert 0.4 <= time.monotonic() - start < 8
        line = world.line(path)
        assert (line["status"], line["flags"]) == (200, "UT")


def test_connect_timeout(world):
    # A listener whose queue is full does not answer a further SYN.
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listener:
        port = listener.getsockname()[1]
        fillers = [socket.socket() for _ in range(4)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(("127.0.0.1", port))
        service = world.serve("connect_timeout: 300ms", f"127.0.0.1:{port}")
        got, seconds = timed(lambda: world.get(f"http://{service}/connect"))
        for filler in fillers:
            filler.close()
        assert (got.status, got.flag) == (503, "UF")
        assert "timed out after 0.3 s" in got.text
        assert seconds < 5


def test_idle_timeout(world):
    with Upstream(silent) as upstream:
        service = world.serve("idle_timeout: 500ms", upstream.address)
        got, seconds = timed(lambda: world.get(f"http://{service}/idle"))
        assert (got.status, got.flag) == (504, "UT")
        assert "silent for 0.5 s" in got.text
        assert 0.5 <= seconds < 6


def test_a_timeout_of_the_defaults_and_none_for_one_service(world):
    with Upstream(silent) as upstream:
        try:
            world.apply('service: "*"\ntimeout: 300ms')
            service = world.serve("", upstream.address)
            assert world.get(f"http://{service}/").status == 504
        finally:
            world.mesh.delete("*")


# Faults


def test_delay(world):
    with Upstream() as upstream:
        service = world.serve("faults: [{delay: 300ms}]", upstream.address)
        got, seconds = timed(lambda: world.get(f"http://{service}/delay"))
        assert (got.status, got.body) == (200, b"ok")
        assert 0.3 <= seconds < 5
        assert world.line("/delay")["flags"] == "DI"


def test_delays_count_in_the_timeouts(world):
    with Upstream() as upstream:
        service = world.serve("timeout: 300ms\nfaults: [{delay: 1m}]", upstream.address)
        got, seconds = timed(lambda: world.get(f"http://{service}/delayed"))
        assert (got.status, got.flag) == (504, "UT")
        assert seconds < 5
        assert upstream.requests == []
        assert world.line("/delayed")["flags"] == "DI,UT"


def test_a_delay_is_within_the_per_try_timeout(world):
    with Upstream() as upstream:
        service = world.serve(
            "retry: {attempts: 2, on: [timeout], per_try_timeout: 200ms}\nfaults: [{delay: 1m, first: 1}]",
            upstream.address,
        )
        got = world.get(f"http://{service}/held")
        assert (got.status, got.header("x-mesh-attempts")) == (200, "2")


def test_abort_with_an_answer_of_its_own(world):
    with Upstream() as upstream:
        service = world.serve(
            "faults: [{abort: {status: 418, headers: {x-tea: pot}, body: short}}]", upstream.address
        )
        got = world.get(f"http://{service}/tea")
        assert (got.status, got.body, got.header("x-tea"), got.flag) == (418, b"short", "pot", "FI")
        assert upstream.requests == []
        assert world.line("/tea")["flags"] == "FI"


def test_abort_by_reset_is_a_503_of_the_proxy_and_can_be_retried(world):
    with Upstream() as upstream:
        service = world.serve("faults: [{abort: reset}]", upstream.address)
        got = world.get(f"http://{service}/reset")
        assert (got.status, got.flag) == (503, "UC")
        assert world.line("/reset")["flags"] == "FI,UC"
        world.change(
            service, "retry: {attempts: 2, on: [reset]}\nfaults: [{abort: reset, first: 1}]", upstream.address
        )
        assert world.get(f"http://{service}/").status == 200


def test_hang_lasts_until_the_timeout(world):
    with Upstream() as upstream:
        service = world.serve("timeout: 300ms\nfaults: [{abort: hang}]", upstream.address)
        got, seconds = timed(lambda: world.get(f"http://{service}/hang"))
        assert (got.status, got.flag) == (504, "UT")
        assert 0.28 <= seconds < 5
        assert upstream.requests == []


def test_every_and_seed_repeat(world):
    with Upstream() as upstream:
        service = world.serve("faults: [{abort: 503, every: 3}]", upstream.address)
        with Client(world.proxy.port) as client:
            got = [client.get(f"http://{service}/").status for _ in range(9)]
            assert got == [200, 200, 503] * 3
            seeded = "faults: [{abort: 503, percent: 50, seed: 7}]"
            first, second = world.serve(seeded, upstream.address), world.serve(seeded, upstream.address)
            runs = [[client.get(f"http://{each}/").status for _ in range(20)] for each in (first, second)]
        assert runs[0] == runs[1]
        assert set(runs[0]) == {200, 503}


def test_faults_hit_only_what_they_match(world):
    with Upstream() as upstream:
        service = world.serve("faults: [{abort: 503, match: {headers: {x-user: qa}}}]", upstream.address)
        assert world.get(f"http://{service}/").status == 200
        assert world.get(f"http://{service}/", x_user="qa").status == 503


def test_counters_survive_a_change_of_another_service(world):
    with Upstream() as upstream:
        service = world.serve("faults: [{abort: 503, first: 1}]", upstream.address)
        assert world.get(f"http://{service}/").status == 503
        world.serve("", upstream.address)
        assert world.get(f"http://{service}/").status == 200
        world.change(service, "timeout: 5s\nfaults: [{abort: 503, first: 1}]", upstream.address)
        assert world.get(f"http://{service}/").status == 200


def test_a_client_that_leaves_is_noticed(world):
    with Upstream(silent) as upstream:
        service = world.serve("", upstream.address)
        with socket.create_connection(("127.0.0.1", world.proxy.port)) as client:
            client.sendall(f"GET http://{service}/gone HTTP/1.1\r\nhost: {service}\r\n\r\n".encode())
            eventually(lambda: upstream.requests)
        assert "DC" in world.line("/gone")["flags"]
