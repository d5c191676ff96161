"""A client's connection as it was accepted: its first bytes tell who serves it."""

import asyncio
import logging
import time
from typing import TYPE_CHECKING, Any

from mitmproxy import connection, platform
from mitmproxy.proxy import mode_specs

from addons.engine.client_link import HEAD_TIMEOUT, IDLE_TIMEOUT
from addons.engine.flows import make_client, make_server
from addons.engine.lane import Lane
from addons.engine.link import WRITE_HIGH, WRITE_LOW
from addons.engine.server import ServerConnection
from addons.engine.tls import TlsLayer
from addons.fast_lane import begins_http1
from addons.mtls import Entry, Mtls

if TYPE_CHECKING:
    from addons.listener import Listeners

logger = logging.getLogger("mesh.listener")


class DirectConnection(ServerConnection):
    """Serves HTTP/1.1 in the engine and hands anything else over to mitmproxy's stack."""

    def __init__(
        self, listeners: "Listeners", lane: Lane, instance: Any, loop: asyncio.AbstractEventLoop
    ) -> None:
        super().__init__(lane.serve, self._over, loop.time, lane.outbox)
        self._listeners = listeners
        self._instance = instance
        self._first: bytes | None = b""
        """What came before it was clear who serves it; None from then on."""
        self._greeted = self._greeting = False
        self._gate: Mtls | None = None
        """Who judges the first byte that comes."""
        self._shaking = False
        """A handshake is under way."""
        self.take_back = self._hand_over
        self.on_refused = lane.refused

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._listeners.connections.add(self)
        mode: mode_specs.ProxyMode = self._instance.mode
        target = mode.address if isinstance(mode, mode_specs.ReverseMode) else None
        sockname = transport.get_extra_info("sockname")
        port = sockname[1] if sockname else 0
        if isinstance(mode, mode_specs.TransparentMode):
            try:
                sockname = target = _original_address(transport)
            except Exception as error:
                logger.error(f"transparent mode: where a connection wanted to go is not known: {error!r}")
                self.close()
        peername = transport.get_extra_info("peername") or ("", 0)
        self.tag = (make_client(peername, sockname, mode, time.time()), make_server(target))
        mtls = self._listeners.mtls
        if mtls is not None and mtls.is_inbound(port):
            self._gate = mtls

    def data_received(self, data: bytes) -> None:
        if self._first is None or self.lingering:
            super().data_received(data)
            return
        if self._gate is not None and data and not self._let_in(self._gate, data):
            return
        first = self._first = self._first + data if self._first else data
        self.since = self.clock() if first is data else self.since
        verdict = begins_http1(first)
        if verdict:
            self._begin(first)
        elif verdict is False:
            self._hand_over(first)

    def look(self, now: float) -> None:
        if self._first is None or self.lingering:
            super().look(now)
        elif now - self.since > (HEAD_TIMEOUT if self._first or self._shaking else IDLE_TIMEOUT):
            self.close()

    def _let_in(self, gate: Mtls, data: bytes) -> bool:
        """Whether these bytes, the first, are for whoever serves plain connections."""
        self._gate = None
        entry = gate.enter(self.tag[0], data[0])
        if entry is Entry.PLAIN:
            return True
        if entry is Entry.REFUSED:
            self.close()
            return False

        def told(error: Exception | None) -> None:
            self._shaking = False
            if error is None:
                self.transport = layer
                layer.set_write_buffer_limits(WRITE_HIGH, WRITE_LOW)
            else:
                gate.refusals.inbound(self.tag[0], error)
                self._listeners.discard(self)

        layer = TlsLayer(gate.security(self.tag[0]), self, told)
        self._shaking = True
        self.since = self.clock()
        self.transport.set_protocol(layer)
        layer.connection_made(self.transport)
        layer.data_received(data)
        return False

    def _begin(self, first: bytes) -> None:
        self._first = None
        self._greeted = True
        pending = self._listeners.hooks.run("client_connected", self.tag[0])
        if pending is None:
            self._serve_from(first)
        else:
            self._greeting = True
            self.hold()
            self._listeners.keep(self._greet(pending, first))

    async def _greet(self, pending: Any, first: bytes) -> None:
        try:
            await pending
        finally:
            self._greeting = False
            if self.tag[0].timestamp_end is not None:
                self._say_goodbye()
        if self.open:
            self.release()
            self._serve_from(first)

    def _serve_from(self, first: bytes) -> None:
        if self.tag[0].error:
            # An addon refused the client.
            self.close()
        else:
            super().data_received(first)

    def _hand_over(self, data: bytes) -> None:
        self._given_away = True
        self._listeners.discard(self)
        self._listeners.hand_over(self._instance, self.transport, data)
        # mitmproxy greets it again, as another client.
        self._say_goodbye()

    def _over(self, served: ServerConnection) -> None:
        self._listeners.discard(self)
        self._say_goodbye()

    def _say_goodbye(self) -> None:
        if not self._greeted:
            return
        client = self.tag[0]
        if client.timestamp_end is None:
            client.timestamp_end = time.time()
            client.state = connection.ConnectionState.CLOSED
        if self._greeting:
            # Who still greets it would hear of its end before its beginning.
            return
        self._greeted = False
        pending = self._listeners.hooks.run("client_disconnected", client)
        if pending is not None:
            self._listeners.keep(pending)


def _original_address(transport: asyncio.BaseTransport) -> tuple[str, int]:
    """Where the client connected to before the kernel sent it here."""
    find: Any = platform.original_addr
    address: tuple[str, int] = find(transport.get_extra_info("socket"))
    return address
