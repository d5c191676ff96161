"""Reading the requests that arrive on one connection, one after the other. No I/O: bytes go in by `feed`."""

from collections import deque
from typing import Final

import httptools

from addons.engine.incoming import Incoming
from addons.engine.wire import tokens

HEAD_LIMIT: Final = 64 * 1024
"""Bytes of a head's fields; more is answered 431."""
TARGET_LIMIT: Final = 16 * 1024
"""Bytes of a request's target; more is answered 414."""
FIELDS_LIMIT: Final = 200

_VERSIONS = {"1.1": b"HTTP/1.1", "1.0": b"HTTP/1.0"}


class BadRequest(Exception):
    """A request that is answered with `status` and goes no further; says why."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason


class RequestReader:
    """`arrived` gathers requests as soon as their heads are whole; their bodies grow while more is fed.

    `feed` raises BadRequest; whatever was gathered before stays good. `feed` after an upgrade was asked for
    keeps the bytes in `behind` until `go_on`.
    """

    __slots__ = ("_head", "_pending", "_parser", "_target", "arrived", "behind", "reading", "upgrading")

    def __init__(self) -> None:
        self.arrived: deque[Incoming] = deque()
        self.reading: Incoming | None = None
        """The request whose body is arriving."""
        self.behind = b""
        self.upgrading = False
        self._pending: list[tuple[bytes, bytes]] = []
        self._target: list[bytes] = []
        self._head = 0
        self._parser = httptools.HttpRequestParser(self)

    @property
    def in_head(self) -> bool:
        """Some bytes of a head have arrived, but not all."""
        return self._head > 0 and self.reading is None

    def feed(self, data: bytes) -> None:
        if self.upgrading:
            self.behind += data
            return
        if self.reading is None:
            self._head += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as switch:
            self.upgrading = True
            self.behind = data[switch.args[0] :]
        except httptools.HttpParserError as error:
            cause = error.__context__
            if isinstance(cause, BadRequest):
                raise cause from None
            raise BadRequest(400, f"not a valid HTTP/1.1 request: {error}") from None
        if self.reading is None and self._head > HEAD_LIMIT + TARGET_LIMIT:
            raise BadRequest(431, f"more than {HEAD_LIMIT // 1024} KiB of headers")

    def go_on(self) -> None:
        """The upgrade was declined: what came behind its request is the next request."""
        behind, self.behind = self.behind, b""
        self.upgrading = False
        self._parser = httptools.HttpRequestParser(self)
        if behind:
            self.feed(behind)

    def forget(self) -> None:
        """Break the cycle with the parser; the reader is of no use afterwards."""
        del self._parser

    # What the parser calls

    def on_url(self, piece: bytes) -> None:
        self._target.append(piece)
        if len(piece) > TARGET_LIMIT or sum(map(len, self._target)) > TARGET_LIMIT:
            raise BadRequest(414, f"a request target of more than {TARGET_LIMIT // 1024} KiB")

    def on_header(self, name: bytes, value: bytes) -> None:
        self._pending.append((name, value))

    def on_headers_complete(self) -> None:
        pending = self._pending
        fields = tuple(pending)
        pending.clear()
        target = self._target[0] if len(self._target) == 1 else b"".join(self._target)
        self._target.clear()
        parser = self._parser
        version = _VERSIONS.get(parser.get_http_version())
        if version is None:
            raise BadRequest(505, "neither HTTP/1.1 nor HTTP/1.0")
        if len(fields) > FIELDS_LIMIT:
            raise BadRequest(431, f"more than {FIELDS_LIMIT} header fields")
        if self._head > HEAD_LIMIT and sum([len(n) + len(v) + 4 for n, v in fields]) > HEAD_LIMIT:
            raise BadRequest(431, f"more than {HEAD_LIMIT // 1024} KiB of headers")
        length = 0
        chunked = False
        hosts = 0
        expect = False
        for name, value in fields:
            size = len(name)
            if size == 4:
                if name.lower() == b"host":
                    hosts += 1
            elif size == 14:
                if name.lower() == b"content-length":
                    length = int(value)
            elif size == 17:
                if name.lower() == b"transfer-encoding":
                    if chunked or value.lower() != b"chunked":
                        raise BadRequest(400, "a Transfer-Encoding other than chunked")
                    chunked = True
            elif size == 6 and name.lower() == b"expect":
                expect = value.lower() == b"100-continue"
        if hosts > 1 or (not hosts and version == b"HTTP/1.1"):
            raise BadRequest(400, "exactly one Host header is needed")
        if chunked and version == b"HTTP/1.0":
            raise BadRequest(400, "Transfer-Encoding in an HTTP/1.0 request")
        request = self.reading = Incoming(
            parser.get_method(),
            target,
            version,
            fields,
            -1 if chunked else length,
            expect and version == b"HTTP/1.1",
            parser.should_upgrade() and b"upgrade" in tokens(fields, b"connection"),
        )
        self.arrived.append(request)

    def on_body(self, data: bytes) -> None:
        assert self.reading is not None
        self.reading.feed(data)

    def on_message_complete(self) -> None:
        request = self.reading
        assert request is not None
        self.reading = None
        self._head = 0
        trailers = None
        if self._pending:
            trailers = tuple(self._pending)
            self._pending.clear()
        request.end(self._parser.should_keep_alive(), trailers)
