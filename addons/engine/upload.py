"""A request's body that is passed on while it arrives."""

import asyncio
import logging
from collections.abc import Callable, Iterable

from addons.engine.call import Call
from addons.engine.errors import ClientGone, UpstreamError
from addons.engine.incoming import Incoming
from addons.engine.wire import chunk, last_chunk

logger = logging.getLogger("mesh.engine")

Transform = Callable[[bytes], bytes | Iterable[bytes]]
"""What an addon may set as a message's `stream`: takes a piece of the body (b"" at the end), gives what to send."""


def pieces(transform: Transform | bool, data: bytes) -> Iterable[bytes]:
    """What to send for a piece of a body."""
    if not callable(transform):
        return (data,)
    given = transform(data)
    return (given,) if isinstance(given, bytes) else given


class Upload:
    """chunked, length: how the body is framed upstream. sent: bytes of it so far, each counted once.

    keep: as long as no more than so many bytes were taken from the client, the body can be sent to another call, too.
    """

    def __init__(self, incoming: Incoming, transform: Transform | bool) -> None:
        self._incoming = incoming
        self._transform = transform
        self.chunked = incoming.length < 0 or callable(transform)
        self.length = incoming.length
        self.keep = 0
        self.sent = 0
        self._kept: list[bytes] | None = []
        self._transformed = False
        self._pump: asyncio.Task[None] | None = None

    @property
    def spent(self) -> bool:
        """Some of the body is gone, so that no other call can have it."""
        return self._kept is None

    def to(self, call: Call) -> None:
        """Pass the body on to this call from now on, and to no other."""
        self.stop()
        if self.spent:
            call.cancel(UpstreamError("reset", "the request's body cannot be sent again"))
        else:
            self._pump = asyncio.get_running_loop().create_task(self._run(call))

    def stop(self) -> None:
        """Take no more from the client."""
        if self._pump is not None:
            self._pump.cancel()

    async def _run(self, call: Call) -> None:
        try:
            # Nothing is taken from the client before there is a connection, so a failed one can be replaced.
            if await call.drain():
                for piece in self._kept or ():
                    self._write(call, piece)
                await self._pass_on(call)
        except ClientGone as error:
            call.cancel(UpstreamError("reset", f"the client broke off its request: {error}"))
        except Exception as error:
            logger.exception("an addon's `stream` failed; the request was cut")
            call.cancel(UpstreamError("reset", f"the request's body cannot be passed on: {error}"))

    async def _pass_on(self, call: Call) -> None:
        incoming = self._incoming
        while await incoming.arrival():
            if call.connection is None:
                # It is over; what is here may be another call's.
                return
            for piece in pieces(self._transform, incoming.take()):
                self._take_note(piece)
                self._write(call, piece)
            if not await call.drain():
                return
        if callable(self._transform) and not self._transformed:
            self._transformed = True
            for piece in pieces(self._transform, b""):
                self._take_note(piece)
                self._write(call, piece)
        if self.chunked:
            call.write(last_chunk(incoming.trailers))
        call.end()

    def _take_note(self, piece: bytes) -> None:
        self.sent += len(piece)
        if self._kept is not None:
            self._kept.append(piece)
            if self.sent > self.keep:
                self._kept = None

    def _write(self, call: Call, piece: bytes) -> None:
        call.write(chunk(piece) if self.chunked else piece)
