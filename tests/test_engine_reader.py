"""Answers as raw bytes, cut anywhere; h11 gives a second opinion."""

import itertools
from dataclasses import dataclass

import h11
import httptools
import pytest
from hypothesis import given
from hypothesis import strategies as st

from addons.engine.reader import FIELDS_LIMIT, INTERIM_LIMIT, AnswerReader


@dataclass
class Seen:
    status: int = 0
    reason: bytes = b""
    version: bytes = b""
    fields: tuple = ()
    body: bytes = b""
    trailers: tuple | None = None
    keep_alive: bool = False
    until_close: bool = False
    ended: bool = False
    garbage: bool = False
    refused: str = ""


def read(pieces, method=b"GET") -> Seen:
    reader = AnswerReader()
    reader.begin(method)
    seen = Seen()
    for number, piece in enumerate(pieces):
        if number == 0:
            reader.opening = piece[:9]
        try:
            reader.feed(piece)
        except httptools.HttpParserError as error:
            if not reader.ended:
                return Seen(refused=reader.explain(error))
            reader.garbage = True
        except httptools.HttpParserUpgrade as switch:
            return Seen(reader.status, reader.reason, fields=reader.fields, body=piece[switch.args[0] :])
        seen.body += reader.take()
    if reader.headed:
        seen.status, seen.reason, seen.version = reader.status, reader.reason, reader.version
        seen.fields, seen.trailers = reader.fields, reader.trailers
    seen.keep_alive, seen.ended, seen.garbage = reader.keep_alive, reader.ended, reader.garbage
    seen.until_close = reader.until_close
    return seen


def every_cut(data: bytes):
    yield [data]
    yield [data[index : index + 1] for index in range(len(data))]
    for index in range(1, len(data)):
        yield [data[:index], data[index:]]


OK = b"HTTP/1.1 200 OK\r\n"

