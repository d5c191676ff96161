"""The article's server over real sockets: its share of failures, and HTTP good enough for any client."""

import asyncio
import socket
from collections import Counter
from contextlib import asynccontextmanager
from random import Random

import pytest

from control.article_server import ArticleServer, main


@asynccontextmanager
async def running(failure_rate=0.9, seed=1):
    listener = await asyncio.start_server(
        ArticleServer(failure_rate, Random(seed)).connection, "127.0.0.1", 0
    )
    async with listener:
        yield listener.sockets[0].getsockname()[1]


async def talk(port: int, request: bytes) -> bytes:
    """Everything that comes back until the server closes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request)
    writer.write_eof()
    answer = await reader.read()
    writer.close()
    return answer


GET = b"GET / HTTP/1.1\r\nhost: server\r\n\r\n"


async def test_nine_of_ten_fail_and_a_seed_repeats_them():
    rounds = []
    for _ in range(2):
        async with running(seed=7) as port:
            rounds.append(await talk(port, GET * 500))
    assert rounds[0] == rounds[1]
    said = Counter(line for line in rounds[0].split(b"\n") if line in (b"success", b"failure"))
    assert said.total() == 500
    assert 25 <= said[b"success"] <= 75
    assert rounds[0].count(b"HTTP/1.1 200 OK\r\n") == said[b"success"]


@pytest.mark.parametrize(
    ("rate", "start"),
    [(0.0, b"HTTP/1.1 200 OK\r\n"), (1.0, b"HTTP/1.1 500 Internal Server Error\r\n")],
)
async def test_the_rate_decides(rate, start):
    async with running(rate) as port:
        assert (await talk(port, GET)).startswith(start)


@pytest.mark.parametrize(
    ("request_bytes", "answers", "closed"),
    [
        (b"GET / HTTP/1.1\r\n\r\n" * 3, 3, b"keep-alive"),
        (b"GET / HTTP/1.1\r\nConnection: close\r\n\r\n" * 2, 1, b"close"),
        (b"GET / HTTP/1.0\r\n\r\n" * 2, 1, b"close"),
        (b"GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n" * 2, 2, b"keep-alive"),
        (b"POST / HTTP/1.1\r\ncontent-length: 5\r\n\r\nGET /" + GET, 2, b"keep-alive"),
        (
            b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n4;a=b\r\nGET \r\n0\r\nx: y\r\n\r\n" + GET,
            2,
            b"keep-alive",
        ),
    ],
)
async def test_connections_live_as_the_client_wishes_and_bodies_are_skipped(request_bytes, answers, closed):
    async with running() as port:
        answer = await talk(port, request_bytes)
    assert answer.count(b"HTTP/1.1 ") == answers
    assert answer.count(b"connection: " + closed) == answers


async def test_head_has_the_fields_but_no_body():
    async with running(1.0) as port:
        answer = await talk(port, b"HEAD / HTTP/1.1\r\n\r\n")
    assert b"content-length: 8\r\n" in answer
    assert answer.endswith(b"\r\n\r\n")


async def test_a_client_that_waits_for_100_gets_it():
    async with running(1.0) as port:
        answer = await talk(port, b"POST / HTTP/1.1\r\nexpect: 100-continue\r\ncontent-length: 1\r\n\r\nx")
    assert answer.startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 500 ")


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"nonsense\r\n\r\n", b"400"),
        (b"PRI * HTTP/2.0\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\nno colon\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\nname : value\r\n\r\n", b"400"),
        (b"POST / HTTP/1.1\r\ncontent-length: many\r\n\r\n", b"400"),
        (b"POST / HTTP/1.1\r\ncontent-length: -1\r\n\r\n", b"400"),
        (b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n", b"400"),
        (b"GET / HTTP/1.1\r\nlong: " + b"x" * 70_000 + b"\r\n\r\n", b"431"),
        (b"", None),
        (b"GET / HT", None),
        (b"POST / HTTP/1.1\r\ncontent-length: 5\r\n\r\nab", None),
    ],
)
async def test_nonsense_is_refused_and_the_next_client_served(request_bytes, status):
    async with running() as port:
        answer = await talk(port, request_bytes)
        assert answer[9:12] == (status or b"")
        assert (await talk(port, GET)).startswith(b"HTTP/1.1 ")


def test_a_taken_port_is_one_line(capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert main(["--port", str(taken.getsockname()[1])]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "choose another --port" in error


def test_a_rate_that_is_none_is_refused():
    with pytest.raises(SystemExit) as exit_:
        main(["--failure-rate", "9"])
    assert exit_.value.code == 2
