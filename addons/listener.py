"""The engine directly on the listening socket, with mitmproxy's stack behind it for what is not HTTP/1.1."""

import asyncio
import logging
import time
from typing import Any

from mitmproxy import connection, ctx
from mitmproxy.proxy import mode_servers, mode_specs

from addons.engine.destination import Destinations
from addons.engine.hooks import HookTable
from addons.engine.lane import Lane
from addons.engine.server import ServerConnection
from addons.fast_lane import MODES, OWN_HOST, SWEEP, begins_http1, read_later

logger = logging.getLogger("mesh.listener")

_LAST_WORDS = 0.5


class Listeners:
    """Makes mitmproxy's listening servers accept into the engine; one for the process."""

    def __init__(self, hooks: HookTable, reuse_port: bool) -> None:
        self.connections: set[DirectConnection] = set()
        self.hooks = hooks
        self._reuse_port = reuse_port
        self._handed: set[asyncio.Task[None]] = set()
        self._sweeper: asyncio.TimerHandle | None = None
        self._over: asyncio.Future[None] | None = None

    def install(self) -> None:
        """From here on servers of the modes that begin with HTTP start the engine's way."""
        plain = mode_servers.AsyncioServerInstance.listen
        listeners = self

        async def listen(instance: Any, host: str, port: int) -> Any:
            if not isinstance(instance.mode, MODES) or not ctx.options.mesh_fastlane:
                return await plain(instance, host, port)
            return [await listeners._listen(instance, host, port)]

        mode_servers.AsyncioServerInstance.listen = listen  # type: ignore[method-assign, assignment]

    async def drain(self, seconds: float) -> None:
        """Serve what is under way to its end, at most that long."""
        for client in list(self.connections):
            client.shut()
        await self._until_over(seconds)
        for client in list(self.connections):
            client.transport.abort()
        # Exchanges that were cut still tell their addons so.
        await self._until_over(_LAST_WORDS)

    async def _until_over(self, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        end = loop.time() + seconds
        while (self.connections or self._handed) and loop.time() < end:
            self._over = loop.create_future()
            timer = loop.call_later(end - loop.time(), _wake, self._over)
            await self._over
            timer.cancel()

    def discard(self, client: "DirectConnection") -> None:
        """A connection is over, or no longer ours."""
        self.connections.discard(client)
        _wake(self._over)

    def _ended(self, task: "asyncio.Task[None]") -> None:
        self._handed.discard(task)
        _wake(self._over)

    async def _listen(self, instance: Any, host: str, port: int) -> asyncio.Server:
        lane = Lane(self.hooks, Destinations(instance.mode, ctx.options.keep_host_header, OWN_HOST))
        loop = asyncio.get_running_loop()
        if self._sweeper is None:
            self._sweeper = loop.call_later(SWEEP, self._sweep, loop)
        return await loop.create_server(
            lambda: DirectConnection(self, lane, instance, loop),
            host or None,
            port,
            reuse_port=self._reuse_port or None,
            backlog=1024,
        )

    def hand_over(self, instance: Any, transport: asyncio.Transport, data: bytes) -> None:
        """Let mitmproxy's own stack serve a connection from its first byte on."""
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader(loop=loop)
        protocol = asyncio.StreamReaderProtocol(reader, loop=loop)
        protocol.connection_made(transport)
        transport.set_protocol(protocol)
        writer = asyncio.StreamWriter(transport, protocol, reader, loop)
        reader.feed_data(data)
        read_later(reader)
        task = loop.create_task(instance.handle_stream(reader, writer))
        self._handed.add(task)
        task.add_done_callback(self._ended)

    def _sweep(self, loop: asyncio.AbstractEventLoop) -> None:
        now = loop.time()
        for client in list(self.connections):
            client.look(now)
        self._sweeper = loop.call_later(SWEEP, self._sweep, loop)


class DirectConnection(ServerConnection):
    """A connection as accepted: looks at its first bytes, then serves it or hands it over."""

    def __init__(
        self, listeners: Listeners, lane: Lane, instance: Any, loop: asyncio.AbstractEventLoop
    ) -> None:
        super().__init__(lane.serve, self._over, loop.time)
        self._listeners = listeners
        self._instance = instance
        self._first: bytes | None = b""
        self._hello: asyncio.Future[None] | None = None
        self.take_back = self._hand_over

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._listeners.connections.add(self)
        mode: mode_specs.ProxyMode = self._instance.mode
        client = connection.Client(
            peername=transport.get_extra_info("peername"),
            sockname=transport.get_extra_info("sockname"),
            timestamp_start=time.time(),
            proxy_mode=mode,
            state=connection.ConnectionState.OPEN,
        )
        target = mode.address if isinstance(mode, mode_specs.ReverseMode) else None
        self.tag = (client, connection.Server(address=target))

    def data_received(self, data: bytes) -> None:
        if self._first is None:
            super().data_received(data)
            return
        first = self._first = self._first + data if self._first else data
        verdict = begins_http1(first)
        if verdict:
            self._begin(first)
        elif verdict is False:
            self._hand_over(first)

    def _begin(self, first: bytes) -> None:
        self._first = None
        pending = self._listeners.hooks.run("client_connected", self.tag[0])
        if pending is None:
            self._greeted(first)
        else:
            self.transport.pause_reading()
            self._hello = asyncio.ensure_future(self._greet(pending, first))

    async def _greet(self, pending: Any, first: bytes) -> None:
        await pending
        if self.open:
            self.transport.resume_reading()
            self._greeted(first)

    def _greeted(self, first: bytes) -> None:
        if self.tag[0].error:
            # An addon refused the client.
            self.close()
        else:
            super().data_received(first)

    def _hand_over(self, data: bytes) -> None:
        self._given_away = True
        self._listeners.discard(self)
        self._listeners.hand_over(self._instance, self.transport, data)

    def _over(self, served: ServerConnection) -> None:
        listeners = self._listeners
        if self not in listeners.connections:
            return
        listeners.discard(self)
        if self._first is None and listeners.hooks.find("client_disconnected"):
            client = self.tag[0]
            client.timestamp_end = time.time()
            client.state = connection.ConnectionState.CLOSED
            pending = listeners.hooks.run("client_disconnected", client)
            if pending is not None:
                self._hello = asyncio.ensure_future(pending)


def _wake(future: "asyncio.Future[None] | None") -> None:
    if future is not None and not future.done():
        future.set_result(None)
