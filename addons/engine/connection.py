"""One connection to an upstream: carries one call at a time, again and again."""

import asyncio
import logging
import time
from typing import TYPE_CHECKING, Any, cast

from httptools import HttpParserError, HttpParserUpgrade

from addons.engine.answer import Answer, Stream
from addons.engine.call import Call
from addons.engine.errors import UpstreamError
from addons.engine.reader import HEAD_LIMIT, AnswerReader
from addons.engine.wire import value

if TYPE_CHECKING:
    from addons.engine.client import Client
    from addons.engine.origin import Origin
    from addons.engine.pool import Pool

logger = logging.getLogger("mesh.engine")

JOIN_LIMIT = 16 * 1024  # a body up to this size is copied behind its head, so that both leave in one packet
UNDECIDED = -1


class Connection(asyncio.Protocol):
    """States: idle (no call, the pool or nobody has it), carrying a call, closed (`closed`), upgraded.

    peer, local: address and port of both ends. opened_at: seconds since the epoch. carried: calls begun so far.
    tag: whatever the engine's user likes to keep with the connection.
    """

    __slots__ = (
        "_call",
        "_client",
        "_gather",
        "_head_at",
        "_other",
        "_reader",
        "_stream",
        "_touched",
        "carried",
        "closed",
        "idle_since",
        "leftover",
        "local",
        "opened_at",
        "origin",
        "peer",
        "pool",
        "tag",
        "transport",
        "write_paused",
    )

    transport: asyncio.Transport
    pool: "Pool[Connection]"

    def __init__(self, client: "Client", origin: "Origin") -> None:
        self._client = client
        self.origin = origin
        self._reader = AnswerReader()
        self._call: Call | None = None
        self._stream: Stream | None = None
        self.closed = False
        self.write_paused = False
        self.leftover: list[bytes] | None = None
        self.idle_since = 0.0
        self.carried = 0
        self.opened_at = 0.0
        self.peer: tuple[str, int] = (origin.host, origin.port)
        self.local: tuple[str, int] = ("", 0)
        self.tag: Any = None

    def __repr__(self) -> str:
        state = "closed" if self.closed else "idle" if self._call is None else "busy"
        return f"<Connection {self.origin} {state}, {self.carried} calls>"

    def begin(self, call: Call) -> None:
        """Send the call's request and settle the call with what comes back. Only for a connection that is idle."""
        self._call = call
        call.connection = self
        self._reader.begin(call.method)
        self._touched = False
        self._stream = None
        self._gather = UNDECIDED
        self._other = 0
        self.carried += 1
        body = call.body
        if not body:
            self.transport.write(call.head if body is not None else call.head + call.take_queued())
        elif len(body) <= JOIN_LIMIT:
            self.transport.write(call.head + body)
        else:
            self.transport.writelines((call.head, body))

    def usable(self) -> bool:
        """Nothing says yet that the peer has closed it."""
        return not self.closed and not self.transport.is_closing()

    # What the event loop calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.pool = self._client.adopt(self)
        self.opened_at = time.time()
        # A peer that is gone already has no name any more; keep the origin's then.
        self.peer = (transport.get_extra_info("peername") or self.peer)[:2]
        self.local = (transport.get_extra_info("sockname") or self.local)[:2]

    def data_received(self, data: bytes) -> None:
        call = self._call
        if call is None:
            if self.leftover is not None:
                self.leftover.append(data)
            else:
                self._drop("bytes that answer no request")
            return
        self._touched = True
        reader = self._reader
        try:
            reader.feed(data)
        except HttpParserError as error:
            if not reader.ended:
                self.give_up(UpstreamError("protocol", reader.explain(error)))
                return
            reader.garbage = True
        except HttpParserUpgrade as switch:
            self._upgrade(call, data[switch.args[0] :])
            return
        if reader.ended:
            if self._other + len(data) > HEAD_LIMIT and reader.head_size() > HEAD_LIMIT:
                self._too_large()
            else:
                self._finish(call)
        else:
            self._go_on(call, len(data))

    def eof_received(self) -> None:
        call = self._call
        if call is None:
            self._drop("closed by the upstream")
        elif self._reader.until_close:
            self._reader.keep_alive = False
            self._finish(call)
        else:
            self._broken("closed by the upstream")

    def connection_lost(self, error: Exception | None) -> None:
        if not self.closed:
            reason = getattr(error, "strerror", None) or str(error or "closed by the upstream")
            if self._call is not None:
                self._broken(reason)
            else:
                self._drop(reason)
        self._reader.forget()

    def pause_writing(self) -> None:
        self.write_paused = True

    def resume_writing(self) -> None:
        self.write_paused = False
        if self._call is not None:
            self._call.wake_writer()

    # How an answer proceeds

    def _go_on(self, call: Call, arrived: int) -> None:
        """More bytes came, the answer is not at its end."""
        reader = self._reader
        parts = reader.parts
        if not parts:
            # Heads, chunk sizes with their extensions, trailers: nothing of it may go on for ever.
            self._other += arrived
            if self._other > HEAD_LIMIT:
                self._too_large()
                return
        else:
            self._other = 0
        if not reader.headed:
            return
        if self._stream is not None:
            if parts:
                data = b"".join(parts)
                parts.clear()
                self._stream.feed(data)
            return
        if self._gather == UNDECIDED:
            if reader.head_size() > HEAD_LIMIT:
                self._too_large()
                return
            self._head_at = time.time()
            self._gather = self._how_much(call)
        body = b"".join(parts)
        if len(body) >= self._gather:
            parts.clear()
            stream = self._stream = Stream(self)
            call.settle(self._answer(body, stream), None)
        else:
            parts[:] = (body,)

    def _how_much(self, call: Call) -> int:
        """Bytes of the body to wait for before the call is settled."""
        reader = self._reader
        if reader.length > call.buffer:
            return 0
        kind = value(reader.fields, b"content-type")
        if kind is not None and kind.lower().startswith(b"text/event-stream"):
            return 0
        return call.buffer + 1 if call.buffer else 0

    def _finish(self, call: Call) -> None:
        """The answer is whole."""
        reader = self._reader
        parts = reader.parts
        body = b"".join(parts)
        parts.clear()
        if reader.bodyless and body:
            reader.garbage = True
            body = b""
        stream = self._stream
        self._stream = None
        self._call = call.connection = None
        if (
            reader.keep_alive
            and call.reuse
            and call.sent
            and not reader.garbage
            and not self.write_paused
            and not self.transport.is_closing()
        ):
            self._client.release(self)
        else:
            self.close()
        if stream is None:
            if self._gather == UNDECIDED:
                self._head_at = time.time()
            call.settle(self._answer(body, None), None)
        else:
            call.wake_writer()
            if body:
                stream.feed(body)
            stream.end(reader.trailers)

    def _answer(self, body: bytes, stream: Stream | None, upgraded: bool = False) -> Answer:
        reader = self._reader
        return Answer(
            reader.status,
            reader.reason,
            reader.version,
            reader.fields,
            body,
            reader.trailers,
            self._head_at,
            self,
            stream,
            upgraded,
        )

    def _upgrade(self, call: Call, behind: bytes) -> None:
        if b"\r\nupgrade:" not in call.head.lower():
            self.give_up(
                UpstreamError("protocol", "bad answer: 101 to a request that did not ask for an upgrade")
            )
            return
        self._call = call.connection = None
        self._head_at = time.time()
        self.leftover = [behind] if behind else []
        self.pause_reading()
        call.settle(self._answer(b"", None, True), None)

    def hand_over(self, protocol: asyncio.Protocol) -> tuple[asyncio.Transport, bytes]:
        """Give an upgraded connection away, see `Answer.take_over`."""
        if self.closed or self.leftover is None:
            raise UpstreamError("reset", "the upgraded connection was closed")
        behind = b"".join(self.leftover)
        self._leave()
        self.transport.set_protocol(protocol)
        self._reader.forget()
        return self.transport, behind

    # How it ends

    def _broken(self, reason: str) -> None:
        """The connection ended and the answer did not."""
        call = self._call
        assert call is not None
        if not self._touched and self.carried > 1 and call.resend and call.body is not None:
            self._call = call.connection = None
            self._abort()
            self._client.resend(call)
            return
        when = "in the middle of an answer" if self._touched else "before an answer"
        self.give_up(UpstreamError("reset", f"{reason} {when}"))

    def _too_large(self) -> None:
        self.give_up(UpstreamError("protocol", f"bad answer: a head of more than {HEAD_LIMIT // 1024} KiB"))

    def give_up(self, error: Exception) -> None:
        """Close at once; whoever waits for the answer, or for the rest of it, gets the error."""
        call, stream = self._call, self._stream
        self._call = self._stream = None
        self._abort()
        if call is None:
            return
        call.connection = None
        if stream is None:
            call.settle(None, error)
        else:
            call.wake_writer()
            stream.fail(error)

    def _drop(self, reason: str) -> None:
        """An idle connection ended, or cannot be trusted any more."""
        logger.debug("%s: idle connection dropped: %s", self.origin, reason)
        self._abort()

    def _abort(self) -> None:
        self._leave()
        self.transport.abort()

    def close(self) -> None:
        """Close it when what was written is sent."""
        self._leave()
        self.transport.close()

    def _leave(self) -> None:
        if not self.closed:
            self.closed = True
            self._client.forget(self)

    def pause_reading(self) -> None:
        if not self.transport.is_closing():
            self.transport.pause_reading()

    def resume_reading(self) -> None:
        if not self.transport.is_closing():
            self.transport.resume_reading()
