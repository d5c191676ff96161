"""How much a service may be asked at once: requests, and connections with a queue for them; above that, 503 UO.

What is limited is what this process has under way. A request of HTTP/1.1 has a
connection to itself, so a place among the connections is held from before an
attempt until it failed or its answer is over; idle connections of the pool
give way to those that are needed.
"""

from collections import deque
from collections.abc import Iterator

from mitmproxy import http

from addons.answers import answer_itself, own_answer
from addons.deadline import Deadline
from addons.engine.outcome import is_killed
from addons.exchange import Attempt, Exchange, exchange_of
from addons.needs import needs
from control.policy.breaking import CompiledBreaker


class _Waiting:
    """A request in the queue for a connection."""

    __slots__ = ("deadline", "granted")

    def __init__(self, deadline: Deadline) -> None:
        self.deadline = deadline
        self.granted = False


class _Usage:
    """What is under way under one `circuit_breaker` of one service."""

    __slots__ = ("connections", "key", "queue", "requests")

    def __init__(self, key: tuple[str, str]) -> None:
        self.key = key
        self.requests = 0
        self.connections = 0
        self.queue: deque[_Waiting] = deque()


class _Held:
    """What one exchange has of it."""

    __slots__ = ("connected", "usage")

    def __init__(self, usage: _Usage) -> None:
        self.usage = usage
        self.connected = 0
        """Places among the connections; more than one while it has several tries at once."""


class Limits:
    """Enforcing: asked before each attempt on a route whose `circuit_breaker` has such limits."""

    def __init__(self) -> None:
        self._usages: dict[tuple[str, str], _Usage] = {}
        self._held: dict[Exchange, _Held] = {}

    async def admitted(self, flow: http.HTTPFlow, exchange: Exchange, deadline: Deadline) -> bool:
        """Whether the next attempt may begin, perhaps after a wait; False: the flow is answered."""
        policy = exchange.route.circuit_breaker if exchange.route is not None else None
        if policy is None or not policy.admits or await self._admit(flow, exchange, policy, deadline):
            return True
        if flow.response is None:
            answer_itself(flow, exchange, None, None, deadline)
        return False

    async def _admit(
        self, flow: http.HTTPFlow, exchange: Exchange, policy: CompiledBreaker, deadline: Deadline
    ) -> bool:
        """As `admitted`; False without an answer: the time has run out."""
        held = self._held.get(exchange)
        if held is None:
            usage = self._usage((exchange.service, policy.owner))
            if policy.requests is not None and usage.requests >= policy.requests:
                self._forget_if_idle(usage)
                return _refuse(flow, exchange, f"the limit of {policy.requests} requests at once")
            usage.requests += 1
            held = self._held[exchange] = _Held(usage)
        if policy.connections is None or held.connected:
            return True
        usage = held.usage
        if usage.connections < policy.connections and not usage.queue:
            usage.connections += 1
            held.connected = 1
            return True
        if len(usage.queue) >= policy.pending:
            waiting = f" (and {policy.pending} requests that wait for one)" if policy.pending else ""
            return _refuse(flow, exchange, f"the limit of {policy.connections} connections at once{waiting}")
        await self._wait(held, deadline)
        return held.connected > 0

    def beside(self, exchange: Exchange) -> bool:
        """Whether one more try may begin at once beside those of the exchange that are under way."""
        policy = exchange.route.circuit_breaker if exchange.route is not None else None
        held = self._held.get(exchange)
        if held is None or policy is None or policy.connections is None:
            return True
        if held.usage.connections >= policy.connections:
            return False
        held.usage.connections += 1
        held.connected += 1
        return True

    async def _wait(self, held: _Held, deadline: Deadline) -> None:
        waiting = _Waiting(deadline)
        queue = held.usage.queue
        queue.append(waiting)
        try:
            while not waiting.granted and not deadline.expired:
                await deadline.sleep(None)
        finally:
            # Also where the client has left meanwhile.
            if waiting.granted:
                held.connected = 1
            else:
                queue.remove(waiting)

    @needs("limited")
    def mesh_attempt_end(self, flow: http.HTTPFlow, attempt: Attempt) -> None:
        """A pause before another try needs no connection, nor does what other tries have outlived."""
        if self._held and (exchange := exchange_of(flow)) is not None:
            held = self._held.get(exchange)
            if held is not None and (attempt.pause is not None or held.connected > 1):
                self._disconnect(held)

    @needs("limited")
    def response(self, flow: http.HTTPFlow) -> None:
        websocket = flow.websocket
        if websocket is not None and websocket.timestamp_end is None and not is_killed(flow):
            # Its messages have only begun.
            return
        exchange = exchange_of(flow)
        held = self._held.pop(exchange, None) if exchange is not None else None
        if held is not None:
            while held.connected:
                self._disconnect(held)
            held.usage.requests -= 1
            self._forget_if_idle(held.usage)

    # Any of them may be the end of an exchange.
    websocket_end = error = response

    def usage(self) -> Iterator[tuple[str, str, int]]:
        """Service, limit and what is in use of it."""
        for (service, _), usage in self._usages.items():
            yield service, "requests", usage.requests
            yield service, "connections", usage.connections
            yield service, "pending", len(usage.queue)

    def _usage(self, key: tuple[str, str]) -> _Usage:
        usage = self._usages.get(key)
        if usage is None:
            usage = self._usages[key] = _Usage(key)
        return usage

    def _forget_if_idle(self, usage: _Usage) -> None:
        if not usage.requests:
            del self._usages[usage.key]

    @staticmethod
    def _disconnect(held: _Held) -> None:
        """Give the place among the connections to the one that waits longest."""
        if not held.connected:
            return
        held.connected -= 1
        usage = held.usage
        for waiting in usage.queue:
            # One whose time ran out leaves the queue by itself, as soon as it has its turn of the event loop.
            if not waiting.deadline.expired:
                usage.queue.remove(waiting)
                waiting.granted = True
                waiting.deadline.wake()
                return
        usage.connections -= 1


def _refuse(flow: http.HTTPFlow, exchange: Exchange, limit: str) -> bool:
    own_answer(flow, exchange, 503, "UO", f"{limit} to service {exchange.service} is reached")
    return False
