"""What is no good request is answered 400 (or its kin), the connection closed, and not one byte sent upstream."""

import asyncio
import re

import pytest

from tests.engine_peers import on_both_loops
from tests.engine_proxy import both, until

OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nx-mesh-attempts: 1\r\n\r\nok"
GOOD = b"GET /good HTTP/1.1\r\nHost: up\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nHost: up\r\n"
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"

BAD = {
    "length and chunked": (400, POST + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    "chunked and length": (400, POST + b"Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n"),
    "length twice, differing": (400, POST + b"Content-Length: 3\r\nContent-Length: 4\r\n\r\nabcd"),
    "length twice, the same": (400, POST + b"Content-Length: 3\r\nContent-Length: 3\r\n\r\nabc"),
    "length as a list": (400, POST + b"Content-Length: 3, 3\r\n\r\nabc"),
    "length with a sign": (400, POST + b"Content-Length: +3\r\n\r\nabc"),
    "negative length": (400, POST + b"Content-Length: -3\r\n\r\nabc"),
    "hexadecimal length": (400, POST + b"Content-Length: 0x3\r\n\r\nabc"),
    "length with an underscore": (400, POST + b"Content-Length: 1_0\r\n\r\n0123456789"),
    "length of spaced digits": (400, POST + b"Content-Length: 1 0\r\n\r\n0123456789"),
    "empty length": (400, POST + b"Content-Length:\r\n\r\nabc"),
    "length beyond 64 bits": (400, POST + b"Content-Length: 18446744073709551617\r\n\r\na"),
    "two codings": (400, POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n"),
    "chunked not last": (400, POST + b"Transfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n"),
    "chunked twice": (
        400,
        POST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ),
    "chunked, then identity": (
        400,
        POST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n",
    ),
    "identity": (400, POST + b"Transfer-Encoding: identity\r\n\r\n"),
    "xchunked": (400, POST + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n"),
    "chunked quoted": (400, POST + b'Transfer-Encoding: "chunked"\r\n\r\n0\r\n\r\n'),
    "chunked behind a comma": (400, POST + b"Transfer-Encoding: ,chunked\r\n\r\n0\r\n\r\n"),
    "chunked with a parameter": (400, POST + b"Transfer-Encoding: chunked;q=1\r\n\r\n0\r\n\r\n"),
    "chunked behind a vertical tab": (400, POST + b"Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n"),
    "empty coding": (400, POST + b"Transfer-Encoding:\r\n\r\n0\r\n\r\n"),
    "chunked in 1.0": (
        400,
        b"POST / HTTP/1.0\r\nHost: up\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ),
    "space before the colon": (400, b"GET / HTTP/1.1\r\nHost : up\r\n\r\n"),
    "space before the length's colon": (400, POST + b"Content-Length : 3\r\n\r\nabc"),
    "folded": (400, b"GET / HTTP/1.1\r\nHost: up\r\nA: b\r\n c\r\n\r\n"),
    "folded host": (400, b"GET / HTTP/1.1\r\nHost:\r\n up\r\n\r\n"),
    "folded at once": (400, b"GET / HTTP/1.1\r\n Host: up\r\n\r\n"),
    "folded length": (400, POST + b"Content-Length:\r\n 3\r\n\r\nabc"),
    "carriage return in a value": (400, b"GET / HTTP/1.1\r\nHost: up\r\nA: b\rc\r\n\r\n"),
    "carriage return ends a line": (400, b"GET / HTTP/1.1\r\nHost: up\rA: b\r\n\r\n"),
    "NUL in a value": (400, b"GET / HTTP/1.1\r\nHost: up\r\nA: b\0c\r\n\r\n"),
    "NUL in a name": (400, b"GET / HTTP/1.1\r\nHost: up\r\nA\0: b\r\n\r\n"),
    "control character in a value": (400, b"GET / HTTP/1.1\r\nHost: up\r\nA: b\x01c\r\n\r\n"),
    "line feed alone": (400, b"GET / HTTP/1.1\nHost: up\n\n"),
    "line feed alone behind a field": (400, b"GET / HTTP/1.1\r\nHost: up\nA: b\r\n\r\n"),
    "no name": (400, b"GET / HTTP/1.1\r\nHost: up\r\n: b\r\n\r\n"),
    "no colon": (400, b"GET / HTTP/1.1\r\nHost: up\r\nAb\r\n\r\n"),
    "brackets in a name": (400, b"GET / HTTP/1.1\r\nHost: up\r\n(a): b\r\n\r\n"),
    "no host": (400, b"GET / HTTP/1.1\r\nA: b\r\n\r\n"),
    "two hosts": (400, b"GET / HTTP/1.1\r\nHost: up\r\nHost: up\r\n\r\n"),
    "two hosts, differing": (400, b"GET / HTTP/1.1\r\nHost: up\r\nhOsT: other\r\n\r\n"),
    "two hosts in 1.0": (400, b"GET / HTTP/1.0\r\nHost: up\r\nHost: up\r\n\r\n"),
    "absolute URL and two hosts": (400, b"GET http://up/ HTTP/1.1\r\nHost: up\r\nHost: up\r\n\r\n"),
    "empty host": (400, b"GET / HTTP/1.1\r\nHost:\r\n\r\n"),
    "host with a space": (400, b"GET / HTTP/1.1\r\nHost: up x\r\n\r\n"),
    "host with a path": (400, b"GET / HTTP/1.1\r\nHost: up/x\r\n\r\n"),
    "host with a user": (400, b"GET / HTTP/1.1\r\nHost: me@up\r\n\r\n"),
    "two hosts in one": (400, b"GET / HTTP/1.1\r\nHost: up:80:80\r\n\r\n"),
    "host with a bad port": (400, b"GET / HTTP/1.1\r\nHost: up:70000\r\n\r\n"),
    "host with port 0": (400, b"GET / HTTP/1.1\r\nHost: up:0\r\n\r\n"),
    "host with half a bracket": (400, b"GET / HTTP/1.1\r\nHost: [::1\r\n\r\n"),
    "URL without a host": (400, b"GET http:///x HTTP/1.1\r\nHost: up\r\n\r\n"),
    "URL with a user": (400, b"GET http://me:pw@up/x HTTP/1.1\r\nHost: up\r\n\r\n"),
    "URL of another scheme": (400, b"GET ftp://up/x HTTP/1.1\r\nHost: up\r\n\r\n"),
    "fragment": (400, b"GET /a#b HTTP/1.1\r\nHost: up\r\n\r\n"),
    "fragment in a URL": (400, b"GET http://up/a#b HTTP/1.1\r\nHost: up\r\n\r\n"),
    "asterisk": (400, b"GET * HTTP/1.1\r\nHost: up\r\n\r\n"),
    "relative target": (400, b"GET a/b HTTP/1.1\r\nHost: up\r\n\r\n"),
    "NUL in the target": (400, b"GET /a\0b HTTP/1.1\r\nHost: up\r\n\r\n"),
    "tab in the target": (400, b"GET /a\tb HTTP/1.1\r\nHost: up\r\n\r\n"),
    "byte beyond ASCII in the target": (400, b"GET /\xff HTTP/1.1\r\nHost: up\r\n\r\n"),
    "space in the target": (400, b"GET /a b HTTP/1.1\r\nHost: up\r\n\r\n"),
    "0.9": (400, b"GET /\r\n\r\n"),
    "2.0": (400, b"GET / HTTP/2.0\r\nHost: up\r\n\r\n"),
    "1.2": (400, b"GET / HTTP/1.2\r\nHost: up\r\n\r\n"),
    "3.0": (400, b"GET / HTTP/3.0\r\nHost: up\r\n\r\n"),
    "1.11": (400, b"GET / HTTP/1.11\r\nHost: up\r\n\r\n"),
    "lower-case version": (400, b"GET / http/1.1\r\nHost: up\r\n\r\n"),
    "other protocol": (400, b"GET / ICE/1.0\r\nHost: up\r\n\r\n"),
    "long target": (414, b"GET /%b HTTP/1.1\r\nHost: up\r\n\r\n" % (b"a" * 17_000)),
    "long target without an end": (414, b"GET /" + b"a" * 17_000),
    "large field": (431, b"GET / HTTP/1.1\r\nHost: up\r\nA: %b\r\n\r\n" % (b"a" * 66_000)),
    "large fields": (431, b"GET / HTTP/1.1\r\nHost: up\r\n%b\r\n" % (b"A: %b\r\n" % (b"a" * 990) * 70)),
    "fields without an end": (431, b"GET / HTTP/1.1\r\nHost: up\r\nA: " + b"a" * 600_000),
    "many fields": (431, b"GET / HTTP/1.1\r\nHost: up\r\n%b\r\n" % (b"A: b\r\n" * 201)),
    "CONNECT with a body": (400, b"CONNECT up:80 HTTP/1.1\r\nHost: up:80\r\nContent-Length: 1\r\n\r\na"),
}
BAD_BODY = {
    "no size": b"\r\nabc\r\n0\r\n\r\n",
    "no number": b"g\r\nabc\r\n0\r\n\r\n",
    "sign": b"+3\r\nabc\r\n0\r\n\r\n",
    "minus": b"-3\r\nabc\r\n0\r\n\r\n",
    "0x": b"0x3\r\nabc\r\n0\r\n\r\n",
    "underscore": b"0_3\r\nabc\r\n0\r\n\r\n",
    "too large": b"ffffffffffffffff1\r\nabc\r\n0\r\n\r\n",
    "space behind the size": b"3 \r\nabc\r\n0\r\n\r\n",
    "space before the size": b" 3\r\nabc\r\n0\r\n\r\n",
    "line feed alone": b"3\nabc\n0\n\n",
    "line feed behind the size": b"3\nabc\r\n0\r\n\r\n",
    "line feed behind the data": b"3\r\nabc\n0\r\n\r\n",
    "data longer than the size": b"3\r\nabcd\r\n0\r\n\r\n",
    "data shorter than the size": b"4\r\nabc\r\n0\r\n\r\n",
    "line feed in an extension": b"3;a\nb\r\nabc\r\n0\r\n\r\n",
    "carriage return in an extension": b"3;a\rb\r\nabc\r\n0\r\n\r\n",
    "NUL in an extension": b"3;a\0b\r\nabc\r\n0\r\n\r\n",
    "length in a trailer": b"0\r\nContent-Length: 3\r\n\r\nabc",
    "folded trailer": b"0\r\nA: b\r\n c\r\n\r\n",
    "trailers without an end": b"0\r\nA: " + b"a" * 600_000,
    "large trailers": b"0\r\n%b\r\n" % (b"A: %b\r\n" % (b"a" * 990) * 70),
    "many trailers": b"0\r\n%b\r\n" % (b"A: b\r\n" * 201),
    "extension without an end": b"3;" + b"a" * 600_000,
}

TOO_LARGE = ("trailers without an end", "large trailers", "many trailers", "extension without an end")


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
    async with both() as (proxy, upstream):

        async def check(name):
            status, data = BAD[name]
            client = await proxy.connect(data)
            answer = await client.rest()
            assert answer.startswith(b"HTTP/1.1 %d " % status), answer
            assert answers(answer) == 1, answer
            assert b"\r\nconnection: close\r\n" in answer

        assert await all_of(BAD, check) == {}
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
