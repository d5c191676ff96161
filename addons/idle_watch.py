"""Ends calls whose upstream fell silent, with one timer for all of them."""

import asyncio

from addons.engine.call import Call
from addons.engine.errors import UpstreamError

INTERVAL = 1.0
"""Seconds between looks, so a silence is noticed at most that much late."""


class _Watched:
    __slots__ = ("limit", "received", "since")

    def __init__(self, limit: float, since: float) -> None:
        self.limit = limit
        self.received = -1
        self.since = since


class IdleWatch:
    """Looks at every open call each second; costs a dictionary entry per call, no timer."""

    def __init__(self) -> None:
        self._calls: dict[Call, _Watched] = {}
        self._timer: asyncio.TimerHandle | None = None

    def watch(self, call: Call, limit: float | None) -> None:
        """Cancel the call with a `timeout` when nothing arrives for `limit` seconds (None: never)."""
        if limit is None:
            return
        loop = asyncio.get_running_loop()
        self._calls[call] = _Watched(limit, loop.time())
        if self._timer is None:
            self._timer = loop.call_later(INTERVAL, self._look, loop)

    def forget(self, call: Call) -> None:
        """The call is over."""
        self._calls.pop(call, None)

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        now = loop.time()
        for call, watched in list(self._calls.items()):
            connection = call.connection
            if connection is None:
                if call.done:
                    del self._calls[call]
                continue
            if connection.received != watched.received:
                watched.received = connection.received
                watched.since = now
            elif now - watched.since >= watched.limit:
                del self._calls[call]
                call.cancel(UpstreamError("timeout", f"silent for {watched.limit:g} s"))
        self._timer = loop.call_later(INTERVAL, self._look, loop) if self._calls else None
