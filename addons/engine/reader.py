"""Reading the answers that arrive on one connection, one after the other. No I/O: bytes go in by `feed`."""

from typing import Final

import httptools

from addons.engine.wire import Fields, tokens, value

HEAD_LIMIT: Final = 64 * 1024  # bytes of a head, or of anything else that is not body
FIELDS_LIMIT: Final = 200
INTERIM_LIMIT: Final = 20
NO_LENGTH: Final = -1

_SPACE = ord(" ")
_CODING_SIZE = len(b"transfer-encoding")
_VERSIONS = {"1.1": b"HTTP/1.1", "1.0": b"HTTP/1.0"}


class Refused(Exception):
    """Parsable, but not an answer that can be passed on safely; says why."""


class AnswerReader:
    """One message at a time: `begin`, then `feed` until `ended`.

    `feed(data)` raises httptools.HttpParserError on what is no HTTP (see `explain`) and HttpParserUpgrade(offset) after
    a 101. Interim answers (1xx) are swallowed. `parts` gathers body bytes; its owner takes and clears them.
    `garbage`: bytes of another message followed the end of this one. `bodyless`: the request was HEAD. `opening`: the
    first 9 bytes that came after `begin`, from an owner who likes to spare the parser a slow question.
    """

    def __init__(self) -> None:
        self.parts: list[bytes] = []
        self._pending: list[tuple[bytes, bytes]] = []
        self._reason: list[bytes] = []
        self._allowed: list[None] = []
        # Straight into the lists: the parser calls C, not Python.
        self.on_body = self.parts.append
        self.on_status = self._reason.append
        # An error where none is allowed stops the parser, before another message's body joins this one's.
        self.on_message_begin = self._allowed.pop
        self.fields: Fields = ()
        self.chunked = False
        self._perhaps_coded = False
        self.bodyless = True
        self.begin(b"GET")

    def _renew(self) -> None:
        self._parser = httptools.HttpResponseParser(self)
        self.feed = self._parser.feed_data

    def begin(self, method: bytes) -> None:
        """Expect the answer to a request with that method."""
        if self.bodyless:
            self._renew()
        self.headed = self.ended = self.garbage = self.keep_alive = False
        self.trailers: Fields | None = None
        self.bodyless = method == b"HEAD"
        self._interim = 0
        self.opening = b""
        if not self._allowed:
            self._allowed.append(None)

    def forget(self) -> None:
        """Break the cycle with the parser; the reader is of no use afterwards."""
        del self._parser, self.feed

    @property
    def length(self) -> int:
        """What the head says of the body's bytes. Looked up when asked for, since few ask."""
        text = value(self.fields, b"content-length")
        return NO_LENGTH if text is None else int(text)

    @property
    def until_close(self) -> bool:
        """The body ends where the connection does."""
        return self.headed and not self.ended and self.length == NO_LENGTH and not self.chunked

    def explain(self, error: Exception) -> str:
        """One line saying why `feed` raised that error."""
        cause = error.__context__
        return f"bad answer: {cause if isinstance(cause, Refused) else error}"

    def take(self) -> bytes:
        """The bytes of the body that came since the last `take`."""
        parts = self.parts
        if not parts:
            return b""
        data = b"".join(parts)
        parts.clear()
        if self.bodyless:
            self.garbage = True
            return b""
        return data

    def worth_waiting_for(self, buffer: int) -> int:
        """Bytes of the body to gather before the head is passed on, for someone who likes to see up to `buffer`."""
        if self.length > buffer:
            return 0
        kind = value(self.fields, b"content-type")
        if kind is not None and kind.lower().startswith(b"text/event-stream"):
            return 0
        return buffer + 1 if buffer else 0

    def head_size(self) -> int:
        """Bytes of the head's fields."""
        return sum([len(name) + len(value) + 4 for name, value in self.fields])

    # What the parser calls

    def on_header(self, name: bytes, value: bytes) -> None:
        # Nearly no value ends in white space, and to see that costs less than to strip it.
        if value and value[-1] <= _SPACE:
            value = value.rstrip()
        self._pending.append((name, value))
        if len(name) == _CODING_SIZE:
            self._perhaps_coded = True

    def on_headers_complete(self) -> None:
        pending = self._pending
        if len(pending) > FIELDS_LIMIT:
            raise Refused(f"more than {FIELDS_LIMIT} fields")
        self.fields = tuple(pending)
        self.chunked = self._perhaps_coded and self._is_chunked()
        self.status = status = self._parser.get_status_code()
        self.reason = b"".join(self._reason)
        pending.clear()
        self._reason.clear()
        if 0 in self.reason:
            raise Refused("a NUL in the reason")
        if status < 200:
            self._on_interim(status)
            return
        if self.opening == b"HTTP/1.1 ":
            self.version = b"HTTP/1.1"
        else:
            version = _VERSIONS.get(self._parser.get_http_version())
            if version is None:
                raise Refused("neither HTTP/1.1 nor HTTP/1.0")
            self.version = version
        self.headed = True
        if self.bodyless:
            self._on_head_answer()

    def _is_chunked(self) -> bool:
        self._perhaps_coded = False
        codings = [text for name, text in self.fields if name.lower() == b"transfer-encoding"]
        if codings and (len(codings) > 1 or codings[0].lower() != b"chunked"):
            raise Refused("a transfer-encoding other than chunked")
        if codings and self.length != NO_LENGTH:
            raise Refused("both content-length and transfer-encoding")
        return bool(codings)

    def _on_interim(self, status: int) -> None:
        if status < 100 or self.length > 0 or self.chunked:
            raise Refused(f"status {status} with a body" if status >= 100 else "a status below 100")
        self.version = b"HTTP/1.1"
        self.opening = b""
        self._allowed.append(None)
        self._interim += 1
        if self._interim > INTERIM_LIMIT:
            raise Refused(f"more than {INTERIM_LIMIT} interim answers")

    def _on_head_answer(self) -> None:
        # The parser cannot know that the request was HEAD and would wait for the body that the fields announce.
        connection = tokens(self.fields, b"connection")
        self.keep_alive = b"close" not in connection and (
            self.version == b"HTTP/1.1" or b"keep-alive" in connection
        )
        self.ended = True

    def on_message_complete(self) -> None:
        if self.ended:
            # The parser ends an answer to HEAD by itself where no body is announced; else a body came nevertheless.
            if self.chunked:
                self.garbage = True
            return
        if not self.headed:
            return
        if self._pending:
            if len(self._pending) > FIELDS_LIMIT:
                raise Refused(f"more than {FIELDS_LIMIT} trailers")
            self.trailers = tuple(self._pending)
            self._pending.clear()
        self.keep_alive = self._parser.should_keep_alive()
        self.ended = True
