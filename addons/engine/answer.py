"""What an upstream answered: whole, or its head and a stream of the rest."""

import asyncio
from typing import TYPE_CHECKING, Protocol

from addons.engine.errors import UpstreamError
from addons.engine.reader import AnswerReader
from addons.engine.wire import Fields

if TYPE_CHECKING:
    from addons.engine.connection import Connection

HIGH_WATER = 64 * 1024  # unread bytes at which a stream that is pulled stops reading from its socket
LOW_WATER = 16 * 1024
_BODYLESS = (204, 304)


class Sink(Protocol):
    """Who is pushed the rest of an answer. Exactly one of `end` and `fail` comes last; none after `Answer.close()`."""

    def data(self, data: bytes, /) -> None: ...

    def end(self, trailers: Fields | None, /) -> None: ...

    def fail(self, error: Exception, /) -> None: ...


class Answer:
    """status to fields: as received. body: what had arrived when the call was answered.

    complete: body is all of it; else the rest comes by `read` or `stream`, and somebody must take it or `close`.
    trailers: None, or the trailers once the end was seen. upgraded: 101, see `take_over`. head_at: seconds since the
    epoch. connection: the upstream connection, with its `peer` and `local` addresses. sized: the fields say the length
    of the body, which is complete.
    """

    as_it_comes = False
    """Its body is to be passed on bit by bit, even where somebody would like to have it whole."""
    closes = False
    """The client's connection ends with it."""

    __slots__ = (
        "_stream",
        "body",
        "complete",
        "connection",
        "fields",
        "head_at",
        "http_version",
        "reason",
        "sized",
        "status",
        "trailers",
        "upgraded",
    )

    def __init__(
        self,
        reader: AnswerReader,
        body: bytes,
        head_at: float,
        connection: "Connection",
        stream: "Stream | None" = None,
        upgraded: bool = False,
    ) -> None:
        self.status = reader.status
        self.reason = reader.reason
        self.http_version = reader.version
        self.fields = reader.fields
        self.body = body
        self.trailers = reader.trailers
        self.head_at = head_at
        self.connection = connection
        self.complete = stream is None and not upgraded
        # What ends by itself, without chunks, has a content-length; unless it may have no body.
        self.sized = (
            reader.ended
            and stream is None
            and not (reader.chunked or reader.bodyless or reader.status in _BODYLESS)
        )
        self.upgraded = upgraded
        self._stream = stream

    @property
    def peer(self) -> tuple[str, int]:
        """Address and port of the upstream."""
        return self.connection.peer

    async def read(self) -> bytes:
        """The next bytes after `body`; b"" at the end. Raises UpstreamError when the answer breaks off."""
        stream = self._stream
        if stream is None:
            return b""
        data = await stream.read()
        if not data:
            self.trailers = stream.trailers
        return data

    def stream(self, sink: Sink) -> None:
        """Push what comes after `body` to the sink as it arrives; `pause` and `resume` are the sink's duty."""
        if self._stream is None:
            sink.end(self.trailers)
        else:
            self._stream.push_to(sink)

    def pause(self) -> None:
        """Stop reading from the upstream; what was read already may still be pushed."""
        if self._stream is not None:
            self._stream.pause()

    def resume(self) -> None:
        if self._stream is not None:
            self._stream.resume()

    def close(self) -> None:
        """Give up on the rest (and on an upgraded connection that nobody took over)."""
        if self._stream is not None:
            self._stream.close()
        elif self.upgraded and not self.connection.closed:
            self.connection.give_up(UpstreamError("reset", "closed by the proxy"))

    def take_over(self, protocol: asyncio.Protocol) -> tuple[asyncio.Transport, bytes]:
        """An upgraded connection is the caller's from here on: its transport, and bytes that came behind the 101.

        Reading is paused until the caller has dealt with those and calls `transport.resume_reading()`.
        UpstreamError when the connection has ended already.
        """
        return self.connection.hand_over(protocol)


class Stream:
    """The rest of an answer on its way from a connection to one reader, who pulls (`read`) or is pushed (a sink)."""

    __slots__ = (
        "_chunks",
        "_connection",
        "_error",
        "_over",
        "_paused",
        "_sink",
        "_size",
        "_waiter",
        "trailers",
    )

    def __init__(self, connection: "Connection") -> None:
        self._connection: Connection | None = connection
        self._chunks: list[bytes] = []
        self._size = 0
        self._paused = False
        self._over = False
        self._sink: Sink | None = None
        self._error: Exception | None = None
        self._waiter: asyncio.Future[None] | None = None
        self.trailers: Fields | None = None

    # The connection's side

    def feed(self, data: bytes) -> None:
        if self._sink is not None:
            self._sink.data(data)
            return
        self._chunks.append(data)
        self._size += len(data)
        if self._size > HIGH_WATER:
            self.pause()
        self._wake()

    def detach(self) -> None:
        """The connection goes its own way; what follows cannot slow it down any more."""
        self.resume()
        self._connection = None

    def end(self, trailers: Fields | None) -> None:
        self._connection = None
        self._over = True
        self.trailers = trailers
        if self._sink is not None:
            sink, self._sink = self._sink, None
            sink.end(trailers)
        self._wake()

    def fail(self, error: Exception) -> None:
        self._connection = None
        self._error = error
        if self._sink is not None:
            sink, self._sink = self._sink, None
            sink.fail(error)
        self._wake()

    def _wake(self) -> None:
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    # The reader's side

    async def read(self) -> bytes:
        while not self._chunks:
            if self._error is not None:
                raise self._error
            if self._over:
                return b""
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        return self._take()

    def _take(self) -> bytes:
        data = b"".join(self._chunks)
        self._chunks.clear()
        self._size = 0
        self.resume()
        return data

    def push_to(self, sink: Sink) -> None:
        if self._chunks:
            sink.data(self._take())
        if self._error is not None:
            sink.fail(self._error)
        elif self._over:
            sink.end(self.trailers)
        else:
            self._sink = sink

    def pause(self) -> None:
        if self._connection is not None and not self._paused:
            self._paused = True
            self._connection.pause_reading()

    def resume(self) -> None:
        if self._paused:
            self._paused = False
            if self._connection is not None:
                self._connection.resume_reading()

    def close(self) -> None:
        self._sink = None
        self._chunks.clear()
        if self._connection is not None:
            self._connection.give_up(UpstreamError("reset", "closed by the proxy"))
