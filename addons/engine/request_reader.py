"""Reading the requests that arrive on one connection, one after the other. No I/O: bytes go in by `feed`."""

from collections import deque
from typing import Any, Final

import httptools

from addons.engine.errors import BadRequest
from addons.engine.foreign import Waiting, behind, find, goes_beyond, is_whole
from addons.engine.incoming import Incoming
from addons.engine.wire import Fields, allowed_trailers, tokens

HEAD_LIMIT: Final = 64 * 1024
"""Bytes of a head's fields, or of trailers; more is answered 431."""
TARGET_LIMIT: Final = 16 * 1024
"""Bytes of a request's target; more is answered 414."""
FIELDS_LIMIT: Final = 200
_MOST = HEAD_LIMIT + TARGET_LIMIT + 256  # the rest of the first line included, and some empty ones before it

_VERSIONS = {"1.1": b"HTTP/1.1", "1.0": b"HTTP/1.0"}


class RequestReader:
    """`arrived` gathers requests as soon as their heads are whole; their bodies grow while more is fed.

    `feed` raises BadRequest; whatever was gathered before stays good. The last of `arrived` may ask for an upgrade:
    from there on bytes are kept in `behind`, until `go_on`.
    """

    __slots__ = (
        "_body_follows", "_head", "_opening", "_parser", "_pending", "_pipelined", "_resumed", "_target", "arrived",
        "behind", "reading", "upgrading",
    )  # fmt: skip

    def __init__(self) -> None:
        self.arrived: deque[Incoming] = deque()
        self.reading: Incoming | None = None
        """The request whose body is arriving."""
        self.behind = b""
        self.upgrading = False
        self._pending: list[tuple[bytes, bytes]] = []
        self._target: list[bytes] = []
        self._head = 0  # bytes since the last that belonged to a body or ended a request
        self._opening = b""  # what was fed since this head began, and with its beginning
        self._pipelined = (
            False  # this head began in the middle of what was fed, so that its length is not known
        )
        self._body_follows = False  # behind a head after which the parser expects another protocol
        self._resumed = False
        self._parser: Any = httptools.HttpRequestParser(self)

    @property
    def in_head(self) -> bool:
        """Some bytes of a head have arrived, but not all."""
        return self._head > 0 and self.reading is None

    def feed(self, data: bytes) -> None:
        opening, begun = b"", self.reading
        if begun is None:
            if not self._head:
                opening = self._opening = data
            elif self._opening:
                opening = self._opening = self._opening + data
        while not self.upgrading:
            self._head += len(data)
            try:
                self._parser.feed_data(data)
            except httptools.HttpParserUpgrade as switch:
                data = data[switch.args[0] :]
                if self._goes_on():
                    begun = self.reading
                    opening = data if begun is None else b""
            except httptools.HttpParserError as error:
                rest = find(self._parser, error, opening or behind(begun, data))
                if not rest:
                    raise _refusal(error) from None
                self._set_aside(rest)
                return
            else:
                if self._head or data[-1:] != b"\n":
                    self._look_behind(data, opening, begun)
                return
        self.behind += data

    def go_on(self) -> None:
        """The upgrade was declined: what came behind its request is the next request."""
        behind, self.behind = self.behind, b""
        self.upgrading = False
        self._parser = httptools.HttpRequestParser(self)
        if behind:
            self.feed(behind)

    def forget(self) -> None:
        """Break the cycle with the parser; the reader is of no use afterwards."""
        self._parser = None

    def _goes_on(self) -> bool:
        """The parser stopped behind a head that asks for another protocol: True when HTTP is what follows."""
        request = self.reading
        if request is None and self.arrived and self.arrived[-1].upgrade:
            self.upgrading = True
            return False
        self._parser = httptools.HttpRequestParser(self)
        if request is not None:
            self._body_follows = False
            self._resumed = True
            framing = b"transfer-encoding: chunked"
            if request.length >= 0:
                framing = b"content-length: %d" % request.length
            kept = b"keep-alive" if request.keep_alive else b"close"
            self._parser.feed_data(b"PUT / HTTP/1.1\r\nconnection: %b\r\n%b\r\n\r\n" % (kept, framing))
        return True

    def _look_behind(self, data: bytes, opening: bytes, begun: Incoming | None) -> None:
        """What the parser was fed last did not end with a line, or is not the end of a request."""
        if self._head:
            if self._head > _MOST:
                raise BadRequest(431, f"more than {HEAD_LIMIT // 1024} KiB of headers")
            return
        last = self.arrived[-1] if self.arrived else begun
        if data and self.reading is None and last is not None and goes_beyond(data, last):
            self._head, self._opening, self._pipelined = 1, opening or behind(begun, data), True

    def _set_aside(self, rest: bytes) -> None:
        """A method that the parser does not know is for somebody else, once the first line is whole."""
        if not is_whole(rest):
            self._head, self._parser = len(rest), Waiting(rest)
            return
        request = Incoming(b"", b"", b"HTTP/1.1", (), 0, False, True)
        request.end(False, None)
        self.arrived.append(request)
        self._head, self.upgrading, self.behind = 0, True, rest

    # What the parser calls

    def on_url(self, piece: bytes) -> None:
        self._target.append(piece)
        if not self._head:
            self._head = len(piece)
            self._pipelined = True
        if self._head > TARGET_LIMIT and sum(map(len, self._target)) > TARGET_LIMIT:
            raise BadRequest(414, f"a request target of more than {TARGET_LIMIT // 1024} KiB")

    def on_header(self, name: bytes, value: bytes) -> None:
        self._pending.append((name, value.rstrip()))

    def on_headers_complete(self) -> None:
        pending = self._pending
        fields = tuple(pending)
        pending.clear()
        target = self._target[0] if len(self._target) == 1 else b"".join(self._target)
        self._target.clear()
        if self._resumed:
            self._resumed = False
            return
        parser = self._parser
        method = parser.get_method()
        version = b"HTTP/1.1"
        try:
            # The parser takes long to say the version, so it is asked only where the first line is not to be seen.
            if self._pipelined or not self._opening.startswith(b" ".join((method, target, b"HTTP/1.1\r\n"))):
                version = _VERSIONS.get(parser.get_http_version(), b"")
                if not version:
                    raise BadRequest(400, "neither HTTP/1.1 nor HTTP/1.0")
            self._opening = b""
            if len(fields) > FIELDS_LIMIT:
                raise BadRequest(431, f"more than {FIELDS_LIMIT} header fields")
            if self._head > HEAD_LIMIT or self._pipelined:
                self._pipelined = False
                check_size(fields)
            self._head = 0
            length = hosts = 0
            chunked = sized = expect = False
            for name, value in fields:
                size = len(name)
                if size == 4:
                    if name.lower() == b"host":
                        hosts += 1
                elif size == 14:
                    if name.lower() == b"content-length":
                        length = int(value)
                        sized = True
                elif size == 17:
                    if name.lower() == b"transfer-encoding":
                        if chunked or value.lower() != b"chunked":
                            raise BadRequest(400, "a Transfer-Encoding other than chunked")
                        chunked = True
                elif size == 6 and name.lower() == b"expect":
                    expect = value.lower() == b"100-continue"
            if hosts > 1 or (not hosts and version == b"HTTP/1.1"):
                raise BadRequest(400, "exactly one Host header is needed")
            if chunked:
                if sized or version == b"HTTP/1.0":
                    raise BadRequest(400, "Transfer-Encoding beside Content-Length, or in HTTP/1.0")
                length = -1
            upgrade = parser.should_upgrade() and self._is_upgrade(method, fields, length)
            request = self.reading = Incoming(
                method, target, version, fields, length, expect and version == b"HTTP/1.1", upgrade
            )
        except BadRequest as refusal:
            refusal.request = Incoming(method, target, version, fields, 0, False, False)
            raise
        self.arrived.append(request)

    def _is_upgrade(self, method: bytes, fields: Fields, length: int) -> bool:
        """Whether the client gets what it asks for. HTTP/2 it does not: it is answered in HTTP/1.1."""
        if method == b"CONNECT":
            if length:
                raise BadRequest(400, "a CONNECT request with a body")
            return True
        # The parser takes any body for the new protocol's.
        self._body_follows = length != 0
        return length == 0 and b"h2c" not in tokens(fields, b"upgrade")

    def on_body(self, data: bytes) -> None:
        self._head = 0
        assert self.reading is not None
        self.reading.feed(data)

    def on_message_complete(self) -> None:
        request = self.reading
        assert request is not None
        if self._body_follows:
            request.keep_alive = self._parser.should_keep_alive()
            return
        trailers = None
        if self._pending:
            fields = tuple(self._pending)
            self._pending.clear()
            if len(fields) > FIELDS_LIMIT:
                raise BadRequest(431, f"more than {FIELDS_LIMIT} trailers")
            check_size(fields)
            trailers = allowed_trailers(fields)
        self.reading = None
        self._head = 0
        request.end(self._parser.should_keep_alive(), trailers)


def check_size(fields: Fields) -> None:
    if sum([len(name) + len(value) + 4 for name, value in fields]) > HEAD_LIMIT:
        raise BadRequest(431, f"more than {HEAD_LIMIT // 1024} KiB of headers")


def _refusal(error: httptools.HttpParserError) -> BadRequest:
    cause = error.__context__
    if isinstance(cause, BadRequest):
        return cause
    return BadRequest(400, f"not a valid HTTP/1.1 request: {error}")
