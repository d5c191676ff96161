"""The mesh's chain on the engine in this process: real sockets on both sides, a policy, no Redis.

`proxy()` gives one that listens; `Recorder` is an upstream that keeps every byte; `Raw` a client that sends what it likes.
"""

import asyncio
import contextlib
import json
import random
import socket
import struct
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

import h11
from mitmproxy import connection
from mitmproxy.addons import proxyserver
from mitmproxy.proxy import mode_specs
from mitmproxy.test import taddons

from addons.access_log import AccessLog
from addons.engine.client import Client
from addons.engine.destination import Destinations
from addons.engine.hooks import HookTable
from addons.engine.lane import Lane
from addons.engine.server import ServerConnection
from addons.exchange import Exchange, attach
from addons.faults import Faults
from addons.forwarder import Forwarder
from addons.refused import Refused
from addons.retry import Retry
from addons.routing import Routing
from addons.sendable import Sendable
from control.policy.reading import normalize, read_bytes
from control.policy.snapshot import build

PATIENCE = 10.0


async def within(awaitable: Any, seconds: float = PATIENCE) -> Any:
    return await asyncio.wait_for(awaitable, seconds)


async def until(look: Callable[[], Any]) -> Any:
    """What `look` gives once that is true in itself; it may take turns of the event loop, and bytes from outside."""
    end = asyncio.get_running_loop().time() + PATIENCE
    while not (seen := look()):
        assert asyncio.get_running_loop().time() < end, "never came true"
        await asyncio.sleep(0.001)
    return seen


class Recorder:
    """An upstream. received: what each connection brought, byte for byte. reply: request -> what to send (h11 reads it).

    closed: connections whose other side has ended.
    """

    def __init__(self, reply: Callable[[h11.Request, bytes], bytes | None] | None = None) -> None:
        self.reply = reply or (lambda request, body: b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
        self.received: list[bytearray] = []
        self.requests: list[tuple[h11.Request, bytes, list[tuple[bytes, bytes]]]] = []
        self.writers: list[asyncio.StreamWriter] = []
        self.closed = 0
        self.port = 0

    @property
    def bytes(self) -> bytes:
        return b"".join(self.received)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        kept = bytearray()
        self.received.append(kept)
        self.writers.append(writer)
        try:
            with contextlib.suppress(ConnectionError, h11.RemoteProtocolError):
                await self._serve(reader, writer, kept)
        finally:
            self.closed += 1
            writer.close()

    async def _serve(self, reader, writer, kept) -> None:
        parser = h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 20)
        request, body = None, b""
        while True:
            event = parser.next_event()
            if event is h11.NEED_DATA:
                data = await reader.read(65536)
                kept += data
                parser.receive_data(data)
                if not data and parser.their_state is not h11.SEND_BODY:
                    return
            elif isinstance(event, h11.Request):
                request, body = event, b""
            elif isinstance(event, h11.Data):
                body += event.data
            elif isinstance(event, h11.EndOfMessage):
                self.requests.append((request, body, list(event.headers)))
                answer = self.reply(request, body)
                if answer is None:
                    await reader.read()
                    return
                writer.write(answer)
                if parser.their_state is h11.MUST_CLOSE:
                    return
                # What it sent is told to it as the plainest of answers.
                parser.send(h11.Response(status_code=200, headers=[("content-length", "0")]))
                parser.send(h11.EndOfMessage())
                if parser.our_state is h11.MUST_CLOSE:
                    return
                parser.start_next_cycle()
            else:
                return


class Raw:
    """A client that speaks bytes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    def send(self, data: bytes) -> "Raw":
        self.writer.write(data)
        return self

    async def rest(self) -> bytes:
        """All there is until the other side ends; without an end it is an error."""
        return await within(self.reader.read())

    async def expect(self, data: bytes) -> None:
        assert await within(self.reader.readexactly(len(data))) == data

    async def head(self) -> bytes:
        return await within(self.reader.readuntil(b"\r\n\r\n"))

    async def answer(self) -> tuple[int, bytes]:
        """Status and body of an answer with a content-length, or chunked (without trailers)."""
        head = await self.head()
        status = int(head.split(b" ", 2)[1])
        fields = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:-2])
        if b"content-length" in fields:
            return status, await within(self.reader.readexactly(int(fields[b"content-length"])))
        body = b""
        if fields.get(b"transfer-encoding") == b"chunked":
            while size := int(await within(self.reader.readline()), 16):
                body += await within(self.reader.readexactly(size))
                await self.reader.readexactly(2)
            await self.reader.readexactly(2)
        return status, body

    def close(self) -> None:
        self.writer.close()

    def reset(self) -> None:
        """Leave without a goodbye."""
        with contextlib.suppress(OSError, ValueError):
            no_wait = struct.pack("ii", 1, 0)
            self.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, no_wait)
        self.writer.transport.abort()


class Pin:
    """Stands where the policy feed does."""

    def __init__(self, snapshot: Any) -> None:
        self.snapshot = snapshot

    def pin(self, flow: Any) -> None:
        attach(flow, Exchange(self.snapshot, "node", "", False))

    requestheaders = pin


class Lines:
    """Stands where the log's file does."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def write(self, line: str) -> None:
        self.lines.append(line)

    def close(self) -> None:
        pass


