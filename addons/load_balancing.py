"""Picks endpoints where the policy wants more than round robin, and keeps whose turn it is everywhere."""

import random
from collections import defaultdict
from collections.abc import Collection

from mitmproxy import http

from addons.exchange import Attempt, Exchange, exchange_of
from addons.needs import needs
from control.policy.balancers import Balancer, Balancing, choose, make_balancer
from control.policy.balancing import RoundRobin
from control.policy.snapshot import Endpoint, Share, Snapshot


class LoadBalancing:
    """A balancer for each service and version, which goes on across changes of the policy that are not its own."""

    def __init__(self, random_source: random.Random | None = None) -> None:
        self._random = random_source or random.Random()
        self.turns: dict[tuple[str, str | None, bool], RoundRobin] = {}
        """By service, version and whether it is a further try of a request. First tries and further ones take turns
        apart: where one of two endpoints fails, the further tries would else bring every first try back to it."""
        self._balancers: dict[tuple[str, str | None], tuple[Balancing, Balancer]] = {}
        self._of_share: dict[int, tuple[Share, Balancer]] = {}
        self._active: defaultdict[str, int] = defaultdict(int)
        self._answering: dict[Exchange, str] = {}

    def pick(
        self,
        flow: http.HTTPFlow,
        exchange: Exchange,
        share: Share,
        tried: Collection[Endpoint],
        barred: Collection[Endpoint] = (),
    ) -> Endpoint | None:
        """The endpoint for the next attempt: none of the barred; one of the tried if there is no other. None: there is none."""
        balancing = share.balancing
        if balancing is None:
            key = (share.service, share.version, bool(exchange.attempts))
            turn = self.turns.get(key)
            if turn is None:
                turn = self.turns[key] = RoundRobin()
            return choose(turn, share.endpoints, tried, barred)
        kept = self._of_share.get(id(share))
        if kept is None:
            kept = self._adopt(share, balancing)
        hashed = None
        if balancing.kind == "hash" and (facts := exchange.facts) is not None:
            if (peer := flow.client_conn.peername) is not None:
                facts.client_ip = peer[0]
            hashed = balancing.key(facts)
        return choose(kept[1], share.endpoints, tried, barred, hashed)

    def _adopt(self, share: Share, balancing: Balancing) -> tuple[Share, Balancer]:
        """The balancer of this share, perhaps that of an older snapshot's. With the share, whose identity it is found by."""
        name = (share.service, share.version)
        before = self._balancers.get(name)
        if before is None or before[0] != balancing:
            before = self._balancers[name] = (
                balancing,
                make_balancer(balancing, self._active, self._random),
            )
        kept = self._of_share[id(share)] = (share, before[1])
        return kept

    def mesh_policy(self, snapshot: Snapshot) -> None:
        """Forget what belongs to services that the new snapshot no longer has."""
        services = snapshot.services
        for key in [key for key in self.turns if key[0] not in services]:
            del self.turns[key]
        self._balancers = {name: kept for name, kept in self._balancers.items() if name[0] in services}
        self._of_share = {}

    # Attempts under way, for least_request: from their start to the end of their answer

    @needs("counts_active")
    def mesh_attempt(self, flow: http.HTTPFlow, attempt: Attempt) -> None:
        exchange, endpoint = exchange_of(flow), attempt.endpoint
        if endpoint is not None and exchange is not None and _counts(exchange):
            self._active[endpoint.address] += 1

    @needs("counts_active")
    def mesh_attempt_end(self, flow: http.HTTPFlow, attempt: Attempt) -> None:
        exchange = exchange_of(flow)
        if attempt.endpoint is None or exchange is None or not _counts(exchange):
            return
        over: str | None = attempt.endpoint.address
        if attempt.status is not None and attempt.pause is None:
            # Of several tries at once, the last to end is the one that decides.
            over, self._answering[exchange] = self._answering.get(exchange), attempt.endpoint.address
        if over is not None:
            self._over(over)

    @needs("counts_active")
    def response(self, flow: http.HTTPFlow) -> None:
        if self._answering and (exchange := exchange_of(flow)) is not None:
            address = self._answering.pop(exchange, None)
            if address is not None:
                self._over(address)

    error = response

    def _over(self, address: str) -> None:
        self._active[address] -= 1
        if self._active[address] <= 0:
            del self._active[address]


def _counts(exchange: Exchange) -> bool:
    return exchange.route is not None and exchange.route.counts_active
