"""Refuses what exceeds a rate limit: 429 RL with `retry-after`."""

import logging
import time
from collections.abc import Awaitable, Callable, Iterator
from hashlib import blake2b

from mitmproxy import http

from addons.answers import own_answer
from addons.engine.driver import taskless
from addons.exchange import Exchange, exchange_of
from addons.fails_closed import fails_closed
from addons.metrics_text import Counts
from addons.needs import needs
from addons.policy_feed import PolicyFeed
from addons.shared_limits import SharedLimits
from control.policy.rate_limiting import Buckets, CompiledRateLimit, retry_after
from control.policy.snapshot import Snapshot

logger = logging.getLogger("mesh.rate_limit")


def _microseconds() -> int:
    return time.monotonic_ns() // 1000


class RateLimit:
    """Enforcing. Limits of `scope: proxy` are counted here; of those of `scope: mesh` Redis is asked."""

    def __init__(self, feed: PolicyFeed, clock: Callable[[], int] = _microseconds) -> None:
        self._clock = clock
        self.buckets = Buckets()
        self.shared = SharedLimits(lambda: feed.store)

    @needs("rate_limit")
    @taskless
    @fails_closed(logger, "count this request against its rate limit")
    def mesh_routed(self, flow: http.HTTPFlow) -> Awaitable[None] | None:
        exchange = exchange_of(flow)
        if exchange is None or (route := exchange.route) is None or (limit := route.rate_limit) is None:
            return None
        if flow.response is not None:
            return None
        assert exchange.facts is not None
        name = limit.bucket(exchange.facts, flow.client_conn.peername[0])
        if limit.shared:
            return self._ask(flow, exchange, limit, name)
        wait = self.buckets.take(limit, exchange.service, name, self._clock())
        if wait:
            _refuse(flow, exchange, limit, wait)
        return None

    def counts(self) -> list[Counts]:
        """For the metrics."""
        return [Counts("mitmesh_rate_limit_unanswered", (), [((), float(self.shared.unanswered))])]

    def mesh_policy(self, snapshot: Snapshot) -> None:
        """Forget what was counted for limits that the new snapshot no longer has."""
        if len(self.buckets):
            self.buckets.forget({limit.key for limit in _limits_of(snapshot)})

    async def _ask(
        self, flow: http.HTTPFlow, exchange: Exchange, limit: CompiledRateLimit, name: str
    ) -> None:
        digest = blake2b(limit.key.encode(), digest_size=8).hexdigest()
        wait = await self.shared.ask(limit, f"{exchange.service}:{digest}:{name}")
        if wait is None:
            if limit.allow_without:
                return
            text = "the rate limit of the mesh cannot be asked for: Redis is away, and the policy denies then"
            _refuse(flow, exchange, limit, 0, text)
        elif wait:
            _refuse(flow, exchange, limit, wait)


def _refuse(
    flow: http.HTTPFlow, exchange: Exchange, limit: CompiledRateLimit, wait: int, text: str = ""
) -> None:
    source = limit.source
    said = source.document()
    text = text or f"more than {source.requests} requests in {said['per']}: wait as long as retry-after says"
    own_answer(flow, exchange, 429, "RL", text)
    assert flow.response is not None
    flow.response.headers["retry-after"] = str(retry_after(wait))


def _limits_of(snapshot: Snapshot) -> Iterator[CompiledRateLimit]:
    unknown = [] if snapshot.unknown is None else [snapshot.unknown]
    for service in (*snapshot.services.values(), *unknown):
        for route in (*service.routes, service.own):
            if route.rate_limit is not None:
                yield route.rate_limit
