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

        assert await all_of(cases, check) == {}
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
