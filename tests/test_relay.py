"""The relay between an answer under way and mitmproxy's own stack, both played by the test on real sockets."""

import asyncio
import contextlib
import io

import pytest

from addons import relay as relay_module
from addons.deadline import Deadline
from addons.engine.client import Client
from addons.engine.origin import Origin
from addons.relay import TOKEN_HEADER, Relay, relayed
from tests.flows import make_answer, make_flow, pinned
from tests.upstream import Upstream, read_chunked

WITHIN = 20.0
HEAD = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"


class World:
    """An answer that has begun, offered for a flow."""

    def __init__(self, upstream: Upstream) -> None:
        self.client = Client()
        self.relay = Relay()
        self.flow = make_flow("http://web/path")
        self.exchange = pinned(self.flow)
        self.deadline = Deadline(asyncio.get_running_loop())
        self.origin = Origin("127.0.0.1", upstream.port)

    async def offer(self):
        self.answer = await self.client.send(self.origin, HEAD, method=b"GET")
        await self.relay.offer(self.flow, self.exchange, self.answer, self.deadline)
        return self

    async def connect(self, token: str | None = None) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """As mitmproxy does for the flow."""
        request = self.flow.request
        reader, writer = await asyncio.open_connection(request.host, request.port)
        token = request.headers[TOKEN_HEADER] if token is None else token
        writer.write(f"GET /path HTTP/1.1\r\n{TOKEN_HEADER}: {token}\r\n\r\n".encode())
        return reader, writer

    async def read(self) -> bytes:
        reader, writer = await self.connect()
        async with asyncio.timeout(WITHIN):
            data = await reader.read()
        writer.close()
        return data


def chunks(*pieces: bytes):
    """Answers with these chunks; the last one only when the test says so, if it is an Event."""

    def reply(request, connection):
        connection.sendall(b"HTTP/1.1 200 Fine\r\nx-a: b\r\ntransfer-encoding: chunked\r\n\r\n")
        for piece in pieces:
            connection.sendall(b"%x\r\n%b\r\n" % (len(piece), piece))
        return b"0\r\n\r\n"

    return reply


async def test_an_answer_of_unknown_length_passes_in_chunks():
    with Upstream(chunks(b"one", b"two" * 100_000)) as upstream:
        data = await (await World(upstream).offer()).read()
    head, _, body = data.partition(b"\r\n\r\n")
    assert head.split(b"\r\n") == [
        b"HTTP/1.1 200 Fine", b"x-a: b", b"connection: close", b"transfer-encoding: chunked",
    ]  # fmt: skip
    assert body.endswith(b"0\r\n\r\n")
    assert read_chunked(io.BytesIO(body)) == b"one" + b"two" * 100_000


async def test_an_answer_of_known_length_keeps_it():
    def reply(request, connection):
        connection.sendall(b"HTTP/1.1 206 Part\r\ncontent-length: 6\r\n\r\nabc")
        return b"def"

    with Upstream(reply) as upstream:
        data = await (await World(upstream).offer()).read()
    assert data == b"HTTP/1.1 206 Part\r\ncontent-length: 6\r\nconnection: close\r\n\r\nabcdef"


async def test_only_who_knows_the_token_gets_it():
    with Upstream(chunks(b"secret")) as upstream:
        world = await World(upstream).offer()
        for token in ("", "0" * 32, world.flow.request.headers[TOKEN_HEADER][:-1]):
            reader, writer = await world.connect(token)
            assert await asyncio.wait_for(reader.read(), WITHIN) == b""
            writer.close()
        assert b"secret" in await world.read()


async def test_it_is_given_once():
    with Upstream(chunks(b"secret")) as upstream:
        world = await World(upstream).offer()
        assert b"secret" in await world.read()
        with pytest.raises(OSError, match="Connect call failed"):
            await world.connect()


async def test_what_nobody_comes_for_is_given_up(monkeypatch):
    monkeypatch.setattr(relay_module, "_UNCLAIMED", 0.01)

    def reply(request, connection):
        connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n")
        connection.settimeout(WITHIN)
        assert connection.recv(1) == b""

    with Upstream(reply) as upstream:
        world = await World(upstream).offer()
        async with asyncio.timeout(WITHIN):
            while world.relay._offers or world.client.stats():
                await asyncio.sleep(0.005)
        with pytest.raises(OSError, match="Connect call failed"):
            await world.connect()


async def test_an_answer_that_breaks_off_ends_the_connection_without_an_end():
    def reply(request, connection):
        connection.sendall(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n")

    with Upstream(reply) as upstream:
        world = await World(upstream).offer()
        reader, writer = await world.connect()
        data = b""
        with contextlib.suppress(ConnectionResetError):
            async with asyncio.timeout(WITHIN):
                while piece := await reader.read(1000):
                    data += piece
        assert data.endswith(b"3\r\nabc\r\n")
        writer.close()
        assert world.exchange.flags == ["UC"]


async def test_the_flow_is_shown_as_it_was():
    with Upstream(chunks(b"x")) as upstream:
        world = World(upstream)
        assert not relayed(world.flow)
        await world.offer()
        assert relayed(world.flow)
        request = world.flow.request
        assert (request.host, request.headers["host"]) == ("127.0.0.1", "web")
        world.flow.response = make_answer(connection="close")
        world.relay.restore(world.flow, world.exchange)
        assert not relayed(world.flow)
        assert (request.host, request.port, request.scheme) == ("web", 80, "http")
        assert TOKEN_HEADER not in request.headers
        assert "connection" not in world.flow.response.headers
        assert world.flow.response.stream(b"123") == b"123"
        assert world.exchange.bytes_out == 3
        # Not a second time, and nothing happens to what was never relayed.
        world.flow.response.stream = False
        world.relay.restore(world.flow, world.exchange)
        assert world.flow.response.stream is False
        world.relay.close()


async def test_many_answers_leave_nothing_behind():
    with Upstream(chunks(b"x" * 1000)) as upstream:
        for _ in range(20):
            world = await World(upstream).offer()
            assert world.relay._offers
            await world.read()
            assert not world.relay._offers
            world.client.close()
