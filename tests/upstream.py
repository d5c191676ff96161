"""Servers for the tests: plain sockets and threads, so that a test decides each byte and when it is sent."""

import contextlib
import socket
import ssl
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Self

from tests.conftest import free_port


@dataclass
class Received:
    """A request as it arrived. `connection`: the how-manieth connection of the server brought it, from 1 on."""

    method: str
    target: str
    version: str
    fields: list[tuple[str, str]]
    body: bytes
    connection: int
    framing: str = ""
    """How the body came: "length", "chunked" or "" for none."""

    def header(self, name: str) -> str | None:
        """The field's values joined by a comma; None: there is none."""
        values = [value for key, value in self.fields if key.lower() == name]
        return ", ".join(values) if values else None


Reply = Callable[[Received, socket.socket], bytes | None]
"""What to send; None: the function has sent, and the connection is closed."""


def answer(status: int = 200, body: bytes | str = b"", **fields: str) -> bytes:
    """An answer with a content-length; `content_type="x"` becomes content-type: x."""
    if isinstance(body, str):
        body = body.encode()
    lines = [f"HTTP/1.1 {status} Said", f"content-length: {len(body)}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in fields.items()]
    return "\r\n".join([*lines, "", ""]).encode() + body


def saying(status: int = 200, body: bytes | str = b"ok", **fields: str) -> Reply:
    """Always the same answer."""
    data = answer(status, body, **fields)
    return lambda request, connection: data


def in_turn(*replies: Reply) -> Reply:
    """One after the other; the last one goes on for ever."""
    lock = threading.Lock()
    waiting = list(replies)

    def reply(request: Received, connection: socket.socket) -> bytes | None:
        with lock:
            chosen = waiting.pop(0) if len(waiting) > 1 else waiting[0]
        return chosen(request, connection)

    return reply


@dataclass
class Upstream:
    """Listens on a port of its own from the start of a `with` block to its end; keep-alive.

    tls: speaks TLS. port: None picks one. `requests` holds what arrived, whole requests only.
    """

    reply: Reply = field(default_factory=saying)
    tls: ssl.SSLContext | None = None
    port: int = 0
    requests: list[Received] = field(default_factory=list)
    connections: int = 0

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def targets(self) -> list[str]:
        return [request.target for request in self.requests]

    def __enter__(self) -> Self:
        self.port = self.port or free_port()
        self._open: set[socket.socket] = set()
        self._closed = False
        self._listener = socket.create_server(("127.0.0.1", self.port), backlog=256)
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closed = True
        # A listener that is only closed goes on accepting in the thread that waits for it.
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.drop_connections()

    def drop_connections(self) -> None:
        """Close every connection there is, the idle ones included."""
        for connection in list(self._open):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        while not self._closed:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            threading.Thread(target=self._serve, args=(connection, self.connections), daemon=True).start()

    def _serve(self, connection: socket.socket, number: int) -> None:
        with contextlib.suppress(OSError), contextlib.ExitStack() as stack:
            stack.callback(connection.close)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self.tls is not None:
                connection = self.tls.wrap_socket(connection, server_side=True)
                stack.callback(connection.close)
            self._open.add(connection)
            stack.callback(self._open.discard, connection)
            stream = connection.makefile("rb")
            while (request := read_request(stream, number)) is not None:
                self.requests.append(request)
                data = self.reply(request, connection)
                if data is None:
                    return
                connection.sendall(data)


def read_request(stream, connection: int = 1) -> Received | None:
    """One request with its body; None at the end of the connection."""
    first = stream.readline()
    if not first.endswith(b"\r\n"):
        return None
    method, target, version = first.decode("latin-1").split()
    fields = read_fields(stream)
    by_name = {name.lower(): value for name, value in fields}
    body, framing = b"", ""
    if "chunked" in by_name.get("transfer-encoding", ""):
        body, framing = read_chunked(stream), "chunked"
    elif "content-length" in by_name:
        body, framing = stream.read(int(by_name["content-length"])), "length"
    return Received(method, target, version, fields, body, connection, framing)


def read_fields(stream) -> list[tuple[str, str]]:
    fields = []
    while (line := stream.readline()) not in (b"\r\n", b""):
        name, _, value = line.decode("latin-1").partition(":")
        fields.append((name, value.strip()))
    return fields


def read_chunked(stream) -> bytes:
    parts = []
    while size := int(stream.readline().split(b";")[0], 16):
        parts.append(stream.read(size))
        stream.readline()
    read_fields(stream)
    return b"".join(parts)
