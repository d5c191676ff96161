"""The reader of requests by itself: the same whatever the packets, upgrades and what stands behind them, limits."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from addons.engine.errors import BadRequest
from addons.engine.request_reader import FIELDS_LIMIT, HEAD_LIMIT, TARGET_LIMIT, RequestReader
from addons.fast_lane import METHODS

GET = b"GET /a HTTP/1.1\r\nHost: x\r\n\r\n"
POST = b"POST /b HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc"
CHUNKED = (
    b"PUT /c HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: Chunked\r\n\r\n"
    b"3;name=value\r\nabc\r\n10\r\n0123456789abcdef\r\n0\r\nX-Sum: 7\r\nHost: y\r\n\r\n"
)
OLD = b"GET /d HTTP/1.0\r\n\r\n"
OLD_KEPT = b"GET /e HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"
H2C = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n"
WEBSOCKET = b"GET /ws HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"


def read(data: bytes, cuts=()) -> RequestReader:
    reader = RequestReader()
    start = 0
    for cut in (*sorted(cuts), len(data)):
        if cut > start:
            reader.feed(data[start:cut])
            start = cut
    return reader


def seen(reader: RequestReader):
    """What was understood: method, target, body, trailers, whether it is whole, and whether another may follow."""
    return [
        (each.method, each.target, each.take(), each.trailers, each.complete, each.keep_alive)
        for each in reader.arrived
    ]


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (GET, [(b"GET", b"/a", b"", None, True, True)]),
        (POST, [(b"POST", b"/b", b"abc", None, True, True)]),
        (CHUNKED, [(b"PUT", b"/c", b"abc0123456789abcdef", ((b"X-Sum", b"7"),), True, True)]),
        (OLD, [(b"GET", b"/d", b"", None, True, False)]),
        (OLD_KEPT, [(b"GET", b"/e", b"", None, True, True)]),
        (GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"), [(b"GET", b"/a", b"", None, True, False)]),
        (b"\r\n\r\n" + GET, [(b"GET", b"/a", b"", None, True, True)]),
        (GET + POST + CHUNKED + b"\r\n" + OLD_KEPT, [
            (b"GET", b"/a", b"", None, True, True),
            (b"POST", b"/b", b"abc", None, True, True),
            (b"PUT", b"/c", b"abc0123456789abcdef", ((b"X-Sum", b"7"),), True, True),
            (b"GET", b"/e", b"", None, True, True),
        ]),
    ],
)  # fmt: skip
def test_the_packets_do_not_matter(data, expected):
    for cut in range(len(data)):
        assert seen(read(data, [cut])) == expected, cut
    assert seen(read(data, range(len(data)))) == expected


@pytest.mark.parametrize("version", [b"HTTP/1.0", b"HTTP/2.0", b"HTTP/0.9", b"HTTP/1.2"])
def test_a_version_is_its_own_wherever_the_head_is_cut(version):
    """No other first line is taken for it, neither that of a request before it nor what its own fields say."""
    data = GET + b"\r\nGET /a " + version + b"\r\nHost: x\r\nA: GET /a HTTP/1.1\r\n\r\n"
    for cut in range(len(data)):
        reader = RequestReader()
        try:
            reader.feed(data[:cut])
            reader.feed(data[cut:])
            versions = [b"HTTP/1.1", b"HTTP/1.0"]
        except BadRequest:
            versions = [b"HTTP/1.1"]
        assert (len(versions) == 2) is (version == b"HTTP/1.0")
        assert [each.version for each in reader.arrived] == versions, cut


def test_values_lose_the_white_space_around_them():
    (request,) = read(b"GET / HTTP/1.1\r\nHost: \t x \t\r\nA:\r\nB:   \r\nC: a b\r\n\r\n").arrived
    assert request.fields == ((b"Host", b"x"), (b"A", b""), (b"B", b""), (b"C", b"a b"))


@pytest.mark.parametrize("cut", [False, True])
@pytest.mark.parametrize(
    ("framing", "body", "close"),
    [
        (b"", b"", False),
        (b"Content-Length: 0\r\n", b"", False),
        (b"Content-Length: 3\r\n", b"abc", False),
        (b"Content-Length: 3\r\nConnection: close\r\n", b"abc", True),
        (b"Transfer-Encoding: chunked\r\n", b"2\r\nab\r\n1\r\nc\r\n0\r\n\r\n", False),
    ],
)
def test_http2_is_declined_and_its_body_is_a_body(framing, body, close, cut):
    """As Java's client asks at every first request, with a body behind it."""
    data = b"POST /h HTTP/1.1\r\nHost: x\r\n" + H2C + framing + b"\r\n" + body
    if not close:
        data += GET + data
    reader = read(data, range(len(data)) if cut else ())
    content = b"abc" if body else b""
    once = (b"POST", b"/h", content, None, True, not close)
    assert not reader.upgrading
    assert not any(each.upgrade for each in reader.arrived)
    assert seen(reader) == ([once] if close else [once, (b"GET", b"/a", b"", None, True, True), once])


