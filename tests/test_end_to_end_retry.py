"""What a caller sees when upstreams fail: a real mitmdump, real sockets."""

import http.client
import socket
import time

import pytest

from tests.conftest import free_port
from tests.mesh_process import LANES, Answer, Client, World, eventually
from tests.upstream import Upstream, in_turn, saying


@pytest.fixture(scope="module", params=LANES)
def world(request, tmp_path_factory):
    with World(tmp_path_factory.mktemp("retry"), **request.param) as world:
        yield world


def reset(request, connection: socket.socket) -> None:
    """The connection breaks instead of an answer."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    connection.close()


def test_every_request_succeeds_when_one_of_two_endpoints_refuses(world):
    with Upstream() as upstream:
        service = world.serve("retry: {attempts: 3}", upstream.address, f"127.0.0.1:{free_port()}")
        with Client(world.proxy.port) as client:
            got = [client.get(f"http://{service}/two/{number}") for number in range(30)]
        assert [each.status for each in got] == [200] * 30
        tries = {each.header("x-mesh-attempts") for each in got}
        assert tries == {"1", "2"}
        line = world.line("/two/0")
        errors = [attempt.get("error") for attempt in line["attempts"]]
        assert errors in ([None], ["connect-failure", None])


def test_a_connection_that_cannot_be_made_is_503_uf_with_the_reason(world):
    port = free_port()
    service = world.serve("", f"127.0.0.1:{port}")
    got = world.get(f"http://{service}/refused")
    assert (got.status, got.flag) == (503, "UF")
    assert got.text == f"no connection to 127.0.0.1:{port}: connection refused\n"
    line = world.line("/refused")
    assert line["flags"] == "UF"
    assert line["attempts"][0] | {"ms": 0} == {
        "endpoint": f"127.0.0.1:{port}",
        "error": "connect-failure",
        "detail": "connection refused",
        "ms": 0,
    }


def test_post_is_not_resent_on_a_503_but_is_on_a_failed_connection(world):
    with Upstream(saying(503, "busy")) as upstream:
        service = world.serve("retry: {attempts: 3, on: [5xx]}", upstream.address)
        got = world.send("POST", f"http://{service}/post", b"order")
        assert (got.status, got.body, got.header("x-mesh-attempts")) == (503, b"busy", "1")
        assert len(upstream.requests) == 1
        again = world.send("GET", f"http://{service}/get")
        assert (again.status, again.header("x-mesh-attempts"), again.flag) == (503, "3", "URX")
        key = {"idempotency-key": "k1"}
        assert world.send("POST", f"http://{service}/key", b"x", key).header("x-mesh-attempts") == "3"
    with Upstream() as upstream:
        service = world.serve("retry: 3", upstream.address, f"127.0.0.1:{free_port()}")
        got = [world.send("POST", f"http://{service}/both", b"order") for _ in range(4)]
        assert [each.status for each in got] == [200] * 4
        assert {request.body for request in upstream.requests} == {b"order"}


def test_methods_replace_the_idempotent_ones(world):
    with Upstream(saying(502, "bad")) as upstream:
        service = world.serve("retry: {attempts: 2, methods: [POST]}", upstream.address)
        assert world.send("POST", f"http://{service}/", b"x").header("x-mesh-attempts") == "2"
        assert world.send("GET", f"http://{service}/").header("x-mesh-attempts") == "1"


def test_two_aborts_and_three_attempts_are_a_success_with_three_attempts_in_the_log(world):
    with Upstream() as upstream:
        service = world.serve(
            "retry: {attempts: 3, on: [5xx]}\nfaults: [{abort: 503, first: 2}]", upstream.address
        )
        got = world.get(f"http://{service}/abort")
        assert (got.status, got.header("x-mesh-attempts"), got.flag) == (200, "3", None)
        line = world.line("/abort")
        assert [attempt["status"] for attempt in line["attempts"]] == [503, 503, 200]
        assert [attempt.get("injected", False) for attempt in line["attempts"]] == [True, True, False]
        assert line["flags"] == "FI"
        assert len(upstream.requests) == 1


def test_the_last_answer_is_passed_on_as_it_came(world):
    with Upstream(saying(500, "failure\n", x_own="1", content_type="text/x")) as upstream:
        service = world.serve("retry: {attempts: 3, on: [5xx], backoff: {base: 1ms}}", upstream.address)
        got = world.get(f"http://{service}/urx")
        assert (got.status, got.body, got.flag) == (500, b"failure\n", "URX")
        assert (got.header("x-own"), got.header("content-type")) == ("1", "text/x")
        assert (len(upstream.requests), got.header("x-mesh-attempts")) == (3, "3")
        assert world.line("/urx")["flags"] == "URX"


@pytest.mark.parametrize(
    ("condition", "failure"),
    [
        ("reset", reset),
        ("503", saying(503)),
        ('"500-504"', saying(501)),
        ("retriable-4xx", saying(409)),
        ("gateway-error", saying(504)),
        ("{header: {x-again: {present: true}}}", saying(200, "no", x_again="1")),
        ('{body: "failure\\n"}', saying(200, "failure\n")),
        ('{body: {prefix: "fail"}}', saying(200, "failure")),
        ('{body: {json: "a.b.0", exact: "bad"}}', saying(200, '{"a": {"b": ["bad"]}}')),
    ],
)  # fmt: skip
def test_what_calls_for_another_try(world, condition, failure):
    with Upstream(in_turn(failure, saying(200, "good"))) as upstream:
        service = world.serve(
            f"retry: {{attempts: 3, on: [{condition}], backoff: {{base: 1ms}}}}", upstream.address
        )
        got = world.get(f"http://{service}/")
        assert (got.status, got.body, got.header("x-mesh-attempts")) == (200, b"good", "2")


def test_an_answer_longer_than_max_body_is_neither_judged_nor_cut(world):
    body = b"failure\n" + b"x" * 3000
    with Upstream(saying(200, body)) as upstream:
        service = world.serve(
            'retry: {attempts: 3, max_body: 1KiB, on: [{body: {prefix: "fail"}}]}', upstream.address
        )
        got = world.get(f"http://{service}/")
        assert (got.status, got.body, got.header("x-mesh-attempts")) == (200, body, "1")


def test_a_request_longer_than_max_body_is_not_resent(world):
    with Upstream(saying(503)) as upstream:
        service = world.serve("retry: {attempts: 3, max_body: 1KiB, on: [5xx]}", upstream.address)
        assert world.send("PUT", f"http://{service}/", b"x" * 2000).header("x-mesh-attempts") == "1"
        assert world.send("PUT", f"http://{service}/", b"x" * 1000).header("x-mesh-attempts") == "3"
        assert [len(request.body) for request in upstream.requests] == [2000, 1000, 1000, 1000]


def test_a_connection_that_ends_before_an_answer_is_503_uc(world):
    with Upstream(reset) as upstream:
        service = world.serve("", upstream.address)
        got = world.send("POST", f"http://{service}/uc", b"x")
        assert (got.status, got.flag) == (503, "UC")
        assert got.text.startswith(f"{upstream.address} ended the connection before it answered: ")
        assert world.line("/uc")["attempts"][0]["error"] == "reset"


def test_what_is_not_http_is_502_upe(world):
    with Upstream(lambda request, connection: b"220 ready for mail\r\n") as upstream:
        service = world.serve("", upstream.address)
        got = world.get(f"http://{service}/upe")
        assert (got.status, got.flag) == (502, "UPE")
        assert world.line("/upe")["flags"] == "UPE"


def test_an_answer_that_breaks_off_is_not_taken_for_whole(world):
    def reply(request, connection):
        connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf")

    with Upstream(reply) as upstream:
        service = world.serve("", upstream.address)
        try:
            got = world.get(f"http://{service}/half")
        except (ConnectionError, http.client.HTTPException):
            pass
        else:
            assert (got.status, got.flag) == (502, "UC")
        assert "UC" in world.line("/half")["flags"]


def test_an_idle_connection_that_the_upstream_has_closed_is_no_failure(world):
    with Upstream() as upstream:
        service = world.serve("", upstream.address)
        with Client(world.proxy.port) as client:
            for number in range(5):
                assert client.get(f"http://{service}/stale/{number}").status == 200
                upstream.drop_connections()


def test_connections_are_shared_by_all_clients(world):
    with Upstream() as upstream:
        service = world.serve("", upstream.address)
        for number in range(10):
            assert world.get(f"http://{service}/pool/{number}").status == 200
        assert upstream.connections == 1


def test_no_endpoint_with_a_weight_is_503_uh(world):
    with Upstream() as upstream:
        service = world.serve(
            f"""\
            endpoints: {{v1: [{{address: "{upstream.address}", weight: 1}}], v2: ["{upstream.address}"]}}
            routes: [{{match: {{path: /none}}, to: {{v1: 1, v2: 0}}}}]
            """
        )
        assert world.get(f"http://{service}/none").status == 200


def test_retries_wait_as_long_as_retry_after_asks(world):
    with Upstream(in_turn(saying(503, "later", retry_after="1"), saying())) as upstream:
        service = world.serve("retry: {attempts: 2, on: [503]}", upstream.address)
        start = time.monotonic()
        got = world.get(f"http://{service}/")
        assert (got.status, got.header("x-mesh-attempts")) == (200, "2")
        assert time.monotonic() - start >= 1


def test_a_head_request_has_no_body_and_keeps_the_length(world):
    def reply(request, connection):
        return b"HTTP/1.1 200 OK\r\ncontent-length: 1234\r\n\r\n"

    with Upstream(reply) as upstream:
        service = world.serve("retry: 3", upstream.address)
        with Client(world.proxy.port) as client:
            for _ in range(2):
                got: Answer = client.send("HEAD", f"http://{service}/")
                assert (got.status, got.body, got.header("content-length")) == (200, b"", "1234")


@pytest.mark.parametrize("status", [204, 304])
def test_answers_without_a_body(world, status):
    with Upstream(lambda request, connection: f"HTTP/1.1 {status} X\r\netag: a\r\n\r\n".encode()) as upstream:
        service = world.serve("retry: 3", upstream.address)
        with Client(world.proxy.port) as client:
            for _ in range(2):
                got = client.get(f"http://{service}/")
                assert (got.status, got.body, got.header("etag")) == (status, b"", "a")


def test_a_client_that_leaves_ends_the_retries(world):
    with Upstream(saying(503)) as upstream:
        service = world.serve(
            "retry: {attempts: 100, on: [503], backoff: {base: 200ms, max: 400ms}}", upstream.address
        )
        with socket.create_connection(("127.0.0.1", world.proxy.port)) as client:
            client.sendall(f"GET http://{service}/left HTTP/1.1\r\nhost: {service}\r\n\r\n".encode())
            eventually(lambda: upstream.requests)
        line = world.line("/left")
        assert "DC" in line["flags"]
        assert len(line["attempts"]) < 50
