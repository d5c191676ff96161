"""Requests that are good but for a method that the parser does not know: where they begin, though it does not say so."""

import contextlib
import re
from bisect import bisect_left
from typing import Any

import httptools

from addons.engine.incoming import Incoming

_FIRST_LINE = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+ [\x21-\x7e]+ HTTP/1\.[01]\r\n")
_BEGUN = re.compile(
    rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+(?: (?:[\x21-\x7e]+(?: (?:HTTP/1\.[01]\r?|HTTP/1\.|HTTP/1|HTTP/|HTTP|HTT|HT|H)?)?)?)?"
)
_LONGEST = 16 * 1024
"""Bytes of a first line."""


def is_whole(rest: bytes) -> bool:
    """Whether the first line is there, and good."""
    return _FIRST_LINE.match(rest) is not None


class Waiting:
    """In the place of a parser, until the first line is whole or cannot become one."""

    def __init__(self, rest: bytes) -> None:
        self.rest = rest

    def feed_data(self, data: bytes) -> None:
        self.rest += data
        raise httptools.HttpParserInvalidMethodError("Invalid method encountered")


def find(parser: Any, error: Exception, data: bytes) -> bytes:
    """The foreign request, or its beginning, at which the parser has stopped; b"" if there is none.

    data: what it was fed, from the beginning of some request on; b"" where that is not known.
    """
    if not isinstance(error, httptools.HttpParserInvalidMethodError):
        return b""
    rest = parser.rest if isinstance(parser, Waiting) else data[_end_of_good(data) :].lstrip(b"\r\n")
    return rest if is_whole(rest) or (len(rest) <= _LONGEST and _BEGUN.fullmatch(rest)) else b""


def behind(begun: Incoming | None, data: bytes) -> bytes:
    """What follows in data on the end of a body that began before it; b"" where that cannot be told."""
    return data[len(begun.last()) :] if begun is not None and begun.complete and begun.length > 0 else b""


def goes_beyond(data: bytes, last: Incoming) -> bool:
    """Whether data, which does not end with a line, has more than the end of the last request that is whole."""
    # Unless its body has a length, that ends with a line.
    return last.length <= 0 or not data.endswith(last.last())


class _Counting:
    def __init__(self) -> None:
        self.complete = 0

    def on_message_complete(self) -> None:
        self.complete += 1


def _complete(data: bytes) -> int:
    """How many requests a parser understands before it stops."""
    counting = _Counting()
    with contextlib.suppress(httptools.HttpParserError, httptools.HttpParserUpgrade):
        httptools.HttpRequestParser(counting).feed_data(data)
    return counting.complete


def _end_of_good(data: bytes) -> int:
    """Where the last of them ends; the parser does not say. Searched for by halves, since clients choose how much it is."""
    return bisect_left(range(len(data)), _complete(data), key=lambda size: _complete(data[:size]))
