"""An answer whose body is spoilt on its way: throttled, flipped, cut short, ended late."""

import asyncio
from collections.abc import Callable

from addons.engine.answer import Answer
from addons.engine.errors import UpstreamError
from addons.engine.wire import value
from control.policy.shaping import Pace, Shape


class FaultyAnswer(Answer):
    """Stands for another answer, and has yet to give all of its body by `read`.

    cut: called when the body is broken off on purpose. over: called once nothing more is to come.
    The one who is sent it has to be able to tell that a body was cut, so a known length is told, but not kept.
    """

    __slots__ = ("_at", "_cut", "_error", "_fresh", "_future", "_inner", "_loop", "_over", "_pace", "_passed", "_piece", "_shape", "closes")  # fmt: skip

    as_it_comes = True
    head_seen = True

    def __init__(
        self, answer: Answer, shape: Shape, cut: Callable[[], None], over: Callable[[], None]
    ) -> None:
        self.status, self.reason, self.http_version = answer.status, answer.reason, answer.http_version
        self.fields, self.head_at, self.connection = answer.fields, answer.head_at, answer.connection
        self.trailers = answer.trailers
        self.body = b""  # so that the head goes on at once
        self.complete = self.upgraded = False
        known = answer.complete and answer.trailers is None
        if known and shape.truncate is not None and value(self.fields, b"content-length") is None:
            self.fields += ((b"content-length", b"%d" % len(answer.body)),)
        self.closes = shape.slow_close is not None
        self._inner = answer
        self._cut = cut
        self._over: Callable[[], None] | None = over
        self._loop = asyncio.get_running_loop()
        self._future: asyncio.Future[None] | None = None
        self._error: UpstreamError | None = None
        self._fresh = True
        self._piece, self._at = b"", 0
        self._passed = 0
        self._pace: Pace | None = None
        self.reshape(shape)

    def reshape(self, shape: Shape) -> None:
        """From here on it is spoilt in this way."""
        self._shape = shape
        self._pace = None if shape.bandwidth is None else Pace(shape.bandwidth, self._loop.time())
        self._wake()

    def cancel(self, error: Exception) -> None:
        """End it with that error, for whoever watches the time."""
        if isinstance(error, UpstreamError):
            self._error = error
        self._inner.close()
        self._wake()

    def close(self) -> None:
        self.cancel(UpstreamError("reset", "closed by the proxy"))
        self._end()

    async def read(self) -> bytes:
        try:
            data = await self._read()
        except BaseException:
            self._inner.close()
            self._end()
            raise
        if not data:
            self.trailers = self._inner.trailers
            self._end()
        return data

    async def _read(self) -> bytes:
        self._check()
        if self._at == len(self._piece):
            self._piece, self._at = await self._next(), 0
            if not self._piece:
                if self._shape.slow_close is not None:
                    await self._wait(self._shape.slow_close)
                return b""
        size = len(self._piece) - self._at
        if self._shape.truncate is not None:
            room = self._shape.truncate - self._passed
            if room <= 0:
                self._cut()
                raise UpstreamError("reset", "cut by a fault")
            size = min(size, room)
        pace = self._pace
        if pace is not None:
            size = min(size, pace.piece)
            if wait := pace.wait(size, self._loop.time()):
                await self._wait(wait)
        data = self._piece[self._at : self._at + size]
        self._at += size
        self._passed += size
        return data

    async def _next(self) -> bytes:
        """More of the body, flipped where it is to be; b"" at its end."""
        data = self._inner.body if self._fresh else b""
        self._fresh = False
        try:
            data = data or await self._inner.read()
        except UpstreamError:
            self._check()
            raise
        for corruption in self._shape.corruptions:
            data = corruption.apply(data)
        return data

    async def _wait(self, seconds: float) -> None:
        self._check()
        future = self._future = self._loop.create_future()
        timer = self._loop.call_later(seconds, self._wake)
        try:
            await future
        finally:
            timer.cancel()
            self._future = None
        self._check()

    def _check(self) -> None:
        if self._error is not None:
            raise self._error

    def _wake(self) -> None:
        if self._future is not None and not self._future.done():
            self._future.set_result(None)

    def _end(self) -> None:
        over, self._over = self._over, None
        if over is not None:
            over()
