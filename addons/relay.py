"""Lets mitmproxy's own stack stream an answer that is already under way.

A flow can be given a whole answer, not the beginning of one. So the forwarder
keeps the upstream connection, and mitmproxy is sent to a listener on the
loopback interface, which hands it that answer bit by bit. A random token that
only the two know keeps others out. Each answer has a listener of its own,
since mitmproxy opens no more than five connections to one address for a client.
"""

import asyncio
import contextlib
import logging
import secrets
from dataclasses import dataclass

from mitmproxy import http

from addons.answers_passing import stream
from addons.deadline import Deadline
from addons.engine.answer import Answer
from addons.engine.errors import UpstreamError
from addons.engine.wire import LAST_CHUNK, answer_head, chunk, end_to_end, value
from addons.exchange import Exchange

logger = logging.getLogger("mesh.relay")

TOKEN_HEADER = "x-mesh-relay"
_ATTRIBUTE = "mesh_relay"
_LENGTH = frozenset((b"content-length",))
_UNCLAIMED = 10.0
_LONGEST_HEAD = 256 * 1024


@dataclass(slots=True)
class _Offer:
    answer: Answer
    exchange: Exchange
    deadline: Deadline
    destination: tuple[str, int, bytes]
    expiry: asyncio.TimerHandle
    server: asyncio.Server


def relayed(flow: http.HTTPFlow) -> bool:
    """Whether mitmproxy is sent to a relay for this flow's answer, which has not begun yet."""
    return _ATTRIBUTE in flow.__dict__


class Relay:
    """One listener and one connection per answer."""

    def __init__(self) -> None:
        self._offers: dict[str, _Offer] = {}

    async def offer(
        self,
        flow: http.HTTPFlow,
        exchange: Exchange,
        answer: Answer,
        deadline: Deadline,
        missed: bool = False,
    ) -> None:
        """Send the flow to the relay for this answer; missed: somebody would have liked to have it whole.

        Raises OSError when it cannot listen.
        """
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0, limit=_LONGEST_HEAD)
        host, port = server.sockets[0].getsockname()
        token = secrets.token_hex(16)
        data = flow.request.data
        destination = (data.host, data.port, data.scheme)
        expiry = asyncio.get_running_loop().call_later(_UNCLAIMED, self._withdraw, token)
        self._offers[token] = _Offer(answer, exchange, deadline, destination, expiry, server)
        flow.__dict__[_ATTRIBUTE] = destination, answer, missed
        # The fields of `data` are set, not the properties: those would rewrite the Host header.
        data.host, data.port, data.scheme = host, port, b"http"
        flow.request.headers[TOKEN_HEADER] = token

    def restore(self, flow: http.HTTPFlow, exchange: Exchange) -> None:
        """The answer's head arrived from the relay: the request is shown as it was, the rest is streamed.

        Unless an addon has said that it wants the rest whole, or in a way of its own.
        """
        sent_here = flow.__dict__.pop(_ATTRIBUTE, None)
        if sent_here is None or flow.response is None:
            return
        destination, answer, missed = sent_here
        data = flow.request.data
        data.host, data.port, data.scheme = destination
        flow.request.headers.pop(TOKEN_HEADER, None)
        flow.response.headers.pop("connection", None)
        if answer.closes:
            _to_be_closed(flow.request, flow.response, answer)
        stream(flow.response, exchange, missed)

    def close(self) -> None:
        """Give up what nobody came for."""
        for token in list(self._offers):
            self._withdraw(token)

    def _withdraw(self, token: str) -> None:
        offer = self._offers.pop(token, None)
        if offer is not None:
            offer.expiry.cancel()
            offer.server.close()
            offer.deadline.stop()
            offer.answer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        offer = None
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            offer = self._offers.pop(_token_of(head), None)
            if offer is None:
                return
            offer.expiry.cancel()
            offer.server.close()
            await self._stream(offer, reader, writer)
        except UpstreamError as error:
            assert offer is not None
            offer.exchange.flag("UT" if offer.deadline.expired else "UC")
            logger.debug(f"an answer broke off: {error}")
            writer.transport.abort()
        except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError) as error:
            logger.debug(f"the client left a stream: {error}")
            writer.transport.abort()
        finally:
            if offer is not None:
                offer.deadline.stop()
                offer.answer.close()
            with contextlib.suppress(OSError):
                writer.close()

    async def _stream(
        self, offer: _Offer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        answer = offer.answer
        drain = asyncio.create_task(_discard(reader))
        # When the client leaves, mitmproxy ends this connection, perhaps long before there is more to write to it.
        drain.add_done_callback(lambda drain: answer.close())
        try:
            # mitmproxy would not wait for the end of a body whose length it knows.
            fields = end_to_end(answer.fields, drop=_LENGTH if answer.closes else frozenset())
            chunked = value(fields, b"content-length") is None
            framing = (b"transfer-encoding", b"chunked") if chunked else None
            head = (*fields, (b"connection", b"close"), *((framing,) if framing else ()))
            writer.write(answer_head(answer.status, answer.reason, head))
            data = answer.body
            while True:
                writer.write(chunk(data) if chunked else data)
                await writer.drain()
                data = await answer.read()
                if not data:
                    break
            if chunked:
                writer.write(LAST_CHUNK)
            await writer.drain()
        finally:
            drain.cancel()


def _to_be_closed(request: http.Request, response: http.Response, answer: Answer) -> None:
    """Let the client have the length that was kept from mitmproxy, and the end of its connection behind the body."""
    if (length := value(answer.fields, b"content-length")) is not None:
        response.headers.pop("transfer-encoding", None)
        response.headers["content-length"] = length.decode("latin-1")
    if request.http_version.startswith("HTTP/1"):
        response.headers["connection"] = "close"


async def _discard(reader: asyncio.StreamReader) -> None:
    """Read the request's body away, which went upstream long ago; unread bytes would reset the connection."""
    with contextlib.suppress(OSError):
        while await reader.read(65536):
            pass


def _token_of(head: bytes) -> str:
    for line in head.split(b"\r\n"):
        name, _, text = line.partition(b":")
        if name.strip().lower() == TOKEN_HEADER.encode():
            return text.strip().decode("latin-1")
    return ""
