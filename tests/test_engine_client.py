"""The client against upstreams that speak raw bytes: sharing, gathering, streaming, giving up."""

import asyncio
import contextlib
import socket
import struct

import pytest

from addons.engine.errors import UpstreamError
from addons.engine.origin import Origin
from addons.engine.pool import PoolStats
from tests.engine_peers import (
    GET,
    HELLO,
    OK,
    answering,
    client,
    head_of,
    leap,
    on_asyncio,
    on_both_loops,
    peer,
    settled,
)


class Collector:
    """A sink that remembers."""

    def __init__(self) -> None:
        self.got = b""
        self.over: asyncio.Future = asyncio.get_running_loop().create_future()

    def data(self, data):
        assert data
        assert not self.over.done()
        self.got += data

    def end(self, trailers):
        self.over.set_result(trailers)

    def fail(self, error):
        self.over.set_exception(error)


@on_both_loops
async def test_an_answer_and_its_connection():
    async with peer(answering(HELLO)) as upstream, client() as made:
        answer = await made.send(upstream.origin, GET, method=b"GET")
        assert (answer.status, answer.reason, answer.http_version) == (200, b"OK", b"HTTP/1.1")
        assert answer.fields == ((b"Content-Length", b"5"),)
        assert (answer.body, answer.complete, answer.trailers, answer.upgraded) == (
            b"hello",
            True,
            None,
            False,
        )
        assert answer.peer == ("127.0.0.1", upstream.origin.port)
        assert answer.head_at > 1_700_000_000
        assert await answer.read() == b""
        sink = Collector()
        answer.stream(sink)
        assert await sink.over is None
        assert made.stats() == {upstream.origin: PoolStats(open=1, idle=1, opening=0)}


@on_both_loops
async def test_connections_are_shared_and_the_last_used_goes_first():
    async with peer(answering(HELLO)) as upstream, client() as made:
        calls = [made.send(upstream.origin, GET, method=b"GET") for _ in range(3)]
        assert made.stats()[upstream.origin] == PoolStats(0, 0, 3)
        first = [await call for call in calls]
        assert upstream.connections == 3
        last = made._pools[upstream.origin].idle[-1]
        for _ in range(5):
            assert (await made.send(upstream.origin, GET, method=b"GET")).connection is last
        assert upstream.connections == 3
        assert {answer.connection for answer in first} == made._connections


@on_both_loops
async def test_origins_do_not_share():
    async with peer(answering(HELLO)) as one, peer(answering(HELLO)) as other, client() as made:
        for origin in (one.origin, other.origin, one.origin):
            await made.send(origin, GET, method=b"GET")
        assert (one.connections, other.connections) == (1, 1)
        assert made.stats() == {one.origin: PoolStats(1, 1, 0), other.origin: PoolStats(1, 1, 0)}


@on_both_loops
async def test_a_call_may_be_told_instead_of_awaited():
    async with peer(answering(HELLO)) as upstream, client() as made:
        told = asyncio.get_running_loop().create_future()
        call = made.send(upstream.origin, GET, method=b"GET")
        assert not call.done
        call.then(told.set_result)
        assert (await told) is call
        assert call.answer.body == b"hello"
        call.then(lambda same: told.set_exception(AssertionError()) if same is not call else None)


@pytest.mark.parametrize(
    "answer",
    [
        OK + b"Connection: close\r\nContent-Length: 5\r\n\r\nhello",
        b"HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\nhello",
        HELLO + b"H",
        HELLO + HELLO,
        HELLO + b"\x00",
    ],
)
@on_both_loops
async def test_a_connection_that_cannot_be_trusted_is_not_kept(answer):
    async with peer(answering(answer)) as upstream, client() as made:
        for count in (1, 2):
            assert (await made.send(upstream.origin, GET, method=b"GET")).body == b"hello"
            assert made.stats() == {}
            assert upstream.connections == count
        await upstream.all_closed()


