"""The overall timeout of an exchange: it ends whatever the exchange is waiting for at that moment."""

import asyncio
from typing import Protocol

from addons.engine.errors import UpstreamError
from addons.timers import RESOLUTION, Expiring, timers_of


class Watched(Protocol):
    """What can be ended from outside: a call, or an answer on its way."""

    @property
    def head_seen(self) -> bool: ...

    def cancel(self, error: Exception) -> None: ...


class Deadline:
    """Holds from `start` on; until `stop` it may end one call or one pause, whichever is under way.

    One timer serves the overall timeout and the one of a try, since most requests have both and need neither.
    """

    __slots__ = (
        "_expiry",
        "_limit",
        "_loop",
        "_pause",
        "_try_ends",
        "_try_seconds",
        "_waiting",
        "abandoned",
        "call",
        "expired",
    )

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._expiry: float | None = None
        self._limit = 0.0
        self._try_ends: float | None = None
        self._waiting: dict[Expiring, float] | None = None
        self._pause: asyncio.Future[None] | None = None
        self.call: Watched | None = None
        """What carries the exchange now; cut when the time runs out, its body's stream included."""
        self.expired = False
        self.abandoned = False
        """Nobody waits for the answer any more; it counts as expired, too."""

    def start(self, seconds: float) -> None:
        """Count from now; a time that is over already expires at once."""
        if seconds <= 0:
            self._expire()
        else:
            self._limit = seconds
            self._expiry = self._loop.time() + seconds

    def watch(self, call: Watched, seconds: float | None) -> None:
        """This call is under way; its answer's head may take `seconds` (None: any time). Until `answered`."""
        self.call = call
        at, limit = self._expiry, self._limit
        if seconds is not None:
            self._try_seconds = seconds
            ends = self._try_ends = self._loop.time() + seconds
            if at is None or ends < at:
                at, limit = ends, seconds
        if at is not None:
            self._waiting = timers_of(self._loop).add(self, at, limit)

    def child(self) -> "Deadline":
        """Another one that ends when this one does, for one of several calls at once."""
        child = Deadline(self._loop)
        child._expiry = self._expiry
        return child

    def adopt(self, child: "Deadline") -> None:
        """What the child watches is this one's to watch now: an answer that may not be whole yet."""
        call, child.call = child.call, None
        child.stop()
        if call is not None:
            self.call = call
            self.answered(whole=False)

    def answered(self, whole: bool) -> None:
        """The call has its answer (or failed); an answer that is not whole yet is still watched."""
        self._try_ends = None
        if self._waiting is not None:
            self._waiting.pop(self, None)
            self._waiting = None
        if whole:
            self.call = None
        elif self._expiry is not None:
            self._waiting = timers_of(self._loop).add(self, self._expiry, self._limit)

    def stop(self) -> None:
        """The exchange is over."""
        if self._waiting is not None:
            self._waiting.pop(self, None)
            self._waiting = None
        self.call = None

    async def sleep(self, seconds: float | None) -> None:
        """Wait that long (None: for ever), or until `wake`, or until the time runs out; see `expired`."""
        if self.expired:
            return
        future: asyncio.Future[None] = self._loop.create_future()
        self._pause = future
        timers = []
        if seconds is not None:
            timers.append(self._loop.call_later(seconds, _wake, future))
        if self._expiry is not None:
            timers.append(self._loop.call_at(self._expiry, self.due))
        try:
            await future
        finally:
            self._pause = None
            for timer in timers:
                timer.cancel()

    def wake(self) -> None:
        """End the wait."""
        if self._pause is not None:
            _wake(self._pause)

    def abandon(self) -> None:
        """The client has left: end at once what is under way."""
        self.abandoned = True
        self._expire()

    def due(self) -> None:
        """A time that was waited for has come."""
        now = self._loop.time()
        # Event loops may call a little early, by what their clock cannot tell apart.
        if self._expiry is not None and now >= self._expiry - RESOLUTION:
            self._expire()
            return
        call = self.call
        if self._try_ends is not None and call is not None and not call.head_seen:
            call.cancel(UpstreamError("timeout", f"no answer within {self._try_seconds:g} s"))
        elif self._expiry is not None:
            # A timeout of a try counts until the answer's head; what is gathered after it is not its business.
            self._try_ends = None
            self._waiting = timers_of(self._loop).add(self, self._expiry, self._limit)

    def _expire(self) -> None:
        self.expired = True
        self.wake()
        if self.call is not None:
            self.call.cancel(UpstreamError("timeout", "the request's timeout ran out"))


def _wake(future: "asyncio.Future[None]") -> None:
    if not future.done():
        future.set_result(None)
