"""An upstream that keeps the bytes it gets, and a reader that takes nothing which could be read in two ways."""

import contextlib
import re
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass

ANSWER = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
_TOKEN = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_HEAD = re.compile(
    rb"(%b) (/[!-~]*|\*) HTTP/1\.1\r\n((?:%b: ?[\t -~\x80-\xff]*\r\n)*)\r\n" % (_TOKEN, _TOKEN), re.DOTALL
)
_CHUNK = re.compile(rb"([0-9a-fA-F]{1,8})\r\n", re.DOTALL)


@dataclass
class Received:
    """What came over one connection."""

    data: bytearray
    open: bool = True


@dataclass(frozen=True)
class Message:
    target: bytes
    body: bytes
    host: bytes = b"up"


class Ambiguous(Exception):
    """Two servers may read these bytes differently."""


def read_strictly(data: bytes) -> tuple[list[Message], bytes]:
    """The whole requests on one connection, and the beginning of another. Raises Ambiguous."""
    messages = []
    while data and b"\r\n\r\n" in data:
        found = _HEAD.match(data)
        if found is None:
            raise Ambiguous(data[:200])
        fields = [line.split(b":", 1) for line in found[3].split(b"\r\n")[:-1]]
        hosts, lengths, codings = (
            [value.strip() for key, value in fields if key.lower() == name]
            for name in (b"host", b"content-length", b"transfer-encoding")
        )
        if len(hosts) != 1 or len(lengths) + len(codings) > 1 or codings not in ([], [b"chunked"]):
            raise Ambiguous(data[:200])
        rest = data[found.end() :]
        body: bytes | None = b""
        if codings:
            body, rest = _chunks(rest)
        elif lengths:
            if not re.fullmatch(rb"[0-9]+", lengths[0]):
                raise Ambiguous(data[:200])
            length = int(lengths[0])
            body, rest = (rest[:length], rest[length:]) if len(rest) >= length else (None, rest)
        if body is None:
            return messages, data
        messages.append(Message(found[2], body, hosts[0]))
        data = rest
    return messages, data


def _chunks(data: bytes) -> tuple[bytes | None, bytes]:
    body = b""
    while found := _CHUNK.match(data):
        size, data = int(found[1], 16), data[found.end() :]
        if len(data) < size + 2:
            return None, b""
        if not size:
            if not data.startswith(b"\r\n"):
                raise Ambiguous(data[:200])
            return body, data[2:]
        if data[size : size + 2] != b"\r\n":
            raise Ambiguous(data[:200])
        body, data = body + data[:size], data[size + 2 :]
    if data and b"\n" in data:
        raise Ambiguous(data[:200])
    return None, b""


class RawUpstream:
    """Answers each whole request."""

    def __init__(self) -> None:
        self.received: list[Received] = []
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=256)
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            received = Received(bytearray())
            self.received.append(received)
            threading.Thread(target=self._serve, args=(connection, received), daemon=True).start()

    def _serve(self, connection: socket.socket, received: Received) -> None:
        with contextlib.suppress(OSError), connection:
            answered = 0
            while piece := connection.recv(65536):
                received.data += piece
                try:
                    whole = len(read_strictly(bytes(received.data))[0])
                except Ambiguous:
                    break
                connection.sendall(ANSWER * (whole - answered))
                answered = whole
        received.open = False


@contextlib.contextmanager
def raw_upstream() -> Iterator[RawUpstream]:
    upstream = RawUpstream()
    threading.Thread(target=upstream._accept, daemon=True).start()
    try:
        yield upstream
    finally:
        upstream._listener.shutdown(socket.SHUT_RDWR)
        upstream._listener.close()