@on_both_loops
async def test_a_fresh_connection_can_be_asked_for():
    async with peer(answering(HELLO)) as upstream, client() as made:
        await made.send(upstream.origin, GET, method=b"GET")
        await made.send(upstream.origin, GET, method=b"GET", connection_reuse=False)
        assert upstream.connections == 2
        assert made.stats()[upstream.origin] == PoolStats(1, 1, 0)


@on_both_loops
async def test_no_more_idle_connections_than_allowed():
    async with peer(answering(HELLO)) as upstream, client(max_idle_per_origin=2) as made:
        calls = [made.send(upstream.origin, GET, method=b"GET") for _ in range(5)]
        for call in calls:
            await call
        assert made.stats()[upstream.origin] == PoolStats(2, 2, 0)
        made.close_idle()
        assert made.stats() == {}
        await upstream.all_closed()


@on_asyncio
async def test_idle_connections_expire_one_by_one():
    async with peer(answering(HELLO)) as upstream, client(idle_expiry=60.0) as made:
        one, other = (made.send(upstream.origin, GET, method=b"GET") for _ in range(2))
        await one
        await other
        leap(50)
        await made.send(upstream.origin, GET, method=b"GET")
        leap(11)
        await settled()
        assert made.stats()[upstream.origin] == PoolStats(1, 1, 0)
        leap(48)
        await settled()
        assert made.stats()[upstream.origin] == PoolStats(1, 1, 0)
        leap(2)
        await settled()
        assert made.stats() == {}
        await upstream.all_closed()


