"""The small HTTP server of `mesh_metrics_port`, on the proxy's own event loop and HTTP/1.1 engine."""

import asyncio
import contextlib
import socket
from collections.abc import Awaitable, Callable
from http import HTTPStatus

from addons.engine.incoming import Incoming
from addons.engine.server import ServerConnection
from addons.engine.wire import answer_head, value
from addons.fast_lane import SWEEP

Answer = Callable[[str, str, str], Awaitable[tuple[int, bytes, str]]]
"""Method, target and Accept header -> status, body and content type."""


class MetricsPort:
    """Answers from its making, within the event loop, until `close`."""

    def __init__(self, host: str, port: int, answer: Answer) -> None:
        """`host` empty: all addresses of the machine. Raises OSError, OverflowError."""
        self._answer = answer
        self._clients: set[ServerConnection] = set()
        # Bound here and not in the task, so that a port that is taken is told to who asked for it.
        self._socket = _listen(host, port)
        loop = asyncio.get_running_loop()
        self._starting = loop.create_task(
            loop.create_server(lambda: self._connection(loop), sock=self._socket), name="mesh metrics port"
        )
        self._sweeper = loop.call_later(SWEEP, self._sweep, loop)

    def close(self) -> None:
        """Give the port back; what is being answered is finished."""
        self._sweeper.cancel()
        if self._starting.done() and not self._starting.cancelled() and not self._starting.exception():
            self._starting.result().close()
        else:
            self._starting.cancel()
            self._socket.close()
        for client in list(self._clients):
            client.shut()

    def _connection(self, loop: asyncio.AbstractEventLoop) -> ServerConnection:
        client = ServerConnection(self._serve, self._clients.discard, loop.time)
        self._clients.add(client)
        return client

    async def _serve(self, client: ServerConnection, incoming: Incoming) -> None:
        method = incoming.method.decode("latin-1")
        accept = value(incoming.fields, b"accept") or b""
        status, body, content_type = await self._answer(
            method, incoming.target.decode("latin-1"), accept.decode("latin-1")
        )
        fields = [
            (b"content-type", content_type.encode()),
            (b"content-length", b"%d" % len(body)),
        ]
        if not client.keeps_alive(incoming):
            fields.append((b"connection", b"close"))
        elif incoming.version == b"HTTP/1.0":
            fields.append((b"connection", b"keep-alive"))
        reason = HTTPStatus(status).phrase.encode()
        client.send(answer_head(status, reason, tuple(fields)) + (b"" if method == "HEAD" else body))

    def _sweep(self, loop: asyncio.AbstractEventLoop) -> None:
        now = loop.time()
        for client in list(self._clients):
            client.look(now)
        self._sweeper = loop.call_later(SWEEP, self._sweep, loop)


def _listen(host: str, port: int) -> socket.socket:
    if not host:
        with contextlib.suppress(OSError):
            if socket.has_dualstack_ipv6():
                return socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True)
        return socket.create_server(("", port))
    family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    return socket.create_server(address, family=family)
