"""Times that many wait for and few reach: those that wait equally long share one timer of the event loop.

Setting and cancelling a timer of the loop costs several times what an entry in a dictionary does, and every request
has one or two.
"""

import asyncio
from operator import itemgetter
from typing import Protocol

RESOLUTION = 0.002
"""Seconds; event loops may call a little early, by what their clock cannot tell apart."""


class Expiring(Protocol):
    """Who waits; equal only to itself."""

    def due(self) -> None: ...


class Timers:
    """For one event loop, whose clock gives the times."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.queues: dict[float, _Queue] = {}

    def add(self, entry: Expiring, at: float, seconds: float) -> dict[Expiring, float]:
        """Call `entry.due()` at that time, about `seconds` from now, unless it is taken out of what is returned."""
        queue = self.queues.get(seconds)
        if queue is None:
            queue = self.queues[seconds] = _Queue(self, seconds)
        if at < queue.latest:
            queue.sorted = False
        else:
            queue.latest = at
        queue.entries[entry] = at
        if at < queue.armed:
            queue.arm(at)
        return queue.entries


class _Queue:
    """Entries in the order in which they were added, which is that of their times as a rule."""

    __slots__ = ("_seconds", "_timer", "_timers", "armed", "entries", "latest", "sorted")

    def __init__(self, timers: Timers, seconds: float) -> None:
        self._timers = timers
        self._seconds = seconds
        self._timer: asyncio.TimerHandle | None = None
        self.entries: dict[Expiring, float] = {}
        self.latest = 0.0
        self.sorted = True
        self.armed = float("inf")
        """When the timer fires."""

    def arm(self, at: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self.armed = at
        self._timer = self._timers.loop.call_at(at, self._fire)

    def _fire(self) -> None:
        self._timer = None
        self.armed = float("inf")
        loop = self._timers.loop
        limit = loop.time() + RESOLUTION
        if not self.sorted:
            ordered = sorted(self.entries.items(), key=itemgetter(1))
            self.entries.clear()
            self.entries.update(ordered)
            self.sorted = True
        over = []
        for entry, at in self.entries.items():
            if at > limit:
                break
            over.append(entry)
        for entry in over:
            # One that is over may have taken others out.
            if self.entries.pop(entry, None) is not None:
                try:
                    entry.due()
                except Exception as error:
                    loop.call_exception_handler(
                        {"message": "what follows a timeout failed", "exception": error}
                    )
        if self.entries:
            self.arm(min(self.entries.values()) if not self.sorted else next(iter(self.entries.values())))
        elif self._timer is None:
            self._timers.queues.pop(self._seconds, None)


_latest: Timers | None = None


def timers_of(loop: asyncio.AbstractEventLoop) -> Timers:
    """The timers of a loop, of which a process has one."""
    global _latest
    if _latest is None or _latest.loop is not loop:
        _latest = Timers(loop)
    return _latest
