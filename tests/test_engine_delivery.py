"""Bodies on their way, in both directions: at once, at the reader's pace, cut short, transformed; clients that leave."""

import asyncio
import socket

import pytest

from tests.engine_peers import on_both_loops, peer
from tests.engine_proxy import both, proxy, recorder, until, within
from tests.test_engine_lane import Hooks, saying

GET = b"GET / HTTP/1.1\r\nHost: up\r\n\r\n"
SIZED = b"POST / HTTP/1.1\r\nHost: up\r\nContent-Length: %d\r\n\r\n"
CHUNKED = b"POST / HTTP/1.1\r\nHost: up\r\nTransfer-Encoding: chunked\r\n\r\n"
STREAM = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
EVENTS = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
BAD = b"HTTP/1.1 503 Bad\r\ncontent-length: 3\r\n\r\nbad"


# To the client


@pytest.mark.parametrize(
    ("said", "next_piece", "told", "next_told"),
    [
        (STREAM + b"1\r\na\r\n", b"2\r\nbc\r\n", b"1\r\na\r\n", b"2\r\nbc\r\n"),
        (EVENTS + b"data: 1\n\n", b"data: 2\n\n", b"9\r\ndata: 1\n\n\r\n", b"9\r\ndata: 2\n\n\r\n"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\na", b"b", b"a", b"b"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9999999\r\n\r\na", b"b", b"a", b"b"),
        (STREAM, b"1\r\na\r\n", b"", b"1\r\na\r\n"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n", b"abc", b"", b"abc"),
    ],
)
@on_both_loops
async def test_what_is_there_is_passed_on_at_once(said, next_piece, told, next_told):
    async with both(reply=saying(said)) as (made, upstream):
        client = await made.connect(GET)
        await client.head()
        await client.expect(told)
        upstream.writers[0].write(next_piece)
        await client.expect(next_told)


@pytest.mark.parametrize(
    ("said", "rest"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\nshort", b""),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nshort", b""),
        (STREAM + b"5\r\nshort\r\n", b""),
        (STREAM + b"5\r\nshort\r\n", b"zz\r\n"),
        (STREAM + b"6\r\nshort", b""),
    ],
)
@on_both_loops
async def test_a_body_that_breaks_off_never_looks_whole(said, rest):
    addon = Hooks()
    async with both(addon, reply=saying(said)) as (made, upstream):
        client = await made.connect(GET)
        await client.head()
        await within(client.reader.readuntil(b"short"))
        upstream.writers[0].write(rest)
        upstream.writers[0].close()
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            assert not (await client.rest()).endswith(b"0\r\n\r\n")
            raise ConnectionError
        await until(lambda: made.log)
        assert [(line["flags"], line["bytes_out"]) for line in made.log] == [("UC", 5)]
        assert addon.seen == ["requestheaders", "request", "responseheaders", "error"]
        await made.idle()


def all_of_it(port: int, request: bytes) -> tuple[bytes, bool]:
    """What a plain socket gets, and whether it was reset in the end; event loops do not all tell."""
    with socket.create_connection(("127.0.0.1", port), timeout=20) as plain:
        plain.sendall(request)
        got = b""
        try:
            while data := plain.recv(65536):
                got += data
        except ConnectionResetError:
            return got, True
        return got, False


@pytest.mark.parametrize(("rest", "reset"), [(b"", True), (b"0\r\n\r\n", False)])
@on_both_loops
async def test_a_client_that_knows_no_chunks_can_tell_a_body_that_broke_off(rest, reset):
    async with both(reply=saying(STREAM + b"5\r\nshort\r\n")) as (made, upstream):
        asking = asyncio.ensure_future(
            asyncio.to_thread(all_of_it, made.port, b"GET / HTTP/1.0\r\nHost: up\r\n\r\n")
        )
        await until(lambda: upstream.requests)
        upstream.writers[0].write(rest)
        upstream.writers[0].close()
        got, was_reset = await within(asking)
        assert was_reset is reset
        assert reset or got.endswith(b"short")


