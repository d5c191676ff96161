"""What is no good request is answered 400 (or its kin), the connection closed, and not one byte sent upstream."""

import asyncio
import re

import pytest

from tests.bad_requests import BAD, BAD_BODY, CHUNKED, TOO_LARGE, in_other_ways
from tests.engine_peers import on_both_loops
from tests.engine_proxy import both, until

OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nx-mesh-attempts: 1\r\n\r\nok"
GOOD = b"GET /good HTTP/1.1\r\nHost: up\r\n\r\n"


def answers(data: bytes) -> int:
    return len(re.findall(rb"HTTP/1\.1 \d\d\d ", data))


async def all_of(names, check):
    """Which of these cases fail the check, and how."""
    failed = {}
    for name in names:
        try:
            await check(name)
        except Exception as error:
            failed[name] = repr(error)
    return failed


@on_both_loops
async def test_refused():
    cases = BAD | in_other_ways()
    async with both() as (proxy, upstream):

        async def check(name):
            status, data = cases[name]
            client = await proxy.connect(data)
            answer = await client.rest()
            assert answer.startswith(b"HTTP/1.1 %d " % status), answer
            assert answers(answer) == 1, answer
            assert b"\r\nconnection: close\r\n" in answer
            assert b"\r\nx-mesh-flag: DPE\r\n" in answer
            told.append((status, "DPE"))

        told = []
        assert await all_of(cases, check) == {}
        assert [(line["status"], line["flags"]) for line in proxy.log] == told
        assert upstream.bytes == b""
        assert not proxy.client.stats()


@on_both_loops
async def test_what_came_before_is_answered_first():
    """In one packet with what is refused: three answers, in order, then the end."""
    async with both() as (proxy, upstream):

        async def check(name):
            status, data = BAD[name]
            client = await proxy.connect(GOOD * 2 + data)
            answer = await client.rest()
            assert answer.startswith(OK + OK + b"HTTP/1.1 %d " % status), answer
            assert answers(answer) == 3, answer

        assert await all_of(BAD, check) == {}
        assert {request.target for request, _, _ in upstream.requests} == {b"/good"}
        assert upstream.bytes.count(b" HTTP/1.1\r\n") == len(BAD) * 2


@pytest.mark.parametrize("bytewise", [False, True])
@on_both_loops
async def test_a_bad_chunk(bytewise):
    """Nothing of it is sent upstream, or what was begun there is cut; the client is told."""
    async with both() as (proxy, upstream):

        async def check(name):
            body = BAD_BODY[name]
            client = await proxy.connect()
            if bytewise and len(body) < 100:
                client.send(CHUNKED)
                for index in range(len(body)):
                    client.send(body[index : index + 1])
                    await asyncio.sleep(0)
            else:
                client.send(CHUNKED + body)
            answer = await client.rest()
            assert answer.startswith(b"HTTP/1.1 %d " % (431 if name in TOO_LARGE else 400)), answer
            assert answers(answer) == 1, answer
            assert upstream.requests == []
            await proxy.idle()
            assert not proxy.client.stats()

        assert await all_of(BAD_BODY, check) == {}


@on_both_loops
async def test_a_bad_chunk_in_the_middle_cuts_the_attempt():
    """The upstream has the head and a chunk: its connection is closed, and no second attempt made."""
    async with both(policy="retry: {attempts: 3, methods: [POST]}") as (proxy, upstream):
        client = await proxy.connect(CHUNKED + b"3\r\nabc\r\n")
        await until(lambda: upstream.bytes.endswith(b"3\r\nabc\r\n"))
        client.send(b"zz\r\n")
        answer = await client.rest()
        assert answer.startswith(b"HTTP/1.1 400 ")
        await until(lambda: upstream.closed == 1)
        assert upstream.requests == []
        assert len(upstream.received) == 1
        await proxy.idle()
        (line,) = proxy.log
        assert (line["status"], line["flags"], len(line["attempts"])) == (None, "DPE", 1)


