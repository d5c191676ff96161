"""Sends what is routed and answers with what came back: mitmproxy's own upstream side is not used."""

import logging
from collections.abc import Awaitable

from mitmproxy import ctx, http

from addons.answers import FLAG_HEADER, own_answer
from addons.attempts import Attempts
from addons.client_watch import ClientWatch
from addons.deadline import Deadline
from addons.engine.answer import Answer
from addons.engine.carrier import Carrier, carrier_of
from addons.engine.client import Client
from addons.engine.delivery import gather
from addons.engine.driver import contained
from addons.engine.errors import BadRequest, UpstreamError
from addons.engine.flows import make_response
from addons.engine.hooks import HookTable
from addons.engine.link import Link
from addons.engine.marks import elsewhere
from addons.engine.outcome import is_killed
from addons.engine.wire import Fields, end_to_end, value
from addons.engine.wishes import MOST, is_long, wants_whole
from addons.exchange import Exchange, exchange_of
from addons.hedging import Judge
from addons.mtls_outbound import Outbound
from addons.own_stack import stopping
from addons.picking import Picking
from addons.relay import Relay
from addons.upstream_server import server_of

logger = logging.getLogger("mesh.forwarder")

ATTEMPTS_HEADER = b"x-mesh-attempts"
BUFFER = MOST
"""Bytes; the relay streams a longer answer, and one of unknown length that nobody has to have whole."""
_FRAMING = (b"content-length", b"transfer-encoding")
_CLOSE: Fields = ((b"connection", b"close"),)
_ONE: Fields = ((ATTEMPTS_HEADER, b"1"),)
_OF_THE_MESH = frozenset((ATTEMPTS_HEADER,))


class Forwarder:
    """Enforcing: what it cannot send by the policy, it does not let mitmproxy send without."""

    def __init__(
        self, picking: Picking | None = None, outbound: Outbound | None = None, judge: Judge | None = None
    ) -> None:
        self.picking = picking or Picking()
        self._outbound = outbound
        self._judge = judge
        self.client: Client | None = None
        self.attempts: Attempts | None = None
        self._relay: Relay | None = None

    def running(self) -> None:
        if self.client is None:
            tls = None if self._outbound is None else self._outbound.tls
            self.client = Client(objection=_is_itself, tls_context=tls)
            hooks = HookTable(ctx.master.addons)
            self.attempts = Attempts(self.client, hooks, self.picking, self._outbound, self._judge)
            self._relay = Relay()

    def done(self) -> None:
        client, self.client = self.client, None
        if not stopping():
            # At a reload what is under way goes on to its end.
            if client is not None:
                client.close_idle()
            return
        if client is not None:
            client.close()
        if self._relay is not None:
            self._relay.close()

    @elsewhere
    def request(self, flow: http.HTTPFlow) -> Awaitable[None]:
        return self.mesh_forward(flow)

    @contained
    async def mesh_forward(self, flow: http.HTTPFlow) -> None:
        """Send it, and give it the answer."""
        exchange = exchange_of(flow)
        if flow.response is not None or (flow.error is not None and is_killed(flow)):
            return
        if exchange is None or (route := exchange.route) is None or self.attempts is None:
            own_answer(flow, exchange, 500, "IE", "the mesh did not route this request; see the proxy's log")
            return
        if exchange.streamed:
            return
        deadline = Deadline(self.attempts.loop)
        carrier = carrier_of(flow)
        # The fast lane tells by itself.
        watch = ClientWatch(flow, deadline) if carrier is None else None
        streaming = handed_on = False
        try:
            answer = await self.attempts.run(flow, exchange, route, carrier, deadline)
            if answer is not None:
                flow.server_conn = server_of(answer.connection)
                if carrier is not None:
                    streaming = _hand_on(flow, exchange, carrier, answer, deadline)
                    handed_on = True
                else:
                    streaming = await self._deliver(flow, exchange, answer, deadline)
        except UpstreamError as error:
            flag = "UT" if deadline.expired else "UC"
            status = 504 if deadline.expired else 502
            own_answer(flow, exchange, status, flag, f"the answer broke off: {error.detail}")
        except Exception:
            logger.exception("forwarding failed; the request was stopped")
            own_answer(
                flow, exchange, 500, "IE", "the mesh failed to forward this request; see the proxy's log"
            )
        finally:
            if watch is not None:
                watch.stop()
            if not streaming:
                deadline.stop()
        if carrier is not None and (exchange.flags or not handed_on):
            _tell(flow, exchange)

    @elsewhere
    def responseheaders(self, flow: http.HTTPFlow) -> None:
        exchange = exchange_of(flow)
        if exchange is None or flow.response is None:
            return
        if self._relay is not None:
            self._relay.restore(flow, exchange)
        if flow.response.status_code == 204:
            # RFC 9110, section 8.6. mitmproxy would pass it on.
            flow.response.headers.pop("content-length", None)
        _tell(flow, exchange)

    def error(self, flow: http.HTTPFlow) -> None:
        carrier, exchange = carrier_of(flow), exchange_of(flow)
        if carrier is None or exchange is None:
            return
        if isinstance(carrier.error, UpstreamError):
            exchange.flag("UT" if carrier.error.kind == "timeout" else "UC")
        elif isinstance(carrier.error, BadRequest):
            exchange.flag(carrier.error.flag)
        elif carrier.error is not None:
            exchange.flag("IE")

    async def _deliver(
        self, flow: http.HTTPFlow, exchange: Exchange, answer: Answer, deadline: Deadline
    ) -> bool:
        """Let the flow have the answer; True: its body is still under way, and the deadline goes on."""
        body = answer.body
        if not answer.complete:
            assert self._relay is not None
            assert self.attempts is not None
            wanted = sized = False
            if not answer.as_it_comes:
                wanted = wants_whole(self.attempts.hooks, answer.fields)
                sized = value(answer.fields, b"content-length") is not None
            if is_long(answer.fields) or not (wanted or sized) or not await gather(answer, BUFFER):
                await self._relay.offer(flow, exchange, answer, deadline, missed=wanted)
                return True
            body = answer.body
        flow.response = http.Response(
            b"HTTP/1.1",
            answer.status,
            answer.reason,
            http.Headers(_framed(flow.request.method, answer, len(body))),
            body,
            http.Headers(answer.trailers) if answer.trailers and flow.request.is_http2 else None,
            answer.head_at,
            answer.head_at,
        )
        return False


