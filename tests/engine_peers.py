"""Upstreams for the engine's tests: they speak raw bytes as told, on a real socket."""

import asyncio
import contextlib
import functools
import inspect
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from typing import Any

import pytest
import uvloop

from addons.engine.client import Client
from addons.engine.origin import Origin

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]

GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\n"
HELLO = OK + b"Content-Length: 5\r\n\r\nhello"


class LeapingLoop(asyncio.SelectorEventLoop):
    """asyncio's own loop, whose clock can be put forward."""

    leapt = 0.0

    def time(self) -> float:
        return super().time() + self.leapt


LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "asyncio": LeapingLoop,
    "uvloop": uvloop.new_event_loop,
}


def run(loop: str, test: Coroutine[Any, Any, None]) -> None:
    with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
        runner.run(test)


def on_loops(*names: str) -> Callable[[Any], Any]:
    """Run an async test once on each of these event loops."""

    def decorate(test: Any) -> Any:
        @functools.wraps(test)
        def wrapper(*args: Any, loop: str, **kwargs: Any) -> None:
            run(loop, test(*args, **kwargs))

        signature = inspect.signature(test)
        added = inspect.Parameter("loop", inspect.Parameter.KEYWORD_ONLY)
        wrapper.__signature__ = signature.replace(  # type: ignore[attr-defined]
            parameters=[*signature.parameters.values(), added]
        )
        return pytest.mark.parametrize("loop", names)(wrapper)

    return decorate


on_both_loops = on_loops("asyncio", "uvloop")
on_asyncio = on_loops("asyncio")


def leap(seconds: float) -> None:
    """Put the running LeapingLoop's clock forward."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, LeapingLoop)
    loop.leapt += seconds


class Peer:
    """A listening upstream. connections: accepted so far. ended: becomes set when all handlers are through."""

    def __init__(self, handler: Handler) -> None:
        self._handler = handler
        self.connections = 0
        self.running = 0
        self.changed = asyncio.Condition()
        self.writers: list[asyncio.StreamWriter] = []
        self.origin = Origin("", 0)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.running += 1
        self.writers.append(writer)
        try:
            await self._handler(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError, ssl.SSLError):
            pass
        finally:
            self.running -= 1
            writer.close()
            with contextlib.suppress(Exception):
                await writer.wait_closed()
            async with self.changed:
                self.changed.notify_all()

    async def all_closed(self) -> None:
        """Wait until no connection is open at this end."""
        async with self.changed:
            await self.changed.wait_for(lambda: not self.running)


@contextlib.asynccontextmanager
async def peer(handler: Handler, tls: ssl.SSLContext | None = None) -> AsyncIterator[Peer]:
    upstream = Peer(handler)
    server = await asyncio.start_server(upstream.serve, "127.0.0.1", 0, ssl=tls)
    upstream.origin = Origin("127.0.0.1", server.sockets[0].getsockname()[1])
    try:
        yield upstream
    finally:
        server.close()
        for writer in upstream.writers:
            writer.transport.abort()


@contextlib.asynccontextmanager
async def client(**options: Any) -> AsyncIterator[Client]:
    made = Client(**options)
    try:
        yield made
        assert_sound(made)
    finally:
        made.close()
        assert made.stats() == {}


def assert_sound(made: Client) -> None:
    """The books agree with themselves."""
    in_books = dict.fromkeys(made.stats(), 0)
    for connection in made._connections:
        assert not connection.closed
        in_books[connection.origin] += 1
    for origin, pool in made.stats().items():
        assert pool.open == in_books[origin]
        assert 0 <= pool.idle <= pool.open
        assert pool.opening >= 0
        assert pool.open or pool.opening
    assert len(made._opening) == sum(pool.opening for pool in made.stats().values())


async def head_of(reader: asyncio.StreamReader) -> bytes:
    return await reader.readuntil(b"\r\n\r\n")


def answering(*answers: bytes, close: bool = False) -> Handler:
    """Each connection gets these answers, one per request (without body), the last one again and again."""

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        following = iter(answers)
        answer = b""
        while True:
            await head_of(reader)
            answer = next(following, answer)
            writer.write(answer)
            await writer.drain()
            if close:
                return

    return handler


async def settled() -> None:
    """Let everything run that can run without a byte from outside."""
    for _ in range(5):
        await asyncio.sleep(0)
