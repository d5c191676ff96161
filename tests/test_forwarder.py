"""The forwarder in mitmproxy's own lane, its hooks called directly: real upstreams, no proxy."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from mitmproxy import http
from mitmproxy.addons.proxyserver import Proxyserver
from mitmproxy.connection import ConnectionState

from addons.exchange import Attempt, exchange_of
from addons.faults import Faults
from addons.forwarder import BUFFER, Forwarder, set_field
from addons.relay import relayed
from addons.retry import Retry
from addons.routing import Routing
from tests.conftest import free_port
from tests.flows import loaded, make_answer, make_flow, pinned, snapshot
from tests.upstream import Upstream, answer, in_turn, saying

WITHIN = 20.0


class Chain:
    """The features that decide and send, on their own."""

    def __init__(self, policy: str) -> None:
        self.snapshot = snapshot(policy)
        self.routing, self.forwarder = Routing(), Forwarder()
        self.features = [self.routing, Faults(), Retry(), self.forwarder]

    async def send(self, flow: http.HTTPFlow) -> http.HTTPFlow:
        """As mitmproxy calls the hooks when a request has arrived whole."""
        pinned(flow, self.snapshot)
        flow.client_conn.state = ConnectionState.OPEN
        self.routing.request(flow)
        await asyncio.wait_for(self.forwarder.request(flow), WITHIN)
        if flow.response is not None:
            for feature in self.features:
                if hasattr(feature, "responseheaders"):
                    feature.responseheaders(flow)
        return flow


@asynccontextmanager
async def chain(policy: str, *more: object) -> AsyncIterator[Chain]:
    made = Chain(policy)
    with loaded(Proxyserver(), *made.features, *more):
        yield made


def web(upstream: Upstream | int, rest: str = "") -> str:
    port = upstream if isinstance(upstream, int) else upstream.port
    return f'service: web\nendpoints: ["127.0.0.1:{port}"]\n{rest}\n'


async def test_an_answer_comes_back_as_it_is():
    with Upstream(saying(203, "body", x_a="1", set_cookie="a=b")) as upstream:
        async with chain(web(upstream)) as mesh:
            flow = await mesh.send(make_flow("http://web/p?q", "POST", {"x-up": "2"}, b"sent"))
    response = flow.response
    assert (response.status_code, response.reason, response.raw_content) == (203, "Said", b"body")
    assert (response.headers["x-a"], response.headers["set-cookie"]) == ("1", "a=b")
    assert response.headers["x-mesh-attempts"] == "1"
    (request,) = upstream.requests
    assert (request.method, request.target, request.body, request.header("x-up")) == (
        "POST",
        "/p?q",
        b"sent",
        "2",
    )
    (attempt,) = exchange_of(flow).attempts
    assert (attempt.status, attempt.address, attempt.error) == (203, upstream.address, None)
    assert attempt.ms > 0
    assert flow.server_conn.peername[1] == upstream.port


@pytest.mark.parametrize(
    ("method", "reply", "body", "length"),
    [
        ("HEAD", b"HTTP/1.1 200 X\r\ncontent-length: 99\r\n\r\n", b"", "99"),
        ("GET", b"HTTP/1.1 204 X\r\n\r\n", b"", None),
        ("GET", b"HTTP/1.1 304 X\r\ncontent-length: 99\r\n\r\n", b"", "99"),
        ("GET", b"HTTP/1.1 200 X\r\ncontent-length: 2\r\n\r\nok", b"ok", "2"),
        ("GET", b"HTTP/1.1 200 X\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", b"ok", "2"),
        ("GET", b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 X\r\ncontent-length: 0\r\n\r\n", b"", "0"),
    ],
)
async def test_the_length_is_true(method, reply, body, length):
    with Upstream(lambda request, connection: reply) as upstream:
        async with chain(web(upstream)) as mesh:
            flow = await mesh.send(make_flow("http://web/", method))
    response = flow.response
    assert (response.raw_content, response.headers.get("content-length")) == (body, length)
    assert "transfer-encoding" not in response.headers


@pytest.mark.parametrize(("size", "is_relayed"), [(BUFFER, False), (BUFFER + 1, True)])
async def test_a_long_answer_is_relayed(size, is_relayed):
    with Upstream(saying(200, b"x" * size)) as upstream:
        async with chain(web(upstream)) as mesh:
            flow = await mesh.send(make_flow("http://web/"))
            assert relayed(flow) is is_relayed
            assert (flow.response is None) is is_relayed
            if not is_relayed:
                assert len(flow.response.raw_content) == size


async def test_an_answer_without_an_end_in_sight_is_relayed():
    def reply(request, connection: socket.socket):
        connection.sendall(b"HTTP/1.1 200 OK\r\n\r\npart")
        connection.settimeout(WITHIN)
        connection.recv(1)

    with Upstream(reply) as upstream:
        async with chain(web(upstream)) as mesh:
            assert relayed(await mesh.send(make_flow("http://web/")))


@pytest.mark.parametrize(
    ("reply", "status", "flag", "said"),
    [
        (lambda request, connection: None, 503, "UC", "ended the connection before it answered: closed by the upstream"),
        (lambda request, connection: b"SSH-2.0-x\r\n", 502, "UPE", "did not answer in HTTP: "),
        (
            lambda request, connection: connection.sendall(b"HTTP/1.1 200 X\r\ncontent-length: 9\r\n\r\nhalf"),
            502, "UC", "the answer broke off: closed by the upstream in the middle of an answer",
        ),
    ],
)  # fmt: skip
async def test_what_is_no_answer(reply, status, flag, said):
    with Upstream(reply) as upstream:
        async with chain(web(upstream)) as mesh:
            flow = await mesh.send(make_flow("http://web/", "POST"))
    assert (flow.response.status_code, flow.response.headers["x-mesh-flag"]) == (status, flag)
    assert said in flow.response.text
    assert flow.response.text.count("\n") == 1
    assert exchange_of(flow).flags == [flag]


async def test_nobody_there():
    port = free_port()
    async with chain(web(port)) as mesh:
        flow = await mesh.send(make_flow("http://web/"))
    assert (flow.response.status_code, flow.response.headers["x-mesh-flag"]) == (503, "UF")
    assert flow.response.text == f"no connection to 127.0.0.1:{port}: connection refused\n"


async def test_a_retry_goes_elsewhere_first():
    with Upstream(saying(503)) as bad, Upstream() as good:
        policy = f'service: web\nendpoints: ["{bad.address}", "{good.address}"]\nretry: {{attempts: 3, backoff: {{base: 1ms}}}}'
        async with chain(policy) as mesh:
            for _ in range(6):
                flow = await mesh.send(make_flow("http://web/"))
                assert flow.response.status_code == 200
                endpoints = [attempt.address for attempt in exchange_of(flow).attempts]
                assert endpoints in ([good.address], [bad.address, good.address])
    assert len(bad.requests) == 3


async def test_when_all_were_tried_it_goes_round_again():
    with Upstream(saying(503)) as one, Upstream(saying(503)) as two:
        policy = f'service: web\nendpoints: ["{one.address}", "{two.address}"]\nretry: {{attempts: 6, backoff: {{base: 1ms, max: 1ms}}}}'
        async with chain(policy) as mesh:
            flow = await mesh.send(make_flow("http://web/"))
    endpoints = [attempt.address for attempt in exchange_of(flow).attempts]
    assert endpoints in ([one.address, two.address] * 3, [two.address, one.address] * 3)
    assert (flow.response.headers["x-mesh-flag"], flow.response.headers["x-mesh-attempts"]) == ("URX", "6")


async def test_the_turn_goes_on_from_request_to_request():
    with Upstream(saying(200, "1")) as one, Upstream(saying(200, "2")) as two:
        async with chain(f'service: web\nendpoints: ["{one.address}", "{two.address}"]') as mesh:
            got = [(await mesh.send(make_flow("http://web/"))).response.text for _ in range(6)]
    assert got in (["1", "2"] * 3, ["2", "1"] * 3)


async def test_a_service_that_is_gone_is_forgotten():
    with Upstream() as upstream:
        # Two, since one endpoint needs no balancer.
        policy = f'service: web\nendpoints: ["127.0.0.1:{upstream.port}", "localhost:{upstream.port}"]\n'
        async with chain(policy) as mesh:
            await mesh.send(make_flow("http://web/"))
            assert len(mesh.forwarder.picking.balancing.turns) == 1
            mesh.forwarder.picking.balancing.mesh_policy(snapshot())
            assert mesh.forwarder.picking.balancing.turns == {}


async def test_own_hooks_see_each_attempt_in_order():
    seen = []

    class Spy:
        def mesh_attempt(self, flow, attempt: Attempt) -> None:
            seen.append(("attempt", attempt.number, attempt.status))

        async def mesh_attempt_end(self, flow, attempt: Attempt) -> None:
            await asyncio.sleep(0)
            seen.append(("end", attempt.number, attempt.status))

        def mesh_forwarded(self, flow) -> None:
            seen.append(("forwarded",))

    with Upstream(in_turn(saying(503), saying())) as upstream:
        async with chain(web(upstream, "retry: {attempts: 3, backoff: {base: 1ms}}"), Spy()) as mesh:
            await mesh.send(make_flow("http://web/"))
    assert seen == [
        ("attempt", 1, None), ("end", 1, 503), ("attempt", 2, None), ("end", 2, 200), ("forwarded",),
    ]  # fmt: skip


async def test_an_addon_can_ask_for_another_try():
    class Stubborn:
        def mesh_attempt_end(self, flow, attempt: Attempt) -> None:
            if attempt.number < 3:
                attempt.pause = 0.0

    with Upstream() as upstream:
        async with chain(web(upstream), Stubborn()) as mesh:
            await mesh.send(make_flow("http://web/"))
    assert len(upstream.requests) == 3


async def test_a_client_that_has_left_gets_no_further_try():
    with Upstream(saying(503)) as upstream:
        async with chain(web(upstream, "retry: {attempts: 2, backoff: {base: 1m, max: 1m}}")) as mesh:
            flow = make_flow("http://web/")
            sending = asyncio.ensure_future(mesh.send(flow))
            async with asyncio.timeout(WITHIN):
                while not upstream.requests:
                    await asyncio.sleep(0.005)
            flow.client_conn.state = ConnectionState.CLOSED
            await sending
    assert (flow.response.status_code, exchange_of(flow).flags) == (499, ["DC"])
    assert len(upstream.requests) == 1


async def test_what_nobody_routed_is_stopped():
    with Upstream() as upstream:
        async with chain(web(upstream)) as mesh:
            flow = make_flow("http://web/")
            await mesh.forwarder.request(flow)
            assert (flow.response.status_code, flow.response.headers["x-mesh-flag"]) == (500, "IE")
            flow = make_flow("http://web/")
            pinned(flow, mesh.snapshot)
            await mesh.forwarder.request(flow)
            assert (flow.response.status_code, exchange_of(flow).flags) == (500, ["IE"])
    assert upstream.requests == []


async def test_what_is_answered_or_killed_is_left_alone():
    async with chain(web(1)) as mesh:
        answered = make_flow("http://web/")
        answered.response = make_answer(201)
        assert (await mesh.send(answered)).response.status_code == 201
        killed = make_flow("http://web/")
        killed.live = True
        killed.kill()
        assert (await mesh.send(killed)).response is None


async def test_a_bug_stops_the_request_and_is_told(caplog):
    async with chain(web(1)) as mesh:
        mesh.forwarder.attempts.run = None
        flow = await mesh.send(make_flow("http://web/"))
    assert (flow.response.status_code, flow.response.headers["x-mesh-flag"]) == (500, "IE")
    assert "TypeError" in caplog.text


async def test_a_line_break_from_an_addon_does_not_become_a_header():
    with Upstream() as upstream:
        async with chain(web(upstream)) as mesh:
            flow = make_flow("http://web/")
            flow.request.headers["x-a"] = "1\r\nx-evil: 2"
            await mesh.send(flow)
    assert flow.response.headers["x-mesh-flag"] == "IE"
    assert upstream.requests == []


async def test_http_2_becomes_http_1():
    with Upstream() as upstream:
        async with chain(web(upstream)) as mesh:
            flow = make_flow("http://web/x", version=b"HTTP/2.0")
            del flow.request.headers["host"]
            flow.request.authority = "web"
            flow.request.headers.fields += ((b"cookie", b"a=1"), (b"cookie", b"b=2"))
            await mesh.send(flow)
    (request,) = upstream.requests
    assert (request.version, request.header("host"), request.header("cookie")) == (
        "HTTP/1.1",
        "web",
        "a=1; b=2",
    )


async def test_trailers_reach_clients_that_can_have_them():
    reply = b"HTTP/1.1 200 X\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nx-sum: 1\r\n\r\n"
    with Upstream(lambda request, connection: reply) as upstream:
        async with chain(web(upstream)) as mesh:
            two = await mesh.send(make_flow("http://web/", version=b"HTTP/2.0"))
            one = await mesh.send(make_flow("http://web/"))
    assert two.response.trailers["x-sum"] == "1"
    assert one.response.trailers is None


async def test_connections_end_with_the_proxy_and_not_with_a_reload():
    with Upstream() as upstream:
        async with chain(web(upstream)) as mesh:
            await mesh.send(make_flow("http://web/"))
            client = mesh.forwarder.client
            (stats,) = client.stats().values()
            assert stats.idle == 1
        assert client.stats() == {}


def test_set_field():
    message = http.Response.make(200, b"", {"X-A": "1", "x-b": "2"})
    set_field(message, b"x-a", b"3")
    set_field(message, b"x-c", b"4")
    assert sorted(message.headers.fields) == [
        (b"content-length", b"0"), (b"x-a", b"3"), (b"x-b", b"2"), (b"x-c", b"4"),
    ]  # fmt: skip
    assert answer(200).startswith(b"HTTP/1.1 200 ")
