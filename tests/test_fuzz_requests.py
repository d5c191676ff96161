"""Requests against h11 as a second opinion: what the engine takes for a request, h11 takes for the same one.

More examples: `make fuzz`.
"""

import re
from contextlib import suppress
from dataclasses import dataclass, field

import h11
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mitmproxy.proxy import mode_specs

from addons.engine.destination import Destinations
from addons.engine.errors import BadRequest
from addons.engine.flows import make_headers, make_request
from addons.engine.request_reader import RequestReader
from addons.engine.wire import end_to_end, value
from addons.upstream_request import body_of, head_of
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
    """A request as one of the two understands it; its body as far as it has come."""

    method: bytes
    target: bytes
    version: bytes
    fields: list[tuple[bytes, bytes]]
    body: bytes = b""
    trailers: list[tuple[bytes, bytes]] = field(default_factory=list)
    complete: bool = False
    goes_on: bool = True
    """Another request may follow."""


def lower(fields) -> list[tuple[bytes, bytes]]:
    """As the two can be compared: h11 spells what it understood of an encoding in lower case."""
    found = [(bytes(name).lower(), bytes(value).strip(b" \t")) for name, value in fields or ()]
    return [(name, value.lower() if name == b"transfer-encoding" else value) for name, value in found]


def ours(parts: list[bytes]) -> list[Seen]:
    reader = RequestReader()
    try:
        for part in parts:
            reader.feed(part)
    except BadRequest:
        refused = True
    else:
        refused = False
    seen = []
    for request in reader.arrived:
        if not request.method:
            # Not parsed here: mitmproxy's own stack serves it.
            break
        if refused and request is reader.reading:
            # Its body is not to be had: nothing of it was sent, or the attempt upstream is cut.
            break
        seen.append(
            Seen(
                request.method,
                request.target,
                request.version,
                lower(request.fields),
                request.take(),
                lower(request.trailers),
                request.complete,
                request.keep_alive,
            )
        )
        if request.upgrade or not (request.complete and request.keep_alive):
            break
    reader.forget()
    return seen


def _pass_over_empty_lines(buffer) -> None:
    """As a server should before a request (RFC 9112 section 2.2); h11 refuses them."""
    while (start := bytes(buffer._data[:2])) == b"\r\n" or start[:1] == b"\n":
        buffer._extract(2 if start == b"\r\n" else 1)


def theirs(parts: list[bytes]) -> list[Seen]:
    connection = h11.Connection(h11.SERVER)
    seen: list[Seen] = []
    waiting = list(parts)
    try:
        while True:
            if connection.their_state is h11.IDLE:
                _pass_over_empty_lines(connection._receive_buffer)
            happened = connection.next_event()
            if happened is h11.NEED_DATA:
                if not waiting:
                    break
                connection.receive_data(waiting.pop(0))
            elif isinstance(happened, h11.Request):
                seen.append(
                    Seen(
                        happened.method,
                        happened.target,
                        b"HTTP/" + happened.http_version,
                        lower(happened.headers),
                    )
                )
            elif isinstance(happened, h11.Data):
                seen[-1].body += bytes(happened.data)
            elif isinstance(happened, h11.EndOfMessage):
                seen[-1].trailers = lower(happened.headers)
                seen[-1].complete = True
                connection.send(h11.Response(status_code=404, headers=[("content-length", "0")]))
                connection.send(h11.EndOfMessage())
                if connection.our_state is not h11.DONE:
                    seen[-1].goes_on = False
                    break
                connection.start_next_cycle()
            else:
                break
    except h11.RemoteProtocolError:
        pass
    return seen


def first_lines() -> st.SearchStrategy[bytes]:
    return st.tuples(
        often(
            [b"GET", b"POST", b"PUT"],
            [b"HEAD", b"OPTIONS", b"get", b"G ET", b"", b"GE\0T", b"CONNECT", b"\nGET"],
        ),
        often([b" "], [b"  ", b"\t", b"", b" \t"]),
        often(
            [b"/", b"/a?b=c", b"http://up/a"],
            [b"*", b"/a b", b"/\x80", b"/\0", b"up:80", b"/#x", b"//", b"", b"/\x7f"],
        ),
        often([b" "], [b"  ", b"\t", b""]),
        often(
            [b"HTTP/1.1"],
            [b"HTTP/1.0", b"HTTP/1.2", b"HTTP/2.0", b"http/1.1", b"HTTP/1.1 ", b"HTTP/01.1", b""],
        ),
    ).map(b"".join)


