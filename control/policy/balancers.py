"""The balancers besides round robin: random, least_request and hash.

Mutable: one per service and version. A pick never gives an endpoint of weight 0, and one of `avoid` only
if there is no other; None: nothing to pick.
"""

from bisect import bisect_right
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from itertools import accumulate
from math import log
from random import Random
from typing import Protocol

from control.policy.balancing import RoundRobin
from control.policy.endpoints import Endpoint
from control.policy.facts import RequestFacts
from control.policy.hashing import hash64, mix64, unit
from control.policy.load_balancers import HashBalancer

Endpoints = tuple[Endpoint, ...]


@dataclass(frozen=True, slots=True)
class Balancing:
    """A `load_balancer` other than round_robin, made ready. `kind` is random, least_request or hash."""

    source: HashBalancer | str
    kind: str
    header: bytes | None = None
    cookie: str | None = None

    def key(self, facts: RequestFacts) -> str | None:
        """What is hashed of this request; None: it has nothing of the kind, or nothing is hashed."""
        if self.kind != "hash":
            return None
        if self.header is not None:
            return facts.field(self.header)
        if self.cookie is not None:
            return facts.cookie(self.cookie)
        return facts.client_ip or None


def compile_balancing(source: HashBalancer | str | None) -> Balancing | None:
    """None: round robin."""
    if source is None or source == "round_robin":
        return None
    if isinstance(source, str):
        return Balancing(source, source)
    on = source.hash
    if isinstance(on, str):
        return Balancing(source, "hash")
    return Balancing(source, "hash", on.header.encode() if on.header is not None else None, on.cookie)


class Balancer(Protocol):
    """Picks for one version; `key` is what `Balancing.key` gives for the request."""

    def pick(
        self, endpoints: Endpoints, avoid: Collection[Endpoint] = (), key: str | None = None
    ) -> Endpoint | None: ...


def make_balancer(balancing: Balancing, active: Mapping[str, int], random: Random) -> Balancer:
    """`active`: address -> attempts under way there."""
    if balancing.kind == "random":
        return RandomChoice(random)
    if balancing.kind == "least_request":
        return LeastRequest(active, random)
    return Hashed()


class _Weighed:
    """Endpoints with a weight, and where on a line each of them ends; those of the last pick are kept."""

    __slots__ = ("_endpoints", "bounds", "usable")

    def __init__(self) -> None:
        self._endpoints: Endpoints | None = None
        self.usable: Endpoints = ()
        self.bounds: list[float] = []

    def among(self, endpoints: Endpoints, avoid: Collection[Endpoint]) -> tuple[Endpoints, list[float]]:
        """Those that are not avoided, or all if there is no other."""
        if endpoints is not self._endpoints:
            self._endpoints = endpoints
            self.usable = tuple(endpoint for endpoint in endpoints if endpoint.weight > 0)
            self.bounds = list(accumulate(endpoint.weight for endpoint in self.usable))
        if avoid and (rest := tuple(endpoint for endpoint in self.usable if endpoint not in avoid)):
            return rest, list(accumulate(endpoint.weight for endpoint in rest))
        return self.usable, self.bounds


class RandomChoice:
    """By chance, in proportion to the weights."""

    __slots__ = ("_random", "_weighed")

    def __init__(self, random: Random) -> None:
        self._random = random
        self._weighed = _Weighed()

    def pick(
        self, endpoints: Endpoints, avoid: Collection[Endpoint] = (), key: str | None = None
    ) -> Endpoint | None:
        usable, bounds = self._weighed.among(endpoints, avoid)
        return usable[_place(bounds, self._random.random() * bounds[-1])] if usable else None


class LeastRequest:
    """Of two endpoints by chance the one with fewer attempts under way for its weight (the power of two choices).

    Where both have as many, the first: so an idle service is used in proportion to the weights.
    """

    __slots__ = ("_active", "_random", "_weighed")

    def __init__(self, active: Mapping[str, int], random: Random) -> None:
        self._active = active
        self._random = random
        self._weighed = _Weighed()

    def pick(
        self, endpoints: Endpoints, avoid: Collection[Endpoint] = (), key: str | None = None
    ) -> Endpoint | None:
        usable, bounds = self._weighed.among(endpoints, avoid)
        if not usable:
            return None
        place = _place(bounds, self._random.random() * bounds[-1])
        first = usable[place]
        if len(usable) == 1:
            return first
        # Another one, from the line without the first.
        point = self._random.random() * (bounds[-1] - first.weight)
        other = _place(bounds, point if point < bounds[place] - first.weight else point + first.weight)
        second = usable[other if other != place else (place + 1) % len(usable)]
        return second if self._load(second) < self._load(first) else first

    def _load(self, endpoint: Endpoint) -> float:
        return self._active.get(endpoint.address, 0) / endpoint.weight


def _place(bounds: list[float], point: float) -> int:
    # A product may be rounded up to the last bound itself.
    return min(bisect_right(bounds, point), len(bounds) - 1)


_SLOTS = 16


class Hashed:
    """The same endpoint for the same key: a table as Maglev's, filled by weighted rendezvous hashing.

    A key falls into one of 65,536 slots, a slot belongs to the endpoint that scores best there (Thaler and Ravishankar; with
    weights as in Schindelhauer and Schomaker). What an endpoint scores depends on its address and weight alone: when one
    goes, only its own keys move, and to all others in proportion. A request without a key takes its turn.
    """

    __slots__ = ("_endpoints", "_owners", "_scorers", "_turns")

    def __init__(self) -> None:
        self._endpoints: Endpoints | None = None
        self._scorers: list[tuple[int, float, Endpoint]] = []
        self._owners: dict[int, Endpoint] = {}
        self._turns = RoundRobin()

    def pick(
        self, endpoints: Endpoints, avoid: Collection[Endpoint] = (), key: str | None = None
    ) -> Endpoint | None:
        if key is None:
            return self._turns.pick(endpoints, avoid)
        if endpoints is not self._endpoints:
            self._endpoints = endpoints
            self._owners = {}
            self._scorers = [
                (hash64(endpoint.address), endpoint.weight, endpoint)
                for endpoint in endpoints
                if endpoint.weight > 0
            ]
        slot = hash64(key) >> (64 - _SLOTS)
        owner = self._owners.get(slot)
        if owner is None:
            if not self._scorers:
                return None
            owner = self._owners[slot] = self._best(slot, self._scorers)
        if avoid and owner in avoid:
            others = [scorer for scorer in self._scorers if scorer[2] not in avoid]
            return self._best(slot, others) if others else owner
        return owner

    @staticmethod
    def _best(slot: int, scorers: list[tuple[int, float, Endpoint]]) -> Endpoint:
        place = mix64(slot + 1)
        return min(scorers, key=lambda scorer: -log(unit(mix64(place ^ scorer[0]))) / scorer[1])[2]


def choose(
    balancer: Balancer,
    endpoints: Endpoints,
    tried: Collection[Endpoint],
    barred: Collection[Endpoint],
    key: str | None = None,
) -> Endpoint | None:
    """The balancer's pick, never of the barred; one already tried only if there is no other."""
    if not barred:
        return balancer.pick(endpoints, tried, key)
    picked = balancer.pick(endpoints, (*tried, *barred), key)
    if tried and picked in barred:
        picked = balancer.pick(endpoints, barred, key)
    return None if picked in barred else picked