class Proxy:
    """Listens on `port`. connections: those open. log: lines of the access log. clock: of the sweeps."""

    def __init__(self) -> None:
        self.connections: set[ServerConnection] = set()
        self.port = 0
        self.taken_back: list[bytes] = []
        self.leap = 0.0
        self.master: Any = None
        self.lane: Any = None
        self.retry = Retry(random.Random(7))
        self.forwarder = Forwarder(judge=self.retry)
        self.hooks: Any = None
        self._lines = Lines()
        self._clients: list[Raw] = []

    @property
    def log(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self._lines.lines]

    @property
    def client(self) -> Client:
        assert self.forwarder.client is not None
        return self.forwarder.client

    def clock(self) -> float:
        return asyncio.get_running_loop().time() + self.leap

    def look(self, later: float) -> None:
        """Let the clock be put forward, and the sweeper look."""
        self.leap += later
        for each in list(self.connections):
            each.look(self.clock())

    def accept(self) -> ServerConnection:
        made = ServerConnection(self.lane.serve, self.connections.discard, self.clock)

        def take_back(data: bytes) -> None:
            self.taken_back.append(data)
            made.transport.write(b"taken back")
            made.transport.close()

        plain = made.connection_made

        def connection_made(transport: Any) -> None:
            made.tag = (
                connection.Client(
                    peername=transport.get_extra_info("peername"),
                    sockname=transport.get_extra_info("sockname"),
                    timestamp_start=1.0,
                    state=connection.ConnectionState.OPEN,
                ),
                connection.Server(address=None),
            )
            plain(transport)

        made.connection_made = connection_made  # type: ignore[method-assign]
        made.take_back = take_back
        made.on_refused = self.lane.refused
        self.connections.add(made)
        return made

    async def connect(self, data: bytes = b"") -> Raw:
        raw = Raw(*await asyncio.open_connection("127.0.0.1", self.port))
        self._clients.append(raw)
        return raw.send(data) if data else raw

    async def idle(self) -> None:
        """Wait until nothing of an exchange is left; the counters must agree."""
        await until(lambda: not any(each._driver for each in self.connections))
        assert not self.retry._requests, self.retry._requests
        assert not self.retry._retries, self.retry._retries
        stats = self.client.stats()
        assert all(pool.open == pool.idle and not pool.opening for pool in stats.values()), stats


@contextlib.asynccontextmanager
async def proxy(
    *addons: Any,
    policy: str = "",
    mode: str = "regular@1",
    keep_host: bool = False,
    behind: Mapping[str, Any] | None = None,
) -> AsyncIterator[Proxy]:
    """addons: before the mesh's, as those of -s. policy: documents in YAML."""
    made = Proxy()
    documents = {
        document.policy.service: normalize(document.policy)
        for document in (read_bytes(policy.encode(), "test.yaml") if policy else ())
    }
    log = AccessLog()
    with taddons.context() as context:
        made.master = context.master
        context.master.addons.add(
            proxyserver.Proxyserver(),
            *addons,
            pin := Pin(build(1, documents)),
            Refused(pin),  # type: ignore[arg-type]
            Routing(),
            Faults(),
            made.retry,
            made.forwarder,
            Sendable(),
            log,
        )
        log._writer = made._lines  # type: ignore[assignment]
        made.hooks = HookTable(context.master.addons)
        made.lane = Lane(made.hooks, Destinations(mode_specs.ProxyMode.parse(mode), keep_host, "mesh.local"))
        made.forwarder.running()
        server = await asyncio.get_running_loop().create_server(made.accept, "127.0.0.1", 0)
        made.port = server.sockets[0].getsockname()[1]
        try:
            yield made
        finally:
            server.close()
            for raw in made._clients:
                raw.reset()
            for each in list(made.connections):
                each.abort()
            await until(lambda: not made.connections)
            made.forwarder.done()


@contextlib.asynccontextmanager
async def recorder(
    reply: Callable[[h11.Request, bytes], bytes | None] | None = None,
) -> AsyncIterator[Recorder]:
    upstream = Recorder(reply)
    server = await asyncio.start_server(upstream.serve, "127.0.0.1", 0)
    upstream.port = server.sockets[0].getsockname()[1]
    try:
        yield upstream
    finally:
        server.close()
        for writer in upstream.writers:
            writer.transport.abort()


@contextlib.asynccontextmanager
async def both(
    *addons: Any,
    reply: Callable[[h11.Request, bytes], bytes | None] | None = None,
    policy: str = "",
    **options: Any,
) -> AsyncIterator[tuple[Proxy, Recorder]]:
    """A proxy whose service `up` is the recorder; `policy` is the rest of its document."""
    async with recorder(reply) as upstream:
        text = f"service: up\nendpoints: ['127.0.0.1:{upstream.port}']\n{policy}"
        async with proxy(*addons, policy=text, **options) as made:
            yield made, upstream