@pytest.mark.parametrize("length", [b"4", b"6", b"x"])
@on_both_loops
async def test_a_length_that_an_addon_made_wrong_is_no_success(length):
    def do(name, flow):
        if name == "responseheaders":
            flow.response.headers["content-length"] = length.decode()

    async with both(Hooks(do), reply=saying(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nsho")) as (
        made,
        upstream,
    ):
        client = await made.connect(GET)
        await client.head()
        await client.expect(b"sho")
        upstream.writers[0].write(b"rt")
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await client.expect(b"rt")
            await client.rest()
            raise ConnectionError
        client.send(GET)
        await until(lambda: not made.connections)


@on_both_loops
async def test_the_timeout_cuts_a_body_that_streams():
    async with both(reply=saying(STREAM + b"1\r\na\r\n"), policy="timeout: 100ms") as (made, upstream):
        client = await made.connect(GET)
        await client.head()
        await client.expect(b"1\r\na\r\n")
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            assert await client.rest() == b""
            raise ConnectionError
        await until(lambda: made.log)
        assert made.log[0]["flags"] == "UT"
        await until(lambda: upstream.closed == 1)
        await made.idle()


@on_both_loops
async def test_a_slow_reader_slows_the_sender():
    sent = 0

    async def pour(reader, writer):
        nonlocal sent
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\n\r\n")
        for _ in range(1000):
            writer.write(b"x" * 100_000)
            await writer.drain()
            sent += 100_000

    async with peer(pour) as upstream:
        policy = f"service: up\nendpoints: ['127.0.0.1:{upstream.origin.port}']"
        async with proxy(policy=policy) as made:
            client = await made.connect(GET)
            await client.head()
            before = -1
            while sent != before:
                before = sent
                await asyncio.sleep(0.1)
            assert sent < 30_000_000
            (link,) = made.connections
            assert link.transport.get_write_buffer_size() < 500_000
            for _ in range(1000):
                await within(client.reader.readexactly(100_000))
            assert sent == 100_000_000
            await made.idle()


@pytest.mark.parametrize("said", [STREAM + b"2\r\nok\r\n0\r\n\r\n", STREAM + b"2\r\nok\r\n", OK, OK[:-1]])
@on_both_loops
async def test_an_addon_transforms_an_answer(said):
    pieces = []

    def double(data):
        pieces.append(data)
        return [data, data] if data else b"!"

    def do(name, flow):
        if name == "responseheaders":
            flow.response.stream = double

    async with both(Hooks(do), reply=saying(said)) as (made, upstream):
        client = await made.connect(GET)
        if not said.endswith((b"0\r\n\r\n", b"ok")):
            await client.head()
            await client.expect(
                b"2\r\nok\r\n2\r\nok\r\n" if said.startswith(STREAM) else b"1\r\no\r\n1\r\no\r\n"
            )
            upstream.writers[0].write(b"0\r\n\r\n" if said.startswith(STREAM) else b"k")
            rest = (
                b"1\r\n!\r\n0\r\n\r\n"
                if said.startswith(STREAM)
                else b"1\r\nk\r\n1\r\nk\r\n1\r\n!\r\n0\r\n\r\n"
            )
            await client.expect(rest)
        else:
            assert await client.answer() == (200, b"okok!")
        assert pieces[-1] == b""
        client.send(GET)
        await client.head()


@on_both_loops
async def test_an_addon_wants_an_answer_whole():
    def do(name, flow):
        if name == "responseheaders":
            flow.response.stream = False
        elif name == "response":
            flow.response.content = flow.response.content.upper()

    size = 300_000
    said = STREAM + b"%x\r\n%b\r\n" % (size, b"x" * size)
    addon = Hooks(do)
    async with both(addon, reply=saying(said)) as (made, upstream):
        client = await made.connect(GET)
        await until(lambda: "responseheaders" in addon.seen)
        upstream.writers[0].write(b"1\r\ny\r\n0\r\nX-Sum: 1\r\n\r\n")
        assert b"transfer-encoding: chunked" in await client.head()
        await client.expect(b"%x\r\n%bY\r\n0\r\nX-Sum: 1\r\n\r\n" % (size + 1, b"X" * size))
        await made.idle()


@pytest.mark.parametrize("breaks", [True, False])
@on_both_loops
async def test_a_whole_answer_that_breaks_off_is_a_502_or_504(breaks):
    def do(name, flow):
        if name == "responseheaders":
            flow.response.stream = False

    async with both(Hooks(do), reply=saying(STREAM + b"1\r\na\r\n"), policy="timeout: 200ms") as (
        made,
        upstream,
    ):
        client = await made.connect(GET)
        if breaks:
            await until(lambda: upstream.requests)
            upstream.writers[0].close()
        answer = await client.rest()
        assert answer.startswith(b"HTTP/1.1 502 " if breaks else b"HTTP/1.1 504 ")
        assert [line["flags"] for line in made.log] == ["UC" if breaks else "UT"]


# To the upstream


@pytest.mark.parametrize(
    ("head", "first", "second"),
    [
        (CHUNKED, b"1\r\na\r\n", b"2\r\nbc\r\n"),
        (SIZED % 1_000_000, b"a", b"bc"),
    ],
)
@on_both_loops
async def test_what_the_client_has_sent_is_passed_on_at_once(head, first, second):
    async with both() as (made, upstream):
        client = await made.connect(head)
        client.send(first)
        await until(lambda: upstream.bytes.endswith(first))
        client.send(second)
        await until(lambda: upstream.bytes.endswith(second))


@pytest.mark.parametrize("size", [0, 1, 65_536, 65_537, 3_000_000])
@pytest.mark.parametrize("chunked", [False, True])
@on_both_loops
async def test_uploads_of_any_size(size, chunked):
    async with both() as (made, upstream):
        body = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
        client = await made.connect()
        for _ in range(2):
            client.send(CHUNKED if chunked else SIZED % size)
            for start in range(0, size, 100_000):
                piece = body[start : start + 100_000]
                client.send(b"%x\r\n%b\r\n" % (len(piece), piece) if chunked else piece)
            client.send(b"0\r\n\r\n" if chunked else b"")
            assert await client.answer() == (200, b"ok")
        assert [each[1] == body for each in upstream.requests] == [True, True]
        await made.idle()
        assert [line["bytes_in"] for line in made.log] == [size, size]


@on_both_loops
async def test_a_slow_upstream_slows_the_client():
    go = asyncio.Event()

    async def slow(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        await go.wait()
        size = 0
        while size < 100_000_000:
            size += len(await reader.read(1_000_000))
        writer.write(OK)

    async with peer(slow) as upstream:
        policy = f"service: up\nendpoints: ['127.0.0.1:{upstream.origin.port}']"
        async with proxy(policy=policy) as made:
            client = await made.connect(SIZED % 100_000_000)
            sent = 0

            async def pour():
                nonlocal sent
                for _ in range(1000):
                    client.writer.write(b"x" * 100_000)
                    await client.writer.drain()
                    sent += 100_000

            pouring = asyncio.ensure_future(pour())
            before = -1
            while sent != before:
                before = sent
                await asyncio.sleep(0.1)
            assert sent < 30_000_000
            go.set()
            assert await client.answer() == (200, b"ok")
            await pouring


@on_both_loops
async def test_an_answer_while_the_upload_still_runs():
    """It reaches the client at once; the connection upstream, which still waits for the rest, is closed."""

    async def early(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 413 Too Large\r\ncontent-length: 3\r\n\r\ntoo")
        await reader.read()

    async with peer(early) as upstream:
        policy = f"service: up\nendpoints: ['127.0.0.1:{upstream.origin.port}']"
        async with proxy(policy=policy) as made:
            client = await made.connect(CHUNKED + b"1\r\na\r\n")
            assert await client.answer() == (413, b"too")
            await within(upstream.all_closed())
            for _ in range(100):
                client.send(b"2710\r\n" + b"x" * 10_000 + b"\r\n")
            assert await client.rest() == b""
            await made.idle()
            assert [line["flags"] for line in made.log] == ["-"]


@on_both_loops
async def test_what_follows_a_body_that_ends_behind_the_head_of_a_last_answer_is_not_served():
    """The client is told `connection: close` while its body is not all here; when the answer ends, it is."""
    ended = asyncio.Event()

    async def early(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(STREAM + b"1\r\na\r\n")
        await reader.readuntil(b"0\r\n\r\n")
        ended.set()
        writer.write(b"0\r\n\r\n")
        await reader.read()

    async with peer(early) as upstream:
        policy = f"service: up\nendpoints: ['127.0.0.1:{upstream.origin.port}']"
        async with proxy(policy=policy) as made:
            client = await made.connect(CHUNKED + b"1\r\na\r\n")
            assert b"\r\nconnection: close\r\n" in await client.head()
            await client.expect(b"1\r\na\r\n")
            client.send(b"0\r\n\r\n" + GET)
            await within(ended.wait())
            assert await client.rest() == b"0\r\n\r\n"
            await made.idle()
            assert upstream.connections == 1
            assert len(made.log) == 1


@on_both_loops
async def test_what_follows_the_last_answer_before_a_stop_is_not_served():
    """RFC 9112 section 9.6: a client that is told `connection: close` may send what is behind it again elsewhere."""
    async with both(reply=lambda request, body: None) as (made, upstream):
        client = await made.connect((SIZED % 1 + b"a") * 3)
        await until(lambda: upstream.requests)
        for each in made.connections:
            each.shut()
        upstream.writers[0].write(OK)
        answer = await client.rest()
        assert answer.count(b"HTTP/1.1 ") == answer.count(b"\r\nconnection: close\r\n") == 1
        assert len(upstream.requests) == 1


@on_both_loops
async def test_both_directions_at_once():
    async def echo(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(STREAM)
        while (line := await reader.readline()) != b"0\r\n":
            writer.write(line + await reader.readexactly(int(line, 16) + 2))
        writer.write(b"0\r\n\r\n")

    async with peer(echo) as upstream:
        policy = f"service: up\nendpoints: ['127.0.0.1:{upstream.origin.port}']"
        async with proxy(policy=policy) as made:
            client = await made.connect(CHUNKED)
            await client.head()
            for number in range(5):
                piece = b"6\r\nping %d\r\n" % number
                client.send(piece)
                await client.expect(piece)
            client.send(b"0\r\n\r\n")
            assert await client.rest() == b"0\r\n\r\n"


@pytest.mark.parametrize("asks", [True, False])
@on_both_loops
async def test_100_continue(asks):
    """The client is asked for a body when an upstream is there for it, and not at all where it is refused."""
    port = 1 if not asks else None
    async with recorder() as upstream:
        policy = f"service: up\nendpoints: ['127.0.0.1:{port or upstream.port}']"
        async with proxy(policy=policy) as made:
            for head in (SIZED % 100_000, CHUNKED):
                client = await made.connect(head.replace(b"Host", b"Expect: 100-continue\r\nHost"))
                if not asks:
                    answer = await client.rest()
                    assert answer.startswith(b"HTTP/1.1 503 ")
                    assert b"100 Continue" not in answer
                    continue
                await client.expect(b"HTTP/1.1 100 Continue\r\n\r\n")
                assert b"xpect" not in upstream.bytes
                client.send(b"x" * 100_000 if b"Length" in head else b"1\r\nx\r\n0\r\n\r\n")
                assert (await client.answer())[0] == 200


@pytest.mark.parametrize("complete", [True, False])
@on_both_loops
async def test_an_addon_transforms_a_request(complete):
    def double(data):
        return [data, data] if data else [b"!"]

    def do(name, flow):
        if name == "requestheaders":
            flow.request.stream = double

    async with both(Hooks(do)) as (made, upstream):
        client = await made.connect(SIZED % 4 + b"ab")
        if not complete:
            await until(lambda: upstream.bytes.endswith(b"2\r\nab\r\n2\r\nab\r\n"))
        client.send(b"cd")
        assert (await client.answer())[0] == 200
        assert upstream.requests[0][1] in (b"ababcdcd!", b"abcdabcd!")
        # All of it in one packet.
        client.send(SIZED % 2 + b"ab")
        assert (await client.answer())[0] == 200
        assert upstream.requests[1][1] == b"abab!"


@on_both_loops
async def test_an_addon_wants_a_request_whole():
    def do(name, flow):
        if name == "requestheaders":
            flow.request.stream = False
        elif name == "request":
            flow.request.content = flow.request.content.upper()

    async with both(Hooks(do)) as (made, upstream):
        client = await made.connect(SIZED % 500_000)
        for _ in range(5):
            client.send(b"x" * 100_000)
            await asyncio.sleep(0.005)
        assert (await client.answer())[0] == 200
        assert upstream.requests[0][1] == b"X" * 500_000
        client.send(CHUNKED)
        await asyncio.sleep(0.005)
        client.send(b"2\r\nab\r\n0\r\n\r\n")
        assert (await client.answer())[0] == 200
        assert upstream.requests[1][1] == b"AB"


@pytest.mark.parametrize("direction", ["request", "response"])
@on_both_loops
async def test_an_addons_stream_that_fails_ends_the_exchange(direction, caplog):
    def fail(data):
        raise LookupError("no luck")

    def do(name, flow):
        if name == direction + "headers":
            getattr(flow, direction).stream = fail

    async with both(Hooks(do), reply=saying(STREAM + b"1\r\na\r\n")) as (made, upstream):
        client = await made.connect(CHUNKED + b"1\r\na\r\n")
        if direction == "response":
            client.send(b"0\r\n\r\n")
        answer = await client.rest()
        assert answer == b"" or answer.startswith((b"HTTP/1.1 503 ", b"HTTP/1.1 500 "))
        assert "no luck" in caplog.text
        await until(lambda: upstream.closed == len(upstream.received))
        await made.idle()
        assert len(made.log) == 1


# Uploads that are sent again


@pytest.mark.parametrize("wait", [False, True])
@pytest.mark.parametrize("head", [CHUNKED, SIZED % 100_000])
@on_both_loops
async def test_what_was_kept_of_an_upload_is_sent_again(head, wait):
    """An upload up to `max_body` can be retried although it was passed on as it came."""
    seen = []

    async def flaky(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        if not seen:
            seen.append(await reader.readuntil(b"a"))
            writer.write(BAD)
            writer.close()
            return
        body = b""
        while not body.endswith((b"0\r\n\r\n", b"z")):
            body += await reader.read(65536)
        seen.append(body)
        writer.write(OK)

    retry = (
        "retry: {attempts: 2, methods: [POST], on: [503], max_body: 200KB, backoff: {base: 10ms, max: 20ms}}"
    )
    async with peer(flaky) as upstream:
        policy = f"service: up\nendpoints: ['127.0.0.1:{upstream.origin.port}']\n{retry}"
        async with proxy(policy=policy) as made:
            chunked = head is CHUNKED
            client = await made.connect(head)
            await until(lambda: upstream.connections)
            client.send(b"1\r\na\r\n" if chunked else b"a")
            if wait:
                await until(lambda: upstream.connections == 2)
            client.send(b"2\r\nbc\r\n0\r\n\r\n" if chunked else b"b" * 99_998 + b"z")
            assert await client.answer() == (200, b"ok")
            if chunked:
                assert seen[1] in (b"1\r\na\r\n2\r\nbc\r\n0\r\n\r\n", b"3\r\nabc\r\n0\r\n\r\n")
            else:
                assert seen[1] == b"a" + b"b" * 99_998 + b"z"
            await made.idle()
            (line,) = made.log
            assert (line["bytes_in"], len(line["attempts"])) == (3 if chunked else 100_000, 2)


@on_both_loops
async def test_an_upload_beyond_max_body_is_not_sent_again():
    async def flaky(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        await reader.readexactly(2000)
        writer.write(BAD)
        await reader.read()

    retry = "retry: {attempts: 2, methods: [POST], on: [503], max_body: 1KB}"
    async with peer(flaky) as upstream:
        policy = f"service: up\nendpoints: ['127.0.0.1:{upstream.origin.port}']\n{retry}"
        async with proxy(policy=policy) as made:
            client = await made.connect(SIZED % 1_000_000 + b"x" * 100_000)
            assert await client.answer() == (503, b"bad")
            assert upstream.connections == 1
            await made.idle()


@on_both_loops
async def test_an_upload_of_which_nothing_came_yet_goes_to_the_endpoint_that_is_there():
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        async with recorder() as upstream:
            policy = f"service: up\nendpoints: ['127.0.0.1:{deaf.getsockname()[1]}', '127.0.0.1:{upstream.port}']\nretry: 3"
            async with proxy(policy=policy) as made:
                for _ in range(2):
                    client = await made.connect(CHUNKED + b"1\r\na\r\n")
                    client.send(b"1\r\nb\r\n0\r\n\r\n")
                    assert (await client.answer())[0] == 200
                assert [body for _, body, _ in upstream.requests] == [b"ab", b"ab"]
                await made.idle()


# Clients that leave


@pytest.mark.parametrize("how", ["end", "reset"])
@pytest.mark.parametrize(
    "phase", ["connecting", "waiting", "uploading", "gathering", "streaming", "stalled", "pause", "fault", "upgraded"]
)  # fmt: skip
@on_both_loops
async def test_a_client_that_leaves_in_any_phase(phase, how):
    """The attempt is cut, `error` comes once, the log says DC, and nothing is left of it."""
    answers = {
        "streaming": STREAM + b"1\r\na\r\n",
        "stalled": b"HTTP/1.1 200 OK\r\nContent-Length: 50000000\r\n\r\n" + b"x" * 30_000_000,
        "pause": BAD,
        "gathering": b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc",
        "upgraded": b"HTTP/1.1 101 Switching\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n",
    }

    def do(name, flow):
        if name == "responseheaders" and phase == "gathering":
            flow.response.stream = False

    addon = Hooks(do)
    policy = {
        "pause": "retry: {attempts: 3, on: [503], backoff: {base: 50s, max: 50s}}",
        "fault": "faults: [{delay: 60s}]",
    }.get(phase, "retry: 3")
    data = GET
    if phase == "uploading":
        data = CHUNKED + b"1\r\na\r\n"
    elif phase == "upgraded":
        data = GET.replace(b"Host", b"Connection: upgrade\r\nUpgrade: x\r\nHost")
    backlog = socket.socket()
    async with recorder(lambda request, body: answers.get(phase)) as upstream:
        port = upstream.port
        if phase == "connecting":
            # A listener whose queue is full answers to nobody.
            backlog.bind(("127.0.0.1", 0))
            backlog.listen(0)
            port = backlog.getsockname()[1]
            fillers = [socket.socket() for _ in range(3)]
            for filler in fillers:
                filler.setblocking(False)
                filler.connect_ex(("127.0.0.1", port))
        async with proxy(addon, policy=f"service: up\nendpoints: ['127.0.0.1:{port}']\n{policy}") as made:
            client = await made.connect(data)
            if phase in ("streaming", "stalled", "upgraded"):
                await client.head()
            if phase in ("waiting", "gathering", "pause"):
                await until(lambda: upstream.requests)
            elif phase == "uploading":
                await until(lambda: upstream.bytes.endswith(b"1\r\na\r\n"))
            elif phase == "connecting":
                await until(lambda: any(pool.opening for pool in made.client.stats().values()))
            elif phase == "stalled":
                await until(lambda: all(each.write_paused for each in made.connections))
            elif phase == "fault":
                await until(lambda: "request" in addon.seen)
            await asyncio.sleep(0.01)
            if how == "end":
                client.writer.write_eof()
            else:
                client.reset()
            await until(lambda: not made.connections)
            if phase != "pause":
                await until(lambda: upstream.closed == len(upstream.received))
                assert not made.client.stats()
            await made.idle()
            if phase == "upgraded":
                # A tunnel that ends has ended well.
                assert (addon.seen.count("error"), addon.seen.count("response")) == (0, 1)
                assert [line["status"] for line in made.log] == [101]
            else:
                assert (addon.seen.count("error"), addon.seen.count("response")) == (1, 0)
                assert [line["flags"] for line in made.log] == ["DC" if phase != "fault" else "DI,DC"]
                assert addon.flows[0].error.msg == "Client disconnected."
        backlog.close()


@on_both_loops
async def test_a_client_that_leaves_when_its_answer_is_sent_was_answered():
    addon = Hooks()
    said = b"HTTP/1.1 200 OK\r\nContent-Length: 30000000\r\n\r\n" + b"x" * 30_000_000

    def do(name, flow):
        if name == "responseheaders":
            flow.response.stream = False

    addon.do = do
    async with both(addon, reply=saying(said)) as (made, _):
        client = await made.connect(GET)
        await client.head()
        client.reset()
        await until(lambda: not made.connections)
        assert addon.seen == ["requestheaders", "request", "responseheaders", "response"]
        assert [line["flags"] for line in made.log] == ["-"]


# Tunnels


@on_both_loops
async def test_an_upgrade_that_the_upstream_grants_is_a_tunnel():
    async def shout(reader, writer):
        head = await reader.readuntil(b"\r\n\r\n")
        assert b"upgrade: SHOUT/1" in head
        assert b"connection: upgrade" in head
        writer.write(b"HTTP/1.1 101 Go\r\nConnection: Upgrade\r\nUpgrade: SHOUT/1\r\nX-A: b\r\n\r\nHELLO")
        while data := await reader.read(65536):
            writer.write(data.upper())
            await writer.drain()

    async with peer(shout) as upstream:
        policy = f"service: up\nendpoints: ['127.0.0.1:{upstream.origin.port}']"
        async with proxy(policy=policy) as made:
            asked = GET.replace(b"Host", b"Connection: Upgrade\r\nUpgrade: SHOUT/1\r\nHost")
            client = await made.connect(asked + b"early")
            head = await client.head()
            assert head.startswith(b"HTTP/1.1 101 Go\r\n")
            assert b"\r\nupgrade: SHOUT/1\r\n" in head
            assert b"\r\nX-A: b\r\n" in head
            await client.expect(b"HELLOEARLY")
            client.send(b"ping")
            await client.expect(b"PING")
            client.writer.write_eof()
            assert await client.rest() == b""
            await until(lambda: not made.connections)
            (line,) = made.log
            assert (line["status"], line["bytes_in"], line["bytes_out"]) == (101, 9, 14)


@on_both_loops
async def test_a_granted_upgrade_behind_another_request():
    async def grant(reader, writer):
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            if b"pgrade" in head:
                writer.write(b"HTTP/1.1 101 Go\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n")
                writer.write(await reader.read(100))
                return
            writer.write(OK)

    async with peer(grant) as upstream:
        policy = f"service: up\nendpoints: ['127.0.0.1:{upstream.origin.port}']"
        async with proxy(policy=policy) as made:
            asked = GET.replace(b"Host", b"Connection: Upgrade\r\nUpgrade: x\r\nHost")
            client = await made.connect(GET + asked + b"ping")
            assert await client.answer() == (200, b"ok")
            assert b" 101 " in await client.head()
            assert await client.rest() == b"ping"
