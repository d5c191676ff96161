"""Who may call whom: refuses, before anything is sent, what the rules of the route do not allow."""

import logging
from random import Random

from mitmproxy import connection, ctx, http
from mitmproxy.proxy import commands, events, layer, layers

from addons.answers import own_answer
from addons.exchange import Exchange
from control.identity.names import parse_spiffe_id, spiffe_id
from control.policy.admission import admit, admit_tunnel
from control.policy.authorizing import NOBODY, Caller, Verdict
from control.policy.facts import RequestFacts
from control.policy.routes import CompiledRoute, CompiledService

logger = logging.getLogger("mesh.authorization")

REFUSED = "RBAC"
AUDITED = "RBAC_AUDIT"
_MOST_TOLD = 1000


class Authorization:
    """Enforcing. Routing asks it, in both lanes and for what streams, as soon as it knows the route.

    In front of a service the caller is who the verified certificate says, at the caller's side the proxy's own service.
    """

    def __init__(self) -> None:
        self._mesh = "mesh"
        self._callers: dict[tuple[bool, str], Caller] = {}
        self._told: set[tuple[str, ...]] = set()
        self._only_http: set[str] = set()

    def configure(self, updated: set[str]) -> None:
        if "mesh_name" in updated:
            self._mesh = ctx.options.mesh_name
            self._callers.clear()

    def judge(
        self,
        flow: http.HTTPFlow,
        exchange: Exchange,
        service: CompiledService,
        route: CompiledRoute,
        random: Random,
    ) -> None:
        """Answer what is refused. Called where the service is guarded."""
        assert exchange.facts is not None
        caller = self._caller(exchange)
        verdict = admit(service, route, exchange.facts, caller, random)
        if not verdict.allowed:
            self._act(flow, exchange, exchange.facts, caller, verdict, route.label)

    def judge_tunnel(
        self, flow: http.HTTPFlow, exchange: Exchange, service: CompiledService, facts: RequestFacts
    ) -> None:
        """The same for CONNECT. Where the rules ask for more than the caller, only HTTP may go through the tunnel."""
        caller = self._caller(exchange)
        verdict, anything = admit_tunnel(service, caller)
        if not verdict.allowed:
            self._act(flow, exchange, facts, caller, verdict, "")
        if not anything:
            self._only_http.add(flow.client_conn.id)

    def next_layer(self, nextlayer: layer.NextLayer) -> None:
        client = nextlayer.context.client
        if client.id in self._only_http and isinstance(nextlayer.layer, layers.TCPLayer):
            logger.warning("a tunnel was closed: rules on its requests stand, and what came is no HTTP")
            nextlayer.layer = _Closed(nextlayer.context)

    def client_disconnected(self, client: connection.Client) -> None:
        self._only_http.discard(client.id)

    def _caller(self, exchange: Exchange) -> Caller:
        name = exchange.peer if exchange.inbound else exchange.source
        if not name:
            return NOBODY
        caller = self._callers.get((exchange.inbound, name))
        if caller is None:
            if len(self._callers) >= _MOST_TOLD:
                self._callers.clear()
            made = _peer(name, self._mesh) if exchange.inbound else Caller(spiffe_id(self._mesh, name), name)
            caller = self._callers[exchange.inbound, name] = made
        return caller

    def _act(
        self,
        flow: http.HTTPFlow,
        exchange: Exchange,
        facts: RequestFacts,
        caller: Caller,
        verdict: Verdict,
        route: str,
    ) -> None:
        service = exchange.service or facts.host
        if verdict.audit:
            exchange.flag(AUDITED)
        else:
            text = f"access denied: the policy of {service} does not allow this request"
            own_answer(flow, exchange, 403, REFUSED, text)
        who = caller.service or caller.spiffe_id or "an unknown caller"
        self._tell(verdict, service, route, who, facts)

    def _tell(self, verdict: Verdict, service: str, route: str, who: str, facts: RequestFacts) -> None:
        """Once for each kind, since whoever is refused may ask again and again; the access log has them all."""
        kind = (service, route, who, verdict.rule, facts.method, str(verdict.audit))
        if kind in self._told:
            return
        if len(self._told) >= _MOST_TOLD:
            self._told.clear()
        self._told.add(kind)
        what = "would be refused (audit)" if verdict.audit else "refused"
        why = f"by {verdict.rule}" if verdict.rule else "no allow rule holds"
        path = facts.target.partition("?")[0][:200]
        # Quoted as a whole: a client wrote parts of it.
        told = f"{facts.method} {path} to {service} from {who}"
        logger.warning(f"{what}: {told!a}, {why}; more of the kind are in the access log alone")


class _Closed(layer.Layer):
    """Ends the connection with nothing sent on."""

    def _handle_event(self, event: events.Event) -> layer.CommandGenerator[None]:
        if isinstance(event, events.Start):
            yield commands.CloseConnection(self.context.client)


def _peer(name: str, mesh: str) -> Caller:
    """A service's own name counts in its own mesh only."""
    try:
        domain, service = parse_spiffe_id(name)
    except ValueError:
        return Caller(name)
    return Caller(name, service if domain == mesh.lower() else "")
