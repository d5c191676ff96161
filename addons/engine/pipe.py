"""Two connections that have switched to another protocol, joined: what one says, the other is told."""

import asyncio
from typing import cast


class End(asyncio.Protocol):
    """One of the two connections. received: bytes that came from it."""

    transport: asyncio.Transport
    other: "End"

    def __init__(self, pipe: "Pipe") -> None:
        self._pipe = pipe
        self._silent = False
        self.received = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self.received += len(data)
        self._pipe.quiet = False
        self.other.transport.write(data)

    def eof_received(self) -> bool:
        """The other side may still have something to say, unless it ended first."""
        self._silent = True
        if self.other._silent:
            self._pipe.ended(self)
            return False
        if self.other.transport.can_write_eof():
            self.other.transport.write_eof()
            return True
        return False

    def pause_writing(self) -> None:
        if not self.other.transport.is_closing():
            self.other.transport.pause_reading()

    def resume_writing(self) -> None:
        if not self.other.transport.is_closing():
            self.other.transport.resume_reading()

    def connection_lost(self, error: Exception | None) -> None:
        self._pipe.ended(self)


class Pipe:
    """Runs until either side has ended, or both were silent for `idle_timeout` seconds (None: for ever)."""

    def __init__(self, idle_timeout: float | None) -> None:
        self.client = End(self)
        self.upstream = End(self)
        self.client.other, self.upstream.other = self.upstream, self.client
        self.quiet = False
        self._idle_timeout = idle_timeout
        self._timer: asyncio.TimerHandle | None = None
        self._over: asyncio.Future[None] | None = None

    async def run(
        self, client: asyncio.Transport, upstream: asyncio.Transport, behind: bytes, early: bytes
    ) -> None:
        """`behind` came from the client already, `early` from the upstream. Both transports have their End set."""
        loop = asyncio.get_running_loop()
        self._over = loop.create_future()
        self.client.connection_made(client)
        self.upstream.connection_made(upstream)
        if behind:
            self.client.data_received(behind)
        if early:
            self.upstream.data_received(early)
        for transport in (client, upstream):
            if transport.is_closing():
                self._close()
                return
            transport.resume_reading()
        if self._idle_timeout is not None:
            self._timer = loop.call_later(self._idle_timeout, self._look)
        try:
            await self._over
        finally:
            if self._timer is not None:
                self._timer.cancel()
            self._close()

    def ended(self, end: End) -> None:
        """One side is gone: the other is told, after what is still on its way to it."""
        end.other.transport.close()
        if self._over is not None and not self._over.done():
            self._over.set_result(None)

    def _look(self) -> None:
        if self.quiet:
            self._close()
            return
        self.quiet = True
        assert self._idle_timeout is not None
        self._timer = asyncio.get_running_loop().call_later(self._idle_timeout, self._look)

    def _close(self) -> None:
        self.client.transport.close()
        self.upstream.transport.close()
