"""The ground under a connection: its transport, its place in the client's books, and its end."""

import asyncio
import os
import ssl
import time
from typing import TYPE_CHECKING, Any, cast

from addons.engine.dial import Dialled
from addons.engine.errors import UpstreamError
from addons.engine.origin import Origin

if TYPE_CHECKING:
    from addons.engine.client import Client
    from addons.engine.connection import Connection
    from addons.engine.pool import Pool

READ_SIZE = 64 * 1024  # bytes taken from a socket at once
WRITE_HIGH, WRITE_LOW = 64 * 1024, 16 * 1024  # unsent bytes at which a writer has to wait, and may go on


class Link(Dialled):
    """In the client's books from `connection_made` until it is `closed`: ended, or given away.

    peer, local: address and port of both ends. opened_at: seconds since the epoch. received: bytes so far.
    tag: whatever the engine's user likes to keep with the connection.
    """

    transport: asyncio.Transport
    pool: "Pool[Connection]"

    def __init__(self, client: "Client", origin: Origin) -> None:
        self.client = client
        self.origin = origin
        self.peer: tuple[str, int] = (origin.host, origin.port)
        self.local: tuple[str, int] = ("", 0)
        self.opened_at = 0.0
        self.idle_since = 0.0
        self.received = 0
        self.tag: Any = None
        self.closed = True  # until it is open
        self._unwanted = False
        self.write_paused = False
        self.reading_paused = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        if self._unwanted:
            self.transport.abort()
            return
        self.transport.set_write_buffer_limits(WRITE_HIGH, WRITE_LOW)
        if hasattr(transport, "max_size"):
            # asyncio reads into a new buffer of 256 KiB each time, which malloc gets from the kernel and gives back:
            # half of all time, where it happens.
            transport.max_size = READ_SIZE
        self.closed = False
        self.pool = self.client.adopt(cast("Connection", self))
        self.opened_at = time.time()
        # A peer that is gone already has no name any more; keep the origin's then.
        self.peer = (transport.get_extra_info("peername") or self.peer)[:2]
        self.local = (transport.get_extra_info("sockname") or self.local)[:2]

    def pause_reading(self) -> None:
        self.reading_paused = True
        if not self.transport.is_closing():
            self.transport.pause_reading()

    def resume_reading(self) -> None:
        self.reading_paused = False
        if not self.transport.is_closing():
            self.transport.resume_reading()

    def discard(self) -> None:
        """Nobody wants it any more, whether it is open or not yet."""
        self._unwanted = True
        if not self.closed:
            self.abort()

    def abort(self) -> None:
        """Close it at once."""
        self.leave()
        self.transport.abort()

    def close(self) -> None:
        """Close it in good order."""
        self.leave()
        self.transport.close()

    def leave(self) -> None:
        """Out of the client's books."""
        if not self.closed:
            self.closed = True
            self.client.forget(cast("Connection", self))

    def give_away(self, protocol: asyncio.Protocol) -> asyncio.Transport:
        """From here on the transport is somebody else's. UpstreamError when it has ended already."""
        if self.closed:
            raise UpstreamError("reset", "the upgraded connection was closed")
        self.leave()
        self.transport.set_protocol(protocol)
        return self.transport

    def cut_short(self) -> bool:
        """The peer's end of TLS ended without a goodbye, so anybody may have ended it (RFC 9112 section 9.8)."""
        tls = self.transport.get_extra_info("ssl_object")
        if tls is None:
            return False
        try:
            return bool(tls.read(1))
        except ssl.SSLError:
            return True

    def last_words(self) -> bytes:
        """What a peer said before it reset the connection, perhaps why it would not take the request.

        The event loop gives up on a socket at the first failed write, with an answer still in the kernel's buffer.
        """
        if self.origin.tls:
            return b""
        try:
            return os.read(self.transport.get_extra_info("socket").fileno(), READ_SIZE)
        except (OSError, ValueError):
            return b""


def reason_of(error: Exception | None) -> str:
    """What ended a connection, in words."""
    if isinstance(error, ConnectionResetError | BrokenPipeError):
        return "reset by the upstream"
    return str(error).lower() if error else "closed by the upstream"