@pytest.mark.parametrize("last", [b"", b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\n\r\n"])
@on_both_loops
async def test_an_idle_connection_that_the_upstream_ends_is_dropped(last):
    leave = asyncio.Event()

    async def handler(reader, writer):
        await head_of(reader)
        writer.write(HELLO)
        await leave.wait()
        writer.write(last)

    async with peer(handler) as upstream, client() as made:
        await made.send(upstream.origin, GET, method=b"GET")
        assert made.stats()[upstream.origin].idle == 1
        leave.set()
        await upstream.all_closed()
        while made.stats():
            await asyncio.sleep(0)
        await made.send(upstream.origin, GET, method=b"GET")
        assert upstream.connections == 2


@on_both_loops
async def test_an_idle_connection_on_which_bytes_arrive_is_dropped():
    speak = asyncio.Event()

    async def handler(reader, writer):
        await head_of(reader)
        writer.write(HELLO)
        await speak.wait()
        writer.write(HELLO)
        await reader.read()

    async with peer(handler) as upstream, client() as made:
        await made.send(upstream.origin, GET, method=b"GET")
        speak.set()
        await upstream.all_closed()
        assert made.stats() == {}


# How much is gathered before the call is settled


@pytest.mark.parametrize(
    ("head", "first", "buffer", "settled_with"),
    [
        (b"Content-Length: 10\r\n\r\n", b"", 0, b""),
        (b"Content-Length: 10\r\n\r\n", b"12345", 0, b"12345"),
        (b"Content-Length: 10\r\n\r\n", b"12345", 9, b"12345"),
        (b"Transfer-Encoding: chunked\r\n\r\n", b"5\r\n12345\r\n", 4, b"12345"),
        (
            b"Content-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n",
            b"5\r\n12345\r\n",
            99,
            b"12345",
        ),
        (b"\r\n", b"12345", 4, b"12345"),
    ],
)
@on_both_loops
async def test_a_long_answer_is_settled_before_its_end(head, first, buffer, settled_with):
    rest = asyncio.Event()

    async def handler(reader, writer):
        await head_of(reader)
        writer.write(OK + head + first)
        await rest.wait()
        writer.write(
            b"5\r\n67890\r\n0\r\nA: b\r\n\r\n" if b"chunked" in head else b"1234567890"[len(first) :]
        )

    async with peer(handler) as upstream, client() as made:
        call = made.send(upstream.origin, GET, method=b"GET", buffer=buffer)
        answer = await call
        assert (answer.complete, answer.body) == (False, settled_with)
        assert call.connection is answer.connection
        assert call.head_seen
        rest.set()
        body = answer.body
        while data := await answer.read():
            body += data
        assert body == b"1234567890"
        assert answer.trailers == (((b"A", b"b"),) if b"chunked" in head else None)
        assert call.connection is None


@pytest.mark.parametrize(
    ("head", "pieces", "body"),
    [
        (b"Content-Length: 10\r\n\r\n", (b"12345", b"67890"), b"1234567890"),
        (b"Transfer-Encoding: chunked\r\n\r\n", (b"5\r\n123", b"45\r\n0\r\n\r", b"\n"), b"12345"),
        (b"\r\n", (b"12345", b""), b"12345"),
    ],
)
@on_both_loops
async def test_an_answer_within_the_buffer_is_settled_whole(head, pieces, body):
    go = asyncio.Semaphore(0)

    async def handler(reader, writer):
        await head_of(reader)
        writer.write(OK + head)
        for piece in pieces:
            await go.acquire()
            writer.write(piece)

    async with peer(handler) as upstream, client() as made:
        call = made.send(upstream.origin, GET, method=b"GET", buffer=10)
        while not call.head_seen:
            await asyncio.sleep(0)
        for _ in pieces:
            await settled()
            assert not call.done
            go.release()
        answer = await call
        assert (answer.complete, answer.body) == (True, body)


@on_both_loops
async def test_an_answer_is_pushed_to_a_sink():
    go = asyncio.Event()

    async def handler(reader, writer):
        await head_of(reader)
        writer.write(OK + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n")
        await go.wait()
        writer.write(b"2\r\nde\r\n1\r\nf\r\n0\r\nSum: 6\r\n\r\n")
        await head_of(reader)
        writer.write(HELLO)

    async with peer(handler) as upstream, client() as made:
        answer = await made.send(upstream.origin, GET, method=b"GET")
        sink = Collector()
        answer.stream(sink)
        go.set()
        assert await sink.over == ((b"Sum", b"6"),)
        assert (answer.body, sink.got) == (b"abc", b"def")
        assert made.stats()[upstream.origin] == PoolStats(1, 1, 0)
        assert (await made.send(upstream.origin, GET, method=b"GET")).body == b"hello"


# Back-pressure


async def flood(reader, writer):
    """An answer without end, as fast as it is taken."""
    await head_of(reader)
    writer.write(OK + b"Transfer-Encoding: chunked\r\n\r\n")
    while True:
        writer.write(b"4000\r\n" + b"x" * 0x4000 + b"\r\n")
        await writer.drain()


async def stands_still(look) -> None:
    """Wait until a number no longer changes over many turns of the loop."""
    before, same = look(), 0
    while same < 300:
        await asyncio.sleep(0.0001)
        now = look()
        before, same = now, same + 1 if now == before else 0


@on_both_loops
async def test_a_slow_reader_slows_the_upstream():
    async with peer(flood) as upstream, client() as made:
        answer = await made.send(upstream.origin, GET, method=b"GET")
        connection = answer.connection
        await stands_still(lambda: connection.received)
        assert connection.reading_paused
        assert connection.received < 1_000_000
        taken = 0
        while taken < 5_000_000:
            data = await answer.read()
            assert len(data) < 500_000
            taken += len(data)
        answer.close()
        await upstream.all_closed()
        with pytest.raises(UpstreamError, match="closed by the proxy"):
            await answer.read()


@on_both_loops
async def test_a_sink_can_stop_and_go_on():
    async with peer(flood) as upstream, client() as made:
        answer = await made.send(upstream.origin, GET, method=b"GET")
        sink = Collector()
        answer.pause()
        answer.stream(sink)
        await stands_still(lambda: len(sink.got))
        before = len(sink.got)
        answer.resume()
        while len(sink.got) < before + 1_000_000:
            await asyncio.sleep(0)
        answer.close()
        answer.resume()
        got = len(sink.got)
        await upstream.all_closed()
        assert len(sink.got) == got
        assert not sink.over.done()


@on_both_loops
async def test_a_reader_that_stopped_leaves_the_connection_readable_for_the_next():
    size = 200_000

    async def handler(reader, writer):
        while True:
            await head_of(reader)
            writer.write(OK + b"Content-Length: %d\r\n\r\n" % size)
            for _ in range(0, size, 1000):
                writer.write(b"x" * 1000)
                await writer.drain()

    class Stopping(Collector):
        def data(self, data):
            super().data(data)
            answer.pause()
            loop.call_soon(answer.resume)

    async with peer(handler) as upstream, client() as made:
        loop = asyncio.get_running_loop()
        for _ in range(4):
            answer = await made.send(upstream.origin, GET, method=b"GET")
            sink = Stopping()
            answer.stream(sink)
            await sink.over
            assert len(answer.body) + len(sink.got) == size
        assert upstream.connections == 1


# What breaks off


@pytest.mark.parametrize(
    ("raw", "kind"),
    [
        (b"", "reset"),
        (b"HTTP/1.1 200 O", "reset"),
        (OK + b"Content-Length: 5\r\n", "reset"),
        (OK + b"Content-Length: 5\r\n\r\nhell", "reset"),
        (OK + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhel", "reset"),
        (OK + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n", "reset"),
        (OK + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n", "reset"),
        (b"HTTP/1.1 100 Continue\r\n\r\n", "reset"),
        (b"SSH-2.0-x\r\n", "protocol"),
        (OK + b"Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", "protocol"),
        (b"HTTP/1.1 101 Switching\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n", "protocol"),
    ],
)
@pytest.mark.parametrize("buffer", [0, 1000])
@on_both_loops
async def test_an_answer_that_breaks_off_is_an_error(raw, kind, buffer):
    async with peer(answering(raw, close=True)) as upstream, client() as made:
        with pytest.raises(UpstreamError) as caught:
            answer = await made.send(upstream.origin, GET, method=b"GET", buffer=buffer, resend=True)
            while await answer.read():
                pass
        assert caught.value.kind == kind
        assert not caught.value.nothing_sent
        assert upstream.connections == 1
        assert made.stats() == {}
        await upstream.all_closed()


@on_both_loops
async def test_a_reset_is_an_error_even_where_the_end_of_the_connection_is_the_end_of_the_answer():
    async def handler(reader, writer):
        await head_of(reader)
        writer.write(OK + b"\r\nhello")
        await head_of(reader)
        writer.transport.abort()

    async with peer(handler) as upstream, client() as made:
        call = made.send(upstream.origin, GET, None, method=b"GET")
        answer = await call
        sink = Collector()
        answer.stream(sink)
        # Unread bytes at the upstream make its close a reset.
        call.write(b"x" * 100_000 + b"\r\n\r\n" + b"x" * 100_000)
        with pytest.raises(UpstreamError) as caught:
            await sink.over
        assert caught.value.kind == "reset"


@pytest.mark.parametrize(
    ("head", "body"),
    [
        (b"A: " + b"b" * 70_000 + b"\r\n", b""),
        (b"A: bbbbbbbb\r\n" * 150 + b"B: " + b"b" * 64_000 + b"\r\n", b"Content-Length: 0\r\n\r\n"),
        (b"Transfer-Encoding: chunked\r\n\r\n", b"1;" + b"x" * 600_000),
        (b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n0\r\nA: " + b"x" * 600_000),
        (b"A: b\r\n" * 20_000, b""),
        (b"A: " + b"b" * 70_000 + b"\r\nTransfer-Encoding: chunked\r\n\r\n", b"5\r\nhello\r\n"),
    ],
)
@on_both_loops
async def test_heads_and_trailers_without_end_are_refused(head, body):
    async with peer(answering(OK + head + body)) as upstream, client() as made:
        with pytest.raises(UpstreamError) as caught:
            answer = await made.send(upstream.origin, GET, method=b"GET")
            while await answer.read():
                pass
        assert caught.value.kind == "protocol"
        assert made.stats() == {}


# Stale connections


def stale(times: int, reset: bool = False):
    """Answers the first request of a connection; ends the first `times` connections at their second one."""
    left = [times]

    async def handler(reader, writer):
        await head_of(reader)
        writer.write(HELLO)
        while True:
            await head_of(reader)
            if left[0]:
                left[0] -= 1
                if reset:
                    writer.transport.abort()
                return
            writer.write(HELLO)

    return handler


@pytest.mark.parametrize("reset", [False, True])
@on_both_loops
async def test_a_request_on_a_stale_connection_is_sent_again_if_allowed(reset):
    async with peer(stale(1, reset)) as upstream, client() as made:
        await made.send(upstream.origin, GET, method=b"GET")
        answer = await made.send(upstream.origin, GET, method=b"GET", resend=True)
        assert answer.body == b"hello"
        assert upstream.connections == 2
        assert made.stats()[upstream.origin] == PoolStats(1, 1, 0)


@pytest.mark.parametrize(("resend", "body"), [(False, b""), (True, None)])
@on_both_loops
async def test_otherwise_it_is_an_error(resend, body):
    async with peer(stale(1)) as upstream, client() as made:
        await made.send(upstream.origin, GET, method=b"GET")
        with pytest.raises(UpstreamError) as caught:
            await made.send(upstream.origin, GET, body, method=b"GET", resend=resend)
        assert (caught.value.kind, caught.value.nothing_sent) == ("reset", False)
        assert "before an answer" in caught.value.detail
        assert upstream.connections == 1


@pytest.mark.parametrize("part", [OK + b"Content-Length: 5\r\n\r\nhel", OK[:5]])
@on_both_loops
async def test_what_was_answered_in_part_is_not_sent_again(part):
    async def handler(reader, writer):
        await head_of(reader)
        writer.write(HELLO)
        await head_of(reader)
        writer.write(part)

    async with peer(handler) as upstream, client() as made:
        await made.send(upstream.origin, GET, method=b"GET")
        with pytest.raises(UpstreamError) as caught:
            await made.send(upstream.origin, GET, method=b"GET", resend=True, buffer=100)
        assert caught.value.kind == "reset"
        assert "in the middle of an answer" in caught.value.detail
        assert upstream.connections == 1


@on_both_loops
async def test_it_is_sent_again_once_and_only_on_a_fresh_connection():
    async def handler(reader, writer):
        await head_of(reader)
        if upstream.connections <= 2:
            writer.write(HELLO)
            await go.wait()
            await head_of(reader)

    go = asyncio.Event()
    async with peer(handler) as upstream, client() as made:
        one, other = (made.send(upstream.origin, GET, method=b"GET") for _ in range(2))
        await one
        await other
        go.set()
        with pytest.raises(UpstreamError) as caught:
            await made.send(upstream.origin, GET, method=b"GET", resend=True)
        assert caught.value.kind == "reset"
        assert upstream.connections == 3
        assert made.stats()[upstream.origin] == PoolStats(1, 1, 0)


# Giving up


async def silent(reader, writer):
    await head_of(reader)
    await reader.read()


@on_both_loops
async def test_a_call_is_given_up_while_it_waits():
    async with peer(silent) as upstream, client() as made:
        call = made.send(upstream.origin, GET, method=b"GET")
        while call.connection is None:
            await asyncio.sleep(0)
        error = UpstreamError("timeout", "too slow")
        call.cancel(error)
        call.cancel(UpstreamError("timeout", "too late"))
        with pytest.raises(UpstreamError) as caught:
            await call
        assert caught.value is error
        assert made.stats() == {}
        await upstream.all_closed()


@on_both_loops
async def test_a_call_is_given_up_while_it_connects():
    async with peer(silent) as upstream, client() as made:
        for turns in range(20):
            call = made.send(upstream.origin, GET, method=b"GET")
            for _ in range(turns):
                await asyncio.sleep(0)
            call.cancel(UpstreamError("timeout", "too slow"))
            with pytest.raises(UpstreamError, match="too slow"):
                await call
            while made.stats():
                await asyncio.sleep(0)
        await upstream.all_closed()


@on_both_loops
async def test_a_call_is_given_up_while_its_answer_streams():
    async with peer(flood) as upstream, client() as made:
        for pushed in (False, True):
            call = made.send(upstream.origin, GET, method=b"GET")
            answer = await call
            sink = Collector()
            if pushed:
                answer.stream(sink)
            call.cancel(UpstreamError("timeout", "too slow"))
            assert made.stats() == {}
            with pytest.raises(UpstreamError, match="too slow"):
                await (sink.over if pushed else read_all(answer))
        await upstream.all_closed()


async def read_all(answer) -> bytes:
    body = b""
    while data := await answer.read():
        body += data
    return body


@on_both_loops
async def test_a_task_that_is_cancelled_takes_its_call_along():
    async with peer(silent) as upstream, client() as made:

        async def wait():
            await made.send(upstream.origin, GET, method=b"GET")

        task = asyncio.create_task(wait())
        while not upstream.connections:
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert made.stats() == {}
        await upstream.all_closed()


@on_both_loops
async def test_a_complete_answer_cannot_be_given_up():
    async with peer(answering(HELLO)) as upstream, client() as made:
        call = made.send(upstream.origin, GET, method=b"GET")
        answer = await call
        call.cancel(UpstreamError("timeout", "too late"))
        answer.close()
        assert (await call) is answer
        assert made.stats()[upstream.origin] == PoolStats(1, 1, 0)


@on_both_loops
async def test_closing_the_client_ends_everything():
    async with (
        peer(silent) as upstream,
        peer(flood) as other,
        peer(answering(HELLO)) as third,
        client() as made,
    ):
        waiting = made.send(upstream.origin, GET, method=b"GET")
        streaming = await made.send(other.origin, GET, method=b"GET")
        await made.send(third.origin, GET, method=b"GET")
        while waiting.connection is None:
            await asyncio.sleep(0)
        connecting = made.send(upstream.origin, GET, method=b"GET")
        made.close()
        assert made.stats() == {}
        for ended in (waiting, connecting, read_all(streaming)):
            with pytest.raises(UpstreamError, match="the proxy stops"):
                await ended
        for server in (upstream, other, third):
            await server.all_closed()


# Silence


@on_asyncio
async def test_a_silent_call_ends():
    async with peer(silent) as upstream, client() as made:
        call = made.send(upstream.origin, GET, method=b"GET", idle_timeout=300.0)
        while call.connection is None:
            await asyncio.sleep(0)
        for seconds in (2, 298):
            leap(seconds)
            await settled()
            assert not call.done
        leap(3)
        with pytest.raises(UpstreamError) as caught:
            await call
        assert (caught.value.kind, caught.value.detail) == ("timeout", "silent for 300 s")
        assert made.stats() == {}
        await upstream.all_closed()


@on_asyncio
async def test_a_call_that_is_not_silent_goes_on_as_long_as_it_likes():
    go = asyncio.Semaphore(0)

    async def handler(reader, writer):
        await head_of(reader)
        writer.write(OK + b"Content-Length: 5\r\n\r\n")
        for byte in b"hello":
            await go.acquire()
            writer.write(bytes([byte]))

    async with peer(handler) as upstream, client() as made:
        call = made.send(upstream.origin, GET, method=b"GET", idle_timeout=10.0)
        answer = await call
        for byte in b"hello":
            leap(8)
            await settled()
            go.release()
            assert await answer.read() == bytes([byte])
        assert await answer.read() == b""
        assert made.stats()[upstream.origin] == PoolStats(1, 1, 0)


@on_asyncio
async def test_calls_that_follow_each_other_on_one_connection_are_not_one_silence():
    go = asyncio.Semaphore(0)

    async def handler(reader, writer):
        while True:
            await head_of(reader)
            await go.acquire()
            writer.write(HELLO)

    async with peer(handler) as upstream, client() as made:
        for _ in range(5):
            call = made.send(upstream.origin, GET, method=b"GET", idle_timeout=10.0)
            while call.connection is None:
                await asyncio.sleep(0)
            leap(9)
            await settled()
            go.release()
            await call
        assert upstream.connections == 1


# Bodies


@on_both_loops
async def test_a_body_arrives_as_it_is():
    async def handler(reader, writer):
        head = await head_of(reader)
        body = await reader.readexactly(int(head.split(b"Length: ")[1]))
        writer.write(OK + b"Content-Length: %d\r\n\r\n" % len(body) + body)

    for size in (0, 1, 16_384, 16_385, 3_000_000):
        async with peer(handler) as upstream, client() as made:
            body = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
            head = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % size
            answer = await made.send(upstream.origin, head, body, method=b"POST", buffer=size)
            assert answer.complete
            assert answer.body == body


@on_both_loops
async def test_a_body_is_written_bit_by_bit_no_faster_than_it_is_taken():
    size = 8_000_000
    go = asyncio.Event()

    async def handler(reader, writer):
        await head_of(reader)
        await go.wait()
        await reader.readexactly(size)
        writer.write(HELLO)
        await head_of(reader)
        writer.write(HELLO)

    async with peer(handler) as upstream, client() as made:
        head = b"PUT / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % size
        call = made.send(upstream.origin, head, None, method=b"PUT")
        call.write(b"early")
        written = 5
        uploaded = asyncio.get_running_loop().create_future()

        async def upload():
            nonlocal written
            while written < size:
                assert await call.drain()
                data = b"x" * min(10_000, size - written)
                call.write(data)
                written += len(data)
            call.end()
            uploaded.set_result(None)

        task = asyncio.create_task(upload())
        await stands_still(lambda: written)
        assert written < size
        go.set()
        await uploaded
        await task
        assert (await call).body == b"hello"
        assert not await call.drain()
        assert made.stats()[upstream.origin] == PoolStats(1, 1, 0)
        await made.send(upstream.origin, GET, method=b"GET")
        assert upstream.connections == 1


@pytest.mark.parametrize("linger", [True, False])
@on_both_loops
async def test_an_answer_that_comes_before_the_whole_body_is_delivered(linger):
    async def handler(reader, writer):
        await head_of(reader)
        writer.write(b"HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\nno")
        await writer.drain()
        if linger:
            await reader.read()
        # else: closed with unread bytes, which resets the connection

    async with peer(handler) as upstream, client() as made:
        head = b"PUT / HTTP/1.1\r\nHost: x\r\nContent-Length: 90000000\r\n\r\n"
        call = made.send(upstream.origin, head, None, method=b"PUT")
        written = 0
        while await call.drain():
            call.write(b"x" * 50_000)
            written += 50_000
            await asyncio.sleep(0)
        answer = await call
        assert (answer.status, answer.body, answer.complete) == (413, b"no", True)
        assert written < 90_000_000
        call.write(b"more")
        call.end()
        assert made.stats() == {}
        await upstream.all_closed()


@on_both_loops
async def test_a_writer_that_waits_for_room_is_told_when_the_answer_came():
    go = asyncio.Event()

    async def handler(reader, writer):
        await head_of(reader)
        await go.wait()
        writer.write(b"HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\nno")
        await asyncio.Event().wait()

    async with peer(handler) as upstream, client() as made:
        head = b"PUT / HTTP/1.1\r\nHost: x\r\nContent-Length: 90000000\r\n\r\n"
        call = made.send(upstream.origin, head, None, method=b"PUT")
        written = 0

        async def upload():
            nonlocal written
            while await call.drain():
                call.write(b"x" * 50_000)
                written += 50_000

        task = asyncio.create_task(upload())
        while call.connection is None or not call.connection.write_paused:
            await asyncio.sleep(0)
        await stands_still(lambda: written)
        go.set()
        assert (await call).status == 413
        await task


@on_both_loops
async def test_a_reset_does_not_eat_the_answer_before_it():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        async with client() as made:
            head = b"PUT / HTTP/1.1\r\nHost: x\r\nContent-Length: 90000000\r\n\r\n"
            call = made.send(Origin(*listener.getsockname()), head, None, method=b"PUT")
            while call.connection is None:
                await asyncio.sleep(0)
            await asyncio.sleep(0)
            # From here on the event loop does not run until the reset has arrived and a write has met it.
            accepted, _ = listener.accept()
            accepted.sendall(b"HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\nno")
            accepted.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            accepted.close()
            call.end()
            call.write(b"x" * 100)
            answer = await call
            assert (answer.status, answer.body) == (413, b"no")
            assert made.stats() == {}


@on_both_loops
async def test_an_answer_before_the_end_of_a_body_at_hand_is_delivered_and_the_rest_is_not_sent():
    go = asyncio.Event()
    arrived = asyncio.get_running_loop().create_future()

    async def handler(reader, writer):
        await head_of(reader)
        writer.write(b"HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\nno")
        await go.wait()
        size = 0
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(1_000_000):
                size += len(data)
        arrived.set_result(size)

    async with peer(handler) as upstream, client() as made:
        head = b"PUT / HTTP/1.1\r\nHost: x\r\nContent-Length: 30000000\r\n\r\n"
        answer = await made.send(upstream.origin, head, b"x" * 30_000_000, method=b"PUT")
        assert (answer.status, answer.body) == (413, b"no")
        assert made.stats() == {}
        go.set()
        assert await arrived < 30_000_000


@on_both_loops
async def test_request_and_answer_may_stream_at_the_same_time():
    async def handler(reader, writer):
        await head_of(reader)
        writer.write(OK + b"Transfer-Encoding: chunked\r\n\r\n")
        while (line := await reader.readline()) != b"end\n":
            writer.write(b"%x\r\n%b\r\n" % (len(line), line))
        writer.write(b"0\r\n\r\n")
        await reader.read()

    async with peer(handler) as upstream, client() as made:
        head = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 21\r\n\r\n"
        call = made.send(upstream.origin, head, None, method=b"POST")
        answer = await call
        for line in (b"one\n", b"two\n"):
            call.write(line)
            assert await answer.read() == line
        call.write(b"end\n")
        assert await answer.read() == b""
        assert made.stats() == {}, "the body was not ended, so the connection is not kept"
        await upstream.all_closed()


# Upgrades


UPGRADE = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n"
SWITCH = b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n"


async def echo(reader, writer):
    await head_of(reader)
    writer.write(SWITCH + b"first")
    while data := await reader.read(1000):
        writer.write(data)


class Raw(asyncio.Protocol):
    def __init__(self):
        self.got = b""
        self.lost = asyncio.get_running_loop().create_future()

    def data_received(self, data):
        self.got += data

    def connection_lost(self, error):
        self.lost.set_result(error)


@on_both_loops
async def test_an_upgraded_connection_is_handed_over():
    async with peer(echo) as upstream, client() as made:
        answer = await made.send(upstream.origin, UPGRADE, method=b"GET")
        assert (answer.status, answer.upgraded, answer.complete) == (101, True, False)
        assert made.stats()[upstream.origin] == PoolStats(1, 0, 0)
        raw = Raw()
        transport, leftover = answer.take_over(raw)
        assert made.stats() == {}
        transport.write(b" and second")
        await stands_still(lambda: raw.got)
        assert raw.got == b""
        transport.resume_reading()
        while leftover + raw.got != b"first and second":
            await asyncio.sleep(0)
        transport.close()
        await raw.lost
        await upstream.all_closed()


@on_both_loops
async def test_an_upgraded_connection_that_nobody_wants_is_closed():
    async with peer(echo) as upstream, client() as made:
        answer = await made.send(upstream.origin, UPGRADE, method=b"GET")
        answer.close()
        assert made.stats() == {}
        await upstream.all_closed()
        with pytest.raises(UpstreamError, match="was closed"):
            answer.take_over(Raw())


@on_both_loops
async def test_a_refused_upgrade_is_an_ordinary_answer():
    async with peer(answering(HELLO)) as upstream, client() as made:
        answer = await made.send(upstream.origin, UPGRADE, method=b"GET")
        assert (answer.status, answer.upgraded, answer.body) == (200, False, b"hello")
        assert made.stats()[upstream.origin] == PoolStats(1, 1, 0)


def test_origins_are_equal_by_value_and_print_well():
    assert Origin("a", 1) == Origin("a", 1)
    assert hash(Origin("a", 1)) == hash(Origin("a", 1))
    assert Origin("a", 1) != Origin("a", 1, tls=True)
    assert (str(Origin("a", 1)), str(Origin("::1", 1))) == ("a:1", "[::1]:1")
