"""Decides which service, route and version a request belongs to, and edits its headers."""

import logging
import random
from collections.abc import Awaitable

from mitmproxy import ctx, http
from mitmproxy.proxy import mode_specs

from addons.answers import own_answer
from addons.authorization import Authorization
from addons.engine.carrier import carrier_of
from addons.engine.driver import taskless
from addons.engine.hooks import HookTable
from addons.engine.marks import elsewhere
from addons.engine.outcome import is_killed
from addons.engine.wire import value
from addons.exchange import Exchange, exchange_of
from addons.mesh_headers import without_forged
from addons.needs import needs
from addons.own_stack import resumed
from addons.sticky import share_of
from control.policy.facts import RequestFacts
from control.policy.headers import HeaderEdit
from control.policy.inbound import Inbound
from control.policy.routes import CompiledService

logger = logging.getLogger("mesh.routing")

REQUEST_ID = b"x-request-id"
# In these modes the client believes it talks to the address it resolved; its Host header names the service.
_ADDRESS_MODES = frozenset((mode_specs.TransparentMode, mode_specs.WireGuardMode, mode_specs.LocalMode))


def facts_of(flow: http.HTTPFlow, source: str) -> RequestFacts:
    """What the policy may look at, with the destination as the client named it."""
    data = flow.request.data
    host = data.host
    # Not isinstance: the modes are abstract classes, which Python asks one by one.
    if type(flow.client_conn.proxy_mode) in _ADDRESS_MODES:
        host = flow.request.pretty_host
    return RequestFacts(
        data.method.decode("latin-1"),
        host,
        data.port,
        data.path.decode("latin-1"),
        data.headers.fields,
        source,
    )


def edit(message: http.Message, change: HeaderEdit) -> None:
    """Apply a policy's header operations."""
    headers = message.data.headers
    headers.fields = change.apply(headers.fields)


