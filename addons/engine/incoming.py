"""A client's request as it arrives."""

import asyncio
from collections.abc import Callable

from addons.engine.errors import ClientGone
from addons.engine.wire import Fields, request_head

HIGH_WATER = 64 * 1024
"""Bytes of a body that nobody has taken yet, at which the client is read no further."""


class Incoming:
    """length: of the body in bytes, -1 if chunked. complete: the body is whole.
    keep_alive: another request may follow; False for good once the client or the answer has said so. Valid once complete.
    method: b"" for one that the parser does not know; all of that request is then left unread.

    A body is awaited by `arrival` bit by bit, or by `whole`, and taken by `take`.
    """

    __slots__ = (
        "_full",
        "_parts",
        "_size",
        "_waiter",
        "complete",
        "error",
        "expects_continue",
        "fields",
        "keep_alive",
        "length",
        "method",
        "on_full",
        "on_room",
        "on_wanted",
        "target",
        "trailers",
        "upgrade",
        "version",
    )

    def __init__(
        self,
        method: bytes,
        target: bytes,
        version: bytes,
        fields: Fields,
        length: int,
        expects_continue: bool,
        upgrade: bool,
    ) -> None:
        self.method = method
        self.target = target
        self.version = version
        self.fields = fields
        self.length = length
        self.expects_continue = expects_continue
        self.upgrade = upgrade
        """The request asks to go on in another protocol, and may be granted it."""
        self.complete = False
        self.keep_alive = True
        self.trailers: Fields | None = None
        self.error: ClientGone | None = None
        self.on_full: Callable[[], None] | None = None
        """Called when more is waiting than HIGH_WATER; without it nobody holds the client back."""
        self.on_room: Callable[[], None] | None = None
        self.on_wanted: Callable[[], None] | None = None
        """Called once, when somebody waits for a body of which nothing has arrived."""
        self._parts: list[bytes] | None = None
        self._size = 0
        self._full = False
        self._waiter: asyncio.Future[None] | None = None

    def head(self) -> bytes:
        """Its head for somebody else to read; b"" where that is unread anyway."""
        return request_head(self.method, self.target, self.fields, self.version) if self.method else b""

    # The connection's side

    def feed(self, data: bytes) -> None:
        self.on_wanted = None
        if self._parts is None:
            self._parts = []
        self._parts.append(data)
        self._size += len(data)
        if self._size > HIGH_WATER and not self._full and self.on_full is not None:
            self._full = True
            self.on_full()
        if self._waiter is not None:
            self._wake()

    def last(self) -> bytes:
        """What was fed last; asked before anybody could take it."""
        return self._parts[-1] if self._parts else b""

    def end(self, keep_alive: bool, trailers: Fields | None) -> None:
        if not keep_alive:
            self.keep_alive = False
        self.trailers = trailers
        self.complete = True
        if self._waiter is not None:
            self._wake()

    def fail(self, error: ClientGone) -> None:
        """No more will come."""
        if not self.complete and self.error is None:
            self.error = error
            if self._waiter is not None:
                self._wake()

    def _wake(self) -> None:
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    # The reader's side: one at a time; a new one takes the place of one that was cancelled

    def take(self) -> bytes:
        """What has arrived and was not taken."""
        parts = self._parts
        if not parts:
            return b""
        data = parts[0] if len(parts) == 1 else b"".join(parts)
        parts.clear()
        self._size = 0
        self._relieve()
        return data

    async def arrival(self) -> bool:
        """Wait until there is something to `take`. False: the body is at its end. Raises what ended it before that."""
        while not self._parts:
            if self.complete:
                return False
            await self._more()
        return True

    async def whole(self) -> None:
        """Wait until all of the body is here; it is the caller's duty to know that it is small enough."""
        hold, self.on_full = self.on_full, None
        self._relieve()
        try:
            while not self.complete:
                await self._more()
        finally:
            self.on_full = hold

    def _relieve(self) -> None:
        if self._full:
            self._full = False
            if self.on_room is not None:
                self.on_room()

    async def _more(self) -> None:
        if self.error is not None:
            raise self.error
        if self.on_wanted is not None:
            wanted, self.on_wanted = self.on_wanted, None
            wanted()
        self._waiter = asyncio.get_running_loop().create_future()
        await self._waiter
