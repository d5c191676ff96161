"""A small HTTP/1.1 client that speaks to a proxy as `curl -x` does."""

import asyncio
from typing import NamedTuple
from urllib.parse import urlsplit

ANSWER_SECONDS = 30.0


class Answer(NamedTuple):
    status: int
    fields: dict[str, str]
    """Names in lower case; of a repeated field the last."""
    body: bytes


class ProxyConnection:
    """One keep-alive connection to the proxy, opened again when the proxy has closed it."""

    def __init__(self, host: str, port: int) -> None:
        self._address = (host, port)
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def get(self, url: str) -> Answer:
        """GET an absolute http URL. Raises OSError, EOFError (IncompleteReadError) or TimeoutError."""
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                answer = await self._exchange(url)
        except BaseException:
            self.close()
            raise
        if answer.fields.get("connection", "").lower() == "close":
            self.close()
        return answer

    async def _exchange(self, url: str) -> Answer:
        if self._streams is None:
            self._streams = await asyncio.open_connection(*self._address)
        reader, writer = self._streams
        writer.write(f"GET {url} HTTP/1.1\r\nhost: {urlsplit(url).netloc}\r\n\r\n".encode())
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        status_line, *lines = head.removesuffix("\r\n\r\n").split("\r\n")
        fields = {}
        for line in lines:
            name, _, value = line.partition(":")
            fields[name.lower()] = value.strip()
        if "chunked" in fields.get("transfer-encoding", "").lower():
            body = await self._chunks(reader)
        elif "content-length" in fields:
            body = await reader.readexactly(int(fields["content-length"]))
        else:
            body = await reader.read()
            fields["connection"] = "close"
        return Answer(int(status_line.split(" ")[1]), fields, body)

    @staticmethod
    async def _chunks(reader: asyncio.StreamReader) -> bytes:
        body = b""
        while size := int((await reader.readuntil(b"\r\n")).split(b";")[0], 16):
            body += (await reader.readexactly(size + 2))[:-2]
        while await reader.readuntil(b"\r\n") != b"\r\n":  # trailers
            pass
        return body

    def close(self) -> None:
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None