def test_a_body_behind_an_upgrade_to_anything_is_a_body():
    data = (
        WEBSOCKET.replace(b"\r\n\r\n", b"\r\nContent-Length: 28\r\n\r\n")
        + b"GET /smuggled HTTP/1.1\r\n\r\n--"
    )
    reader = read(data)
    assert [(each.upgrade, each.take()) for each in reader.arrived] == [
        (False, b"GET /smuggled HTTP/1.1\r\n\r\n--")
    ]
    assert not reader.upgrading


@pytest.mark.parametrize("size", [0, 1, 7, 1000])
def test_what_stands_behind_an_upgrade_is_kept(size):
    behind = b"\x81\x05hello"[:size] * 3
    for cut in range(len(WEBSOCKET + behind)):
        reader = read(GET + WEBSOCKET + behind, [len(GET) + cut])
        assert [each.upgrade for each in reader.arrived] == [False, True]
        assert (reader.upgrading, reader.behind) == (True, behind)


def test_an_upgrade_that_was_declined_goes_on():
    reader = read(WEBSOCKET + POST + WEBSOCKET + GET)
    reader.arrived.popleft()
    reader.go_on()
    assert [(each.target, each.upgrade) for each in reader.arrived] == [(b"/b", False), (b"/ws", True)]
    assert reader.behind == GET
    reader.arrived.clear()
    reader.go_on()
    assert seen(reader) == [(b"GET", b"/a", b"", None, True, True)]


def test_many_requests_that_ask_for_http2_in_one_packet():
    one = b"GET / HTTP/1.1\r\nHost: x\r\n" + H2C + b"\r\n"
    assert len(read(one * 3000).arrived) == 3000


def test_connect_is_for_somebody_else():
    reader = read(GET + b"CONNECT x:443 HTTP/1.1\r\nHost: x:443\r\n\r\n\x16\x03\x01")
    assert [(each.method, each.target, each.upgrade) for each in reader.arrived] == [
        (b"GET", b"/a", False),
        (b"CONNECT", b"x:443", True),
    ]
    assert reader.behind == b"\x16\x03\x01"
    assert reader.arrived[1].head() == b"CONNECT x:443 HTTP/1.1\r\nHost: x:443\r\n\r\n"


@pytest.mark.parametrize("method", [b"BREW", b"get", b"VERSION-CONTROL", b"X!#$%&'*+.^_`|~9"])
def test_an_unknown_method_is_for_somebody_else(method):
    foreign = b"%b /f HTTP/1.1\r\nHost: x\r\n\r\nmore" % method
    reader = read(GET + foreign, [len(GET)])
    assert [(each.method, each.upgrade, each.head()) for each in reader.arrived] == [
        (b"GET", False, GET.replace(b"GET /a", b"GET /a")),
        (b"", True, b""),
    ]
    assert (reader.upgrading, reader.behind) == (True, foreign)


@pytest.mark.parametrize("method", [b"BREW", b"get", b"POO", b"PXGET", b"GETS", b"PUTPOST"])
@pytest.mark.parametrize(
    "before", [b"", GET, POST, CHUNKED, GET + POST + CHUNKED + GET, GET + OLD_KEPT, GET + b"\r\n"]
)
@pytest.mark.parametrize("bytewise", [False, True])
def test_an_unknown_method_is_found_wherever_its_first_line_is_cut(method, before, bytewise):
    """What stood before it in the same packet is understood, and not one byte of it is lost or added."""
    foreign = b"%b /f?q HTTP/1.1\r\nHost: x\r\n\r\nGET /inside HTTP/1.1\r\n\r\n" % method
    line = len(before) + foreign.index(b"\r\n") + 2
    for cut in range(len(before), line + 1):
        reader = read(before + foreign, range(cut, line) if bytewise else [cut])
        *good, last = reader.arrived
        assert seen(reader)[: len(good)] == seen(read(before)), cut
        assert (last.method, last.complete, last.keep_alive) == (b"", True, False)
        assert (reader.upgrading, reader.behind, reader.in_head) == (True, foreign, False), cut


@pytest.mark.parametrize("method", [b"BREW", b"POO"])
def test_an_unknown_method_behind_a_body_of_which_some_came_before(method):
    foreign = method + b" /f HTTP/1.1\r\n\r\n"
    for start in range(POST.index(b"abc"), len(POST)):
        for cut in range(len(POST), len(POST + foreign)):
            reader = read(POST + foreign, [start, cut])
            assert seen(reader)[:1] == seen(read(POST))
            assert (len(reader.arrived), reader.upgrading, reader.behind) == (2, True, foreign), (start, cut)


def test_the_beginning_of_a_method_behind_a_body_that_came_before_is_not_lost():
    """Where it is not known what was there, it is nobody's, rather than another method."""
    reader = RequestReader()
    reader.feed(CHUNKED[:80])
    reader.arrived.clear()
    reader.feed(CHUNKED[80:] + b"P")
    assert reader.in_head
    with pytest.raises(BadRequest):
        reader.feed(b"OO / HTTP/1.1\r\n")


