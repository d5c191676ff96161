"""A flow's response on its way to the client: framed for its HTTP version, at once or as it arrives."""

import math

from mitmproxy import http

from addons.engine.answer import Answer
from addons.engine.carrier import Carrier
from addons.engine.errors import UpstreamError
from addons.engine.incoming import Incoming
from addons.engine.pipe import Pipe
from addons.engine.server import ServerConnection
from addons.engine.upload import pieces
from addons.engine.wire import (
    Fields,
    allowed_trailers,
    answer_head,
    chunk,
    end_to_end,
    last_chunk,
    tokens,
    value,
)

JOIN_LIMIT = 16 * 1024
"""Bytes; a body up to this is copied behind its head, so that both leave in one packet."""
_CLOSE = ((b"connection", b"close"),)
_KEEP = ((b"connection", b"keep-alive"),)
_CHUNKED = ((b"transfer-encoding", b"chunked"),)
_LENGTH = frozenset((b"content-length",))
Known = tuple[Fields, bytes] | None


def send(client: ServerConnection, incoming: Incoming, response: http.Response, known: Known = None) -> None:
    """Send a response whose body is at hand. ValueError when it cannot be written as HTTP/1.1.

    known: fields and body, see `Carrier.framed`; where the response still has the very same, nothing is looked for.
    """
    data = response.data
    status = data.status_code
    given = data.headers.fields
    body = data.content or b""
    if status < 200:
        raise ValueError(f"status {status} is no answer")
    if incoming.method == b"HEAD" or status == 204 or status == 304:
        body = b""
        fields = end_to_end(given, drop=_LENGTH if status == 204 else frozenset())
    elif data.trailers and incoming.version == b"HTTP/1.1":
        fields = end_to_end(given, drop=_LENGTH) + _CHUNKED
        body = chunk(body) + last_chunk(allowed_trailers(data.trailers.fields))
    elif known is not None and known[0] is given and known[1] is body:
        fields = given
    else:
        fields = framed(given, len(body))
    if fields is not given and b"close" in tokens(given, b"connection"):
        incoming.keep_alive = False
    head = answer_head(status, data.reason, fields + _connection(client, incoming))
    if len(body) <= JOIN_LIMIT:
        client.post(head + body)
    else:
        client.send(head, body)


def check(response: http.Response) -> None:
    """ValueError, or another, where `send` would raise it."""
    data = response.data
    if data.status_code < 200:
        raise ValueError(f"status {data.status_code} is no answer")
    answer_head(data.status_code, data.reason, data.headers.fields)
    if data.trailers:
        last_chunk(allowed_trailers(data.trailers.fields))


async def stream(
    client: ServerConnection, incoming: Incoming, response: http.Response, answer: Answer, carrier: Carrier
) -> bool:
    """Send a response while its body arrives, all but its `end`. True: it is chunked, so that there is one to send.

    Raises UpstreamError when the body breaks off, or is not as long as the fields say.
    """
    data = response.data
    transform = response.stream
    given = data.headers.fields
    length = None if callable(transform) else value(given, b"content-length")
    fields = end_to_end(given, drop=_LENGTH)
    chunked = False
    if length is not None:
        fields += ((b"content-length", length),)
    elif incoming.version == b"HTTP/1.1":
        chunked = True
        fields += _CHUNKED
    if (length is None and not chunked) or b"close" in tokens(given, b"connection"):
        # HTTP/1.0 knows no chunks: the end of the body is the end of the connection.
        incoming.keep_alive = False
        client.until_close = length is None and not chunked
    head = answer_head(data.status_code, data.reason, fields + _connection(client, incoming))
    piece = answer.body
    while True:
        for part in pieces(transform, piece) if piece else ():
            carrier.sent += len(part)
            client.send(head + (chunk(part) if chunked else part))
            head = b""
        if head:
            client.send(head)
            head = b""
        if client.write_paused:
            await client.drain()
        piece = await answer.read()
        if not piece:
            break
    if callable(transform):
        for part in pieces(transform, b""):
            carrier.sent += len(part)
            client.send(chunk(part) if chunked else part)
    if length is not None and not (length.isdigit() and int(length) == carrier.sent):
        raise UpstreamError("protocol", f"{carrier.sent} bytes of body, not the content-length's {length!r}")
    if answer.trailers:
        data.trailers = http.Headers(answer.trailers)
    return chunked


def end(client: ServerConnection, response: http.Response) -> None:
    """The end of a chunked response."""
    trailers = response.data.trailers
    client.send(last_chunk(allowed_trailers(trailers.fields) if trailers else None))


async def pipe(
    client: ServerConnection, incoming: Incoming, response: http.Response, answer: Answer, carrier: Carrier
) -> None:
    """Let client and upstream talk in the protocol that they have agreed on, until one of them ends."""
    protocol = value(answer.fields, b"upgrade") or b""
    fields = (*response.data.headers.fields, (b"connection", b"upgrade"), (b"upgrade", protocol))
    client.send(answer_head(response.data.status_code, response.data.reason, fields))
    incoming.keep_alive = False
    await client.drain()
    joint = Pipe(carrier.idle_timeout)
    upstream, early = answer.take_over(joint.upstream)
    behind = client.give_away(joint.client)
    try:
        await joint.run(client.transport, upstream, behind, early)
    finally:
        carrier.received, carrier.sent = joint.client.received, joint.upstream.received


async def gather(answer: Answer, limit: float = math.inf) -> bool:
    """Let all of the body be in `answer.body`. False: it has more bytes than the limit, and the rest is yet to be read."""
    parts, size = [answer.body], len(answer.body)
    while size <= limit and (piece := await answer.read()):
        parts.append(piece)
        size += len(piece)
    answer.body = b"".join(parts)
    return size <= limit


def framed(fields: Fields, length: int) -> Fields:
    """The fields with a Content-Length that is true and none of the connection's; the very same ones if they are so."""
    found = False
    for name, text in fields:
        size = len(name)
        if size == 14 and name.lower() == b"content-length":
            if found or text != b"%d" % length:
                break
            found = True
        elif (size == 17 and name.lower() == b"transfer-encoding") or (
            size == 10 and name.lower() == b"connection"
        ):
            break
    else:
        if found:
            return fields
    return (*end_to_end(fields, drop=_LENGTH), (b"content-length", b"%d" % length))


def _connection(client: ServerConnection, incoming: Incoming) -> Fields:
    if not client.keeps_alive(incoming):
        # RFC 9112 section 9.6: whoever was told so may send again elsewhere what it has sent behind this request.
        incoming.keep_alive = False
        return _CLOSE
    return _KEEP if incoming.version == b"HTTP/1.0" else ()
