"""The life of one exchange in the fast lane: mitmproxy's hooks in mitmproxy's order, then the answer."""

import logging
import time
from collections.abc import Coroutine
from typing import Any

from mitmproxy import connection, http

from addons.engine import delivery
from addons.engine.answer import Answer
from addons.engine.carrier import Carrier, load, unload
from addons.engine.destination import Destinations
from addons.engine.errors import BadRequest
from addons.engine.flows import make_flow, make_headers, make_request
from addons.engine.hook_calls import FAILURES
from addons.engine.hooks import HookTable
from addons.engine.incoming import Incoming
from addons.engine.outbox import Outbox
from addons.engine.outcome import broke_off, check, settled
from addons.engine.refusals import Refusals
from addons.engine.server import ServerConnection
from addons.engine.upload import Transform, Upload, pieces
from addons.engine.wishes import MOST, is_long, tell_of_long, wants_messages, wants_whole

logger = logging.getLogger("mesh.engine")

BUFFER = 64 * 1024
"""Bytes; a request body up to this is gathered before it is sent on, so that it can be sent again."""


class Lane:
    """Serves the connections of one listener; `serve` is what its ServerConnections call, `outbox` one for all of them.

    `refused` is their `on_refused`.
    """

    def __init__(self, hooks: HookTable, destinations: Destinations) -> None:
        self.outbox = Outbox()
        self._hooks = hooks.engine
        self.refused = Refusals(hooks.engine).tell
        self._destinations = destinations

    def serve(self, client: ServerConnection, incoming: Incoming) -> Coroutine[Any, Any, None]:
        """One exchange. `client.tag` is the pair of mitmproxy's Client and the Server that is not connected yet."""
        return self._upgrade(client, incoming) if incoming.upgrade else self._exchange(client, incoming)

    async def _upgrade(self, client: ServerConnection, incoming: Incoming) -> None:
        if not await self._handed_back(client, incoming):
            await self._exchange(client, incoming)

    async def _exchange(self, client: ServerConnection, incoming: Incoming) -> None:
        # All in one: each coroutine more would be made, entered and resumed for every request.
        pair: tuple[connection.Client, connection.Server] = client.tag
        try:
            host, port, scheme, path, fields = self._destinations.find(incoming, pair[0])
        except BadRequest as refusal:
            refusal.request = incoming
            client.turn_away(refusal)
            return
        now = time.time()
        request = make_request(host, port, scheme, incoming.method, path, incoming.version, fields, None, now)
        flow = make_flow(pair[0], pair[1], request, now)
        hooks = self._hooks
        carrier = Carrier(incoming, hooks)
        load(flow, carrier)
        try:
            if not incoming.complete:
                request.stream = incoming.length < 0 or incoming.length > BUFFER
            if (rest := hooks.event("requestheaders", flow)) is not None:
                await rest
            if hooks.hears_update or flow.intercepted:
                await settled(flow, carrier)
            if flow.error is not None:
                check(flow)
            if incoming.complete:
                _fill(flow.request, incoming)
            else:
                await self._receive(incoming, flow, carrier)
            if hooks.hears_request and (rest := hooks.event("request", flow)) is not None:
                await rest
            if hooks.hears_update or flow.intercepted:
                await settled(flow, carrier)
            if flow.error is not None:
                check(flow)
            if flow.response is None:
                # Not sooner: an addon, or a person, may hold a request back to change it.
                if (rest := hooks.event("mesh_request", flow)) is not None:
                    await rest
                hooks = carrier.hooks
                if flow.response is None and (rest := hooks.event("mesh_forward", flow)) is not None:
                    await rest
                if flow.error is not None:
                    check(flow)
                if flow.response is None and (rest := hooks.event("mesh_unanswered", flow)) is not None:
                    await rest
                if flow.response is None:
                    raise RuntimeError("no addon answered the request")
            answer = carrier.answer if flow.response is carrier.head else None
            if answer is not None and not self._is_wanted_whole(answer):
                flow.response.stream = True
            if hooks.hears_responseheaders:
                if (rest := hooks.event("responseheaders", flow)) is not None:
                    await rest
            if hooks.hears_update or flow.intercepted:
                await settled(flow, carrier)
            if flow.error is not None:
                check(flow)
            chunked = False
            response = flow.response
            if answer is not None and (response is carrier.head or response.data.content is None):
                # The head, or a copy of it that an addon has made.
                chunked = await self._follow(client, incoming, response, answer, carrier)
            elif callable(response.stream) and response.data.content:
                # An addon's own, perhaps in place of an upstream's, which is closed with the carrier.
                response.data.content = transformed(response)
            client.settled = True
            if (rest := hooks.event("response", flow)) is not None:
                await rest
            if hooks.hears_update or flow.intercepted:
                await settled(flow, carrier)
            if flow.error is not None:
                check(flow)
            if not client.answered:
                _send(client, incoming, flow.response, carrier)
            elif chunked:
                delivery.end(client, response)
        except FAILURES as error:
            await broke_off(client, flow, carrier, error)
        finally:
            flow.live = False
            carrier.end()
            unload(flow)

    async def _follow(
        self,
        client: ServerConnection,
        incoming: Incoming,
        response: http.Response,
        answer: Answer,
        carrier: Carrier,
    ) -> bool:
        """Pass on, or gather, what comes behind an answer's head. True: the end of a chunked one is still to be sent."""
        if answer.upgraded:
            await delivery.pipe(client, incoming, response, answer, carrier)
            return False
        whole = chunked = False
        if "stream" in vars(response):
            # Nobody looks at it, or an addon has said what it wants.
            whole = not response.stream and await delivery.gather(answer)
        elif self._is_wanted_whole(answer):
            whole = not is_long(answer.fields) and await delivery.gather(answer, MOST)
            if not whole:
                tell_of_long()
        if whole:
            response.data.content = answer.body
            if answer.trailers:
                response.data.trailers = make_headers(answer.trailers)
        else:
            response.stream = response.stream or True
            chunked = await delivery.stream(client, incoming, response, answer, carrier)
        response.data.timestamp_end = time.time()
        return chunked

    async def _receive(self, incoming: Incoming, flow: http.HTTPFlow, carrier: Carrier) -> None:
        """The request's body, unless it is answered already and the body is much, or waits to be asked for."""
        request = flow.request
        if request.stream:
            if flow.response is None:
                carrier.upload = Upload(incoming, request.stream)
        elif flow.response is None or not incoming.expects_continue:
            await incoming.whole()
            _fill(request, incoming)
            request.data.timestamp_end = time.time()

    def _is_wanted_whole(self, answer: Answer) -> bool:
        return not (answer.upgraded or answer.as_it_comes) and wants_whole(self._hooks, answer.fields)

    async def _handed_back(self, client: ServerConnection, incoming: Incoming) -> bool:
        """True: somebody else serves what asks for another protocol, or has a method that the parser does not know."""
        unknown = incoming.method in (b"", b"CONNECT")
        if not unknown and not wants_messages(self._hooks):
            return False
        if client.take_back is None:
            if unknown:
                client.turn_away(BadRequest(501, "a method that is not served here"))
            return unknown
        await client.drain()
        client.give_back(incoming)
        return True


def _fill(request: http.Request, incoming: Incoming) -> None:
    """Give the request its body, which is whole."""
    data = request.data
    data.content = incoming.take()
    data.timestamp_end = data.timestamp_start
    if incoming.trailers is not None:
        data.trailers = make_headers(incoming.trailers)
    if request.stream and data.content:
        data.content = transformed(request)


def _send(client: ServerConnection, incoming: Incoming, response: http.Response, carrier: Carrier) -> None:
    try:
        delivery.send(client, incoming, response, carrier.framed)
    except ValueError as error:
        logger.error(f"an answer that cannot be sent: {error}")
        client.refuse(BadRequest(500, "the answer cannot be sent; see the proxy's log", "IE"))


def transformed(message: http.Message) -> bytes:
    """What an addon's `stream` makes of a body that is here already."""
    transform: Transform | bool = message.stream
    return b"".join((*pieces(transform, message.data.content or b""), *pieces(transform, b"")))
