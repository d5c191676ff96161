"""What cannot wait in a buffer passes: upgrades, events, trickles, large bodies both ways; a real mitmdump."""

import hashlib
import http.client
import socket
import threading
import time

import pytest
from wsproto import ConnectionType, WSConnection
from wsproto.events import AcceptConnection, BytesMessage, CloseConnection, Request, TextMessage

from tests.conftest import free_port
from tests.mesh_process import LANES, Client, World, eventually
from tests.upstream import Upstream, answer, saying

MB = 1024 * 1024


@pytest.fixture(scope="module", params=LANES)
def world(request, tmp_path_factory):
    with World(tmp_path_factory.mktemp("streams"), **request.param) as world:
        yield world


def websocket_echo(request, connection: socket.socket) -> None:
    """Accepts an upgrade and sends every message back."""
    peer = WSConnection(ConnectionType.SERVER)
    lines = [
        f"{request.method} {request.target} HTTP/1.1",
        *(f"{name}: {value}" for name, value in request.fields),
    ]
    peer.receive_data("\r\n".join([*lines, "", ""]).encode())
    while True:
        for event in peer.events():
            if isinstance(event, Request):
                connection.sendall(peer.send(AcceptConnection()))
            elif isinstance(event, TextMessage | BytesMessage):
                echo = type(event)(data=event.data, message_finished=event.message_finished)
                connection.sendall(peer.send(echo))
            elif isinstance(event, CloseConnection):
                connection.sendall(peer.send(event.response()))
                return
        data = connection.recv(65536)
        if not data:
            return
        peer.receive_data(data)


class WebSocket:
    """A client's side."""

    def __init__(self, port: int, service: str, path: str = "/ws") -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=20)
        self.connection = WSConnection(ConnectionType.CLIENT)
        first = self.connection.send(Request(host=service, target=path))
        self.socket.sendall(first.replace(f"GET {path}".encode(), f"GET http://{service}{path}".encode()))
        self.events = iter(self._events())
        assert isinstance(next(self.events), AcceptConnection)

    def _events(self):
        while True:
            yield from self.connection.events()
            data = self.socket.recv(65536)
            if not data:
                return
            self.connection.receive_data(data)

    def echo(self, message):
        """Sends it; what comes back, whole."""
        self.socket.sendall(self.connection.send(message))
        got = type(message.data)()
        for event in self.events:
            got += event.data
            if event.message_finished:
                return got
        raise AssertionError("closed")

    def close(self) -> None:
        self.socket.sendall(self.connection.send(CloseConnection(code=1000)))
        assert isinstance(next(self.events), CloseConnection)
        self.socket.close()


def test_a_websocket_passes_both_ways_and_is_logged_once(world):
    with Upstream(websocket_echo) as upstream:
        service = world.serve("request_headers: {set: {x-edited: yes}}", upstream.address)
        peer = WebSocket(world.proxy.port, service)
        assert peer.echo(TextMessage(data="hello")) == "hello"
        big = bytes(range(256)) * 1000
        assert peer.echo(BytesMessage(data=big)) == big
        peer.close()
        assert upstream.requests[0].header("x-edited") == "yes"
        line = world.line("/ws")
        assert (line["status"], line["service"], line["flags"]) == (101, service, "-")
        assert line["attempts"][0]["endpoint"] == upstream.address
        assert line["bytes_in"] >= len(big)
        assert line["bytes_out"] >= len(big)


def test_websockets_follow_the_routes_and_outlive_the_timeout(world):
    with Upstream(websocket_echo) as upstream:
        service = world.serve(
            f"timeout: 500ms\nroutes: [{{match: {{path: /ws}}, to: v2}}]\n"
            f'endpoints: {{v1: ["127.0.0.1:{free_port()}"], v2: ["{upstream.address}"]}}'
        )
        peer = WebSocket(world.proxy.port, service)
        end = time.monotonic() + 1
        while time.monotonic() < end:
            assert peer.echo(TextMessage(data="x")) == "x"
        peer.close()


def test_an_upgrade_to_nowhere_is_refused_with_the_reason(world):
    port = free_port()
    service = world.serve("", f"127.0.0.1:{port}")
    headers = {"connection": "Upgrade", "upgrade": "websocket", "sec-websocket-key": "x" * 22 + "==", "sec-websocket-version": "13"}  # fmt: skip
    got = world.send("GET", f"http://{service}/nowhere", headers=headers)
    assert (got.status, got.flag) == (503, "UF")
    assert world.line("/nowhere")["flags"] == "UF"
    assert world.send("GET", f"http://{service}/again", headers=headers).status == 503


