"""What goes on mitmproxy's own path, and what is done to it on the way: the hooks called directly."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import SimpleNamespace

import pytest
from mitmproxy import flow as mitmproxy_flow
from mitmproxy import http, websocket
from mitmproxy.addons.proxyserver import Proxyserver
from mitmproxy.connection import ConnectionState, Server
from mitmproxy.proxy.server_hooks import ServerConnectionHookData
from wsproto.frame_protocol import Opcode

from addons.exchange import Attempt, exchange_of
from addons.faults import Faults
from addons.forwarder import BUFFER, Forwarder
from addons.passthrough import Passthrough, needs_own_path
from addons.retry import Retry
from addons.routing import Routing
from addons.wellformed import Wellformed
from tests.conftest import free_port
from tests.flows import loaded, make_answer, make_flow, pinned, snapshot
from tests.upstream import Upstream

WITHIN = 20.0
UPGRADE = {"connection": "keep-alive, Upgrade", "upgrade": "websocket"}


@pytest.mark.parametrize(
    ("method", "headers", "version", "own"),
    [
        ("GET", {}, b"HTTP/1.1", False),
        ("GET", UPGRADE, b"HTTP/1.1", True),
        ("GET", {"upgrade": "h2c"}, b"HTTP/1.1", False),
        ("POST", {"content-length": str(BUFFER)}, b"HTTP/1.1", False),
        ("POST", {"content-length": str(BUFFER + 1)}, b"HTTP/1.1", True),
        ("POST", {"content-length": "nonsense"}, b"HTTP/1.1", False),
        ("POST", {"transfer-encoding": "chunked"}, b"HTTP/1.1", True),
        ("POST", {"content-type": "application/grpc+proto"}, b"HTTP/2.0", True),
        ("POST", {}, b"HTTP/2.0", True),
        ("POST", {"content-length": "5"}, b"HTTP/2.0", False),
        ("GET", {}, b"HTTP/2.0", False),
    ],
)
def test_what_needs_mitmproxys_own_path(method, headers, version, own):
    flow = make_flow("http://web/", method, headers, version=version)
    if "content-length" not in headers:
        flow.request.headers.pop("content-length", None)
    assert needs_own_path(flow.request) is own


class Chain:
    def __init__(self, policy: str) -> None:
        self.snapshot = snapshot(policy)
        self.routing, self.forwarder, self.retry = Routing(), Forwarder(), Retry()
        self.passthrough = Passthrough(self.routing, self.forwarder)
        self.features = [self.routing, self.passthrough, Faults(), self.retry, self.forwarder]

    async def head(self, flow: http.HTTPFlow) -> http.HTTPFlow:
        """As mitmproxy calls the hook when a request's head has arrived."""
        pinned(flow, self.snapshot)
        flow.client_conn.state = ConnectionState.OPEN
        waits = self.passthrough.requestheaders(flow)
        if waits is not None:
            await asyncio.wait_for(waits, WITHIN)
        return flow

    @property
    def counted(self):
        return dict(self.retry._requests), dict(self.retry._retries)


@asynccontextmanager
async def chain(policy: str, *more: object) -> AsyncIterator[Chain]:
    made = Chain(policy)
    with loaded(Proxyserver(), *made.features, *more):
        yield made


def web(*ports: int, rest: str = "") -> str:
    addresses = ", ".join(f'"127.0.0.1:{port}"' for port in ports)
    return f"service: web\nendpoints: [{addresses}]\n{rest}\n"


def upgrade(url: str = "http://web/ws", **more) -> http.HTTPFlow:
    return make_flow(url, headers=UPGRADE, **more)


async def test_it_is_routed_edited_and_streamed_and_keeps_its_host():
    with Upstream() as upstream:
        async with chain(web(upstream.port, rest="request_headers: {set: {x-a: b}}")) as mesh:
            flow = await mesh.head(upgrade())
    assert (flow.request.host, flow.request.port) == ("127.0.0.1", upstream.port)
    assert (flow.request.headers["host"], flow.request.headers["x-a"]) == ("web", "b")
    assert flow.request.stream(b"12345") == b"12345"
    exchange = exchange_of(flow)
    assert (exchange.streamed, exchange.bytes_in, exchange.service) == (True, 5, "web")


