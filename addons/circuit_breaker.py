"""Leaves endpoints alone that fail again and again, and says so in log, metrics and `mitmesh status`."""

import logging
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator

from mitmproxy import http
from mitmproxy.connection import ConnectionState

from addons.exchange import Attempt, Exchange, exchange_of
from addons.load_balancing import LoadBalancing
from addons.needs import needs
from control.breakers import Ejected, write_breakers
from control.policy.breaker import Breaker, Change, failed
from control.policy.breaking import CompiledBreaker, Health, State
from control.policy.snapshot import CompiledRoute, CompiledService, Endpoint, Snapshot
from control.policy.units import format_duration

logger = logging.getLogger("mesh.circuit_breaker")

_MOST_COUNTED = 2000


class CircuitBreaker:
    """Keeps the state of every breaker that has something to remember, by service and by the place that declares it."""

    def __init__(
        self, balancing: LoadBalancing | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._balancing = balancing or LoadBalancing()
        self._clock = clock
        self._breakers: dict[tuple[str, str], Breaker] = {}
        self.ejections: Counter[tuple[str, str]] = Counter()
        """How often each endpoint was ejected, by service and address."""

    def is_calm(self, exchange: Exchange) -> bool:
        """No endpoint is ejected: the balancer alone decides, and no attempt is a probe."""
        return self._of(exchange)[1].calm

    def pick(self, flow: http.HTTPFlow, exchange: Exchange, tried: Collection[Endpoint]) -> Endpoint | None:
        """The endpoint for the next attempt of an exchange with a share; None: all are ejected, or none has a weight."""
        share = exchange.share
        assert share is not None
        policy, breaker = self._of(exchange)
        now, endpoints = self._clock(), share.endpoints
        further = bool(exchange.attempts)
        barred = breaker.barred(endpoints, now, further)
        picked = self._balancing.pick(flow, exchange, share, tried, barred)
        if picked is None and further:
            # Better as a probe than not at all.
            barred = breaker.barred(endpoints, now, False)
            picked = self._balancing.pick(flow, exchange, share, tried, barred)
        if picked is None and policy.panic:
            return self._balancing.pick(flow, exchange, share, tried)
        return picked

    def allows(self, exchange: Exchange, address: str) -> bool:
        """Whether an attempt may go to the address that the caller named, for an exchange without a share."""
        policy, breaker = self._of(exchange)
        return breaker.calm or policy.panic or not breaker.is_barred(address, self._clock(), False)

    def begin(self, exchange: Exchange, attempt: Attempt) -> None:
        """The attempt goes to its endpoint. At once after `pick`, so that no two are the same probe."""
        policy, breaker = self._of(exchange)
        self._tell(exchange, policy, breaker.begin(attempt.address, attempt, self._clock(), policy), "")

    def why_none(self, exchange: Exchange) -> str:
        """What to tell a caller for whom `pick` or `allows` found nothing; empty if that is not for the breaker."""
        share = exchange.share
        endpoints = () if share is None else share.endpoints
        breaker = self._of(exchange)[1]
        if breaker.calm:
            return ""
        opens = breaker.opens_at(endpoints)
        text = f"the circuit breaker leaves every endpoint of service {exchange.service} alone"
        if opens is None:
            return text
        return f"{text}; the next is tried in {max(0.0, opens - self._clock()):.1f} s"

    @needs("circuit_breaker")
    def mesh_attempt_end(self, flow: http.HTTPFlow, attempt: Attempt) -> None:
        exchange = exchange_of(flow)
        if exchange is None or exchange.route is None or exchange.route.circuit_breaker is None:
            return
        policy, breaker = self._of(exchange)
        fields = attempt.fields if exchange.streamed or attempt.injected else ()
        outcome = failed(attempt.status, attempt.error, fields)
        if attempt.error == "timeout" and _client_left(flow):
            outcome = None
        if breaker.blank and not outcome:
            return
        share = exchange.share
        endpoints = () if share is None else share.endpoints
        change = breaker.end(attempt.address, attempt, outcome, self._clock(), policy, endpoints)
        self._tell(exchange, policy, change, attempt.error or f"status {attempt.status}")

    def mesh_policy(self, snapshot: Snapshot) -> None:
        """Keep what still applies: breakers that are still declared, endpoints that are still there."""
        for key, breaker in list(self._breakers.items()):
            name, owner = key
            service = snapshot.services.get(name) if name else snapshot.unknown
            routes = [] if service is None else list(_routes(service, owner))
            if not routes:
                del self._breakers[key]
                continue
            shares = [share for route in routes for share in route.shares]
            # A route without shares goes where callers say.
            named = any(not route.shares for route in routes)
            addresses = {endpoint.address for share in shares for endpoint in share.endpoints}
            policy = routes[0].circuit_breaker
            assert policy is not None
            breaker.keep(None if named else addresses, policy)

    def states(self) -> Iterator[tuple[str, str, Health]]:
        """Service, address and health of every endpoint that is not simply well."""
        for (service, _), breaker in self._breakers.items():
            for address, health in breaker.health().items():
                yield service, address, health

    def report(self) -> str:
        """The endpoints that are ejected, for the node's report."""
        now = self._clock()
        return write_breakers(
            Ejected(
                service,
                address,
                health.state.value,
                round(now - health.since, 3),
                round(max(0.0, health.until - now), 3) if health.state is State.OPEN else 0.0,
                health.ejections,
            )
            for service, address, health in self.states()
            if health.state is not State.CLOSED
        )

    def _of(self, exchange: Exchange) -> tuple[CompiledBreaker, Breaker]:
        route = exchange.route
        assert route is not None
        policy = route.circuit_breaker
        assert policy is not None
        key = (route.service, policy.owner)
        breaker = self._breakers.get(key)
        if breaker is None:
            breaker = self._breakers[key] = Breaker()
        return policy, breaker

    def _tell(self, exchange: Exchange, policy: CompiledBreaker, change: Change | None, outcome: str) -> None:
        if change is None:
            return
        before, after = change.before, change.after
        said = f"{exchange.service or 'unclaimed hosts'}: {change.address}: {before.state.value} -> {after.state.value}"
        if after.state is State.HALF_OPEN:
            why = "one request is let through"
        elif after.state is State.CLOSED:
            why = "its probe succeeded"
        elif after.ejections == before.ejections:
            why = "its probe told nothing; the next request is one"
        else:
            if len(self.ejections) < _MOST_COUNTED or (exchange.service, change.address) in self.ejections:
                self.ejections[exchange.service, change.address] += 1
            said += f" for {format_duration(after.until - after.since)}"
            why = (
                f"its probe failed: {outcome}"
                if before.state is State.HALF_OPEN
                else f"{policy.consecutive_failures} failures in a row, the last: {outcome}"
            )
        # Good news too: who reads of the one waits for the other.
        logger.warning(f"{said}: {why}")


def _routes(service: CompiledService, owner: str) -> Iterator[CompiledRoute]:
    for route in (*service.routes, service.own):
        if route.circuit_breaker is not None and route.circuit_breaker.owner == owner:
            yield route


def _client_left(flow: http.HTTPFlow) -> bool:
    """Whether an attempt was cut off since nobody waits for it any more, which `ClientWatch` does like a timeout."""
    return not flow.client_conn.state & ConnectionState.CAN_READ
