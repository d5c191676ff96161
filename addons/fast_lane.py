"""Takes connections that begin as HTTP/1.1 over from mitmproxy's own stack, which serves everything else."""

import asyncio
import logging

from mitmproxy import connection, ctx
from mitmproxy.addonmanager import Loader
from mitmproxy.proxy import mode_specs

from addons.engine.client_link import HEAD_TIMEOUT, IDLE_TIMEOUT
from addons.engine.destination import Destinations
from addons.engine.hooks import HookTable
from addons.engine.lane import Lane
from addons.engine.server import ServerConnection
from addons.own_stack import stopping

logger = logging.getLogger("mesh.fast_lane")

METHODS = frozenset(
    b"GET HEAD POST PUT DELETE OPTIONS TRACE PATCH PROPFIND PROPPATCH MKCOL COPY MOVE LOCK UNLOCK SEARCH REPORT"
    b" MKACTIVITY CHECKOUT MERGE NOTIFY SUBSCRIBE UNSUBSCRIBE PURGE LINK UNLINK BIND REBIND UNBIND ACL"
    b" M-SEARCH MKCALENDAR".split()
)
_LONGEST_METHOD = max(map(len, METHODS))
_MOST_EMPTY_LINES = 64
_TLS_TELLS = 3
"""Bytes of a TLS record that mitmproxy must see at once, or it takes the connection for something else."""
SWEEP = 1.0
"""Seconds between looks at connections that take too long."""
OWN_HOST = "mesh.local"
"""Where the proxy answers for itself, as mitmproxy does at mitm.it."""
SERVED = "served in the fast lane"


def is_for_the_engine(mode: mode_specs.ProxyMode) -> bool:
    """Whether clients of a listener in this mode speak HTTP to it."""
    if isinstance(mode, mode_specs.ReverseMode):
        return mode.scheme in ("http", "https")
    return isinstance(mode, mode_specs.RegularMode | mode_specs.TransparentMode)


def begins_http1(first: bytes) -> bool | None:
    """Whether a connection that starts with these bytes is for the fast lane; None: too few to tell."""
    line = first.lstrip(b"\r\n")
    if len(first) - len(line) > _MOST_EMPTY_LINES:
        return False
    if line.startswith(b"\x16") and len(line) < _TLS_TELLS:
        return None
    method, space, _ = line.partition(b" ")
    if space:
        return method in METHODS
    if len(method) > _LONGEST_METHOD:
        return False
    return None if any(known.startswith(method) for known in METHODS) else False


class FastLane:
    """Option mesh_fastlane: false leaves all to mitmproxy's stack."""

    def __init__(self) -> None:
        self._lanes: dict[str, Lane] = {}
        self._connections: set[ServerConnection] = set()
        self._hooks: HookTable | None = None
        self._sweeper: asyncio.TimerHandle | None = None

    def load(self, loader: Loader) -> None:
        loader.add_option("mesh_fastlane", bool, True, "Serve HTTP/1.1 in the mesh's own fast lane.")

    def configure(self, updated: set[str]) -> None:
        if "keep_host_header" in updated:
            self._lanes.clear()

    def done(self) -> None:
        if not stopping():
            # At a reload the connections stay; only new ones are for the next instance.
            return
        if self._sweeper is not None:
            self._sweeper.cancel()
            self._sweeper = None
        for client in list(self._connections):
            client.shut()

    async def client_connected(self, client: connection.Client) -> None:
        """Returns when the connection is over, or at once when it is not for this lane."""
        if client.error or not ctx.options.mesh_fastlane or not is_for_the_engine(client.proxy_mode):
            return
        handler = ctx.master.addons.get("proxyserver").connections.get(client.id)
        if handler is None or client.transport_protocol != "tcp":
            return
        io = handler.transports[client]
        try:
            wanted = await _peek(io.reader)
        except (OSError, TimeoutError) as error:
            client.error = str(error) or "no request came"
            return
        if wanted and await self._serve(client, io.reader, io.writer.transport, handler.layer.context.server):
            # mitmproxy closes the connection of a client with an error, and does not start its own stack on it.
            client.error = SERVED
            client.state = connection.ConnectionState.CLOSED

    def client_disconnected(self, client: connection.Client) -> None:
        if client.error == SERVED:
            client.error = None

    async def _serve(
        self,
        client: connection.Client,
        reader: asyncio.StreamReader,
        transport: asyncio.Transport,
        server: connection.Server,
    ) -> bool:
        """True when the connection is over; False when mitmproxy's stack is to serve what came behind."""
        loop = asyncio.get_running_loop()
        over: asyncio.Future[bool] = loop.create_future()
        before = transport.get_protocol()

        def closed(served: ServerConnection) -> None:
            self._connections.discard(served)
            if not over.done():
                over.set_result(True)

        def take_back(data: bytes) -> None:
            transport.set_protocol(before)
            reader.feed_data(data)
            read_later(reader)
            over.set_result(False)

        lane = self._lane(client.proxy_mode)
        protocol = ServerConnection(lane.serve, closed, loop.time, lane.outbox)
        protocol.tag = (client, server)
        protocol.take_back = take_back
        protocol.on_refused = lane.refused
        data = bytes(reader._buffer)  # type: ignore[attr-defined]
        reader._buffer.clear()  # type: ignore[attr-defined]
        transport.set_protocol(protocol)
        if transport.is_closing():
            return True
        protocol.connection_made(transport)
        self._connections.add(protocol)
        if self._sweeper is None:
            self._sweeper = loop.call_later(SWEEP, self._sweep, loop)
        transport.resume_reading()
        protocol.data_received(data)
        if reader.at_eof():
            protocol.eof_received()
            transport.close()
        return await over

    def _lane(self, mode: mode_specs.ProxyMode) -> Lane:
        lane = self._lanes.get(mode.full_spec)
        if lane is None:
            if self._hooks is None:
                self._hooks = HookTable(ctx.master.addons)
            destinations = Destinations(mode, ctx.options.keep_host_header, OWN_HOST)
            lane = self._lanes[mode.full_spec] = Lane(self._hooks, destinations)
        return lane

    def _sweep(self, loop: asyncio.AbstractEventLoop) -> None:
        now = loop.time()
        for client in list(self._connections):
            client.look(now)
        self._sweeper = loop.call_later(SWEEP, self._sweep, loop) if self._connections else None


async def _peek(reader: asyncio.StreamReader) -> bool:
    """Whether the connection is for this lane, without taking a byte from it. TimeoutError when nothing comes."""
    first = b""
    while True:
        async with asyncio.timeout(HEAD_TIMEOUT if first else IDLE_TIMEOUT):
            piece = await reader.read(65536)
        first += piece
        verdict = begins_http1(first) if piece else False
        if verdict is not None:
            # Not by feed_data: that refuses once the client has ended its side.
            reader._buffer[:0] = first  # type: ignore[attr-defined]
            if not verdict:
                read_later(reader)
            return verdict


def read_later(reader: asyncio.StreamReader) -> None:
    """The first read waits for a turn of the event loop, for a reader that has bytes before mitmproxy looks at it.

    From Python 3.12 on mitmproxy starts the task that reads before it has noted it down, and crashes when what
    that task finds makes it close the connection at once.
    """

    async def read(n: int = -1) -> bytes:
        del reader.read
        await asyncio.sleep(0)
        return await reader.read(n)

    reader.read = read  # type: ignore[method-assign]
