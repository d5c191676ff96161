"""Takes on mitmproxy's own path what cannot wait in a buffer: upgrades, gRPC, and request bodies over the limit.

Such a request is routed, edited, faulted and timed as any other, but once it
is passed on there is no other attempt: what was sent cannot be sent again.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable

from mitmproxy import connection, http
from mitmproxy.flow import Error
from mitmproxy.proxy.server_hooks import ServerConnectionHookData

from addons.answers import answer_itself, own_answer
from addons.answers_passing import stream_or_gather
from addons.attempts import Attempts
from addons.client_watch import ClientWatch
from addons.deadline import Deadline
from addons.engine.carrier import carrier_of
from addons.engine.marks import elsewhere
from addons.engine.outcome import is_killed
from addons.exchange import Attempt, Exchange, exchange_of
from addons.forwarder import Forwarder
from addons.injecting import inject
from addons.knock import knock
from addons.mtls import Mtls
from addons.mtls_outbound import NoIdentity
from addons.own_path import needs_own_path
from addons.own_stack import counted, ignore_limits, resumed, upstream_of
from addons.routing import Routing
from addons.wellformed import is_refused
from control.identity.peers import Distrust
from control.policy.snapshot import Endpoint

logger = logging.getLogger("mesh.passthrough")


class Passthrough:
    """Enforcing: a request that should pass here and cannot be routed is answered, not let through."""

    def __init__(self, routing: Routing, forwarder: Forwarder, mtls: Mtls | None = None) -> None:
        self._mtls = mtls
        self._routing = routing
        self._forwarder = forwarder
        self._deadlines: dict[str, asyncio.TimerHandle] = {}
        self._names: dict[str, dict[tuple[str, int], str]] = {}

    def configure(self, updated: set[str]) -> None:
        ignore_limits(updated)

    @elsewhere
    def requestheaders(self, flow: http.HTTPFlow) -> Awaitable[None] | None:
        if carrier_of(flow) is not None:
            return None
        exchange = exchange_of(flow)
        if exchange is None or flow.response is not None or is_killed(flow) or is_refused(flow):
            # mitmproxy would send on what somebody wants streamed, before it looks for an answer.
            flow.request.stream = False
            return None
        if not flow.request.stream and not needs_own_path(flow.request):
            return None
        return self._pass_or_stop(flow, exchange)

    async def _pass_or_stop(self, flow: http.HTTPFlow, exchange: Exchange) -> None:
        try:
            if flow.intercepted:
                await resumed(flow)
            if flow.response is None and not is_killed(flow):
                await self._pass(flow, exchange)
            else:
                flow.request.stream = False
        except Exception:
            logger.exception("passing on failed; the request was stopped")
            flow.request.stream = False
            own_answer(
                flow, exchange, 500, "IE", "the mesh failed to pass this request on; see the proxy's log"
            )

    @elsewhere
    def responseheaders(self, flow: http.HTTPFlow) -> Awaitable[None] | None:
        # Not async by itself: it is called for every exchange, and has something to wait for in few.
        exchange = exchange_of(flow)
        if exchange is None or not exchange.streamed or flow.response is None:
            return None
        return self._passed(flow, exchange, flow.response)

    async def _passed(self, flow: http.HTTPFlow, exchange: Exchange, response: http.Response) -> None:
        if response.status_code == 101:
            self._stop_timer(flow)
        attempt = exchange.attempts[-1]
        attempt.status = response.status_code
        attempt.fields = response.headers.fields
        await self._ended(flow, attempt)
        attempts = self._forwarder.attempts
        stream_or_gather(response, exchange, None if attempts is None else attempts.hooks)

    @elsewhere
    def response(self, flow: http.HTTPFlow) -> None:
        self._stop_timer(flow)

    @elsewhere
    def error(self, flow: http.HTTPFlow) -> Awaitable[None] | None:
        self._stop_timer(flow)
        exchange = exchange_of(flow)
        if exchange is None or not exchange.streamed or flow.error is None:
            return None
        return self._failed(flow, exchange, flow.error)

    async def _failed(self, flow: http.HTTPFlow, exchange: Exchange, error: Error) -> None:
        attempt = exchange.attempts[-1]
        gone = error.msg == "Client disconnected."
        connected = flow.server_conn.timestamp_tcp_setup is not None
        if not gone and "UT" not in exchange.flags:
            exchange.flag("UC" if connected else "UF")
        if attempt.status is None:
            if not gone:
                attempt.error = "reset" if connected else "connect-failure"
                attempt.detail = error.msg
            await self._ended(flow, attempt)

    async def _ended(self, flow: http.HTTPFlow, attempt: Attempt) -> None:
        attempt.ended = time.perf_counter()
        attempts = self._forwarder.attempts
        if attempts is not None:
            await attempts.hooks.trigger("mesh_attempt_end", flow, attempt)
            await attempts.hooks.trigger("mesh_forwarded", flow)

    def server_connect(self, data: ServerConnectionHookData) -> None:
        # mitmproxy would ask for, and verify, a certificate of the endpoint's address.
        if data.server.address is not None and (names := self._names.get(data.client.id)):
            data.server.sni = names.get(data.server.address[:2], data.server.sni)

    def client_disconnected(self, client: connection.Client) -> None:
        self._names.pop(client.id, None)

    def server_connect_error(self, data: ServerConnectionHookData) -> None:
        # Otherwise the failure sticks to the client's connection, and its next request fails without a try.
        data.server.error = None

    def websocket_message(self, flow: http.HTTPFlow) -> None:
        # mitmproxy keeps every message for its user interfaces; a proxy that runs for months must not.
        if flow.websocket is not None:
            exchange = exchange_of(flow)
            message = flow.websocket.messages[-1]
            if exchange is not None:
                if message.from_client:
                    exchange.bytes_in += len(message.content)
                else:
                    exchange.bytes_out += len(message.content)
            del flow.websocket.messages[:-1]

    async def _pass(self, flow: http.HTTPFlow, exchange: Exchange) -> None:
        if (rest := self._routing.route(flow, exchange)) is not None:
            await rest
        attempts = self._forwarder.attempts
        if flow.response is not None or attempts is None:
            flow.request.stream = False
            return
        loop = asyncio.get_running_loop()
        timeout = exchange.route.timeout if exchange.route is not None else None
        deadline = Deadline(loop)
        if timeout is not None:
            deadline.start(timeout)
        watch = ClientWatch(flow, deadline)
        try:
            attempt = await self._reach(flow, exchange, attempts, deadline)
        finally:
            watch.stop()
            deadline.stop()
        if attempt is None:
            flow.request.stream = False
            await attempts.hooks.trigger("mesh_forwarded", flow)
            return
        if timeout is not None:
            left = timeout - (time.perf_counter() - exchange.started)
            self._deadlines[flow.id] = loop.call_later(max(0.0, left), self._cut, flow, exchange)
        self._send_on(flow, exchange, attempt, attempts)

    async def _reach(
        self, flow: http.HTTPFlow, exchange: Exchange, attempts: Attempts, deadline: Deadline
    ) -> Attempt | None:
        """An attempt that no fault stands against, at an endpoint that takes connections; None: the flow is answered.

        Up to here nothing was sent, so a try that fails may be followed by another as anywhere else.
        """
        route = exchange.route
        assert route is not None  # as for all that is routed and not answered
        per_try = route.retry.per_try_timeout if route.retry is not None else None
        tried: list[Endpoint] = []
        while True:
            if not await attempts.admitted(flow, exchange, deadline):
                return None
            attempt = attempts.begin(flow, exchange, tried)
            if attempt is None:
                attempts.answer_unsent(flow, exchange)
                return None
            await attempts.hooks.trigger("mesh_attempt", flow, attempt)
            injected = await inject(attempt, deadline, per_try)
            if injected is None and attempt.error is None and self._may_go(flow, exchange, attempt, attempts):
                await knock(attempt, route.connect_timeout, deadline)
                if attempt.error is None:
                    return attempt
            attempt.ended = time.perf_counter()
            await attempts.hooks.trigger("mesh_attempt_end", flow, attempt)
            if attempt.pause is not None:
                await deadline.sleep(attempt.pause)
                if not deadline.expired:
                    continue
            answer_itself(flow, exchange, attempt, injected, deadline)
            return None

    def _may_go(self, flow: http.HTTPFlow, exchange: Exchange, attempt: Attempt, attempts: Attempts) -> bool:
        """Mutual TLS is prepared, where this endpoint wants it. False: it cannot be, and the attempt says why."""
        origin = attempts.origins.secured(exchange, attempt)
        if origin is not None and self._mtls is not None:
            try:
                self._mtls.prepare(flow.client_conn, origin)
            except (NoIdentity, Distrust) as error:
                attempt.error, attempt.detail = "connect-failure", str(error)
                return False
        return True

    def _send_on(self, flow: http.HTTPFlow, exchange: Exchange, attempt: Attempt, attempts: Attempts) -> None:
        exchange.streamed = True
        if attempts.origins.secured(exchange, attempt) is not None:
            flow.request.data.scheme = b"https"
        elif flow.request.scheme == "https":
            names = self._names.setdefault(flow.client_conn.id, {})
            names[attempt.host, attempt.port] = flow.request.pretty_host
        # The fields of `data` are set, not the properties: those would rewrite the Host header.
        flow.request.data.host = attempt.host
        flow.request.data.port = attempt.port

        flow.request.stream = counted(flow.request.stream, exchange, "bytes_in")

    def _cut(self, flow: http.HTTPFlow, exchange: Exchange) -> None:
        """The timeout ran out while mitmproxy carries the exchange: end it at the upstream's side."""
        exchange.flag("UT")
        if (transport := upstream_of(flow)) is not None:
            transport.abort()
        else:
            flow.kill()

    def _stop_timer(self, flow: http.HTTPFlow) -> None:
        timer = self._deadlines.pop(flow.id, None)
        if timer is not None:
            timer.cancel()
