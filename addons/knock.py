"""Whether an endpoint takes connections, asked before mitmproxy itself is sent there.

mitmproxy can neither try another endpoint nor say in the mesh's words why it could not connect.
"""

import asyncio
from typing import cast

from addons.deadline import Deadline
from addons.engine.dial import Dialled, dial
from addons.engine.errors import UpstreamError
from addons.engine.origin import Origin
from addons.exchange import Attempt


class _Knock(Dialled):
    """Connects and leaves."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._over = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        if self._over:
            self._transport.abort()

    def discard(self) -> None:
        self._over = True
        if self._transport is not None:
            self._transport.abort()


async def knock(attempt: Attempt, limit: float, deadline: Deadline) -> None:
    """Connect to the attempt's endpoint within `limit` seconds and leave; if that fails, the attempt says so."""
    task = asyncio.ensure_future(dial(Origin(attempt.host, attempt.port), None, _Knock, limit))
    task.add_done_callback(lambda task: deadline.wake())
    try:
        await deadline.sleep(None)
        if not task.done():
            attempt.error, attempt.detail = "timeout", "the request's timeout ran out"
        elif (error := task.exception()) is not None:
            if not isinstance(error, UpstreamError):
                raise error
            attempt.error, attempt.detail = error.kind, error.detail
        else:
            task.result().discard()
    finally:
        task.cancel()