def test_an_upgrade_that_is_declined_is_an_ordinary_answer(world):
    with Upstream(saying(200, "no thanks")) as upstream:
        service = world.serve("", upstream.address)
        headers = {"connection": "Upgrade", "upgrade": "h2c"}
        with Client(world.proxy.port) as client:
            assert client.send("GET", f"http://{service}/h2c", headers=headers).body == b"no thanks"
            assert client.get(f"http://{service}/after").body == b"no thanks"


def test_an_event_arrives_before_the_next_is_sent(world):
    seen = [threading.Event() for _ in range(3)]

    def reply(request, connection):
        connection.sendall(
            b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
        )
        for number, event in enumerate(seen):
            data = b"data: %d\n\n" % number
            connection.sendall(b"%x\r\n%b\r\n" % (len(data), data))
            assert event.wait(20)
        connection.sendall(b"0\r\n\r\n")

    with Upstream(reply) as upstream:
        service = world.serve('retry: {attempts: 3, on: [{body: "x"}]}', upstream.address)
        with Client(world.proxy.port) as client:
            client.connection.request("GET", f"http://{service}/events")
            response = client.connection.getresponse()
            assert response.getheader("content-type") == "text/event-stream"
            for number, event in enumerate(seen):
                assert response.read1(100) == b"data: %d\n\n" % number
                event.set()
            assert response.read() == b""
        assert world.line("/events")["bytes_out"] == 3 * len("data: 0\n\n")


@pytest.mark.parametrize("framing", ["chunked", "close"])
def test_a_trickle_passes_as_it_comes(world, framing):
    go = threading.Event()

    def reply(request, connection):
        head = b"HTTP/1.1 200 OK\r\n" + (
            b"transfer-encoding: chunked\r\n\r\n" if framing == "chunked" else b"connection: close\r\n\r\n"
        )
        connection.sendall(head)
        for data in (b"first ", b"second"):
            connection.sendall(b"%x\r\n%b\r\n" % (len(data), data) if framing == "chunked" else data)
            assert go.wait(20)
        if framing == "chunked":
            connection.sendall(b"0\r\n\r\n")

    with Upstream(reply) as upstream:
        service = world.serve("", upstream.address)
        with Client(world.proxy.port) as client:
            client.connection.request("GET", f"http://{service}/")
            response = client.connection.getresponse()
            assert response.read1(100) == b"first "
            go.set()
            assert response.read() == b"second"


def test_an_upstream_hears_when_the_reader_of_quiet_events_leaves(world):
    left = threading.Event()

    def reply(request, connection):
        connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\ndata: 1\n\n")
        connection.settimeout(20)
        if connection.recv(1) == b"":
            left.set()

    with Upstream(reply) as upstream:
        service = world.serve("", upstream.address)
        with Client(world.proxy.port) as client:
            client.connection.request("GET", f"http://{service}/quiet")
            response = client.connection.getresponse()
            assert response.read1(100) == b"data: 1\n\n"
        response.close()
        assert left.wait(10)
        assert "DC" in world.line("/quiet")["flags"]


def at_rest(look):
    """The number, once it has stopped to grow."""
    last, since = look(), time.monotonic()
    while time.monotonic() - since < 0.3:
        if (now := look()) != last:
            last, since = now, time.monotonic()
        time.sleep(0.02)
    return last


