"""A service's routes, made ready for the request path."""

from dataclasses import dataclass, field
from random import Random
from typing import Literal

from control.policy.answers import CompiledAccessLog, FixedAnswer
from control.policy.authorizing import CompiledAuthorization
from control.policy.balancers import Balancing
from control.policy.breaking import CompiledBreaker
from control.policy.cors import CompiledCors
from control.policy.endpoints import Endpoint
from control.policy.facts import RequestFacts
from control.policy.faulting import CompiledFault
from control.policy.headers import HeaderEdit
from control.policy.matching import Condition
from control.policy.mirroring import CompiledMirror
from control.policy.rate_limiting import CompiledRateLimit
from control.policy.retrying import CompiledRetry
from control.policy.rewriting import CompiledRedirect, CompiledRewrite
from control.policy.route_index import RouteIndex, index_routes
from control.policy.sticking import CompiledSticky

# The settings of features with a `mesh_routed` hook.
_GATES = ("rate_limit", "cors", "rewrite", "redirect", "respond", "request_faults")


@dataclass(frozen=True, slots=True)
class Share:
    """A version and its share (0 to 1) of a route's requests; `name` is "" (and `version` None) for all versions together.

    `balancing` picks among the endpoints; None: round robin.
    """

    name: str
    service: str
    version: str | None
    endpoints: tuple[Endpoint, ...]
    share: float
    balancing: Balancing | None = None
    only: Endpoint | None = field(init=False, repr=False, compare=False)
    """The one endpoint, where there is just one that may be picked."""

    def __post_init__(self) -> None:
        usable = [endpoint for endpoint in self.endpoints if endpoint.weight > 0]
        object.__setattr__(self, "only", usable[0] if len(usable) == 1 else None)


@dataclass(frozen=True, slots=True)
class CompiledRoute:
    """What happens to a request. `label` is the name, or `routes[2]`, or "" for the document's own settings.

    Times are seconds, None is no limit. No shares: dial what the caller named.
    """

    service: str
    name: str | None
    label: str
    conditions: Condition | None
    shares: tuple[Share, ...]
    timeout: float | None
    connect_timeout: float
    idle_timeout: float | None
    sticky: CompiledSticky | None
    retry: CompiledRetry | None
    circuit_breaker: CompiledBreaker | None
    faults: tuple[CompiledFault, ...]
    request_faults: tuple[CompiledFault, ...]
    request_headers: HeaderEdit | None
    response_headers: HeaderEdit | None
    rate_limit: CompiledRateLimit | None
    mirror: CompiledMirror | None
    cors: CompiledCors | None
    rewrite: CompiledRewrite | None
    redirect: CompiledRedirect | None
    respond: FixedAnswer | None
    access_log: CompiledAccessLog | None
    mtls: Literal["strict", "permissive"] | None
    gated: bool = field(init=False, repr=False, compare=False)
    """Some feature acts once this route is chosen, before anything is sent."""
    counts_active: bool = field(init=False, repr=False, compare=False)
    """Some balancer looks at how many attempts are under way; one with a single endpoint does not."""
    limited: bool = field(init=False, repr=False, compare=False)
    """Its circuit breaker limits how much is under way at once."""
    counts_retries: bool = field(init=False, repr=False, compare=False)
    """Some limit of the service looks at how many requests and retries are under way, and this may be one of them."""
    authorization: CompiledAuthorization | None
    _bounds: tuple[tuple[float, Share], ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "gated", any(getattr(self, name) for name in _GATES))
        bounds = []
        total = 0.0
        several = [share for share in self.shares if share.only is None]
        for share in self.shares:
            if share.share > 0:
                total += share.share
                bounds.append((total, share))
        object.__setattr__(self, "_bounds", tuple(bounds))
        counts = any(
            share.balancing is not None and share.balancing.kind == "least_request" for share in several
        )
        object.__setattr__(self, "counts_active", counts)
        breaker = self.circuit_breaker
        object.__setattr__(self, "limited", breaker is not None and breaker.admits)
        object.__setattr__(self, "counts_retries", self.limits_retries())

    def limits_retries(self) -> bool:
        """Whether it has a limit of its own on how many retries may be under way."""
        retry, breaker = self.retry, self.circuit_breaker
        if retry is None:
            return False
        return retry.budget is not None or (breaker is not None and breaker.retries is not None)

    def addresses(self) -> set[tuple[str, int]]:
        """Host and port of every endpoint that it may reach."""
        return {(endpoint.host, endpoint.port) for share in self.shares for endpoint in share.endpoints}

    def pick_share(self, random: Random) -> Share | None:
        """A share by chance, in proportion; one of weight 0 never. None: there are none."""
        bounds = self._bounds
        if len(bounds) == 1:
            return bounds[0][1]
        if not bounds:
            return None
        point = random.random()
        for bound, share in bounds:
            if point < bound:
                return share
        return bounds[-1][1]


@dataclass(frozen=True, slots=True)
class CompiledService:
    """One document; the name is "" for the pass-through of hosts that nobody claims.

    `guarded`: some route has rules of authorization.
    """

    name: str
    routes: tuple[CompiledRoute, ...]
    own: CompiledRoute
    guarded: bool = field(init=False, repr=False, compare=False)
    _index: RouteIndex[CompiledRoute] | None = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        index = index_routes([(route.conditions, route) for route in self.routes])
        object.__setattr__(self, "_index", index)
        every = (*self.routes, self.own)
        guarded = any(route.authorization is not None for route in every)
        object.__setattr__(self, "guarded", guarded)
        if any(route.limits_retries() for route in every):
            # A budget is a share of all that the service is asked, whichever of its routes takes it.
            for route in every:
                object.__setattr__(route, "counts_retries", route.retry is not None)

    def route(self, facts: RequestFacts, random: Random) -> CompiledRoute:
        """The first route that matches, else the document's own settings."""
        index = self._index
        for route in self.routes if index is None else index.candidates(facts.path):
            conditions = route.conditions
            if conditions is None or conditions.holds(facts, random):
                return route
        return self.own
