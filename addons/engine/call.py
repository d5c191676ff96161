"""One request on its way to one answer."""

import asyncio
from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Any

from addons.engine.answer import Answer
from addons.engine.driver import Direct, is_direct
from addons.engine.errors import UpstreamError
from addons.engine.origin import Origin

if TYPE_CHECKING:
    from addons.engine.client import Client
    from addons.engine.connection import Connection


class Call(Direct):
    """Await it once for the Answer, or let `then` tell you without a turn of the event loop.

    Raises UpstreamError, or the error that `cancel` was given. An awaiting task that is cancelled cancels the call.
    """

    __slots__ = (
        "_callback",
        "_drained",
        "_loop",
        "_queued",
        "_waiter",
        "answer",
        "body",
        "buffer",
        "client",
        "connect_timeout",
        "connection",
        "error",
        "head",
        "idle_timeout",
        "method",
        "opening",
        "origin",
        "resend",
        "reuse",
        "sent",
    )

    def __init__(
        self,
        client: "Client",
        loop: asyncio.AbstractEventLoop,
        origin: Origin,
        head: bytes,
        body: bytes | None,
        method: bytes,
        connect_timeout: float,
        buffer: int,
        resend: bool,
        reuse: bool,
        idle_timeout: float | None,
    ) -> None:
        self.client = client
        self._loop = loop
        self.origin = origin
        self.head = head
        self.body = body
        self.method = method
        self.connect_timeout = connect_timeout
        self.buffer = buffer
        self.resend = resend
        self.reuse = reuse
        self.idle_timeout = idle_timeout
        self.sent = body is not None  # the caller has nothing more to add to the request
        self.answer: Answer | None = None
        self.error: Exception | None = None
        self.connection: Connection | None = None  # while it carries this call
        self.opening: asyncio.Task[None] | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._callback: Callable[[Call], None] | None = None
        self._queued: list[bytes] | None = None
        self._drained: asyncio.Future[None] | None = None

    @property
    def done(self) -> bool:
        """There is an `answer` (perhaps with a rest to come), or an `error`."""
        return self.answer is not None or self.error is not None

    @property
    def head_seen(self) -> bool:
        """The answer's head has arrived, even if the call still gathers its body."""
        return self.answer is not None or (self.connection is not None and self.connection.head_seen)

    def __await__(self) -> Generator[Any, None, Answer]:
        if self.answer is None and self.error is None:
            try:
                if is_direct(self._loop):
                    yield self
                else:
                    self._waiter = self._loop.create_future()
                    yield from self._waiter
            except BaseException:
                self.cancel(UpstreamError("reset", "given up by the proxy"))
                raise
        if self.error is not None:
            raise self.error
        assert self.answer is not None
        return self.answer

    def then(self, callback: Callable[["Call"], None]) -> None:
        """Call back as soon as the call is `done`, at once if it is; in place of awaiting it."""
        if self.answer is None and self.error is None:
            self._callback = callback
        else:
            callback(self)

    def cancel(self, error: Exception) -> None:
        """End it with that error: the connection is closed, whoever awaits or reads the rest gets the error.

        Without effect once the answer is complete.
        """
        connection = self.connection
        if connection is not None:
            connection.give_up(error)
        elif not self.done:
            self.client.abandon(self)
            self.settle(None, error)

    def settle(self, answer: Answer | None, error: Exception | None) -> None:
        """For the engine: the call is answered, or failed."""
        self.answer = answer
        self.error = error
        if self._drained is not None:
            self.wake_writer()
        if self._waiter is not None:
            if not self._waiter.done():
                self._waiter.set_result(None)
        elif self._callback is not None:
            callback, self._callback = self._callback, None
            callback(self)

    # A request body that its caller writes bit by bit (sent with body=None)

    def write(self, data: bytes) -> None:
        """Send bytes of the body, framed as the head says. Dropped when the call is over."""
        if self.connection is not None:
            self.connection.transport.write(data)
        elif not self.done and data:
            if self._queued is None:
                self._queued = []
            self._queued.append(data)

    async def drain(self) -> bool:
        """Wait until there is room for more. False: the call is over, more is of no use."""
        while self._congested():
            self._drained = self._loop.create_future()
            await self._drained
        return self.connection is not None

    def end(self) -> None:
        """The body is written."""
        self.sent = True

    def _congested(self) -> bool:
        connection = self.connection
        return not self.done if connection is None else connection.write_paused

    def take_queued(self) -> bytes:
        """For the engine: what was written while the connection was opening."""
        queued, self._queued = self._queued, None
        return b"".join(queued) if queued else b""

    def wake_writer(self) -> None:
        """For the engine: there is room for more, or no use."""
        drained, self._drained = self._drained, None
        if drained is not None and not drained.done():
            drained.set_result(None)
