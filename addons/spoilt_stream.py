"""A body that mitmproxy's own stack streams, spoilt on its way as `FaultyAnswer` does it in the engine.

It passes by in the pieces in which it arrives: a throttled upstream is not read for as long as a piece should have taken.
"""

import asyncio
from collections.abc import Callable
from typing import Any

from mitmproxy import http

from addons.acting import Acting
from addons.own_stack import upstream_of
from control.policy.shaping import Pace, Shape


class SpoiltStream:
    """What such a flow has as its response's `stream`. broken: its body was cut short, and it must not look whole."""

    def __init__(
        self,
        shape: Shape,
        before: Any,
        transport: asyncio.Transport | None,
        cut: Callable[[], None],
        clock: Callable[[], float],
    ) -> None:
        """before: what an addon has as `stream`. transport: the upstream's. cut: called once, when it is cut."""
        self._before = before
        self._transport = transport
        self._cut = cut
        self._clock = clock
        self._passed = 0
        self._held: asyncio.TimerHandle | None = None
        self._future: asyncio.Future[None] | None = None
        self.broken = False
        self.reshape(shape)

    def reshape(self, shape: Shape) -> None:
        """From here on it is spoilt in this way."""
        self._shape = shape
        self._pace = None if shape.bandwidth is None else Pace(shape.bandwidth, self._clock())
        self._let_go()
        if self._future is not None and not self._future.done():
            self._future.set_result(None)

    def __call__(self, piece: bytes) -> Any:
        for corruption in self._shape.corruptions:
            piece = corruption.apply(piece)
        if self.broken:
            piece = b""
        elif (limit := self._shape.truncate) is not None and self._passed + len(piece) > limit:
            piece = piece[: max(0, limit - self._passed)]
            self.broken = True
            self._cut()
        self._passed += len(piece)
        if piece and self._pace is not None and (wait := self._pace.wait(len(piece), self._clock())):
            self._hold(wait)
        given = self._before(piece) if callable(self._before) else piece
        # Of nothing mitmproxy would make an empty chunk, which is the end of a body.
        return given or []

    async def ended(self) -> None:
        """The body has passed; returns when the client may be told so."""
        self._let_go()
        if self._shape.slow_close is None or self.broken:
            return
        loop = asyncio.get_running_loop()
        future = self._future = loop.create_future()
        timer = loop.call_later(self._shape.slow_close, self.reshape, Shape())
        try:
            await future
        finally:
            timer.cancel()

    def _hold(self, seconds: float) -> None:
        if self._held is not None:
            self._held.cancel()
        if self._transport is not None and not self._transport.is_closing():
            self._transport.pause_reading()
            self._held = asyncio.get_running_loop().call_later(seconds, self._let_go)

    def _let_go(self) -> None:
        held, self._held = self._held, None
        if held is not None:
            held.cancel()
            assert self._transport is not None
            if not self._transport.is_closing():
                self._transport.resume_reading()


def spoil(flow: http.HTTPFlow, acting: Acting, response: http.Response) -> None:
    """Let the faults act on the body of the flow's response, whose head has just arrived."""
    shape = acting.on_head(flow.request.data.method, response.status_code)
    if shape == Shape():
        return
    transport = upstream_of(flow)

    def cut() -> None:
        acting.cut()
        if transport is not None and flow.server_conn.alpn != b"h2":
            # Of HTTP/2 other streams may run over it.
            transport.abort()

    stream = SpoiltStream(shape, response.stream, transport, cut, asyncio.get_running_loop().time)
    acting.answer = stream
    response.stream = stream
    if shape.slow_close is not None and flow.request.http_version.startswith("HTTP/1"):
        response.headers["connection"] = "close"
