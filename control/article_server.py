"""The article's server: it fails nine times of ten. `python -m control.article_server --port 3001`.

Every request is answered by chance alone: 500 with the body `failure\\n`, or, one time of ten, 200 with
`success\\n`. HTTP/1.0 and 1.1, keep-alive and pipelining; a request's body is read and forgotten.
"""

import argparse
import asyncio
import contextlib
import signal
import sys
from collections.abc import Sequence
from random import Random

HEAD_LIMIT = 64 * 1024
IDLE_SECONDS = 120.0


class BadRequest(Exception):
    """What arrived is no HTTP/1 request; the text is for the client."""


def answer(status: str, body: bytes, *, keep: bool, head_only: bool = False) -> bytes:
    """The bytes of one answer; a HEAD gets the same fields and no body."""
    head = (
        f"HTTP/1.1 {status}\r\ncontent-type: text/plain\r\ncontent-length: {len(body)}\r\n"
        f"connection: {'keep-alive' if keep else 'close'}\r\n\r\n"
    )
    return head.encode() + (b"" if head_only else body)


def parse_head(head: bytes) -> tuple[str, str, dict[str, str]]:
    """Method, version and lower-cased fields of a request head. Raises BadRequest."""
    request_line, *lines = head.decode("latin-1").removesuffix("\r\n\r\n").split("\r\n")
    words = request_line.split(" ")
    if len(words) != 3 or words[2] not in ("HTTP/1.0", "HTTP/1.1"):
        raise BadRequest("write METHOD TARGET HTTP/1.1")
    fields = {}
    for line in lines:
        name, colon, value = line.partition(":")
        if not colon or not name or name != name.strip():
            raise BadRequest("a header line is name: value")
        fields[name.lower()] = value.strip()
    return words[0], words[2], fields


async def skip_body(reader: asyncio.StreamReader, fields: dict[str, str]) -> None:
    """Read past the request's body, whatever its length. Raises BadRequest."""
    try:
        if "chunked" in fields.get("transfer-encoding", "").lower():
            while size := int((await reader.readuntil(b"\r\n")).split(b";")[0], 16):
                await skip(reader, size + 2)
            while await reader.readuntil(b"\r\n") != b"\r\n":  # trailers
                pass
        else:
            await skip(reader, int(fields.get("content-length", "0")))
    except ValueError:
        raise BadRequest("the body's length is no number") from None


async def skip(reader: asyncio.StreamReader, count: int) -> None:
    """Read `count` bytes and keep none, so that a large body costs no memory."""
    if count < 0:
        raise ValueError(count)
    while count:
        piece = await reader.read(min(count, 64 * 1024))
        if not piece:
            raise asyncio.IncompleteReadError(b"", count)
        count -= len(piece)


class ArticleServer:
    """Answers connections; fails with probability `failure_rate`, drawn from `random`."""

    def __init__(self, failure_rate: float = 0.9, random: Random | None = None) -> None:
        self.failure_rate = failure_rate
        self.random = random or Random()

    def draw(self) -> tuple[str, bytes]:
        """The next answer's status and body."""
        if self.random.random() < self.failure_rate:
            return "500 Internal Server Error", b"failure\n"
        return "200 OK", b"success\n"

    async def connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One client until it leaves, closes, is idle too long or sends nonsense."""
        try:
            while await self.exchange(reader, writer):
                await writer.drain()
        except BadRequest as error:
            writer.write(answer("400 Bad Request", f"{error}\n".encode(), keep=False))
        except asyncio.LimitOverrunError:
            writer.write(answer("431 Request Header Fields Too Large", b"", keep=False))
        except (asyncio.IncompleteReadError, TimeoutError, ConnectionError):
            pass  # the client has gone; there is nobody to tell
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError, TimeoutError):
                await writer.wait_closed()

    async def exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """One request and its answer; whether the connection goes on."""
        async with asyncio.timeout(IDLE_SECONDS):
            head = await reader.readuntil(b"\r\n\r\n")
            method, version, fields = parse_head(head)
            if fields.get("expect", "").lower() == "100-continue":
                writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            await skip_body(reader, fields)
        wish = fields.get("connection", "").lower()
        keep = "close" not in wish and (version == "HTTP/1.1" or "keep-alive" in wish)
        status, body = self.draw()
        writer.write(answer(status, body, keep=keep, head_only=method == "HEAD"))
        return keep


async def serve(host: str, port: int, server: ArticleServer) -> None:
    """Listen until SIGTERM or SIGINT."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        with contextlib.suppress(NotImplementedError):  # Windows ends it by other means
            loop.add_signal_handler(number, stop.set)
    listener = await asyncio.start_server(server.connection, host, port, limit=HEAD_LIMIT, backlog=1024)
    print(f"listening on {host}:{port}, failing {server.failure_rate:.0%} of the requests", flush=True)
    await stop.wait()
    listener.close()


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; 0, or 1 when the address cannot be had."""
    parser = argparse.ArgumentParser(
        "python -m control.article_server", description="A server that mostly fails."
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (%(default)s)")
    parser.add_argument("--port", type=int, default=3001, help="port to listen on (%(default)s)")
    parser.add_argument(
        "--failure-rate", type=float, default=0.9, help="share that fails, 0 to 1 (%(default)s)"
    )
    parser.add_argument("--seed", type=int, default=None, help="makes the sequence of answers repeatable")
    chosen = parser.parse_args(argv)
    if not 0 <= chosen.failure_rate <= 1:
        parser.error("--failure-rate is a number from 0 to 1")
    try:
        asyncio.run(serve(chosen.host, chosen.port, ArticleServer(chosen.failure_rate, Random(chosen.seed))))
    except OSError as error:
        print(
            f"cannot listen on {chosen.host}:{chosen.port}: {error.strerror}; choose another --port",
            file=sys.stderr,
        )
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