def big_answer(size: int, chunked: bool):
    piece = bytes(range(256)) * 1024

    def reply(request, connection):
        if chunked:
            connection.sendall(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
        else:
            connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % size)
        for _ in range(size // len(piece)):
            connection.sendall(b"%x\r\n%b\r\n" % (len(piece), piece) if chunked else piece)
            reply.sent += len(piece)
        return b"0\r\n\r\n" if chunked else b""

    reply.sent = 0
    return reply


@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
def test_a_large_download_passes_whole_with_bounded_memory_and_at_the_clients_pace(world, chunked):
    # Half of it is more than the kernel's buffers hold on all of its way.
    size = 100 * MB
    reply = big_answer(size, chunked)
    with Upstream(reply) as upstream:
        service = world.serve("", upstream.address)
        before = world.proxy.memory()
        with Client(world.proxy.port) as client:
            client.connection.request("GET", f"http://{service}/large/{chunked}")
            response = client.connection.getresponse()
            # A client that does not read for a while must not fill the proxy.
            response.read(MB)
            assert at_rest(lambda: reply.sent) < size / 2
            peak = world.proxy.memory()
            digest, got = hashlib.sha256(), MB
            while data := response.read(MB):
                digest.update(data)
                got += len(data)
                peak = max(peak, world.proxy.memory())
        assert got == size
        assert digest.hexdigest() == hashlib.sha256((bytes(range(256)) * 1024) * 4 * 99).hexdigest()
        assert peak - before < 25 * MB
        assert world.line(f"/large/{chunked}")["bytes_out"] == size


@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
@pytest.mark.parametrize("size", [0, 1, 60_000, 200_000, 20 * MB])
def test_uploads_pass_whole(world, size, chunked):
    body = (bytes(range(256)) * (size // 256 + 1))[:size]
    with Upstream(
        lambda request, connection: answer(200, hashlib.sha256(request.body).hexdigest())
    ) as upstream:
        service = world.serve("retry: 3", upstream.address)
        path = f"/up/{size}/{chunked}"
        parts = (body[start : start + 65536] for start in range(0, size, 65536)) if chunked else body
        got = world.send("POST", f"http://{service}{path}", parts)
        assert (got.status, got.text) == (200, hashlib.sha256(body).hexdigest())
        assert world.line(path)["bytes_in"] == size


def test_a_large_upload_to_nowhere_is_answered(world):
    port = free_port()
    service = world.serve("", f"127.0.0.1:{port}")
    with socket.create_connection(("127.0.0.1", world.proxy.port), timeout=20) as client:
        client.sendall(
            f"POST http://{service}/void HTTP/1.1\r\nhost: x\r\ncontent-length: {5 * MB}\r\n\r\n".encode()
        )
        # mitmproxy's own lane hears it to the end before it answers.
        client.sendall(b"x" * (5 * MB if world.full else 1000))
        response = http.client.HTTPResponse(client)
        response.begin()
        assert (response.status, response.getheader("x-mesh-flag")) == (503, "UF")
    assert world.line("/void")["flags"] == "UF"


def test_a_large_upload_goes_to_the_endpoint_that_is_there(world):
    with Upstream() as upstream:
        service = world.serve("retry: 3", f"127.0.0.1:{free_port()}", upstream.address)
        got = [world.send("PUT", f"http://{service}/large", b"x" * 2 * MB).status for _ in range(4)]
        assert got == [200] * 4


def test_an_upload_that_is_refused_early_gets_its_answer(world):
    listener = socket.create_server(("127.0.0.1", 0))
    over = threading.Event()

    def serve():
        while True:
            connection, _ = listener.accept()
            # One that only looks whether somebody is here sends nothing.
            with connection:
                if connection.recv(1000):
                    connection.sendall(answer(413, "too large", connection="close"))
                    connection.shutdown(socket.SHUT_WR)
                    over.wait(20)
                    return

    threading.Thread(target=serve, daemon=True).start()
    service = world.serve("", f"127.0.0.1:{listener.getsockname()[1]}")
    with socket.create_connection(("127.0.0.1", world.proxy.port), timeout=20) as client:
        client.sendall(
            f"POST http://{service}/413 HTTP/1.1\r\nhost: x\r\ncontent-length: {50 * MB}\r\n\r\n".encode()
        )
        client.sendall(b"x" * 100_000)
        response = http.client.HTTPResponse(client)
        response.begin()
        assert (response.status, response.read()) == (413, b"too large")
    over.set()
    listener.close()


def test_the_timeout_of_an_upload(world):
    def reply(request, connection):
        connection.recv(1)

    with Upstream(reply) as upstream:
        service = world.serve("timeout: 500ms", upstream.address)
        start = time.monotonic()
        got = world.send("POST", f"http://{service}/up-timeout", b"x" * 2 * MB)
        # What mitmproxy itself carries it ends with an answer of its own.
        assert (got.status, got.flag) == ((502, None) if world.full else (504, "UT"))
        assert time.monotonic() - start < 8
        assert "UT" in world.line("/up-timeout")["flags"]


def test_expect_100_continue(world):
    with Upstream() as upstream:
        service = world.serve("", upstream.address)
        with socket.create_connection(("127.0.0.1", world.proxy.port), timeout=20) as client:
            client.sendall(
                f"POST http://{service}/ HTTP/1.1\r\nhost: {service}\r\nexpect: 100-continue\r\ncontent-length: 2\r\n\r\n".encode()
            )
            assert client.recv(1000).startswith(b"HTTP/1.1 100 ")
            client.sendall(b"ok")
            assert client.recv(1000).startswith(b"HTTP/1.1 200 ")
        eventually(lambda: upstream.requests)
        assert upstream.requests[0].header("expect") is None
        assert upstream.requests[0].body == b"ok"
