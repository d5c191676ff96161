"""Heads and chunks as bytes."""

import h11
import pytest
from hypothesis import given
from hypothesis import strategies as st

from addons.engine import wire
from addons.engine.wire import (
    LAST_CHUNK,
    answer_head,
    chunk,
    end_to_end,
    last_chunk,
    request_head,
    tokens,
    value,
)


def test_heads():
    assert (
        request_head(b"GET", b"/a?b", ((b"Host", b"x"), (b"A", b"")))
        == b"GET /a?b HTTP/1.1\r\nHost: x\r\nA: \r\n\r\n"
    )
    assert request_head(b"GET", b"/", ()) == b"GET / HTTP/1.1\r\n\r\n"
    assert answer_head(404, b"Not Found", ((b"A", b"b"),)) == b"HTTP/1.1 404 Not Found\r\nA: b\r\n\r\n"
    assert answer_head(200, b"", (), b"HTTP/1.0") == b"HTTP/1.0 200 \r\n\r\n"


@pytest.mark.parametrize("bad", [b"\n", b"\r", b"\r\n", b"\0", b"x\r\nEvil: 1", b"\r\n\r\nGET /"])
def test_nothing_can_be_smuggled_into_a_head(bad):
    for make in (
        lambda: request_head(b"GET" + bad, b"/", ()),
        lambda: request_head(b"GET", b"/" + bad, ()),
        lambda: request_head(b"GET", b"/", ((b"A" + bad, b"b"),)),
        lambda: request_head(b"GET", b"/", ((b"A", b"b" + bad),)),
        lambda: answer_head(200, b"OK" + bad, ()),
        lambda: answer_head(200, b"OK", ((b"A", bad),)),
        lambda: last_chunk(((b"A", bad),)),
    ):
        with pytest.raises(ValueError, match="line break"):
            make()


@given(st.lists(st.binary(max_size=50)), st.booleans())
def test_h11_reads_the_chunks(pieces, with_trailers):
    trailers = ((b"sum", b"1"),) if with_trailers else None
    connection = h11.Connection(h11.CLIENT)
    connection.send(h11.Request(method="GET", target="/", headers=[("host", "x")]))
    connection.send(h11.EndOfMessage())
    head = answer_head(200, b"OK", ((b"transfer-encoding", b"chunked"),))
    connection.receive_data(head + b"".join(chunk(piece) for piece in pieces) + last_chunk(trailers))
    assert isinstance(connection.next_event(), h11.Response)
    body = b""
    while isinstance(event := connection.next_event(), h11.Data):
        body += bytes(event.data)
    assert body == b"".join(pieces)
    assert isinstance(event, h11.EndOfMessage)
    assert tuple(event.headers) == (trailers or ())
    assert connection.trailing_data == (b"", False)


def test_an_empty_chunk_does_not_end_a_body():
    assert chunk(b"") == b""
    assert last_chunk() == last_chunk(()) == LAST_CHUNK == b"0\r\n\r\n"


FIELDS = (
    (b"Host", b"x"),
    (b"Connection", b"close, X-One"),
    (b"connection", b" x-TWO ,"),
    (b"X-One", b"1"),
    (b"x-two", b"2"),
    (b"X-Three", b"3"),
    (b"Keep-Alive", b"timeout=5"),
    (b"Proxy-Connection", b"keep-alive"),
    (b"TE", b"trailers"),
    (b"Trailer", b"Sum"),
    (b"Transfer-Encoding", b"chunked"),
    (b"Upgrade", b"h2c"),
    (b"Set-Cookie", b"a"),
    (b"Set-Cookie", b"b"),
)


def test_what_goes_on_to_the_other_end():
    kept = ((b"Host", b"x"), (b"X-Three", b"3"), (b"Set-Cookie", b"a"), (b"Set-Cookie", b"b"))
    assert end_to_end(FIELDS) == kept


def test_looking_up_fields():
    assert value(FIELDS, b"set-cookie") == b"a"
    assert value(FIELDS, b"cookie") is None
    assert tokens(FIELDS, b"connection") == {b"close", b"x-one", b"x-two", b""}
    assert tokens(FIELDS, b"nothing") == frozenset()


_NAMES = [
    b"Host",
    b"host",
    b"Connection",
    b"CONNECTION",
    b"Keep-Alive",
    b"TE",
    b"X-One",
    b"Content-Length",
    b"Upgrade",
]
_VALUES = [b"", b"close", b"keep-alive", b"Keep-Alive", b"x-one", b"close, x-one", b"upgrade", b"5"]


@given(
    fields=st.lists(st.tuples(st.sampled_from(_NAMES), st.sampled_from(_VALUES)), max_size=6).map(tuple),
    drop=st.sampled_from([frozenset(), frozenset((b"content-length",)), frozenset((b"host", b"x-one"))]),
)
def test_what_is_remembered_of_names_makes_no_difference(fields, drop):
    gone = wire.HOP_BY_HOP | drop | tokens(fields, b"connection")
    expected = tuple(field for field in fields if field[0].lower() not in gone)
    for _ in range(2):
        found = end_to_end(fields, drop=drop)
        assert found == expected
        assert found is fields or found != fields


def test_clients_cannot_fill_the_memory_with_names():
    for number in range(2000):
        end_to_end(((b"X-%d" % number, b"1"), (b"TE", b"x")))
    end_to_end(((b"X" * 2000, b"1"),))
    remembered = wire._chosen[frozenset()]
    assert len(remembered) <= 500
    assert all(sum(map(len, names)) <= 1000 for names in remembered)
