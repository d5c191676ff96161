"""One connection to an upstream: carries one call at a time, again and again."""

import asyncio
import logging
import time
from typing import TYPE_CHECKING

from httptools import HttpParserError, HttpParserUpgrade

from addons.engine.answer import Answer, Stream
from addons.engine.call import Call
from addons.engine.errors import UpstreamError
from addons.engine.link import Link, reason_of
from addons.engine.origin import Origin
from addons.engine.reader import HEAD_LIMIT, AnswerReader

if TYPE_CHECKING:
    from addons.engine.client import Client

logger = logging.getLogger("mesh.engine")

JOIN_LIMIT = 16 * 1024  # a body up to this size is copied behind its head, so that both leave in one packet
UNDECIDED = -1


class Connection(Link):
    """States: carrying a call; idle in its pool; upgraded (`leftover`) until handed over; closed, or no longer ours.

    carried: calls begun so far. head_seen: of the answer under way.
    """

    def __init__(self, client: "Client", origin: Origin) -> None:
        super().__init__(client, origin)
        self.carried = 0
        self.call: Call | None = None
        self.leftover: list[bytes] | None = None
        self._reader = AnswerReader()
        self._stream: Stream | None = None

    def __repr__(self) -> str:
        state = "closed" if self.closed else "busy" if self.call is not None else "idle"
        return f"<Connection {self.origin} {state}, {self.carried} calls>"

    @property
    def head_seen(self) -> bool:
        return self._reader.headed

    def begin(self, call: Call) -> None:
        """Send the call's request and settle the call with what comes back. Only for a connection that is free."""
        self.call = call
        call.connection = self
        self._reader.begin(call.method)
        self._before = self.received
        self._gather = UNDECIDED  # bytes of the body to wait for before the call is settled
        self._other = 0  # bytes since the last one that belonged to a body
        self._bulky = False  # the request may still be on its way out when the answer ends
        self.carried += 1
        body = call.body
        if not body:
            if body is None:
                self._bulky = True
                self.transport.write(call.head + call.take_queued())
                if not self.write_paused:
                    call.wake_writer()
            else:
                self.client.outbox.post(self.transport, call.head)
        elif len(body) <= JOIN_LIMIT:
            self.client.outbox.post(self.transport, call.head + body)
        else:
            self._bulky = True
            self.transport.writelines((call.head, body))

    # What the event loop calls

    def data_received(self, data: bytes) -> None:
        call = self.call
        if call is None:
            if self.leftover is not None:
                self.leftover.append(data)
            else:
                self._drop("bytes that answer no request")
            return
        reader = self._reader
        if self.received == self._before:
            reader.opening = data[:9]
        self.received += len(data)
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
        if not reader.ended:
            self._go_on(call, len(data))
        elif self._other + len(data) > HEAD_LIMIT and reader.head_size() > HEAD_LIMIT:
            self._too_large()
        else:
            self._finish(call)

    def eof_received(self) -> None:
        call = self.call
        if call is None:
            self._drop("closed by the upstream")
        elif self._reader.until_close and not self.cut_short():
            self._finish(call)
        else:
            self._broken("closed by the upstream")

    def connection_lost(self, error: Exception | None) -> None:
        if self.call is not None and error is not None:
            last = self.last_words()
            if last:
                self.data_received(last)
        if self.call is not None:
            self._broken(reason_of(error))
        elif not self.closed:
            self._drop(reason_of(error))
        self._reader.forget()

    def pause_writing(self) -> None:
        self.write_paused = True

    def resume_writing(self) -> None:
        self.write_paused = False
        if self.call is not None:
            self.call.wake_writer()

    # How an answer proceeds

    def _go_on(self, call: Call, arrived: int) -> None:
        """More bytes came, the answer is not at its end."""
        reader = self._reader
        parts = reader.parts
        if parts:
            self._other = 0
        else:
            # Heads, chunk sizes with their extensions, trailers: none of it may go on for ever.
            self._other += arrived
            if self._other > HEAD_LIMIT:
                self._too_large()
                return
            if not reader.headed:
                return
        if self._stream is not None:
            if parts:
                self._stream.feed(reader.take())
            return
        if self._gather == UNDECIDED:
            if reader.head_size() > HEAD_LIMIT:
                self._too_large()
                return
            self._head_at = time.time()
            self._gather = reader.worth_waiting_for(call.buffer)
        body = reader.take()
        if len(body) >= self._gather:
            stream = self._stream = Stream(self)
            call.settle(Answer(reader, body, self._head_at, self, stream), None)
        else:
            parts.append(body)

    def _finish(self, call: Call) -> None:
        """The answer is whole."""
        reader = self._reader
        body = reader.take()
        stream = self._stream
        if stream is not None:
            self._stream = None
            stream.detach()
        self.call = call.connection = None
        if not call.sent or (self._bulky and self.transport.get_write_buffer_size()):
            # The upstream answered before it had the whole request, and may never read the rest.
            self.abort()
        elif reader.keep_alive and call.reuse and not reader.garbage:
            self.client.release(self)
        else:
            self.close()
        if stream is None:
            head_at = time.time() if self._gather == UNDECIDED else self._head_at
            call.settle(Answer(reader, body, head_at, self), None)
        else:
            call.wake_writer()
            if body:
                stream.feed(body)
            stream.end(reader.trailers)

    def _upgrade(self, call: Call, behind: bytes) -> None:
        if b"\r\nupgrade:" not in call.head.lower():
            self.give_up(UpstreamError("protocol", "bad answer: 101 to a request that asked for no upgrade"))
            return
        self.call = call.connection = None
        self.leftover = [behind]
        self.pause_reading()
        call.settle(Answer(self._reader, b"", time.time(), self, upgraded=True), None)

    def hand_over(self, protocol: asyncio.Protocol) -> tuple[asyncio.Transport, bytes]:
        """Give an upgraded connection away, see `Answer.take_over`."""
        assert self.leftover is not None
        transport = self.give_away(protocol)
        self._reader.forget()
        return transport, b"".join(self.leftover)

    # How it ends

    def _broken(self, reason: str) -> None:
        """The connection ended and the answer did not."""
        call = self.call
        assert call is not None
        answering = self.received != self._before
        if not answering and self.carried > 1 and call.resend and call.body is not None:
            self.call = call.connection = None
            self.abort()
            self.client.resend(call)
            return
        when = "in the middle of an answer" if answering else "before an answer"
        self.give_up(UpstreamError("reset", f"{reason} {when}"))

    def _too_large(self) -> None:
        self.give_up(UpstreamError("protocol", f"bad answer: a head of more than {HEAD_LIMIT // 1024} KiB"))

    def give_up(self, error: Exception) -> None:
        """Close at once; whoever waits for the answer, or for the rest of it, gets the error."""
        call, stream = self.call, self._stream
        self.call = self._stream = None
        self.abort()
        if call is None:
            return
        call.connection = None
        if stream is None:
            call.settle(None, error)
        else:
            call.wake_writer()
            stream.fail(error)

    def _drop(self, reason: str) -> None:
        """A connection that carries nothing ended, or cannot be trusted any more."""
        logger.debug("%s: idle connection dropped: %s", self.origin, reason)
        self.abort()
