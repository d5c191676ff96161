"""The ground under a client's connection: its transport, how each direction is held back, and how it ends."""

import asyncio
import contextlib
import socket
import struct
import sys
from collections.abc import Callable
from typing import Any, Final, cast

from addons.engine.errors import BadRequest, ClientGone
from addons.engine.link import READ_SIZE, WRITE_HIGH, WRITE_LOW
from addons.engine.outbox import Outbox
from addons.engine.refusals import answer_to

HEAD_TIMEOUT: Final = 10.0
"""Seconds from the first byte of a request's head to its last."""
IDLE_TIMEOUT: Final = 300.0
"""Seconds without a byte between requests, or either way in the middle of a request's body."""
STALL_TIMEOUT: Final = 300.0
"""Seconds in which a client has to take some of what is sent to it."""
LINGER: Final = 2.0
"""Seconds of silence after which a connection that is closing is closed: a reset would eat the last answer."""
LONGEST_LINGER: Final = 30.0
_RESET: Final = struct.pack("ii", 1, 0)
_ENDED = (b"\x07", b"\x08")  # TCP_CLOSE and TCP_CLOSE_WAIT of Linux


class ClientLink(asyncio.Protocol):
    """open: the client is there. since: when a byte last arrived; of a head, when its first byte did.

    outbox: what is to leave together with what others write; flushed before anything else is done to the transport.
    """

    transport: asyncio.Transport

    def __init__(self, clock: Callable[[], float], outbox: Outbox) -> None:
        self.outbox = outbox
        self.open = True
        self.write_paused = False
        self.answered = False
        """The answer to the request being served has begun."""
        self.since = clock()
        self.clock = clock
        self.lingering = False
        self._reading_paused = False
        self._linger_until = 0.0
        self._room: asyncio.Future[None] | None = None
        self._unsent = 0
        self._unsent_since = 0.0
        self.until_close = False
        """The answer has no other end than the connection's, which must be a reset where the answer broke off."""
        self.tag: Any = None
        self.on_refused: Callable[[ClientLink, BadRequest], None] | None = None
        """Told of what is turned away."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.transport.set_write_buffer_limits(WRITE_HIGH, WRITE_LOW)
        if hasattr(transport, "max_size"):
            transport.max_size = READ_SIZE

    # To the client

    def send(self, data: bytes, behind: bytes = b"") -> None:
        """Write a whole answer, or a part of one."""
        self.answered = True
        self.outbox.flush()
        self.transport.writelines((data, behind)) if behind else self.transport.write(data)

    def pause_writing(self) -> None:
        self.write_paused = True

    def resume_writing(self) -> None:
        self.write_paused = False
        self._wake_writer()

    async def drain(self) -> None:
        """Wait until the client has taken enough to be sent more. Raises ClientGone."""
        while self.write_paused and self.open:
            self._room = asyncio.get_running_loop().create_future()
            await self._room
        if not self.open:
            raise ClientGone("the client ended the connection")

    def _wake_writer(self) -> None:
        room, self._room = self._room, None
        if room is not None and not room.done():
            room.set_result(None)

    # From the client

    def hold(self) -> None:
        """Read no further for now."""
        if not self._reading_paused and not self.transport.is_closing():
            self._reading_paused = True
            self.transport.pause_reading()

    def release(self) -> None:
        """Read on."""
        if self._reading_paused and not self.transport.is_closing():
            self._reading_paused = False
            self.transport.resume_reading()

    def left_unseen(self) -> bool:
        """Whether the client has left while it is not read, which the event loop does not tell (Linux alone does)."""
        if not self._reading_paused or sys.platform != "linux":
            return False
        try:
            found: socket.socket = self.transport.get_extra_info("socket")
            return found.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1) in _ENDED
        except (OSError, AttributeError):
            return False

    # The end

    def refuse(self, refusal: BadRequest) -> None:
        """Answer what goes no further, and close."""
        self.send(answer_to(refusal))
        self.linger()

    def turn_away(self, refusal: BadRequest) -> None:
        """Refuse what is not yet an exchange."""
        if self.on_refused is not None:
            self.on_refused(self, refusal)
        self.refuse(refusal)

    def close(self) -> None:
        """Close when what was written is sent."""
        self.linger(close=True)

    def abort(self) -> None:
        """Close at once: whatever was sent of an answer must not look like all of it."""
        self.outbox.flush()
        if self.until_close and not self.transport.is_closing():
            with contextlib.suppress(OSError, AttributeError):
                found: socket.socket = self.transport.get_extra_info("socket")
                found.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self.transport.abort()

    def linger(self, *, close: bool = False) -> None:
        """End this side when what was written is sent, and wait a little for the client to end its own.

        close: wait for nothing; only right when the client has sent nothing that was not read.
        """
        if self.lingering:
            return
        self.outbox.flush()
        self.lingering = True
        self.since = self.clock()
        self._linger_until = self.since + LONGEST_LINGER
        if self.transport.is_closing():
            # uvloop would still end it in good order, which an aborted one must not be.
            return
        if close or not self.transport.can_write_eof():
            self.transport.close()
            return
        self.release()
        try:
            self.transport.write_eof()
        except OSError:  # the client has gone already
            self.transport.close()

    def stalled(self, now: float) -> bool:
        """Whether the client takes nothing any more. To be asked now and then."""
        unsent = self.transport.get_write_buffer_size()
        if unsent == 0 or unsent != self._unsent:
            self._unsent = unsent
            self._unsent_since = now
        return now - self._unsent_since > STALL_TIMEOUT

    def lingered(self, now: float) -> bool:
        """Whether a connection that is closing has waited enough."""
        if self._unsent:
            return False
        return now - self.since > LINGER or now > self._linger_until
