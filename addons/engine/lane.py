"""The life of one exchange in the fast lane: mitmproxy's hooks in mitmproxy's order, the answer streamed out."""

import time

from mitmproxy import connection, http
from mitmproxy import flow as mitmproxy_flow

from addons.engine.answer import Answer
from addons.engine.carrier import Carrier, Upload, load, pieces
from addons.engine.destination import Destinations
from addons.engine.flows import make_flow, make_request
from addons.engine.hooks import HookTable
from addons.engine.incoming import ClientGone, Incoming
from addons.engine.pipe import Pipe
from addons.engine.request_reader import BadRequest
from addons.engine.server import ServerConnection
from addons.engine.wire import LAST_CHUNK, Fields, answer_head, chunk, tokens, value

BUFFER = 64 * 1024
"""Bytes; a request body up to this is gathered before it is sent on, so that it can be sent again."""
KILLED = mitmproxy_flow.Error.KILLED_MESSAGE
_CLOSE = ((b"connection", b"close"),)
_KEEP = ((b"connection", b"keep-alive"),)
_CHUNKED = ((b"transfer-encoding", b"chunked"),)
_BODILESS = (204, 304)


class Killed(Exception):
    """An addon killed the flow."""


class Lane:
    """Serves the connections of one listener; `serve` is what its ServerConnections call."""

    def __init__(self, hooks: HookTable, destinations: Destinations) -> None:
        self._hooks = hooks
        self._destinations = destinations

    async def serve(self, client: ServerConnection, incoming: Incoming) -> None:
        """One exchange. `client.tag` is the pair of mitmproxy's Client and the Server that is not connected yet."""
        if incoming.upgrade:
            # HTTP/2 without TLS by upgrade is declined, as mitmproxy does: the request is answered in HTTP/1.1.
            incoming.upgrade = incoming.complete and b"h2c" not in tokens(incoming.fields, b"upgrade")
            if incoming.upgrade and client.take_back is not None and self._wants_messages():
                client.give_back(incoming)
                return
        now = time.time()
        pair: tuple[connection.Client, connection.Server] = client.tag
        try:
            place = self._destinations.find(incoming, pair[0])
        except BadRequest as refusal:
            client.refuse(refusal.status, refusal.reason)
            return
        request = make_request(
            place.host,
            place.port,
            place.scheme,
            incoming.method,
            place.path,
            incoming.version,
            place.fields,
            incoming.take() if incoming.complete else None,
            now,
        )
        flow = make_flow(pair[0], pair[1], request, now)
        carrier = Carrier(incoming)
        load(flow, carrier)
        try:
            await self._exchange(client, incoming, flow, carrier)
        except (ClientGone, BadRequest, Killed) as error:
            flow.error = mitmproxy_flow.Error(
                KILLED if isinstance(error, Killed) else "Client disconnected.", time.time()
            )
            await self._event("error", flow)
            if isinstance(error, BadRequest) and not client.answered:
                client.refuse(error.status, error.reason)
            else:
                client.transport.abort()
        except Exception as error:
            # The answer broke off, or cannot be written: what was sent of it must not look whole.
            carrier.error = error
            flow.error = mitmproxy_flow.Error(str(error), time.time())
            await self._event("error", flow)
            client.transport.abort()
        finally:
            flow.live = False
            carrier.end()

    async def _exchange(
        self, client: ServerConnection, incoming: Incoming, flow: http.HTTPFlow, carrier: Carrier
    ) -> None:
        request = flow.request
        if not incoming.complete:
            request.stream = incoming.length < 0 or incoming.length > BUFFER
        await self._event("requestheaders", flow)
        self._check(flow)
        if not incoming.complete and flow.response is None:
            if incoming.expects_continue:
                client.interim(100, b"Continue")
            if request.stream:
                carrier.upload = Upload(incoming, request.stream)
            else:
                await incoming.whole()
                request.data.content = incoming.take()
                request.data.timestamp_end = time.time()
        elif callable(request.stream) and request.data.content is not None:
            data = request.data.content
            request.data.content = b"".join((*pieces(request.stream, data), *pieces(request.stream, b"")))
        await self._event("request", flow)
        self._check(flow)
        response = flow.response
        if response is None:
            raise RuntimeError("no addon answered the request")
        answer = carrier.answer
        if answer is not None:
            response.stream = True
        await self._event("responseheaders", flow)
        self._check(flow)
        if answer is not None and answer.upgraded:
            await self._pipe(client, incoming, response, answer, carrier)
            await self._event("response", flow)
        elif answer is None or not response.stream:
            if answer is not None:
                response.data.content = answer.body + await _rest(answer)
                response.data.timestamp_end = time.time()
            await self._event("response", flow)
            self._check(flow)
            self._send(client, incoming, flow.response or response, incoming.method == b"HEAD")
            if client.write_paused:
                await client.drain()
        else:
            await self._stream(client, incoming, response, answer, carrier)
            response.data.timestamp_end = time.time()
            await self._event("response", flow)

    def _wants_messages(self) -> bool:
        """Whether an addon looks at WebSocket messages, which only mitmproxy's own layer can show it."""
        return any(
            not getattr(hook, "__module__", "").startswith("addons.")
            for hook in self._hooks.find("websocket_message")
        )

    @staticmethod
    async def _pipe(
        client: ServerConnection,
        incoming: Incoming,
        response: http.Response,
        answer: Answer,
        carrier: Carrier,
    ) -> None:
        protocol = value(answer.fields, b"upgrade") or b""
        fields = (*response.data.headers.fields, (b"connection", b"upgrade"), (b"upgrade", protocol))
        client.send(answer_head(response.data.status_code, response.data.reason, fields))
        incoming.keep_alive = False
        pipe = Pipe(carrier.idle_timeout)
        upstream, early = answer.take_over(pipe.upstream)
        behind = client.give_away(pipe.client)
        try:
            await pipe.run(client.transport, upstream, behind, early)
        finally:
            carrier.received, carrier.sent = pipe.client.received, pipe.upstream.received

    async def _event(self, name: str, flow: http.HTTPFlow) -> None:
        hooks = self._hooks
        rest = hooks.run(name, flow)
        if rest is not None:
            await rest
        if hooks.find("update"):
            rest = hooks.run("update", [flow])
            if rest is not None:
                await rest
        if flow.intercepted:
            await flow.wait_for_resume()

    @staticmethod
    def _check(flow: http.HTTPFlow) -> None:
        if flow.error is not None and flow.error.msg == KILLED:
            raise Killed

    def _send(
        self, client: ServerConnection, incoming: Incoming, response: http.Response, headless: bool
    ) -> None:
        data = response.data
        body = data.content or b""
        fields = data.headers.fields
        if headless or data.status_code in _BODILESS:
            body = b""
        else:
            fields = framed(fields, len(body))
        client.send(
            answer_head(data.status_code, data.reason, fields + self._connection(client, incoming)) + body
        )

    async def _stream(
        self,
        client: ServerConnection,
        incoming: Incoming,
        response: http.Response,
        answer: Answer,
        carrier: Carrier,
    ) -> None:
        data = response.data
        fields = data.headers.fields
        transform = response.stream
        sized = value(fields, b"content-length") is not None and not callable(transform)
        chunked = not sized and incoming.version == b"HTTP/1.1"
        if not sized:
            fields = tuple([field for field in fields if field[0].lower() != b"content-length"])
        if chunked:
            fields += _CHUNKED
        elif not sized:
            # HTTP/1.0 knows no chunks: the end of the body is the end of the connection.
            incoming.keep_alive = False
        client.send(answer_head(data.status_code, data.reason, fields + self._connection(client, incoming)))
        piece = answer.body
        while True:
            if piece:
                for part in pieces(transform, piece):
                    client.send(chunk(part) if chunked else part)
                    carrier.sent += len(part)
                if client.write_paused:
                    await client.drain()
            piece = await answer.read()
            if not piece:
                break
        if callable(transform):
            for part in pieces(transform, b""):
                client.send(chunk(part) if chunked else part)
                carrier.sent += len(part)
        if chunked:
            client.send(LAST_CHUNK)

    @staticmethod
    def _connection(client: ServerConnection, incoming: Incoming) -> Fields:
        if not client.keeps_alive(incoming):
            return _CLOSE
        return _KEEP if incoming.version == b"HTTP/1.0" else ()


async def _rest(answer: Answer) -> bytes:
    parts = []
    while data := await answer.read():
        parts.append(data)
    return b"".join(parts)


def framed(fields: Fields, length: int) -> Fields:
    """The fields with a Content-Length that is true; the very same ones where it is already."""
    found = False
    for name, text in fields:
        size = len(name)
        if size == 14 and name.lower() == b"content-length":
            if found or text != b"%d" % length:
                break
            found = True
        elif size == 17 and name.lower() == b"transfer-encoding":
            break
    else:
        if found:
            return fields
    kept = [f for f in fields if f[0].lower() not in (b"content-length", b"transfer-encoding")]
    return (*kept, (b"content-length", b"%d" % length))
