"""What an exchange of the fast lane has beside its flow: the client's connection, and bodies on their way."""

import asyncio
from collections.abc import Callable, Iterable
from typing import Any

from mitmproxy import http

from addons.engine.answer import Answer
from addons.engine.call import Call
from addons.engine.errors import UpstreamError
from addons.engine.incoming import ClientGone, Incoming
from addons.engine.request_reader import BadRequest
from addons.engine.wire import chunk, last_chunk

Transform = Callable[[bytes], bytes | Iterable[bytes]]
"""What an addon may set as a message's `stream`: takes a piece of the body (b"" at the end), gives what to send."""

_ATTRIBUTE = "mesh_carrier"


def pieces(transform: Transform | bool, data: bytes) -> Iterable[bytes]:
    """What to send for a piece of a body."""
    if not callable(transform):
        return (data,)
    given = transform(data)
    return (given,) if isinstance(given, bytes) else given


class Upload:
    """A request body that is passed on as it arrives; it can be sent once."""

    def __init__(self, incoming: Incoming, transform: Transform | bool) -> None:
        self._incoming = incoming
        self._transform = transform
        self.chunked = incoming.length < 0 or callable(transform)
        self.length = incoming.length
        self.begun = False
        """Some of the body was taken from the client: no second attempt can have it."""
        self.sent = 0

    async def pump(self, call: Call) -> None:
        """Pass the body on until its end, or the call's. A client that breaks off ends the call."""
        try:
            # Nothing is taken from the client before there is a connection, so a failed one can be replaced.
            if not await call.drain():
                return
            while data := await self._incoming.read():
                self.begun = True
                for piece in pieces(self._transform, data):
                    self._write(call, piece)
                if not await call.drain():
                    return
            if callable(self._transform):
                for piece in pieces(self._transform, b""):
                    self._write(call, piece)
            if self.chunked:
                call.write(last_chunk(self._incoming.trailers))
            call.end()
        except (ClientGone, BadRequest) as error:
            call.cancel(UpstreamError("reset", f"the client broke off its request: {error}"))

    def _write(self, call: Call, data: bytes) -> None:
        self.sent += len(data)
        call.write(chunk(data) if self.chunked else data)


class Carrier:
    """Hangs on a flow of the fast lane. upload: None unless the request's body streams.

    answer: set by whoever forwards, when the answer's body is to be streamed behind `flow.response`'s head.
    """

    __slots__ = (
        "answer",
        "error",
        "incoming",
        "on_end",
        "pump",
        "sent",
        "upload",
        "received",
        "idle_timeout",
    )

    def __init__(self, incoming: Incoming) -> None:
        self.incoming = incoming
        self.upload: Upload | None = None
        self.answer: Answer | None = None
        self.error: Exception | None = None
        """What broke the answer off, set before the flow's `error` hook."""
        self.sent = 0
        """Bytes of a streamed answer's body, or through an upgraded connection, that went to the client."""
        self.received = 0
        """Bytes of an upgraded connection that came from the client."""
        self.idle_timeout: float | None = None
        """Of an upgraded connection: seconds without a byte either way until it is closed."""
        self.pump: asyncio.Task[None] | None = None
        self.on_end: Callable[[], None] | None = None
        """Called once, when the last byte of the answer was sent or the exchange failed."""

    def end(self) -> None:
        """The exchange is over."""
        if self.pump is not None:
            self.pump.cancel()
        if self.answer is not None:
            self.answer.close()
        if self.on_end is not None:
            self.on_end()


def carrier_of(flow: http.HTTPFlow) -> Carrier | None:
    """The flow's carrier; None in mitmproxy's own lane."""
    carrier: Any = flow.__dict__.get(_ATTRIBUTE)
    return carrier  # type: ignore[no-any-return]


def load(flow: http.HTTPFlow, carrier: Carrier) -> None:
    """Let the flow have its carrier."""
    flow.__dict__[_ATTRIBUTE] = carrier