WHOLE = [
    # raw answer, status, body, trailers, connection may be used again
    pytest.param(OK + b"Content-Length: 5\r\n\r\nhello", 200, b"hello", None, True, id="content-length"),
    pytest.param(OK + b"content-length:0\r\n\r\n", 200, b"", None, True, id="empty"),
    pytest.param(
        OK + b"Connection: close\r\nContent-Length: 2\r\n\r\nhi", 200, b"hi", None, False, id="close"
    ),
    pytest.param(
        OK + b"Transfer-Encoding: Chunked\r\n\r\n3\r\nabc\r\n2;x=y\r\nde\r\n0\r\n\r\n",
        200,
        b"abcde",
        None,
        True,
        id="chunked",
    ),
    pytest.param(
        OK + b"Transfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n1\r\nx\r\n0\r\nX-Sum: 9\r\nX-B: \r\n\r\n",
        200,
        b"x",
        ((b"X-Sum", b"9"), (b"X-B", b"")),
        True,
        id="trailers",
    ),
    pytest.param(b"HTTP/1.1 204 No Content\r\n\r\n", 204, b"", None, True, id="204"),
    pytest.param(
        b"HTTP/1.1 204 No Content\r\nContent-Length: 7\r\n\r\n", 204, b"", None, True, id="204 lies"
    ),
    pytest.param(b"HTTP/1.1 304 \r\nContent-Length: 7\r\n\r\n", 304, b"", None, True, id="304"),
    pytest.param(b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nhi", 200, b"hi", None, False, id="1.0"),
    pytest.param(
        b"HTTP/1.0 200 OK\r\nConnection: Keep-Alive\r\nContent-Length: 2\r\n\r\nhi",
        200,
        b"hi",
        None,
        True,
        id="1.0 keep-alive",
    ),
    pytest.param(
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
        + OK
        + b"Content-Length: 1\r\n\r\n!",
        200,
        b"!",
        None,
        True,
        id="interim",
    ),
    pytest.param(
        OK + b"Upgrade: h2c\r\nConnection: Upgrade\r\nContent-Length: 1\r\n\r\n!",
        200,
        b"!",
        None,
        True,
        id="an upgrade offered",
    ),
    pytest.param(b"HTTP/1.1 999 \xe4\r\nContent-Length: 0\r\n\r\n", 999, b"", None, True, id="odd status"),
    pytest.param(b"HTTP/1.1 500\r\nContent-Length: 0\r\n\r\n", 500, b"", None, True, id="no reason"),
]


@pytest.mark.parametrize(("raw", "status", "body", "trailers", "again"), WHOLE)
def test_an_answer_reads_the_same_wherever_it_is_cut(raw, status, body, trailers, again):
    whole = read([raw])
    assert (whole.status, whole.body, whole.trailers) == (status, body, trailers)
    assert whole.ended
    assert not whole.garbage
    assert whole.keep_alive is again
    for pieces in every_cut(raw):
        assert read(pieces) == whole, pieces


@pytest.mark.parametrize(("raw", "status", "body", "trailers", "again"), WHOLE)
def test_one_reader_reads_answers_one_after_the_other(raw, status, body, trailers, again):
    reader = AnswerReader()
    for _ in range(3 if again else 1):
        reader.begin(b"GET")
        reader.feed(raw)
        assert (reader.status, reader.take(), reader.trailers) == (status, body, trailers)
        assert reader.ended
        assert not reader.garbage


@pytest.mark.parametrize(("raw", "status", "body", "trailers", "again"), WHOLE)
def test_bytes_of_another_message_are_noticed(raw, status, body, trailers, again):
    for behind in (b"H", b"HTTP/1.1 200 OK\r\nA: b\r\n", OK + b"Content-Length: 1\r\n\r\nx"):
        seen = read([raw + behind])
        assert (seen.status, seen.body, seen.trailers, seen.garbage) == (status, body, trailers, True)


def test_fields_stay_as_they_came():
    raw = OK + b"X-A:  b \r\nx-a: \xff\r\nSet-Cookie: a\r\nset-cookie: b\r\nContent-Length: 0\r\n\r\n"
    assert read([raw]).fields == (
        (b"X-A", b"b"),
        (b"x-a", b"\xff"),
        (b"Set-Cookie", b"a"),
        (b"set-cookie", b"b"),
        (b"Content-Length", b"0"),
    )


@pytest.mark.parametrize(
    ("fields", "again"),
    [
        (b"", True),
        (b"Content-Length: 5\r\n", True),
        (b"Content-Length: 0\r\n", True),
        (b"Transfer-Encoding: chunked\r\n", True),
        (b"Connection: foo, Close\r\n", False),
    ],
)
def test_an_answer_to_head_has_no_body(fields, again):
    raw = OK + fields + b"\r\n"
    for pieces in every_cut(raw):
        seen = read(pieces, b"HEAD")
        assert (seen.ended, seen.body, seen.keep_alive, seen.garbage) == (True, b"", again, False)


@pytest.mark.parametrize(
    "raw",
    [
        OK + b"Content-Length: 5\r\n\r\nhello",
        OK + b"Content-Length: 5\r\n\r\nh",
        OK + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        OK + b"Transfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n",
    ],
)
def test_a_body_after_head_is_garbage(raw):
    seen = read([raw], b"HEAD")
    assert (seen.ended, seen.body, seen.garbage) == (True, b"", True)


def test_after_head_the_next_answer_is_read_afresh():
    reader = AnswerReader()
    reader.begin(b"HEAD")
    reader.feed(OK + b"Content-Length: 5\r\n\r\n")
    reader.begin(b"GET")
    reader.feed(OK + b"Content-Length: 2\r\n\r\nhi")
    assert (reader.ended, reader.take(), reader.garbage) == (True, b"hi", False)


def test_without_length_the_body_ends_with_the_connection():
    for pieces in every_cut(OK + b"\r\nhello"):
        seen = read(pieces)
        assert (seen.body, seen.ended, seen.until_close) == (b"hello", False, True)


@pytest.mark.parametrize(
    "raw", [OK + b"Content-Length: 5\r\n\r\nhell", OK + b"Transfer-Encoding: chunked\r\n\r\n2\r\nab"]
)
def test_a_framed_body_never_ends_with_the_connection(raw):
    seen = read([raw])
    assert (seen.ended, seen.until_close) == (False, False)


def test_a_switch_of_protocols():
    raw = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n\x00\x01"
    for pieces in every_cut(raw):
        seen = read(pieces)
        assert (seen.status, seen.fields[0]) == (101, (b"Upgrade", b"x"))


@pytest.mark.parametrize(
    ("raw", "why"),
    [
        (OK + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n", "Transfer-Encoding"),
        (OK + b"Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n", "Content-Length"),
        (OK + b"Transfer-Encoding: gzip\r\n\r\n", "other than chunked"),
        (OK + b"Transfer-Encoding: gzip, chunked\r\n\r\n", "other than chunked"),
        (OK + b"Transfer-Encoding: chunked, chunked\r\n\r\n", ""),
        (OK + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n", ""),
        (OK + b"Transfer-Encoding: xchunked\r\n\r\n", "other than chunked"),
        (OK + b"Content-Length: 3\r\nContent-Length: 3\r\n\r\nabc", "Content-Length"),
        (OK + b"Content-Length: 3, 3\r\n\r\nabc", "Content-Length"),
        (OK + b"Content-Length: +3\r\n\r\nabc", "Content-Length"),
        (OK + b"Content-Length: 0x3\r\n\r\nabc", "Content-Length"),
        (OK + b"Content-Length: -3\r\n\r\nabc", "Content-Length"),
        (OK + b"Content-Length: 99999999999999999999999\r\n\r\n", "Content-Length"),
        (OK + b"Content-Length : 3\r\n\r\nabc", ""),
        (OK + b"A: b\r\n c\r\n\r\n", ""),
        (OK + b"A: b\x00c\r\n\r\n", ""),
        (OK + b"A: b\rc: d\r\n\r\n", ""),
        (OK + b"A: b\nC: d\r\n\r\n", ""),
        (OK + b": b\r\n\r\n", ""),
        (OK + b"A B: c\r\n\r\n", ""),
        (OK + b"Transfer-Encoding: chunked\r\n\r\nxyz\r\n", ""),
        (OK + b"Transfer-Encoding: chunked\r\n\r\n-1\r\nx\r\n", ""),
        (OK + b"Transfer-Encoding: chunked\r\n\r\n1\r\nxy\r\n", ""),
        (OK + b"Transfer-Encoding: chunked\r\n\r\n1 \r\nx\r\n", ""),
        (OK + b"Transfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\nx\r\n", ""),
        (OK + b"Transfer-Encoding: chunked\r\n\r\n0\r\nContent-Length: 3\r\n\r\n", ""),
        (b"HTTP/2.0 200 OK\r\n\r\n", "neither HTTP/1.1"),
        (b"HTTP/0.9 200 OK\r\n\r\n", ""),
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/2.0 200 OK\r\n\r\n", "neither HTTP/1.1"),
        (b"HTTP/1.2 200 OK\r\n\r\n", ""),
        (b"HTTP/1.1 20 OK\r\n\r\n", ""),
        (b"HTTP/1.1 2000 OK\r\n\r\n", ""),
        (b"HTTP/1.1 099 OK\r\n\r\n", "below 100"),
        (b"HTTP/1.1 200\tOK\r\n\r\n", ""),
        (b"HTTP/1.1  200 OK\r\n\r\n", ""),
        (b"SSH-2.0-OpenSSH_9.2\r\n", ""),
        (b"\x15\x03\x01\x00\x02\x02\x16", ""),
        (b"<html>", ""),
        (b"HTTP/1.1 100 Continue\r\nContent-Length: 2\r\n\r\nhi", "with a body"),
        (b"HTTP/1.1 103 Hints\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "with a body"),
        (b"HTTP/1.1 101 Switching\r\nUpgrade: x\r\n\r\n", ""),
        (OK + b"A: b\r\n" * (FIELDS_LIMIT + 1) + b"\r\n", "fields"),
        (b"HTTP/1.1 100 Continue\r\n\r\n" * (INTERIM_LIMIT + 1), "interim"),
        (b"HTTP/1.1 200 O\0K\r\nContent-Length: 0\r\n\r\n", "NUL in the reason"),
    ],
)
def test_what_is_no_safe_answer_is_refused(raw, why):
    for pieces in ([raw], [raw[index : index + 1] for index in range(len(raw))]):
        seen = read(pieces)
        assert seen.refused.startswith("bad answer: "), seen
        assert why in seen.refused
        assert "\n" not in seen.refused


def test_as_many_fields_as_allowed_pass():
    assert read([OK + b"A: b\r\n" * (FIELDS_LIMIT - 1) + b"Content-Length: 0\r\n\r\n"]).ended


@pytest.mark.parametrize(
    ("fields", "buffer", "bytes_"),
    [
        (b"", 0, 0),
        (b"", 10, 11),
        (b"Content-Length: 10\r\n", 10, 11),
        (b"Content-Length: 11\r\n", 10, 0),
        (b"Content-Type: Text/Event-Stream; charset=utf-8\r\n", 10, 0),
    ],
)
def test_how_much_of_a_body_is_worth_waiting_for(fields, buffer, bytes_):
    reader = AnswerReader()
    reader.begin(b"GET")
    reader.feed(OK + fields + b"\r\n")
    assert reader.worth_waiting_for(buffer) == bytes_


# Second opinion


def h11_reads(raw: bytes, method: str = "GET") -> tuple | None:
    """Status, lower-case fields, body and trailers as h11 understands the bytes; None: refused or not at the end."""
    connection = h11.Connection(h11.CLIENT, max_incomplete_event_size=1 << 20)
    connection.send(h11.Request(method=method, target="/", headers=[("host", "x")]))
    connection.send(h11.EndOfMessage())
    connection.receive_data(raw)
    head, body = None, b""
    try:
        while True:
            event = connection.next_event()
            if isinstance(event, h11.Response):
                head = (event.status_code, [(bytes(n), bytes(v)) for n, v in event.headers])
            elif isinstance(event, h11.Data):
                body += bytes(event.data)
            elif isinstance(event, h11.EndOfMessage):
                assert head is not None
                return (*head, body, [(bytes(n), bytes(v)) for n, v in event.headers])
            elif not isinstance(event, h11.InformationalResponse):
                return None
    except h11.RemoteProtocolError:
        return None


names = st.from_regex(rb"\A[A-Za-z][A-Za-z0-9_-]{0,12}\Z").filter(
    lambda name: name.lower() not in (b"content-length", b"transfer-encoding", b"connection", b"upgrade")
)
values = st.from_regex(rb"\A([!-~\x80-\xff]([ \t!-~\x80-\xff]{0,20}[!-~\x80-\xff])?)?\Z")
fields_of = st.lists(st.tuples(names, values), max_size=6)


def lines(fields) -> bytes:
    return b"".join(name + b": " + value + b"\r\n" for name, value in fields)


@st.composite
def answers(draw) -> bytes:
    status = draw(st.sampled_from([200, 201, 204, 304, 404, 503]))
    interim = b"HTTP/1.1 103 Early Hints\r\nA: b\r\n\r\n" if draw(st.booleans()) else b""
    head = b"HTTP/1.1 %d Because\r\n" % status + lines(draw(fields_of))
    if status in (204, 304):
        return interim + head + b"\r\n"
    pieces = draw(st.lists(st.binary(min_size=1, max_size=40), max_size=4))
    if draw(st.booleans()):
        body = b"".join(pieces)
        return interim + head + b"Content-Length: %d\r\n\r\n" % len(body) + body
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces)
    trailers = lines(draw(fields_of))
    return interim + head + b"Transfer-Encoding: chunked\r\n\r\n" + chunks + b"0\r\n" + trailers + b"\r\n"


def same(seen: Seen, opinion: tuple) -> bool:
    status, fields, body, trailers = opinion
    return (
        seen.status == status
        and [(name.lower(), value) for name, value in seen.fields] == fields
        and seen.body == body
        and [(name.lower(), value) for name, value in seen.trailers or ()] == trailers
    )


@given(answers(), st.lists(st.integers(0, 400), max_size=4))
def test_every_proper_answer_is_read_as_h11_reads_it(raw, cuts):
    edges = sorted({0, len(raw), *(cut for cut in cuts if cut < len(raw))})
    seen = read([raw[a:b] for a, b in itertools.pairwise(edges)])
    opinion = h11_reads(raw)
    assert opinion is not None
    assert seen.ended
    assert not seen.garbage
    assert same(seen, opinion), (seen, opinion)


@given(answers(), st.data())
def test_no_damaged_answer_is_read_in_two_ways(raw, data):
    damaged = bytearray(raw)
    for _ in range(data.draw(st.integers(1, 3))):
        ends = [index for index, byte in enumerate(damaged) if byte in b"\r:"]
        anywhere = st.integers(0, len(damaged) - 1)
        at = data.draw(st.sampled_from(ends) | anywhere if ends else anywhere)
        bit = data.draw(
            st.sampled_from(
                [b"", b"\r", b"\n", b"\r\n", b" ", b"\t", b":", b"0", b"9", b"\0", b"a", b",", b"\x0b"]
            )
        )
        damaged[at : at + data.draw(st.integers(0, 2))] = bit
        if not damaged:
            return
    seen = read([bytes(damaged)])
    if seen.ended and not seen.garbage:
        opinion = h11_reads(bytes(damaged))
        if opinion is not None:
            assert same(seen, opinion), (bytes(damaged), seen, opinion)
