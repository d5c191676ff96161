"""The engine directly on the listening socket, with mitmproxy's stack behind it for what is not HTTP/1.1."""

import asyncio
import logging
import socket
from collections.abc import Awaitable
from types import SimpleNamespace
from typing import Any

from mitmproxy import ctx
from mitmproxy.proxy import mode_servers

from addons.direct_connection import DirectConnection
from addons.engine.destination import Destinations
from addons.engine.hooks import HookTable
from addons.engine.lane import Lane
from addons.fast_lane import OWN_HOST, SWEEP, is_for_the_engine, read_later
from addons.mtls import Mtls
from addons.workers import is_first

logger = logging.getLogger("mesh.listener")

_LAST_WORDS = 0.5
_BACKLOG = 1024


class Listeners:
    """Makes mitmproxy's listening servers accept into the engine; one for the process.

    worker: 0, or which one of several processes this is that listen on the same ports. mtls: judges who comes in at
    inbound ports.
    """

    def __init__(self, hooks: HookTable, worker: int, mtls: Mtls | None = None) -> None:
        self.mtls = mtls
        self.connections: set[DirectConnection] = set()
        self.hooks = hooks
        self._worker = worker
        self._tasks: set[asyncio.Future[Any]] = set()
        self._sweeper: asyncio.TimerHandle | None = None
        self._over: asyncio.Future[None] | None = None

    def install(self) -> None:
        """From here on mitmproxy's servers for TCP listen the engine's way."""
        plain = mode_servers.AsyncioServerInstance.listen

        async def listen(instance: Any, host: str, port: int) -> list[Any]:
            mode = instance.mode
            engine = ctx.options.mesh_fastlane and is_for_the_engine(mode)
            if mode.transport_protocol == "udp" or not (engine or self._worker):
                return await plain(instance, host, port)
            port = port or _free_port(host)
            servers: list[Any] = [await self._listen(instance, host, port, engine)]
            # UDP ports cannot be shared: what came later would belong to another process than what came first.
            if mode.transport_protocol == "both" and self._worker <= 1:
                servers += await plain(_udp_alone(instance), host, port)
            return servers

        mode_servers.AsyncioServerInstance.listen = listen  # type: ignore[method-assign, assignment]

    async def drain(self, seconds: float) -> None:
        """Serve what is under way to its end, at most that long."""
        for client in list(self.connections):
            client.shut()
        await self._until_over(seconds)
        for client in list(self.connections):
            client.abort()
        # Exchanges that were cut still tell their addons so.
        await self._until_over(_LAST_WORDS)
        if self._sweeper is not None:
            self._sweeper.cancel()

    async def _until_over(self, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        end = loop.time() + seconds
        while (self.connections or self._tasks) and loop.time() < end:
            self._over = loop.create_future()
            timer = loop.call_later(end - loop.time(), self._look_again)
            await self._over
            timer.cancel()

    def _look_again(self, *_: Any) -> None:
        if self._over is not None and not self._over.done():
            self._over.set_result(None)

    def discard(self, client: DirectConnection) -> None:
        """A connection is over, or no longer ours."""
        self.connections.discard(client)
        self._look_again()

    def keep(self, running: Awaitable[Any]) -> None:
        """Something that has to come to its end."""
        task = asyncio.ensure_future(running)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        task.add_done_callback(self._look_again)

    async def _listen(self, instance: Any, host: str, port: int, engine: bool) -> asyncio.Server:
        share = self._worker > 0 or None
        if share and is_first():
            await _check_free(host, port)
        if not engine:
            return await asyncio.start_server(instance.handle_stream, host, port, reuse_port=share)
        lane = Lane(self.hooks, Destinations(instance.mode, ctx.options.keep_host_header, OWN_HOST))
        loop = asyncio.get_running_loop()
        if self._sweeper is None:
            self._sweeper = loop.call_later(SWEEP, self._sweep, loop)
        return await loop.create_server(
            lambda: DirectConnection(self, lane, instance, loop),
            host or None,
            port,
            reuse_port=share,
            backlog=_BACKLOG,
        )

    def hand_over(self, instance: Any, transport: asyncio.Transport, data: bytes) -> None:
        """Let mitmproxy's own stack serve a connection from its first byte on."""
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader(loop=loop)
        protocol = asyncio.StreamReaderProtocol(reader, loop=loop)
        protocol.connection_made(transport)
        transport.set_protocol(protocol)
        writer = asyncio.StreamWriter(transport, protocol, reader, loop)
        reader.feed_data(data)
        read_later(reader)
        self.keep(instance.handle_stream(reader, writer))

    def _sweep(self, loop: asyncio.AbstractEventLoop) -> None:
        now = loop.time()
        for client in list(self.connections):
            client.look(now)
        self._sweeper = loop.call_later(SWEEP, self._sweep, loop)


def _free_port(host: str) -> int:
    """One that IPv4 and IPv6 can both listen on, other than if each got its own."""
    with socket.socket() as probe:
        probe.bind(("" if ":" in host else host, 0))
        port: int = probe.getsockname()[1]
        return port


async def _check_free(host: str, port: int) -> None:
    """OSError when somebody else listens there: the kernel lets whoever shares ports listen beside another."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(asyncio.Protocol, host or None, port, start_serving=False)
    server.close()
    await server.wait_closed()


def _udp_alone(instance: Any) -> Any:
    """The instance as its `listen` sees it when there is no TCP to listen for."""
    return SimpleNamespace(
        mode=SimpleNamespace(transport_protocol="udp"),
        handle_stream=instance.handle_stream,
        start_udp_based_server=getattr(instance, "start_udp_based_server", None),
    )