class Routing:
    """Enforcing: if it fails, the request is answered 500 and goes nowhere.

    Where the route asks for more than a destination, the mesh's hook `mesh_routed(flow)` runs on every addon that has it,
    in both lanes and before anything is sent: there a feature may answer the flow, or change the request.
    """

    def __init__(
        self, random_source: random.Random | None = None, authorization: Authorization | None = None
    ) -> None:
        self._random = random_source or random.Random()
        self._hooks: HookTable | None = None
        self._authorization = authorization or Authorization()
        self._inbound = Inbound()

    def running(self) -> None:
        self._hooks = HookTable(ctx.master.addons)

    @elsewhere
    def request(self, flow: http.HTTPFlow) -> Awaitable[None] | None:
        if flow.intercepted:
            return self._request_resumed(flow)
        return None if is_killed(flow) else self.mesh_request(flow)

    async def _request_resumed(self, flow: http.HTTPFlow) -> None:
        await resumed(flow)
        if not is_killed(flow) and (rest := self.mesh_request(flow)) is not None:
            await rest

    @taskless
    def mesh_request(self, flow: http.HTTPFlow) -> Awaitable[None] | None:
        """The request is as all other addons leave it; who shows flows has resumed it."""
        exchange = exchange_of(flow)
        if exchange is None or exchange.routed or flow.response is not None:
            return None
        rest = self.route(flow, exchange)
        carrier = carrier_of(flow)
        if carrier is not None:
            # From here on only the hooks are called that this route has something to do for.
            carrier.hooks = carrier.hooks.narrowed(exchange.route)
        return rest

    def http_connect(self, flow: http.HTTPFlow) -> None:
        """No tunnel to where no request may go. What is HTTP inside it is routed request by request."""
        if flow.response is not None and not 200 <= flow.response.status_code < 300:
            # An addon that answers 2xx itself opens the tunnel.
            return
        exchange = exchange_of(flow)
        try:
            assert exchange is not None
            self._connect(flow, exchange)
        except Exception:
            logger.exception("a tunnel could not be judged; it was refused")
            own_answer(flow, exchange, 500, "IE", "the mesh failed to judge this tunnel; see the proxy's log")

    @needs("response_headers")
    def responseheaders(self, flow: http.HTTPFlow) -> None:
        exchange = exchange_of(flow)
        route = exchange.route if exchange is not None else None
        if route is not None and route.response_headers is not None and flow.response is not None:
            edit(flow.response, route.response_headers)

    def route(self, flow: http.HTTPFlow, exchange: Exchange) -> Awaitable[None] | None:
        """Route the request, or answer it where it can go no further. None: all is done; else await the rest."""
        try:
            rest = self._route(flow, exchange)
        except Exception as error:
            self._failed(flow, exchange, error)
            return None
        return None if rest is None else self._rest_of_route(rest, flow, exchange)

    async def _rest_of_route(self, rest: Awaitable[None], flow: http.HTTPFlow, exchange: Exchange) -> None:
        try:
            await rest
            self._choose(flow, exchange)
        except Exception as error:
            self._failed(flow, exchange, error)

    @staticmethod
    def _failed(flow: http.HTTPFlow, exchange: Exchange, error: Exception) -> None:
        logger.error("routing failed; the request was stopped", exc_info=error)
        own_answer(flow, exchange, 500, "IE", "the mesh failed to route this request; see the proxy's log")

    def _connect(self, flow: http.HTTPFlow, exchange: Exchange) -> None:
        facts = exchange.facts = facts_of(flow, exchange.source)
        service = self._service(exchange, facts)
        if service is None:
            _refuse_unknown(flow, exchange, facts)
        elif service.guarded:
            self._authorization.judge_tunnel(flow, exchange, service, facts)

    def _service(self, exchange: Exchange, facts: RequestFacts) -> CompiledService | None:
        """Whose rules hold: those of the service that is called, and in front of a service its own."""
        snapshot = exchange.snapshot
        assert snapshot is not None
        if exchange.inbound:
            return self._inbound.service(snapshot, exchange.service)
        service = snapshot.find(facts.host, facts.port) or snapshot.unknown
        if service is not None:
            exchange.service = service.name
        return service

    def _route(self, flow: http.HTTPFlow, exchange: Exchange) -> Awaitable[None] | None:
        exchange.routed = True
        headers = flow.request.data.headers
        request_id = value(headers.fields, REQUEST_ID)
        if request_id is None:
            exchange.request_id = flow.id
            headers.fields += ((REQUEST_ID, exchange.request_id.encode()),)
        else:
            exchange.request_id = request_id.decode("latin-1")
        if exchange.inbound:
            headers.fields = without_forged(headers.fields)
        facts = exchange.facts = facts_of(flow, exchange.source)
        service = self._service(exchange, facts)
        if service is None:
            _refuse_unknown(flow, exchange, facts)
            return None
        route = exchange.route = service.route(facts, self._random) if service.routes else service.own
        if service.guarded:
            self._authorization.judge(flow, exchange, service, route, self._random)
            if flow.response is not None:
                return None
        if route.request_headers is not None:
            edit(flow.request, route.request_headers)
        if route.gated:
            assert self._hooks is not None
            if (rest := self._hooks.narrowed(route).run("mesh_routed", flow)) is not None:
                return rest
        if route.shares:
            self._choose(flow, exchange)
        return None

    def _choose(self, flow: http.HTTPFlow, exchange: Exchange) -> None:
        """The version that the request goes to, unless it is answered."""
        route = exchange.route
        assert route is not None
        if flow.response is not None:
            return
        if route.sticky is None:
            exchange.share = route.pick_share(self._random)
        else:
            exchange.share = share_of(flow, exchange, route, self._random)
        if route.shares and exchange.share is None:
            own_answer(flow, exchange, 503, "UH", f"service {route.service} has no endpoint with a weight")


def _refuse_unknown(flow: http.HTTPFlow, exchange: Exchange, facts: RequestFacts) -> None:
    own_answer(
        flow,
        exchange,
        404,
        "NR",
        f"no service of the mesh claims the host {facts.host}:{facts.port}"
        " and its policy refuses unknown hosts",
    )
