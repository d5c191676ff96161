"""Where an attempt goes: by round robin in short, by the balancer and circuit breaker where the policy has one."""

from mitmproxy import http

from addons.answers import own_answer
from addons.circuit_breaker import CircuitBreaker
from addons.exchange import Attempt, Exchange
from addons.limits import Limits
from addons.load_balancing import LoadBalancing
from control.policy.snapshot import CompiledRoute, Endpoint


class Picking:
    """What both lanes ask for the next attempt of an exchange."""

    def __init__(
        self,
        balancing: LoadBalancing | None = None,
        breaking: CircuitBreaker | None = None,
        limits: Limits | None = None,
    ) -> None:
        self.balancing = balancing or LoadBalancing()
        self.breaking = breaking or CircuitBreaker(self.balancing)
        self.limits = limits or Limits()

    def begin(self, flow: http.HTTPFlow, exchange: Exchange, tried: list[Endpoint]) -> Attempt | None:
        """A new attempt at the next endpoint; None: there is none to pick."""
        share = exchange.share
        route = exchange.route
        breaks = (
            route is not None and route.circuit_breaker is not None and not self.breaking.is_calm(exchange)
        )
        number = len(exchange.attempts) + 1
        if share is None:
            named = flow.request.data
            attempt = Attempt(number, None, named.host, named.port)
            if breaks and not self.breaking.allows(exchange, attempt.address):
                return None
        else:
            endpoint = None if breaks else share.only
            if endpoint is None:
                avoid = tried if tried and _elsewhere(route) else ()
                if breaks:
                    endpoint = self.breaking.pick(flow, exchange, avoid)
                else:
                    endpoint = self.balancing.pick(flow, exchange, share, avoid)
                if endpoint is None:
                    return None
                tried.append(endpoint)
                if len(tried) >= len(share.endpoints):
                    # Every one was tried: the next round starts afresh, but not where this one ended.
                    tried[:-1] = []
            attempt = Attempt(number, endpoint, endpoint.host, endpoint.port)
        if breaks:
            self.breaking.begin(exchange, attempt)
        exchange.attempts.append(attempt)
        return attempt

    def answer_unsent(self, flow: http.HTTPFlow, exchange: Exchange) -> None:
        """Answer where `begin` found no endpoint."""
        text = f"service {exchange.service} has no endpoint to send to"
        if exchange.route is not None and exchange.route.circuit_breaker is not None:
            text = self.breaking.why_none(exchange) or text
        own_answer(flow, exchange, 503, "UH", text)


def _elsewhere(route: CompiledRoute | None) -> bool:
    return route is not None and route.retry is not None and route.retry.other_endpoint
