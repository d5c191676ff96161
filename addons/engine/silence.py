"""Ends calls over which no byte moves any more, with one timer for all of them and nothing to pay per call."""

import asyncio
from collections.abc import Collection
from typing import TYPE_CHECKING

from addons.engine.errors import UpstreamError

if TYPE_CHECKING:
    from addons.engine.connection import Connection

INTERVAL = 1.0  # seconds between looks; a silence is noticed at most that much late


class SilenceWatch:
    """Looks at connections that carry a call with an `idle_timeout`, as long as there are any."""

    def __init__(self, connections: Collection["Connection"]) -> None:
        self._connections = connections
        self._still: dict[Connection, tuple[tuple[int, ...], float]] = {}
        self.timer: asyncio.TimerHandle | None = None
        """None: it does not look."""

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Look from now on; stops by itself when there is nothing to look at."""
        self.timer = loop.call_later(INTERVAL, self._look, loop)

    def stop(self) -> None:
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None
        self._still.clear()

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        now = loop.time()
        before, self._still = self._still, {}
        for connection in list(self._connections):
            call = connection.call
            if call is None or call.idle_timeout is None:
                continue
            moved = (connection.carried, connection.received, connection.transport.get_write_buffer_size())
            since = now
            if connection in before and before[connection][0] == moved:
                since = before[connection][1]
            if now - since >= call.idle_timeout:
                call.cancel(UpstreamError("timeout", f"silent for {call.idle_timeout:g} s"))
            else:
                self._still[connection] = (moved, since)
        self.timer = loop.call_later(INTERVAL, self._look, loop) if self._connections else None