async def test_what_can_be_held_is_left_to_the_forwarder():
    async with chain(web(1)) as mesh:
        flow = await mesh.head(make_flow("http://web/", "POST", body=b"x"))
    assert (flow.request.stream, exchange_of(flow).routed) == (False, False)


async def test_what_an_addon_wants_streamed_is_routed_and_its_function_kept():
    with Upstream() as upstream:
        async with chain(web(upstream.port)) as mesh:
            flow = make_flow("http://web/", "POST", body=b"x")
            flow.request.stream = lambda data: [data.upper()]
            await mesh.head(flow)
    assert flow.request.port == upstream.port
    assert flow.request.stream(b"abc") == [b"ABC"]


@pytest.mark.parametrize("state", ["answered", "killed", "refused", "unseen"])
async def test_what_is_not_to_pass_is_not_streamed_either(state):
    async with chain(web(1)) as mesh:
        flow = upgrade()
        flow.request.stream = True
        if state == "answered":
            flow.response = make_answer(503)
        elif state == "killed":
            flow.live = True
            flow.kill()
        elif state == "refused":
            flow.error = mitmproxy_flow.Error("mitmproxy's own")
            Wellformed().requestheaders(flow)
        if state == "unseen":
            assert mesh.passthrough.requestheaders(flow) is None
        else:
            await mesh.head(flow)
    assert flow.request.stream is False


async def test_an_error_that_an_addon_sets_is_no_way_past_it():
    with Upstream() as upstream:
        async with chain(web(upstream.port)) as mesh:
            flow = upgrade()
            flow.error = mitmproxy_flow.Error("an addon's")
            await mesh.head(flow)
    assert (flow.request.port, exchange_of(flow).streamed) == (upstream.port, True)


async def test_an_endpoint_that_is_down_is_told_or_passed_over():
    down = free_port()
    async with chain(web(down)) as mesh:
        flow = await mesh.head(upgrade())
        assert (flow.response.status_code, flow.response.headers["x-mesh-flag"]) == (503, "UF")
        assert flow.response.text == f"no connection to 127.0.0.1:{down}: connection refused\n"
        assert flow.request.stream is False
    with Upstream() as upstream:
        async with chain(web(down, upstream.port, rest="retry: {attempts: 3, backoff: {base: 1ms}}")) as mesh:
            for _ in range(2):
                flow = await mesh.head(upgrade())
                assert flow.request.port == upstream.port
                assert flow.response is None


@pytest.mark.parametrize(
    ("faults", "tries", "status", "flags"),
    [
        ("{abort: 503, first: 2}", 3, None, ["FI"]),
        ("{abort: 503}", 3, 503, ["FI", "URX"]),
        ("{abort: reset}", 1, 503, ["FI", "UC"]),
        ("{delay: 1ms}", 1, None, ["DI"]),
    ],
)
async def test_faults_and_retries_hold_before_anything_is_sent(faults, tries, status, flags):
    with Upstream() as upstream:
        rest = f"faults: [{faults}]\nretry: {{attempts: {tries}, on: [503], backoff: {{base: 1ms}}}}"
        async with chain(web(upstream.port, rest=rest)) as mesh:
            flow = await mesh.head(upgrade())
            assert (flow.response.status_code if flow.response else None) == status
            assert len(exchange_of(flow).attempts) == tries
            assert exchange_of(flow).flags == flags
            if status is None:
                flow.response = make_answer(101)
                await mesh.passthrough.responseheaders(flow)
            assert mesh.counted == ({}, {})


async def test_the_timeout_holds_before_anything_is_sent():
    with Upstream() as upstream:
        async with chain(web(upstream.port, rest="timeout: 20ms\nfaults: [{abort: hang}]")) as mesh:
            flow = await mesh.head(upgrade())
    assert (flow.response.status_code, flow.response.headers["x-mesh-flag"]) == (504, "UT")


