"""The HTTP/1.1 client: one pool of connections per origin, shared by everybody."""

import asyncio
import ssl
from collections.abc import Callable

from addons.engine.call import Call
from addons.engine.connection import Connection
from addons.engine.dial import Tls, dial
from addons.engine.errors import UpstreamError
from addons.engine.origin import Origin
from addons.engine.outbox import Outbox
from addons.engine.pool import Pool, PoolStats
from addons.engine.silence import SilenceWatch


def default_tls(origin: Origin) -> ssl.SSLContext:
    """The system's trust, the server's name verified, HTTP/1.1 spoken."""
    context = ssl.create_default_context()
    context.set_alpn_protocols(["http/1.1"])
    return context


class Client:
    """Use it from one event loop. tls_context is asked at each new TLS connection (without one: system trust).

    max_idle_per_origin: connections kept when no call needs them. idle_expiry: seconds until such a one is closed.
    objection: asked about each new connection before anything is sent; what speaks against it, "" if nothing does.
    """

    def __init__(
        self,
        *,
        max_idle_per_origin: int = 256,
        idle_expiry: float = 60.0,
        tls_context: Callable[[Origin], Tls] | None = None,
        objection: Callable[[Connection], str] | None = None,
    ) -> None:
        self.outbox = Outbox()
        self._objection = objection
        self._max_idle = max_idle_per_origin
        self._idle_expiry = idle_expiry
        self._tls_context = tls_context
        self._default_tls: ssl.SSLContext | None = None
        self._pools: dict[Origin, Pool[Connection]] = {}
        self._connections: set[Connection] = set()
        self._opening: dict[asyncio.Task[None], Call] = {}
        self._silence = SilenceWatch(self._connections)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._sweeper: asyncio.TimerHandle | None = None
        self._now: Callable[[], float]

    def send(
        self,
        origin: Origin,
        head: bytes,
        body: bytes | None = b"",
        *,
        method: bytes,
        connect_timeout: float = 5.0,
        buffer: int = 0,
        resend: bool = False,
        connection_reuse: bool = True,
        idle_timeout: float | None = None,
    ) -> Call:
        """Start a request; the Call that comes back is to be awaited, or told by `then`.

        head: from the request line to the empty line. body: its bytes, framed as the head says; None: the caller writes
        them (`Call.write`, `drain`, `end`). method: as in the head. connect_timeout: seconds.
        buffer: bytes of the answer's body to gather before the call is settled. It is settled with a complete answer
        when the answer ends before more than that came, else with a streaming one; 0: with whatever came together with
        the head. An event stream, or a content-length above `buffer`, is settled at its head.
        resend: where a pooled connection turns out to be closed before a byte of an answer, send once more on a fresh
        one (never with body=None). connection_reuse: False takes a fresh connection and closes it afterwards.
        idle_timeout: seconds without a byte either way after which the call ends with a "timeout"; up to a second late.
        """
        loop = self._loop
        if loop is None:
            loop = self._start()
        call = Call(
            self,
            loop,
            origin,
            head,
            body,
            method,
            connect_timeout,
            buffer,
            resend,
            connection_reuse,
            idle_timeout,
        )
        if idle_timeout is not None and self._silence.timer is None:
            self._silence.start(loop)
        if connection_reuse:
            pool = self._pools.get(origin)
            if pool is not None:
                while (connection := pool.take()) is not None:
                    if not connection.transport.is_closing():
                        connection.begin(call)
                        return call
                    connection.close()
        self._open(call)
        return call

    def stats(self) -> dict[Origin, PoolStats]:
        """Per origin; origins without any connection are left out."""
        return {
            origin: PoolStats(pool.open, len(pool.idle), pool.opening) for origin, pool in self._pools.items()
        }

    def close_idle(self) -> None:
        """Close what no call uses; the client goes on."""
        for pool in list(self._pools.values()):
            for connection in pool.expire(float("inf")):
                connection.close()

    def close(self) -> None:
        """Close everything; calls under way fail with a "reset"."""
        for call in list(self._opening.values()):
            call.cancel(UpstreamError("reset", "the proxy stops", nothing_sent=True))
        self.close_idle()
        for connection in list(self._connections):
            connection.give_up(UpstreamError("reset", "the proxy stops"))
        self._silence.stop()
        if self._sweeper is not None:
            self._sweeper.cancel()
            self._sweeper = None

    # Opening

    def _start(self) -> asyncio.AbstractEventLoop:
        loop = self._loop = asyncio.get_running_loop()
        self._now = loop.time
        return loop

    def _open(self, call: Call) -> None:
        assert self._loop is not None
        self._pool(call.origin).opening += 1
        task = call.opening = self._loop.create_task(self._connect(call))
        self._opening[task] = call

    async def _connect(self, call: Call) -> None:
        origin = call.origin
        try:
            context = self._context(origin) if origin.tls else None
            connection = await dial(origin, context, lambda: Connection(self, origin), call.connect_timeout)
            if connection.closed:
                raise UpstreamError(
                    "connect-failure", "closed by the upstream while connecting", nothing_sent=True
                )
            if self._objection is not None and (detail := self._objection(connection)):
                connection.close()
                raise UpstreamError("connect-failure", detail, nothing_sent=True)
        except UpstreamError as error:
            self.opened(call)
            call.settle(None, error)
        except asyncio.CancelledError:
            if call.opening is not None:
                call.cancel(UpstreamError("reset", "the proxy stops", nothing_sent=True))
            raise
        except Exception as error:
            # A TLS context that its maker could not make, for one.
            self.opened(call)
            call.settle(None, UpstreamError("connect-failure", str(error), nothing_sent=True))
        else:
            self.opened(call)
            connection.begin(call)

    def _pool(self, origin: Origin) -> Pool[Connection]:
        pool = self._pools.get(origin)
        if pool is None:
            pool = self._pools[origin] = Pool(self._max_idle)
        return pool

    def _context(self, origin: Origin) -> Tls:
        if self._tls_context is not None:
            return self._tls_context(origin)
        if self._default_tls is None:
            self._default_tls = default_tls(origin)
        return self._default_tls

    # What calls and connections report

    def opened(self, call: Call) -> None:
        """The search for a connection is over: found, failed or given up."""
        task, call.opening = call.opening, None
        if task is not None:
            del self._opening[task]
            pool = self._pools[call.origin]
            pool.opening -= 1
            self._tidy(call.origin, pool)

    def abandon(self, call: Call) -> None:
        """Nobody wants the connection any more that is being opened for this call."""
        if call.opening is not None:
            call.opening.cancel()
            self.opened(call)

    def resend(self, call: Call) -> None:
        """The pooled connection was closed before it took the request; a fresh one cannot be stale again."""
        self._open(call)

    def adopt(self, connection: Connection) -> Pool[Connection]:
        """A connection is open, in use as yet."""
        pool = self._pool(connection.origin)
        pool.open += 1
        self._connections.add(connection)
        return pool

    def release(self, connection: Connection) -> None:
        """A connection is free for the next call."""
        surplus = connection.pool.give(connection, self._now())
        if surplus is not None:
            surplus.close()
        if self._sweeper is None and self._loop is not None:
            self._sweeper = self._loop.call_later(self._idle_expiry, self._sweep)

    def forget(self, connection: Connection) -> None:
        """A connection is closed, or no longer ours."""
        pool = connection.pool
        pool.open -= 1
        pool.remove(connection)
        self._connections.discard(connection)
        self._tidy(connection.origin, pool)

    def _tidy(self, origin: Origin, pool: Pool[Connection]) -> None:
        if not pool.open and not pool.opening:
            del self._pools[origin]

    def _sweep(self) -> None:
        self._sweeper = None
        oldest = None
        until = self._now() - self._idle_expiry
        for pool in list(self._pools.values()):
            for connection in pool.expire(until):
                connection.close()
            since = pool.oldest
            if since is not None and (oldest is None or since < oldest):
                oldest = since
        if oldest is not None and self._loop is not None:
            self._sweeper = self._loop.call_at(oldest + self._idle_expiry, self._sweep)
