"""One client's connection: requests in, answers out, one after the other and in order."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, cast

from addons.engine.driver import Driver
from addons.engine.incoming import ClientGone, Incoming
from addons.engine.link import READ_SIZE, WRITE_HIGH, WRITE_LOW
from addons.engine.request_reader import BadRequest, RequestReader
from addons.engine.wire import answer_head, request_head

HEAD_TIMEOUT = 10.0
"""Seconds from the first byte of a request's head to its last."""
IDLE_TIMEOUT = 300.0
"""Seconds without a byte between requests, or in the middle of a request's body."""
LINGER = 2.0
"""Seconds that a closing connection is still read, so that a reset does not eat the last answer."""
_REASONS = {400: b"Bad Request", 414: b"URI Too Long", 431: b"Request Header Fields Too Large"}
_REASONS |= {408: b"Request Timeout", 505: b"HTTP Version Not Supported"}

Serve = Callable[["ServerConnection", Incoming], Coroutine[Any, Any, None]]


class ServerConnection(asyncio.Protocol):
    """Calls `serve` for one request at a time; it answers by `send`, or `write`, `drain` and `finish`.

    `closed` is called once, when the connection is over and nothing of it runs any more.
    """

    transport: asyncio.Transport

    def __init__(
        self, serve: Serve, closed: Callable[["ServerConnection"], None], clock: Callable[[], float]
    ) -> None:
        self.open = True
        self.answered = False
        """The answer to the request being served has begun."""
        self.draining = False
        """Serve what is under way, then close."""
        self.since = clock()
        """When a byte last arrived; of a head, when its first byte did."""
        self.tag: Any = None
        self.take_back: Callable[[bytes], None] | None = None
        """Set by whoever can serve what this class cannot: given the bytes of a request and all behind it."""
        self.write_paused = False
        self._serve = serve
        self._closed = closed
        self._clock = clock
        self._reader = RequestReader()
        self._driver: Driver | None = None
        self._current: Incoming | None = None
        self._refusal: BadRequest | None = None
        self._room: asyncio.Future[None] | None = None
        self._paused = 0
        self._lingering = False
        self._given_away = False

    # What the event loop calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.transport.set_write_buffer_limits(WRITE_HIGH, WRITE_LOW)
        if hasattr(transport, "max_size"):
            transport.max_size = READ_SIZE

    def data_received(self, data: bytes) -> None:
        if self._lingering or self._refusal is not None:
            return
        reader = self._reader
        if not reader.in_head:
            self.since = self._clock()
        try:
            reader.feed(data)
        except BadRequest as refusal:
            self._refusal = refusal
            if reader.reading is not None:
                reader.reading.fail(refusal)
        if self._driver is None:
            self._next()
        elif reader.arrived or reader.upgrading:
            # The client is ahead of us; it may wait.
            self._hold()

    def eof_received(self) -> None:
        # As Envoy and nginx do: a client that ends its side has left, and no upstream works for it any longer.
        self._gone(ClientGone("the client ended the connection"))

    def connection_lost(self, error: Exception | None) -> None:
        self._gone(ClientGone(str(error) if error else "the client ended the connection"))
        self._reader.forget()
        self._closed(self)

    def _gone(self, gone: ClientGone) -> None:
        self.open = False
        if self._reader.reading is not None:
            self._reader.reading.fail(gone)
        if self._room is not None and not self._room.done():
            self._room.set_result(None)
        if self._driver is not None:
            self._driver.throw(gone)

    def pause_writing(self) -> None:
        self.write_paused = True

    def resume_writing(self) -> None:
        self.write_paused = False
        room, self._room = self._room, None
        if room is not None and not room.done():
            room.set_result(None)

    # Requests, one at a time

    def _next(self) -> None:
        while self.open and not self._lingering and not self._given_away and self._driver is None:
            if not self._reader.arrived:
                if self._refusal is not None:
                    self.refuse(self._refusal.status, self._refusal.reason)
                elif self.draining and not self._reader.in_head:
                    self.close()
                else:
                    self._release_all()
                return
            request = self._current = self._reader.arrived.popleft()
            request.on_full, request.on_room = self._hold, self._release
            self.answered = False
            driver = self._driver = Driver(self._serve(self, request), self._served)
            driver.start()

    def _served(self, error: BaseException | None) -> None:
        request, self._current = self._current, None
        self._driver = None
        if not self.open:
            return
        if error is not None:
            # Whatever was sent of an answer must not look like all of it.
            self.transport.abort()
            if not isinstance(error, ClientGone | BadRequest):
                asyncio.get_running_loop().call_exception_handler(
                    {"message": "a request's handler failed", "exception": error, "protocol": self}
                )
            return
        if self._given_away:
            self._closed(self)
        if request is None or self._given_away:
            return
        if self._reader.upgrading and not self._reader.arrived:
            try:
                self._reader.go_on()
            except BadRequest as refusal:
                self._refusal = refusal
        if not request.complete or not request.keep_alive:
            self._linger()
        elif self._reader.arrived or self._refusal is not None or self.draining:
            self._next()
        else:
            self.since = self._clock()
            self._release_all()

    # Answering

    def keeps_alive(self, request: Incoming) -> bool:
        """Whether another request may follow this one's answer."""
        return request.complete and request.keep_alive and not self.draining

    def send(self, data: bytes) -> None:
        """Write a whole answer, or the first part of one."""
        self.answered = True
        self.transport.write(data)

    async def drain(self) -> None:
        """Wait until the client has taken enough to be sent more. Raises ClientGone."""
        while self.write_paused and self.open:
            if self._room is None:
                self._room = asyncio.get_running_loop().create_future()
            await self._room
        if not self.open:
            raise ClientGone("the client ended the connection")

    def interim(self, status: int, reason: bytes) -> None:
        """Write an answer that is not the last."""
        self.transport.write(b"HTTP/1.1 %d %b\r\n\r\n" % (status, reason))

    def refuse(self, status: int, reason: str) -> None:
        """Answer what is no request, and close."""
        body = reason.encode() + b"\n"
        fields = (
            (b"content-type", b"text/plain; charset=utf-8"),
            (b"content-length", b"%d" % len(body)),
            (b"connection", b"close"),
        )
        self.transport.write(answer_head(status, _REASONS.get(status, b"Bad Request"), fields) + body)
        self._linger()

    def give_away(self, protocol: asyncio.Protocol) -> bytes:
        """The connection speaks something else from here on, by that protocol; what the client sent of it already."""
        self._given_away = True
        self.transport.set_protocol(protocol)
        return self._reader.behind

    def give_back(self, request: Incoming) -> None:
        """Somebody else shall serve this request, for which nothing was written yet, and all that follows it."""
        assert self.take_back is not None
        head = request_head(request.method, request.target, request.fields)
        body = request.take()
        behind = self._reader.behind
        self._given_away = True
        self._release_all()
        self.take_back(head + body + behind)
        self._closed(self)

    def close(self) -> None:
        """Close when what was written is sent."""
        self._lingering = True
        self.transport.close()

    # The clock, by a sweeper that all connections share

    def look(self, now: float) -> None:
        """End what takes too long."""
        quiet = now - self.since
        if self._lingering:
            if quiet > LINGER:
                self.transport.abort()
        elif self._given_away:
            return
        elif self._reader.in_head and self._driver is None:
            if quiet > HEAD_TIMEOUT:
                self.refuse(408, "the request's head took too long")
        elif self._reader.reading is not None:
            if quiet > IDLE_TIMEOUT and self._paused == 0:
                self._reader.reading.fail(ClientGone("the client stopped in mid-request"))
        elif self._driver is None and quiet > IDLE_TIMEOUT:
            self.close()

    def shut(self) -> None:
        """Take no further request; close as soon as the one under way is answered."""
        self.draining = True
        if self._driver is None and not self._reader.arrived and not self._given_away:
            self.close()

    def _linger(self) -> None:
        self._lingering = True
        self.since = self._clock()
        self._release_all()
        try:
            self.transport.write_eof()
        except (
            OSError,
            NotImplementedError,
        ):  # the client has gone already, or TLS, which cannot end one side
            self.transport.close()

    def _hold(self) -> None:
        if not self._paused and not self.transport.is_closing():
            self.transport.pause_reading()
        self._paused = 1

    def _release(self) -> None:
        if not self._reader.arrived:
            self._release_all()

    def _release_all(self) -> None:
        if self._paused:
            self._paused = 0
            if not self.transport.is_closing():
                self.transport.resume_reading()
