"""Answers against h11 as a second opinion: what the engine takes for an answer, h11 takes for the same one.

More examples: `make fuzz`.
"""

from dataclasses import dataclass, field

import h11
import httptools
import pytest
from hypothesis import given
from hypothesis import strategies as st

from addons.engine.reader import AnswerReader
from tests.fuzz_messages import (
    bodies,
    connections,
    encodings,
    heads,
    lengths,
    mangled,
    often,
    pieces,
    profile,
)


@dataclass
class Seen:
    """An answer as one of the two understands it; its body as far as it has come."""

    status: int
    fields: list[tuple[bytes, bytes]]
    body: bytes = b""
    trailers: list[tuple[bytes, bytes]] = field(default_factory=list)
    complete: bool = False


def lower(fields) -> list[tuple[bytes, bytes]]:
    """As the two can be compared: h11 spells what it understood of an encoding in lower case."""
    found = [(bytes(name).lower(), bytes(value).strip(b" \t")) for name, value in fields or ()]
    return [(name, value.lower() if name == b"transfer-encoding" else value) for name, value in found]


def ours(method: bytes, parts: list[bytes]) -> Seen | None:
    """None: refused, or nothing of an answer has come."""
    reader = AnswerReader()
    reader.begin(method)
    body = b""
    try:
        for part in parts:
            reader.feed(part)
            if reader.headed:
                body += reader.take()
            if reader.ended:
                break
    except httptools.HttpParserUpgrade:
        return None
    except httptools.HttpParserError:
        if not reader.ended:
            return None
        body += reader.take()
    if not reader.headed:
        return None
    complete = reader.ended or reader.until_close
    return Seen(reader.status, lower(reader.fields), body, lower(reader.trailers), complete)


def theirs(method: bytes, parts: list[bytes]) -> Seen | None:
    connection = h11.Connection(h11.CLIENT)
    connection.send(h11.Request(method=method, target="/", headers=[("host", "up")]))
    connection.send(h11.EndOfMessage())
    seen = None
    waiting = [*parts, b""]
    try:
        while True:
            happened = connection.next_event()
            if happened is h11.NEED_DATA:
                if not waiting:
                    break
                connection.receive_data(waiting.pop(0))
            elif isinstance(happened, h11.Response):
                seen = Seen(happened.status_code, lower(happened.headers))
            elif isinstance(happened, h11.Data):
                assert seen is not None
                seen.body += bytes(happened.data)
            elif isinstance(happened, h11.EndOfMessage):
                assert seen is not None
                seen.trailers, seen.complete = lower(happened.headers), True
                break
            elif not isinstance(happened, h11.InformationalResponse):
                break
    except h11.RemoteProtocolError:
        pass
    return seen


first_lines = st.tuples(
    often([b"HTTP/1.1"], [b"HTTP/1.0", b"HTTP/1.2", b"HTTP/2", b"http/1.1", b"HTTP/1.1 ", b"", b"HTTP/11"]),
    often([b" "], [b"  ", b"\t", b""]),
    often(
        [b"200", b"404", b"503"],
        [b"204", b"304", b"205", b"100", b"101", b"103", b"20", b"2000", b"099", b"+20", b"\xb2"],
    ),
    often([b" OK", b" "], [b"", b"OK", b" O\0K", b" O\rK", b" \xe9", b"  ", b"\tOK"]),
).map(b"".join)


@st.composite
def streams(draw: st.DrawFn) -> tuple[bytes, list[bytes]]:
    whole = b""
    if draw(st.integers(0, 9)) == 0:
        whole += b"HTTP/1.1 100 Continue\r\n\r\n"
    whole += draw(heads(draw(first_lines), [lengths, encodings, connections])) + draw(bodies)
    method = draw(st.sampled_from([b"GET", b"GET", b"POST", b"HEAD"]))
    return method, draw(pieces(draw(mangled(whole))))


def agree(method: bytes, parts: list[bytes]) -> None:
    mine = ours(method, parts)
    # Empty lines before an answer are passed over, which h11 does not do.
    other = theirs(method, [b"".join(parts).lstrip(b"\r\n")])
    if mine is None:
        return
    assert other is not None, mine
    if not mine.complete:
        # It is cut when the connection ends, whatever the other makes of it.
        assert other.body.startswith(mine.body) or mine.body.startswith(other.body)
        mine.body, mine.complete, mine.trailers = other.body, other.complete, other.trailers
    assert mine == other


@profile(250)
@given(streams())
def test_the_engine_takes_no_answer_for_another_than_h11_does(stream):
    agree(*stream)


@pytest.mark.parametrize(
    "raw",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nX-A: b\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n\r\nuntil the end",
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n",
    ],
)
def test_what_is_right_is_compared_and_not_just_refused(raw):
    found = ours(b"GET", [raw])
    assert found is not None
    assert found.complete
    agree(b"GET", [raw])
    agree(b"HEAD", [raw])
