"""One client's connection: requests in, answers out, one after the other and in order."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from addons.engine.client_link import HEAD_TIMEOUT, IDLE_TIMEOUT, ClientLink
from addons.engine.driver import Driver
from addons.engine.errors import BadRequest, ClientGone
from addons.engine.incoming import Incoming
from addons.engine.outbox import Outbox
from addons.engine.request_reader import RequestReader

Serve = Callable[["ServerConnection", Incoming], Coroutine[Any, Any, None]]


class ServerConnection(ClientLink):
    """Calls `serve` for one request at a time; it answers by `send`, and `drain` where it sends much.

    `closed` is called once, when the connection is over, or somebody else's, and nothing of it runs any more.
    """

    def __init__(
        self,
        serve: Serve,
        closed: Callable[["ServerConnection"], None],
        clock: Callable[[], float],
        outbox: Outbox | None = None,
    ) -> None:
        super().__init__(clock, outbox or Outbox())
        self.settled = False
        """The outcome is clear and is being told: `serve` is not interrupted any more."""
        self.draining = False
        """Serve what is under way, then close."""
        self.take_back: Callable[[bytes], None] | None = None
        """Set by whoever can serve what this class cannot: given the bytes of a request and all behind it."""
        self._serve = serve
        self._closed = closed
        self._reader = RequestReader()
        self._driver: Driver | None = None
        self._current: Incoming | None = None
        self._refusal: BadRequest | None = None
        self._taking_turns = self._given_away = self._lost = False

    # What the event loop calls

    def data_received(self, data: bytes) -> None:
        if self._refusal is not None or self.lingering:
            self.since = self.clock()
            return
        reader = self._reader
        if not reader.in_head:
            self.since = self.clock()
        try:
            reader.feed(data)
        except BadRequest as refusal:
            self._break_off(refusal)
        if self._driver is None:
            self._next()
        elif reader.arrived or reader.upgrading:
            # The client is ahead of us; it may wait.
            self.hold()

    def eof_received(self) -> None:
        # As Envoy does: a client that ends its side has left, and no upstream works for it any longer.
        self._gone("the client ended the connection")

    def connection_lost(self, error: Exception | None) -> None:
        self._gone(str(error) if error else "the client ended the connection")
        self._lost = True
        if self._driver is None:
            self._finish()

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._driver is None:
            self._next()

    # Requests, one at a time

    def _next(self) -> None:
        if self._taking_turns:
            # A request that was answered without a wait: the loop below goes on.
            return
        self._taking_turns = True
        reader = self._reader
        try:
            while self._driver is None and self.open and not self.lingering and not self._given_away:
                if not reader.arrived:
                    if self._refusal is not None:
                        self.turn_away(self._refusal)
                    elif self.draining and not reader.in_head:
                        self.close()
                    else:
                        self.release()
                    return
                if self.write_paused:
                    # It has not even read its last answer.
                    self.hold()
                    return
                request = self._current = reader.arrived.popleft()
                if not request.complete:
                    request.on_full, request.on_room = self.hold, self.release
                    self.release()
                    if request.expects_continue:
                        request.on_wanted = self._continue
                self.answered = self.settled = False
                driver = self._driver = Driver(self._serve(self, request), self._served)
                driver.start()
        finally:
            self._taking_turns = False

    def _served(self, error: BaseException | None) -> None:
        request, self._current = self._current, None
        self._driver = None
        if error is not None:
            self.abort()
            if not isinstance(error, ClientGone):
                loop = asyncio.get_running_loop()
                loop.call_exception_handler({"message": "a request's handler failed", "exception": error})
        if self._lost or self._given_away:
            self._finish()
            return
        if error is not None or self.lingering or not self.open:
            return
        assert request is not None
        if not request.complete or not request.keep_alive:
            self.linger()
            return
        reader = self._reader
        if reader.upgrading and not reader.arrived:
            try:
                reader.go_on()
            except BadRequest as refusal:
                self._break_off(refusal)
        if reader.arrived or self._refusal is not None or self.draining:
            self._next()
        else:
            self.release()

    def _finish(self) -> None:
        self._reader.forget()
        self._closed(self)

    def _gone(self, reason: str) -> None:
        if self.open:
            self.open = False
            gone = ClientGone(reason)
            if self._reader.reading is not None:
                self._reader.reading.fail(gone)
            self._wake_writer()
            self._throw(gone)

    def _break_off(self, refusal: BadRequest) -> None:
        """What arrives is no request, or not the rest of the one whose body is arriving."""
        self._refusal = refusal
        broken = self._reader.reading
        if broken is not None:
            gone = ClientGone(refusal.reason, refusal)
            broken.fail(gone)
            if broken is self._current:
                self._throw(gone)
            else:
                # Not even begun, and it never will be.
                refusal.request = self._reader.arrived.pop()

    def _throw(self, gone: ClientGone) -> None:
        if self._driver is not None and not self.settled:
            self._driver.throw(gone)

    # Answering

    def keeps_alive(self, request: Incoming) -> bool:
        """Whether another request may follow."""
        return request.complete and request.keep_alive and not self.draining

    def post(self, data: bytes) -> None:
        """Write a whole answer at the end of this turn of the event loop."""
        if self._reader.arrived:
            # The next one is not to be begun before it is clear whether the client takes this one.
            self.send(data)
        else:
            self.answered = True
            self.outbox.post(self.transport, data)

    def _continue(self) -> None:
        if not self.answered and self.open:
            self.outbox.flush()
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def give_away(self, protocol: asyncio.Protocol) -> bytes:
        """The connection speaks something else from here on, by that protocol; what the client sent of it already."""
        self.outbox.flush()
        self._given_away = True
        self.transport.set_protocol(protocol)
        return self._reader.behind

    def give_back(self, request: Incoming) -> None:
        """Somebody else shall serve this request, for which nothing was written yet, and all that follows it."""
        assert self.take_back is not None
        self.outbox.flush()
        self._given_away = True
        self.release()
        self.take_back(request.head() + self._reader.behind)

    # The clock, by a sweeper that all connections share

    def look(self, now: float) -> None:
        """End what takes too long."""
        if self._given_away:
            return
        quiet = now - self.since
        if self.stalled(now):
            self.abort()
        elif self.left_unseen():
            self._gone("the client ended the connection")
            self.abort()
        elif self.lingering:
            if self.lingered(now):
                self.abort()
        elif self._reader.reading is not None:
            if self._reading_paused or self.answered:
                # It is not the client that is silent; a silent upstream is its connection's business.
                self.since = now
            elif quiet > IDLE_TIMEOUT:
                self._break_off(BadRequest(408, "the request's body stopped coming", "SI"))
        elif self._driver is not None:
            self.since = now
        elif self._reader.in_head:
            if quiet > HEAD_TIMEOUT:
                self.turn_away(BadRequest(408, "the request's head took too long", "SI"))
        elif quiet > IDLE_TIMEOUT:
            self.close()

    def shut(self) -> None:
        """Take no further request; close as soon as the one under way is answered."""
        self.draining = True
        if self._driver is None and not self._reader.arrived and not self._given_away:
            self.close()