def _hand_on(
    flow: http.HTTPFlow, exchange: Exchange, carrier: Carrier, answer: Answer, deadline: Deadline
) -> bool:
    """The same in the fast lane, which does the framing and the streaming itself."""
    tries = len(exchange.attempts)
    fields = end_to_end(answer.fields, drop=_OF_THE_MESH)
    fields += _ONE if tries == 1 else ((ATTEMPTS_HEADER, b"%d" % tries),)
    if answer.closes:
        fields += _CLOSE
    response = make_response(
        b"HTTP/1.1",
        answer.status,
        answer.reason,
        fields,
        answer.body if answer.complete else None,
        answer.head_at,
    )
    flow.response = response
    if answer.complete:
        if answer.sized and not answer.closes:
            carrier.framed = fields, answer.body
        elif answer.trailers is not None:
            response.data.trailers = http.Headers(answer.trailers)
        return False
    carrier.offer(response, answer)
    carrier.on_end = deadline.stop
    if answer.upgraded:
        # A timeout is for an answer; what an upgrade begins may last.
        deadline.stop()
        assert exchange.route is not None
        carrier.idle_timeout = exchange.route.idle_timeout
    return True


def _tell(flow: http.HTTPFlow, exchange: Exchange) -> None:
    """What the caller may know: how many tries it took, and why it was not more."""
    response, tries = flow.response, len(exchange.attempts)
    if response is None or not tries:
        return
    set_field(response, ATTEMPTS_HEADER, b"%d" % tries)
    if exchange.flags and exchange.attempts[-1].error is None:
        for flag in ("UO", "URX"):
            if flag in exchange.flags:
                response.headers[FLAG_HEADER] = flag
                break


def _is_itself(link: Link) -> str:
    """What speaks against this connection: a request over it would come back here again and again."""
    (host, port), local = link.peer, link.local[0]
    if host == local:
        for listening, number, *_ in ctx.master.addons.get("proxyserver").listen_addrs():
            if number == port and listening in ("0.0.0.0", "::", host):
                return "that is this proxy itself; say by URL, Host header or policy where to go"
    return ""


def set_field(message: http.Message, name: bytes, text: bytes) -> None:
    """Set one header; `name` in lower case. What mitmproxy's own setter does, without its conversions."""
    headers = message.data.headers
    if value(headers.fields, name) is not None:
        headers.fields = tuple([field for field in headers.fields if field[0].lower() != name])
    headers.fields += ((name, text),)


def _framed(method: str, answer: Answer, length: int) -> Fields:
    """The answer's end-to-end fields with a Content-Length that is true of the whole body."""
    fields = end_to_end(answer.fields)
    if method == "HEAD" or answer.status in (204, 304):
        return fields
    kept = tuple([field for field in fields if field[0].lower() not in _FRAMING])
    return (*kept, (b"content-length", b"%d" % length))
