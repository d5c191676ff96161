"""Short writes of one turn of the event loop, done together at its end."""

import asyncio


class Outbox:
    """For the connections of one event loop that write whole messages.

    A peer that waits is woken by each write, on a machine that is not busy by an interrupt of another core, which costs
    more than the write itself. So what several connections have to say leaves together: the first write wakes the
    peer, and the others find it awake.
    """

    __slots__ = ("_loop", "entries")

    def __init__(self) -> None:
        self.entries: list[tuple[asyncio.WriteTransport, bytes]] = []
        self._loop: asyncio.AbstractEventLoop | None = None

    def post(self, transport: asyncio.WriteTransport, data: bytes) -> None:
        """Write at the end of this turn. Whoever does anything else with the transport before has to `flush` first."""
        entries = self.entries
        if not entries:
            if self._loop is None:
                self._loop = asyncio.get_running_loop()
            self._loop.call_soon(self.flush)
        entries.append((transport, data))

    def flush(self) -> None:
        """Write what was posted; to a transport that was closed meanwhile, nothing."""
        entries, self.entries = self.entries, []
        for transport, data in entries:
            try:
                if not transport.is_closing():
                    transport.write(data)
            except Exception as error:
                assert self._loop is not None
                # The others are not to wait for ever.
                self._loop.call_exception_handler(
                    {"message": "a write failed", "exception": error, "transport": transport}
                )