UNKNOWN = {"method": None, "host": None, "path": None, "user_agent": None}


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b"\x16\x03\x01", UNKNOWN),
        (b"GET / ICE/1.0\r\nHost: up\r\n\r\n", UNKNOWN),
        (b"GET /a\r\nHost: up\r\n\r\n", {"method": "GET", "host": "up:80", "path": "/a"}),
        (b"GET /" + b"a" * 17_000, UNKNOWN | {"status": 414}),
        (
            b"PUT /a HTTP/1.1\r\nUser-Agent: me\r\n\r\n",
            {"method": "PUT", "host": None, "path": "/a", "user_agent": "me"},
        ),
        (b"GET /a HTTP/1.0\r\nHost: up\r\nHost: up\r\n\r\n", {"host": "up:80", "protocol": "HTTP/1.0"}),
        (b"GET * HTTP/1.1\r\nHost: up:81\r\n\r\n", {"method": "GET", "host": "up:81", "path": "*"}),
        (b"GET https://up/a#b HTTP/1.1\r\nHost: x\r\n\r\n", {"host": "up:443", "path": "/a#b"}),
        (b"GET ftp://up/a HTTP/1.1\r\nHost: x\r\n\r\n", {"host": None, "path": "ftp://up/a"}),
        (b"GET /a HTTP/1.1\r\nHost: u p\r\n\r\n", {"method": "GET", "host": None, "path": "/a"}),
        (CHUNKED + b"x", {"method": "POST", "host": "up:80", "path": "/"}),
        (CHUNKED + b"0\r\n%b\r\n" % (b"A: b\r\n" * 201), {"method": "POST", "path": "/", "status": 431}),
    ],
)
@on_both_loops
async def test_what_is_known_of_it_is_logged(data, told):
    async with both() as (proxy, _):
        client = await proxy.connect(data)
        head, _, body = (await client.rest()).partition(b"\r\n\r\n")
        (line,) = proxy.log
        always = {"protocol": "HTTP/1.1", "status": 400, "flags": "DPE", "service": "", "route": None}
        wanted = always | {"attempts": [], "upstream_ms": None, "bytes_out": len(body)} | told
        assert {name: line[name] for name in wanted} == wanted
        assert b"HTTP/1.1 %d " % line["status"] in head


@on_both_loops
async def test_a_head_that_takes_too_long_is_told_with_the_time_that_it_took():
    async with both() as (proxy, _):
        client = await proxy.connect(b"GET / HT")
        await until(lambda: any(each._reader.in_head for each in proxy.connections))
        proxy.look(later=11)
        assert b"\r\nx-mesh-flag: SI\r\n" in await client.rest()
        (line,) = proxy.log
        assert {name: line[name] for name in UNKNOWN} == UNKNOWN
        assert (line["status"], line["flags"]) == (408, "SI")
        assert 11_000 <= line["duration_ms"] < 60_000


@pytest.mark.parametrize(
    ("first", "status", "flag"),
    [
        (GOOD + CHUNKED + b"3\r\n", 400, "DPE"),
        (CHUNKED + b"3\r\n", 400, "DPE"),
        (CHUNKED + b"3\r\n", 408, "SI"),
    ],
)
@on_both_loops
async def test_what_breaks_in_the_middle_is_told_once(first, status, flag):
    """By its exchange, if it was begun."""
    async with both() as (proxy, _):
        client = await proxy.connect(first)
        await until(lambda: any(each._reader.reading and each._driver for each in proxy.connections))
        if status == 400:
            client.send(b"abcx")
        else:
            proxy.look(later=301)
        answer = await client.rest()
        assert b"HTTP/1.1 %d " % status in answer
        assert b"\r\nx-mesh-flag: %b\r\n" % flag.encode() in answer
        await proxy.idle()
        assert [line["flags"] for line in proxy.log if line["method"] == "POST"] == [flag]


@pytest.mark.parametrize("waits", [False, True])
@on_both_loops
async def test_an_addon_is_told(waits):
    told = []

    class Addon:
        if waits:

            async def mesh_refused(self, flow):
                await asyncio.sleep(0)
                told.append(flow)

        else:

            def mesh_refused(self, flow):
                told.append(flow)

    async with both(Addon()) as (proxy, _):
        client = await proxy.connect(GOOD + BAD["fragment"][1])
        await client.rest()
        await until(lambda: told)
        (flow,) = told
        assert (flow.request.method, flow.request.path, flow.request.host) == ("GET", "/a#b", "up")
        assert (flow.response.status_code, flow.response.headers["x-mesh-flag"]) == (400, "DPE")
        assert flow.client_conn.peername[0] == "127.0.0.1"
        assert flow.response.text == "a target with a fragment\n"
        assert not flow.live
        flow.get_state()


@on_both_loops
async def test_the_logs_failure_is_not_the_clients(caplog):
    class Addon:
        def mesh_refused(self, flow):
            raise RuntimeError("broken")

    async with both(Addon()) as (proxy, _):
        client = await proxy.connect(BAD["fragment"][1])
        assert (await client.rest()).startswith(b"HTTP/1.1 400 ")
        assert "broken" in caplog.text
        assert len(proxy.log) == 1
