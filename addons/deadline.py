"""The overall timeout of an exchange: it ends whatever the exchange is waiting for at that moment."""

import asyncio

from addons.engine.call import Call
from addons.engine.errors import UpstreamError


class Deadline:
    """Armed with `start`; until `stop` it may end one call or one pause, whichever is under way.

    Without `start` nothing ever runs out, and waiting costs no more than without a deadline.
    """

    __slots__ = ("_handle", "_loop", "_pause", "abandoned", "call", "expired")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._handle: asyncio.TimerHandle | None = None
        self._pause: asyncio.Future[None] | None = None
        self.call: Call | None = None
        """What carries the exchange now; cut when the time runs out, its body's stream included."""
        self.expired = False
        self.abandoned = False
        """Nobody waits for the answer any more; it counts as expired, too."""

    def start(self, seconds: float) -> None:
        """Count from now; a time that is over already expires at once."""
        if seconds <= 0:
            self._expire()
        else:
            self._handle = self._loop.call_later(seconds, self._expire)

    def stop(self) -> None:
        """The exchange is over."""
        if self._handle is not None:
            self._handle.cancel()
        self.call = None

    async def sleep(self, seconds: float | None) -> None:
        """Wait that long (None: for ever), or until `wake`, or until the time runs out; see `expired`."""
        if self.expired:
            return
        future: asyncio.Future[None] = self._loop.create_future()
        self._pause = future
        handle = None if seconds is None else self._loop.call_later(seconds, _wake, future)
        try:
            await future
        finally:
            self._pause = None
            if handle is not None:
                handle.cancel()

    def wake(self) -> None:
        """End the wait."""
        if self._pause is not None:
            _wake(self._pause)

    def abandon(self) -> None:
        """The client has left: end at once what is under way."""
        self.abandoned = True
        self._expire()

    def _expire(self) -> None:
        self.expired = True
        self.wake()
        if self.call is not None:
            self.call.cancel(UpstreamError("timeout", "the request's timeout ran out"))


def _wake(future: "asyncio.Future[None]") -> None:
    if not future.done():
        future.set_result(None)