hosts = st.tuples(
    often([b"Host"], [b"host", b"Host ", b"HOST"]),
    often([b"up"], [b"", b"up:80", b"a b", b"up, up", b"up\0", b"\xe9"]),
)


@st.composite
def requests(draw: st.DrawFn) -> bytes:
    head = draw(heads(draw(first_lines()), [lengths, encodings, connections, hosts]))
    if draw(st.integers(0, 7)):
        # Most get the Host that they must have.
        line, end, rest = head.partition(b"\n")
        head = line + end + b"Host: up\r\n" + rest
    return head + draw(bodies)


@st.composite
def streams(draw: st.DrawFn) -> list[bytes]:
    whole = b"".join(draw(st.lists(requests(), min_size=1, max_size=2)))
    if draw(st.booleans()):
        whole += b"GET /behind HTTP/1.1\r\nHost: up\r\n\r\n"
    return draw(pieces(draw(mangled(whole))))


_SPACES = re.compile(rb"[A-Z] +[^ ]+  +HTTP/|[A-Z]  +[^ ]+ +HTTP/")
"""Several spaces in a request line, which RFC 9112 section 3 lets a server take for one; only one is sent on."""


def agree(parts: list[bytes]) -> None:
    mine, other = ours(parts), theirs(parts)
    if other and not other[-1].goes_on:
        # h11 ends every connection of HTTP/1.0.
        del mine[len(other) :]
    if _SPACES.search(b"".join(parts)):
        del mine[len(other) :]
    assert len(mine) <= len(other), (mine, other)
    for index, request in enumerate(mine):
        second = other[index]
        if index == len(mine) - 1 and not request.complete:
            # Of a body that is still on its way the two may have let go of different parts.
            assert second.body.startswith(request.body) or request.body.startswith(second.body)
            request.body = second.body
            request.complete, request.trailers = second.complete, second.trailers
        request.goes_on = second.goes_on = request.goes_on and second.goes_on
        assert request == second


@profile(250)
@given(streams())
def test_the_engine_takes_no_request_for_another_than_h11_does(parts):
    agree(parts)


PLACES = Destinations(mode_specs.ProxyMode.parse("regular"), False)
PROXYS_OWN = (b"host", b"content-length", b"transfer-encoding", b"expect", b"proxy-authorization")


def sent_on(parts: list[bytes]) -> list[tuple[Seen, bytes]]:
    """The requests that are accepted whole, and what is sent upstream for them."""
    reader = RequestReader()
    with suppress(BadRequest):
        for part in parts:
            reader.feed(part)
    sent = []
    for incoming in reader.arrived:
        if not incoming.complete or incoming.upgrade:
            break
        body = incoming.take()
        try:
            place = PLACES.find(incoming, None)
        except BadRequest:
            break
        request = make_request(
            *place[:3], incoming.method, place.path, incoming.version, place.fields, body, 0.0
        )
        if incoming.trailers:
            request.data.trailers = make_headers(incoming.trailers)
        host = value(place.fields, b"host") or place.host.encode()
        seen = Seen(
            incoming.method, place.path, b"HTTP/1.1", [(b"host", host)], body, lower(incoming.trailers), True
        )
        kept = [each for each in lower(end_to_end(incoming.fields)) if each[0] not in PROXYS_OWN]
        seen.fields = sorted(seen.fields + kept)
        sent.append((seen, head_of(request) + body_of(request)))
    return sent


@profile(150)
@given(streams())
def test_what_goes_upstream_is_what_was_understood(parts):
    for seen, sent in sent_on(parts):
        found = theirs([sent])
        assert len(found) == 1, (seen, sent)
        again = found[0]
        framing = (b"content-length", b"transfer-encoding")
        again.fields = sorted(each for each in again.fields if each[0] not in framing)
        assert again == seen, sent


@pytest.mark.parametrize(
    "raw",
    [
        b"POST / HTTP/1.1\r\nHost: up\r\nContent-Length: 5\r\n\r\nhelloGET / HTTP/1.1\r\nHost: up\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: up\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nX-A: b\r\n\r\n",
        b"GET / HTTP/1.0\r\n\r\n",
    ],
)
def test_what_is_right_is_compared_and_not_just_refused(raw):
    assert ours([raw])[0].complete
    assert ours([raw])[0] == theirs([raw])[0] or b"1.0" in raw
    agree([raw])