@pytest.mark.parametrize("cut", range(1, 18))
def test_an_unknown_method_whose_first_line_is_not_whole_is_a_head_that_is_arriving(cut):
    for before in (b"", GET):
        reader = read(before + b"BREW /f HTTP/1.1\r"[:cut])
        assert reader.in_head
        assert (len(reader.arrived), reader.upgrading) == (len(before) > 0, False)


@pytest.mark.parametrize(
    "data",
    [
        b"BREW /f\r\n",
        b"BREW /f HTTP/2.0\r\n",
        b"BREW /f FTP/1.1\r\n",
        b"BR(EW /f HTTP/1.1\r\n",
        b"BREW /\xff HTTP/1.1\r\n",
        b"BREW  /f HTTP/1.1\r\n",
        b"\x16\x03\x01\x00\xa5",
        b"BRE(",
        b"BREW  ",
        b"BREW /f HTP",
        b"BREW /" + b"a" * 17_000,
        GET + b"BR(EW /f HTTP/1.1\r\n\r\n",
        GET + b"G\xff",
    ],
)
def test_what_is_no_request_at_all_is_nobodys(data):
    reader = RequestReader()
    with pytest.raises(BadRequest) as refused:
        reader.feed(data)
    assert refused.value.status == 400
    assert not reader.upgrading


@pytest.mark.parametrize("method", sorted(METHODS))
def test_every_method_that_is_taken_over_is_understood(method):
    (request,) = read(b"%b / HTTP/1.1\r\nHost: x\r\n\r\n" % method).arrived
    assert (request.method, request.complete) == (method, True)


def head(*, target=b"/", fields=()) -> bytes:
    return b"GET %b HTTP/1.1\r\nHost: x\r\n%b\r\n" % (target, b"".join(b"%b: %b\r\n" % f for f in fields))


@pytest.mark.parametrize("before", [b"", GET], ids=["alone", "pipelined"])
@pytest.mark.parametrize("step", [1, 1000, 65536, 10**9])
def test_limits_hold_to_the_byte(before, step):
    def status(data):
        data = before + data
        reader = RequestReader()
        try:
            for start in range(0, len(data), step):
                reader.feed(data[start : start + step])
        except BadRequest as refused:
            return refused.status
        assert reader.arrived[-1].complete
        return 200

    assert status(head(target=b"/" * TARGET_LIMIT)) == 200
    assert status(head(target=b"/" * (TARGET_LIMIT + 1))) == 414
    room = HEAD_LIMIT - len(b"Host: x\r\n") - len(b"a: \r\n")
    assert status(head(fields=[(b"a", b"b" * room)])) == 200
    assert status(head(fields=[(b"a", b"b" * (room + 1))])) == 431
    assert status(head(target=b"/" * TARGET_LIMIT, fields=[(b"a", b"b" * room)])) == 200
    assert status(head(fields=[(b"a", b"b")] * (FIELDS_LIMIT - 1))) == 200
    assert status(head(fields=[(b"a", b"b")] * FIELDS_LIMIT)) == 431


@given(st.data())
def test_a_large_body_in_small_chunks_is_no_large_head(data):
    sizes = data.draw(st.lists(st.integers(1, 3), min_size=1, max_size=50))
    repeat = data.draw(st.sampled_from([1, 800]))
    body = b"".join(b"%x\r\n%b\r\n" % (size, b"a" * size) for size in sizes) * repeat
    whole = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n" + body + b"0\r\n\r\n"
    step = data.draw(st.integers(50, 5000))
    reader = read(whole, range(0, len(whole), step))
    assert seen(reader) == [(b"POST", b"/", b"a" * sum(sizes) * repeat, None, True, True)]


@pytest.mark.parametrize(
    ("data", "in_head"),
    [
        (b"", False),
        (b"G", True),
        (b"GET /a HTTP/1.1\r\nHost: x\r\n", True),
        (GET, False),
        (GET + b"GET /", True),
        (POST[:-3], False),
        (POST[:-1], False),
        (POST + b"GET /", True),
    ],
)
def test_it_knows_whether_it_is_in_a_head(data, in_head):
    assert read(data).in_head is in_head
    assert read(data, range(len(data))).in_head is in_head


@pytest.mark.parametrize(
    ("value", "version", "expects"),
    [
        (b"100-continue", b"1.1", True),
        (b"100-Continue", b"1.1", True),
        (b"100-continue", b"1.0", False),
        (b"101-continue", b"1.1", False),
    ],
)
def test_expect(value, version, expects):
    data = b"POST / HTTP/%b\r\nHost: x\r\nExpect: %b\r\nContent-Length: 1\r\n\r\n" % (version, value)
    assert read(data).arrived[0].expects_continue is expects
