"""One client's connection on real sockets: turns, holding back, clocks, leaving, handing away."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator

import pytest

from addons.engine import client_link
from addons.engine.errors import BadRequest, ClientGone
from addons.engine.server import ServerConnection
from tests.engine_peers import on_both_loops
from tests.engine_proxy import Raw, until, within

GET = b"GET /%d HTTP/1.1\r\nHost: x\r\n\r\n"
POST = b"POST /%d HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n"
CHUNKED = b"POST /%d HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"


def ok(body: bytes = b"", *fields: bytes) -> bytes:
    return b"".join(
        (
            b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n" % len(body),
            *[f + b"\r\n" for f in fields],
            b"\r\n",
            body,
        )
    )


class Listening:
    """Accepts, with a clock that can be put forward. made: every connection; closed: those that told so."""

    def __init__(self, serve) -> None:
        self.serve = serve
        self.made: list[ServerConnection] = []
        self.closed: list[ServerConnection] = []
        self.leap = 0.0
        self.port = 0
        self.errors: list[dict] = []

    def accept(self) -> ServerConnection:
        self.made.append(ServerConnection(self.serve, self.closed.append, self.clock))
        return self.made[-1]

    def clock(self) -> float:
        return asyncio.get_running_loop().time() + self.leap

    def look(self, later: float) -> None:
        self.leap += later
        for each in self.made:
            if each not in self.closed:
                each.look(self.clock())

    async def connect(self, data: bytes = b"", receive_buffer: int = 0) -> Raw:
        plain = socket.socket()
        if receive_buffer:
            plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        plain.setblocking(False)
        await asyncio.get_running_loop().sock_connect(plain, ("127.0.0.1", self.port))
        raw = Raw(*await asyncio.open_connection(sock=plain, limit=4096 if receive_buffer else 65536))
        return raw.send(data) if data else raw

    async def all_closed(self) -> None:
        await until(lambda: len(self.closed) == len(self.made))
        assert len(set(map(id, self.closed))) == len(self.closed)


@contextlib.asynccontextmanager
async def listening(serve) -> AsyncIterator[Listening]:
    made = Listening(serve)
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: made.errors.append(context))
    accepting = await loop.create_server(made.accept, "127.0.0.1", 0)
    made.port = accepting.sockets[0].getsockname()[1]
    try:
        yield made
        assert made.errors == []
    finally:
        accepting.close()
        for each in made.made:
            each.abort()
        await made.all_closed()


async def echo(client, incoming):
    """The target and the body."""
    await incoming.whole()
    fields = () if client.keeps_alive(incoming) else (b"connection: close",)
    client.send(ok(incoming.target + b" " + incoming.take(), *fields))


async def nothing(client, incoming):
    client.send(ok())


# Turns


@on_both_loops
async def test_many_requests_in_one_packet_are_answered_in_order_without_a_wait():
    async with listening(echo) as there:
        client = await there.connect(b"".join(GET % number for number in range(5000)))
        for number in range(5000):
            await client.expect(ok(b"/%d " % number))


@on_both_loops
async def test_one_at_a_time_and_in_order_whoever_is_faster():
    running = []

    async def serve(client, incoming):
        assert not running
        running.append(incoming)
        await asyncio.sleep(0.02 if incoming.target == b"/0" else 0)
        running.clear()
        await echo(client, incoming)

    async with listening(serve) as there:
        client = await there.connect(b"".join(GET % number for number in range(4)))
        for number in range(4):
            await client.expect(ok(b"/%d " % number))
        assert len(there.made) == 1


@pytest.mark.parametrize("size", [5, 300_000])
@on_both_loops
async def test_a_request_whose_body_is_still_to_come_waits_behind_another(size):
    """Its packet made the reading stop; it must go on for the body."""
    go = asyncio.Event()

    async def serve(client, incoming):
        if incoming.target == b"/0":
            await go.wait()
        await echo(client, incoming)

    async with listening(serve) as there:
        client = await there.connect(GET % 0 + POST % (1, size) + b"a" * (size // 2))
        await until(lambda: there.made and there.made[0]._reader.arrived)
        go.set()
        await client.expect(ok(b"/0 "))
        client.send(b"a" * (size - size // 2) + GET % 2)
        await client.expect(ok(b"/1 " + b"a" * size) + ok(b"/2 "))


@on_both_loops
async def test_a_client_that_does_not_read_is_not_served_on():
    served = []

    async def serve(client, incoming):
        served.append(incoming.target)
        client.send(ok(b"x" * 30_000_000))

    async with listening(serve) as there:
        client = await there.connect(GET % 0 + GET % 1, receive_buffer=4096)
        await until(lambda: served)
        await asyncio.sleep(0.05)
        assert served == [b"/0"]
        for _ in range(2):
            await client.expect(ok(b"x" * 30_000_000))
        assert served == [b"/0", b"/1"]


@on_both_loops
async def test_a_sender_of_much_waits_for_its_reader():
    sizes = []

    async def serve(client, incoming):
        client.send(b"HTTP/1.1 200 OK\r\ncontent-length: 20000000\r\n\r\n")
        for _ in range(2000):
            client.send(b"x" * 10_000)
            sizes.append(client.transport.get_write_buffer_size())
            await client.drain()

    async with listening(serve) as there:
        client = await there.connect(GET % 0, receive_buffer=4096)
        await client.head()
        await client.expect(b"x" * 20_000_000)
        assert max(sizes) < 200_000


@on_both_loops
async def test_a_body_that_nobody_takes_holds_its_sender_back():
    taken = asyncio.Event()
    seen = []

    async def serve(client, incoming):
        seen.append(incoming)
        await taken.wait()
        size = 0
        while await incoming.arrival():
            size += len(incoming.take())
        client.send(ok(b"%d" % size))

    async with listening(serve) as there:
        client = await there.connect(POST % (0, 50_000_000))
        client.send(b"a" * 50_000_000)
        await until(lambda: seen and seen[0]._size > 60_000)
        await asyncio.sleep(0.05)
        assert seen[0]._size < 1_000_000
        taken.set()
        await client.expect(ok(b"50000000"))


@on_both_loops
async def test_a_body_that_somebody_wants_whole_is_not_held_back():
    start = asyncio.Event()

    async def serve(client, incoming):
        await start.wait()
        await echo(client, incoming)

    async with listening(serve) as there:
        client = await there.connect(POST % (0, 3_000_000) + b"a" * 3_000_000)
        await until(lambda: there.made and there.made[0]._reading_paused)
        start.set()
        await client.expect(ok(b"/0 " + b"a" * 3_000_000))


# Whether another request may follow


@pytest.mark.parametrize(
    ("version", "connection", "kept"),
    [
        (b"1.1", b"", True),
        (b"1.1", b"Connection: keep-alive\r\n", True),
        (b"1.1", b"Connection: close\r\n", False),
        (b"1.1", b"Connection: foo, CLOSE\r\n", False),
        (b"1.0", b"", False),
        (b"1.0", b"Connection: keep-alive\r\n", True),
        (b"1.0", b"Connection: Keep-Alive, foo\r\n", True),
        (b"1.0", b"Connection: close\r\n", False),
    ],
)
@on_both_loops
async def test_keep_alive(version, connection, kept):
    async with listening(echo) as there:
        client = await there.connect(b"GET /0 HTTP/%b\r\nHost: x\r\n%b\r\n" % (version, connection))
        if kept:
            await client.expect(ok(b"/0 "))
            client.send(GET % 1)
            await client.expect(ok(b"/1 "))
        else:
            assert await client.rest() == ok(b"/0 ", b"connection: close")
            client.close()
            await there.all_closed()


@on_both_loops
async def test_what_follows_a_last_request_is_not_served():
    async with listening(echo) as there:
        client = await there.connect(b"GET /0 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n" + GET % 1)
        assert await client.rest() == ok(b"/0 ", b"connection: close")


@on_both_loops
async def test_an_answer_before_the_end_of_the_request_ends_the_connection_and_is_not_lost():
    """The rest is read and thrown away for a while: a reset would take the answer from the client."""

    async def serve(client, incoming):
        client.send(ok(b"enough", b"connection: close"))

    async with listening(serve) as there:
        client = await there.connect(POST % (0, 10_000_000))
        client.send(b"a" * 10_000_000)
        assert await client.rest() == ok(b"enough", b"connection: close")
        await within(client.writer.drain())
        client.close()
        await there.all_closed()


# 100-continue


@on_both_loops
async def test_a_body_is_asked_for_when_somebody_wants_it():
    async def serve(client, incoming):
        if incoming.target == b"/0":
            await echo(client, incoming)
        else:
            client.send(ok(b"no", b"connection: close"))

    expecting = b"Expect: 100-continue\r\nContent-Length"
    async with listening(serve) as there:
        client = await there.connect((POST % (0, 2)).replace(b"Content-Length", expecting))
        await client.expect(b"HTTP/1.1 100 Continue\r\n\r\n")
        client.send(b"ab")
        await client.expect(ok(b"/0 ab"))
        client.send((POST % (0, 2)).replace(b"Content-Length", expecting) + b"cd")
        await client.expect(ok(b"/0 cd"))
        client.send((POST % (1, 2)).replace(b"Content-Length", expecting))
        assert await client.rest() == ok(b"no", b"connection: close")


# Clocks


@pytest.mark.parametrize("before", [b"", GET % 0, GET % 0 + GET % 1])
@pytest.mark.parametrize("part", [b"GET /", b"GET / HTTP/1.1\r\nHost: x\r\nA: b"])
@on_both_loops
async def test_a_head_that_takes_too_long_is_408(before, part):
    async with listening(echo) as there:
        client = await there.connect(before + part)
        if before:
            await client.answer()
        if before.count(b"GET") == 2:
            await client.answer()
        await until(lambda: there.made and there.made[0]._reader.in_head)
        there.look(client_link.HEAD_TIMEOUT - 1)
        for byte in (b"x", b"y"):
            # A byte now and then does not help.
            client.send(byte)
            await asyncio.sleep(0.01)
        there.look(2)
        answer = await client.rest()
        assert answer.startswith(b"HTTP/1.1 408 Request Timeout\r\n")
        assert b"\r\nconnection: close\r\n" in answer


@pytest.mark.parametrize("before", [b"", GET % 0])
@on_both_loops
async def test_an_idle_connection_is_closed_without_a_word(before):
    async with listening(echo) as there:
        client = await there.connect(before)
        if before:
            await client.answer()
        await until(lambda: there.made)
        there.look(client_link.IDLE_TIMEOUT - 1)
        there.look(2)
        assert await client.rest() == b""


@on_both_loops
async def test_a_request_that_takes_long_is_not_idle_and_its_end_begins_idleness():
    go = asyncio.Event()

    async def serve(client, incoming):
        await go.wait()
        await echo(client, incoming)

    async with listening(serve) as there:
        client = await there.connect(GET % 0)
        await until(lambda: there.made and there.made[0]._driver)
        there.look(client_link.IDLE_TIMEOUT + 1)
        go.set()
        await client.expect(ok(b"/0 "))
        there.look(client_link.IDLE_TIMEOUT - 1)
        client.send(GET % 1)
        await client.expect(ok(b"/1 "))


@pytest.mark.parametrize("gather", [True, False])
@on_both_loops
async def test_a_body_that_stops_coming_is_408(gather):
    gone = []

    async def serve(client, incoming):
        try:
            if gather:
                await incoming.whole()
            while await incoming.arrival():
                incoming.take()
        except ClientGone as error:
            gone.append(error)
            client.refuse(error.refusal)

    async with listening(serve) as there:
        client = await there.connect(POST % (0, 10) + b"abc")
        await until(lambda: there.made and there.made[0]._driver)
        there.look(client_link.IDLE_TIMEOUT - 1)
        client.send(b"d")
        await asyncio.sleep(0.01)
        there.look(client_link.IDLE_TIMEOUT - 1)
        assert not gone
        there.look(2)
        assert (await client.rest()).startswith(b"HTTP/1.1 408 ")
        assert len(gone) == 1


@on_both_loops
async def test_a_body_that_waits_for_us_is_not_late():
    go = asyncio.Event()

    async def serve(client, incoming):
        await go.wait()
        await echo(client, incoming)

    async with listening(serve) as there:
        client = await there.connect(POST % (0, 1_000_000) + b"a" * 1_000_000)
        await until(lambda: there.made and there.made[0]._reading_paused)
        there.look(client_link.IDLE_TIMEOUT + 1)
        there.look(client_link.IDLE_TIMEOUT + 1)
        go.set()
        await client.expect(ok(b"/0 " + b"a" * 1_000_000))


async def take_some(client, link):
    """Read until the proxy has got rid of a little more."""
    before = link.transport.get_write_buffer_size()
    got = 0
    while before and link.transport.get_write_buffer_size() == before:
        got += len(await within(client.reader.read(100_000)))
    return got


@on_both_loops
async def test_a_client_that_stops_reading_is_cut_and_a_slow_one_is_not():
    async def serve(client, incoming):
        client.send(ok(b"x" * 30_000_000))
        await client.drain()

    async with listening(serve) as there:
        client = await there.connect(GET % 0, receive_buffer=4096)
        await client.head()
        for _ in range(3):
            there.look(client_link.STALL_TIMEOUT - 1)
            await take_some(client, there.made[0])
        there.look(1)
        there.look(client_link.STALL_TIMEOUT - 1)
        assert not there.closed
        there.look(2)
        await there.all_closed()


@on_both_loops
async def test_a_last_answer_reaches_a_slow_reader_however_long_it_takes():
    async def serve(client, incoming):
        client.send(ok(b"x" * 30_000_000, b"connection: close"))

    async with listening(serve) as there:
        client = await there.connect(
            b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", receive_buffer=4096
        )
        await client.head()
        got = 0
        for _ in range(20):
            there.look(client_link.LONGEST_LINGER + 1)
            got += await take_some(client, there.made[0])
        assert got + len(await client.rest()) == 30_000_000


@on_both_loops
async def test_a_closing_connection_is_closed_even_if_the_client_does_not():
    async with listening(echo) as there:
        client = await there.connect(b"GET /0 HTTP/1.0\r\n\r\n")
        await client.rest()
        there.look(client_link.LINGER - 1)
        assert not there.closed
        client.send(b"more")
        await asyncio.sleep(0.01)
        there.look(2)
        assert not there.closed
        there.look(client_link.LINGER + 1)
        await there.all_closed()


@on_both_loops
async def test_a_closing_connection_is_closed_even_if_the_client_goes_on_sending():
    async with listening(echo) as there:
        client = await there.connect(b"GET /0 HTTP/1.0\r\n\r\n")
        await client.rest()
        for _ in range(int(client_link.LONGEST_LINGER)):
            client.send(b"more")
            await asyncio.sleep(0.002)
            there.look(1)
        there.look(1)
        await there.all_closed()


# Leaving


@pytest.mark.parametrize("how", ["end", "reset"])
@on_both_loops
async def test_a_client_that_leaves_is_told_of_once_where_the_request_waits(how):
    told = []

    async def serve(client, incoming):
        try:
            await asyncio.get_running_loop().create_future()
        except ClientGone as gone:
            told.append(gone)
            # Cleaning up may take its time and is not disturbed.
            await asyncio.sleep(0.02)
            told.append("cleaned up")
            raise

    async with listening(serve) as there:
        client = await there.connect(GET % 0)
        await until(lambda: there.made and there.made[0]._driver)
        if how == "end":
            client.writer.write_eof()
        else:
            client.reset()
        await until(lambda: told)
        assert not there.closed
        await there.all_closed()
        assert told[1:] == ["cleaned up"]


@on_both_loops
async def test_what_is_settled_is_not_interrupted():
    told = []

    async def serve(client, incoming):
        client.settled = True
        await asyncio.sleep(0.05)
        told.append(client.open)

    async with listening(serve) as there:
        client = await there.connect(GET % 0)
        await until(lambda: there.made and there.made[0]._driver)
        client.reset()
        await there.all_closed()
        assert told == [False]


@on_both_loops
async def test_a_client_that_leaves_while_it_does_not_read():
    told = []

    async def serve(client, incoming):
        try:
            while True:
                client.send(b"x" * 65536)
                await client.drain()
        except ClientGone as gone:
            told.append(gone)
            raise

    async with listening(serve) as there:
        client = await there.connect(GET % 0, receive_buffer=4096)
        await until(lambda: there.made and there.made[0].write_paused)
        client.reset()
        await there.all_closed()
        assert len(told) == 1


@pytest.mark.parametrize("how", ["end", "reset"])
@on_both_loops
async def test_a_client_that_leaves_while_it_is_held_back_is_found_out(how):
    """An event loop that does not read a socket is not told of its end."""
    told = []

    async def serve(client, incoming):
        try:
            await asyncio.get_running_loop().create_future()
        except ClientGone as gone:
            told.append(gone)
            raise

    async with listening(serve) as there:
        client = await there.connect(POST % (0, 10_000_000) + b"a" * 50_000)
        await until(lambda: there.made and there.made[0]._driver)
        client.send(b"a" * 50_000)
        await until(lambda: there.made[0]._reading_paused)
        await asyncio.sleep(0.01)
        there.look(0)
        assert not told
        if how == "end":
            client.writer.write_eof()
        else:
            client.reset()
        await until(lambda: there.look(0) or told)
        await there.all_closed()


@pytest.mark.parametrize("data", [b"", b"GET", GET % 0 + b"GET"])
@on_both_loops
async def test_a_client_that_leaves_between_requests(data):
    async with listening(echo) as there:
        client = await there.connect(data)
        if data.endswith(b"GET") and len(data) > 3:
            await client.answer()
        client.close()
        await there.all_closed()


@on_both_loops
async def test_a_handler_that_fails_cuts_the_connection_and_is_told():
    async def serve(client, incoming):
        client.send(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf")
        raise LookupError("no luck")

    async with listening(serve) as there:
        client = await there.connect(GET % 0)
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await client.answer()
        await there.all_closed()
        assert [str(context["exception"]) for context in there.errors] == ["no luck"]
        there.errors.clear()


# A bad rest


@pytest.mark.parametrize("answered", [False, True])
@on_both_loops
async def test_a_bad_chunk_reaches_whoever_waits_for_whatever(answered):
    told = []

    async def serve(client, incoming):
        if answered:
            client.send(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf")
        try:
            await asyncio.get_running_loop().create_future()
        except ClientGone as gone:
            told.append(gone.refusal.status)
            if answered:
                client.abort()
            else:
                client.refuse(gone.refusal)

    async with listening(serve) as there:
        client = await there.connect(CHUNKED % 0 + b"1\r\na\r\n")
        await until(lambda: there.made and there.made[0]._driver)
        client.send(b"x\r\n" + GET % 1)
        if answered:
            with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
                await client.answer()
        else:
            assert (await client.rest()).startswith(b"HTTP/1.1 400 ")
        assert told == [400]


@on_both_loops
async def test_a_bad_chunk_of_a_request_that_waits_for_its_turn():
    go = asyncio.Event()
    served = []

    async def serve(client, incoming):
        served.append(incoming.target)
        await go.wait()
        await echo(client, incoming)

    async with listening(serve) as there:
        client = await there.connect(GET % 0 + CHUNKED % 1 + b"1\r\na\r\n")
        await until(lambda: there.made and there.made[0]._reader.reading)
        there.made[0].release()
        client.send(b"x\r\n")
        await until(lambda: there.made[0]._refusal)
        go.set()
        await client.expect(ok(b"/0 "))
        assert (await client.rest()).startswith(b"HTTP/1.1 400 ")
        assert served == [b"/0"]


# Stopping


@pytest.mark.parametrize("part", [b"", b"GET"])
@on_both_loops
async def test_a_stop_closes_what_is_idle(part):
    async with listening(echo) as there:
        client = await there.connect(GET % 0)
        await client.answer()
        if part:
            client.send(part)
            await until(lambda: there.made[0]._reader.in_head)
        there.made[0].shut()
        assert await client.rest() == b""
        await there.all_closed()


@on_both_loops
async def test_a_stop_lets_what_runs_finish():
    go = asyncio.Event()

    async def serve(client, incoming):
        await go.wait()
        await echo(client, incoming)

    async with listening(serve) as there:
        client = await there.connect(GET % 0)
        await until(lambda: there.made and there.made[0]._driver)
        there.made[0].shut()
        go.set()
        assert await client.rest() == ok(b"/0 ", b"connection: close")


# Handing away


@on_both_loops
async def test_a_connection_that_is_given_away_is_somebody_elses():
    class Other(asyncio.Protocol):
        def data_received(self, data):
            there.made[0].transport.write(data.upper())

    async def serve(client, incoming):
        if not incoming.upgrade:
            await echo(client, incoming)
            return
        client.send(b"HTTP/1.1 101 Switching Protocols\r\n\r\n")
        behind = client.give_away(Other())
        client.transport.write(behind)

    async with listening(serve) as there:
        client = await there.connect(
            GET % 0 + b"GET /1 HTTP/1.1\r\nHost: x\r\nConnection: upgrade\r\nUpgrade: y\r\n\r\nbehind"
        )
        await client.expect(ok(b"/0 ") + b"HTTP/1.1 101 Switching Protocols\r\n\r\nbehind")
        await there.all_closed()
        client.send(b"more")
        await client.expect(b"MORE")
        there.look(10_000)
        client.send(b"and more")
        await client.expect(b"AND MORE")


@pytest.mark.parametrize("bytewise", [False, True])
@on_both_loops
async def test_a_request_that_is_given_back_loses_nothing(bytewise):
    asked = b"POST /1 HTTP/1.0\r\nHost: x\r\nA: b\r\nConnection: upgrade\r\nUpgrade: y\r\n\r\n"
    taken = []

    async def serve(client, incoming):
        if not incoming.upgrade:
            await echo(client, incoming)
            return

        class Rest(asyncio.Protocol):
            def data_received(self, data):
                taken.append(data)

        def take_back(data):
            taken.append(data)
            client.transport.set_protocol(Rest())

        client.take_back = take_back
        client.give_back(incoming)

    async with listening(serve) as there:
        client = await there.connect()
        data = GET % 0 + asked + b"\0\1\2behind"
        for piece in [data[i : i + 1] for i in range(len(data))] if bytewise else [data]:
            client.send(piece)
            await asyncio.sleep(0)
        await client.expect(ok(b"/0 "))
        await until(lambda: b"".join(taken) == asked + b"\0\1\2behind")
        await there.all_closed()
        client.send(b"more")
        await until(lambda: b"".join(taken).endswith(b"more"))


@on_both_loops
async def test_an_upgrade_that_is_declined_goes_on_with_what_came_behind():
    async with listening(echo) as there:
        client = await there.connect(
            b"GET /0 HTTP/1.1\r\nHost: x\r\nConnection: upgrade\r\nUpgrade: y\r\n\r\n"
            + GET % 1
            + POST % (2, 2)
        )
        await client.expect(ok(b"/0 ") + ok(b"/1 "))
        client.send(b"ab")
        await client.expect(ok(b"/2 ab"))


@on_both_loops
async def test_refusals_say_why():
    async def serve(client, incoming):
        client.refuse(BadRequest(501, "not here"))

    async with listening(serve) as there:
        client = await there.connect(GET % 0 + GET % 1)
        answer = await client.rest()
        assert answer == (
            b"HTTP/1.1 501 Not Implemented\r\ncontent-type: text/plain; charset=utf-8\r\n"
            b"x-mesh-flag: DPE\r\ncontent-length: 9\r\nconnection: close\r\n\r\nnot here\n"
        )