@pytest.mark.parametrize(
    ("connected", "said", "error", "flags"),
    [
        (False, "connection refused", "connect-failure", ["UF"]),
        (True, "server closed connection", "reset", ["UC"]),
        (True, "Client disconnected.", None, []),
    ],
)
async def test_what_breaks_on_the_way_is_told_in_the_log(connected, said, error, flags):
    with Upstream() as upstream:
        async with chain(web(upstream.port, rest="retry: 2")) as mesh:
            flow = await mesh.head(upgrade())
            flow.server_conn = Server(address=("127.0.0.1", upstream.port))
            flow.server_conn.timestamp_tcp_setup = 1.0 if connected else None
            flow.error = mitmproxy_flow.Error(said)
            await mesh.passthrough.error(flow)
            exchange = exchange_of(flow)
            assert (exchange.attempts[0].error, exchange.flags) == (error, flags)
            assert mesh.counted == ({}, {})


async def test_the_answer_is_noted_and_counted():
    with Upstream() as upstream:
        async with chain(web(upstream.port)) as mesh:
            flow = await mesh.head(make_flow("http://web/", "POST", {"transfer-encoding": "chunked"}))
            flow.response = make_answer(201)
            flow.response.stream = lambda data: data + b"!"
            await mesh.passthrough.responseheaders(flow)
            assert flow.response.stream(b"123") == b"123!"
            exchange = exchange_of(flow)
            assert (exchange.attempts[0].status, exchange.bytes_out) == (201, 4)
            assert exchange.attempts[0].ms > 0


async def test_a_bug_stops_the_request(caplog):
    async with chain(web(1)) as mesh:
        mesh.forwarder.attempts.begin = None
        flow = await mesh.head(upgrade())
    assert (flow.response.status_code, flow.response.headers["x-mesh-flag"]) == (500, "IE")
    assert flow.request.stream is False
    assert "TypeError" in caplog.text


async def test_own_hooks_run_for_what_passes_here_too():
    seen = []

    class Spy:
        def mesh_attempt(self, flow, attempt: Attempt) -> None:
            seen.append("attempt")

        def mesh_attempt_end(self, flow, attempt: Attempt) -> None:
            seen.append("end")

        def mesh_forwarded(self, flow) -> None:
            seen.append("forwarded")

    with Upstream() as upstream:
        async with chain(web(upstream.port), Spy()) as mesh:
            flow = await mesh.head(upgrade())
            assert seen == ["attempt"]
            flow.response = make_answer(101)
            await mesh.passthrough.responseheaders(flow)
    assert seen == ["attempt", "end", "forwarded"]


async def test_the_name_that_an_https_endpoint_has_to_prove():
    with Upstream() as upstream:
        async with chain(web(upstream.port)) as mesh:
            flow = await mesh.head(upgrade("https://web/ws"))
            server = Server(address=("127.0.0.1", upstream.port))
            server.sni = "127.0.0.1"
            data = ServerConnectionHookData(client=flow.client_conn, server=server)
            mesh.passthrough.server_connect(data)
            assert server.sni == "web"
            other = Server(address=("127.0.0.1", 1))
            mesh.passthrough.server_connect(ServerConnectionHookData(client=flow.client_conn, server=other))
            assert other.sni is None
            mesh.passthrough.client_disconnected(flow.client_conn)
            assert mesh.passthrough._names == {}


async def test_a_failed_connection_does_not_stick():
    async with chain(web(1)) as mesh:
        server = Server(address=("127.0.0.1", 1))
        server.error = "refused"
        mesh.passthrough.server_connect_error(SimpleNamespace(server=server))
        assert server.error is None


async def test_messages_of_a_websocket_do_not_pile_up():
    with Upstream() as upstream:
        async with chain(web(upstream.port)) as mesh:
            flow = await mesh.head(upgrade())
            flow.websocket = websocket.WebSocketData()
            for from_client, content in ((True, b"12"), (False, b"345"), (True, b"6")):
                flow.websocket.messages.append(
                    websocket.WebSocketMessage(Opcode.BINARY, from_client, content)
                )
                mesh.passthrough.websocket_message(flow)
                assert len(flow.websocket.messages) == 1
    exchange = exchange_of(flow)
    assert (exchange.bytes_in, exchange.bytes_out) == (3, 3)
