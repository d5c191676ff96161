"""From documents to routes. A setting comes from the route, else from its document, else from `"*"`, else from here; whole."""

import json
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from control.policy.answers import compile_access_log, compile_answer
from control.policy.authorizing import compile_authorization
from control.policy.balancers import Balancing, compile_balancing
from control.policy.breaking import compile_breaker
from control.policy.cors import compile_cors
from control.policy.endpoints import EndpointTable
from control.policy.expiring import NEVER_BEGUN, in_force, label_of
from control.policy.faulting import compile_faults
from control.policy.headers import compile_headers
from control.policy.matching import Condition, compile_match
from control.policy.mirroring import compile_mirror
from control.policy.model import DEFAULTS_SERVICE, Policy, Route, Settings
from control.policy.mtls import mode
from control.policy.rate_limiting import compile_rate_limit
from control.policy.retrying import compile_retry
from control.policy.rewriting import compile_redirect, compile_rewrite
from control.policy.routes import CompiledRoute, CompiledService, Share
from control.policy.sticking import compile_sticky

# The settings of one level (a route, a document, "*") that it sets itself, by their name in CompiledRoute.
Level = Mapping[str, Any]
Tables = Mapping[str, EndpointTable]
# Of a service's endpoints: None is round robin.
BalancingOf = Callable[[str], Balancing | None]

BUILT_IN: Level = {
    "timeout": None,
    "connect_timeout": 5.0,
    "idle_timeout": 300.0,
    "retry": None,
    "circuit_breaker": None,
    "sticky": None,
    "faults": (),
    "request_faults": (),
    "request_headers": None,
    "response_headers": None,
    "rate_limit": None,
    "mirror": None,
    "cors": None,
    "rewrite": None,
    "redirect": None,
    "respond": None,
    "access_log": None,
    "mtls": None,
    "authorization": None,
}


def compile_level(
    settings: Settings, owner: str, now: float, conditions: Condition | None = None
) -> dict[str, Any]:
    """What this level sets at `now`; `owner` names it in the identity of its faults and breaker, `conditions` are those of a route."""
    level: dict[str, Any] = {}
    if settings.timeout is not None:
        level["timeout"] = settings.timeout or None
    if settings.connect_timeout is not None:
        level["connect_timeout"] = settings.connect_timeout
    if settings.idle_timeout is not None:
        level["idle_timeout"] = settings.idle_timeout or None
    if settings.retry is not None:
        level["retry"] = compile_retry(settings.retry)
    if settings.circuit_breaker is not None:
        level["circuit_breaker"] = compile_breaker(settings.circuit_breaker, owner)
    if settings.faults is not None:
        faults = tuple(fault for fault in settings.faults if in_force(fault, now))
        level["faults"] = compile_faults(faults, owner)
        level["request_faults"] = compile_faults(faults, owner, "request")
    if settings.request_headers is not None:
        level["request_headers"] = compile_headers(settings.request_headers)
    if settings.response_headers is not None:
        level["response_headers"] = compile_headers(settings.response_headers)
    if settings.rate_limit is not None:
        level["rate_limit"] = compile_rate_limit(settings.rate_limit, owner)
    if settings.cors is not None:
        level["cors"] = compile_cors(settings.cors)
    if settings.rewrite is not None:
        level["rewrite"] = compile_rewrite(settings.rewrite, conditions)
    if settings.redirect is not None:
        level["redirect"] = compile_redirect(settings.redirect, conditions)
        level["respond"] = None
    if settings.respond is not None:
        level["respond"] = compile_answer(settings.respond)
        level["redirect"] = None
    if settings.authorization is not None:
        level["authorization"] = compile_authorization(settings.authorization)
    if settings.access_log is not None:
        level["access_log"] = compile_access_log(settings.access_log)
    return level


def compile_defaults(policy: Policy | None, now: float = NEVER_BEGUN) -> Level:
    """The built-in settings with those of `"*"` over them, as they are at `now`."""
    if policy is None:
        return BUILT_IN
    return {**BUILT_IN, **compile_level(policy, DEFAULTS_SERVICE, now), "mtls": mode(policy.mtls, None)}


def reached(policy: Policy) -> frozenset[str]:
    """The other services whose versions some `to` of this document names."""
    parts: tuple[Policy | Route, ...] = (policy, *policy.routes)
    named = [name for part in parts for name in part.to or ()]
    named += [part.mirror.to for part in parts if part.mirror is not None]
    owners = {name.partition("/")[0].lower() for name in named if "/" in name}
    return frozenset(owners) - {policy.service}


def balancing_in(policies: Mapping[str, Policy]) -> BalancingOf:
    """What the documents say of a service, else what `"*"` says."""
    star = policies.get(DEFAULTS_SERVICE)
    default = None if star is None else star.load_balancer

    def balancing_of(service: str) -> Balancing | None:
        policy = policies.get(service)
        said = None if policy is None else policy.load_balancer
        return compile_balancing(default if said is None else said)

    return balancing_of


def compile_service(
    policy: Policy,
    defaults: Level,
    tables: Tables,
    balancing_of: BalancingOf = lambda service: None,
    now: float = NEVER_BEGUN,
) -> CompiledService:
    """A document with everything resolved; `tables` holds at least its own endpoints and those it reaches.

    What has expired at `now` is left out.
    """
    service = policy.service
    document: dict[str, Any] = {**defaults, **compile_level(policy, service, now)}
    document["mtls"] = mode(policy.mtls, defaults["mtls"])
    document["shares"] = (
        _everything(service, tables, balancing_of)
        if policy.to is None
        else _split(policy.to, service, tables, balancing_of)
    )
    if policy.mirror is not None:
        document["mirror"] = compile_mirror(policy.mirror, service, tables)
    document["sticky"] = compile_sticky(policy, None)
    routes = []
    places: Counter[str] = Counter()
    for index, route in enumerate(policy.routes):
        place = _place(route)
        conditions = compile_match(route.match)
        level = compile_level(route, f"{service}\n{place}\n{places[place]}", now, conditions)
        places[place] += 1
        if not in_force(route, now):
            continue
        if route.to is not None:
            level["shares"] = _split(route.to, service, tables, balancing_of)
        if route.mirror is not None:
            level["mirror"] = compile_mirror(route.mirror, service, tables)
        if route.to is not None or route.sticky is not None:
            level["sticky"] = compile_sticky(policy, route)
        label = label_of(index, route)
        routes.append(CompiledRoute(service, route.name, label, conditions, **{**document, **level}))
    return CompiledService(service, tuple(routes), CompiledRoute(service, None, "", None, **document))


def compile_unclaimed(defaults: Level) -> CompiledService:
    """The pass-through of hosts that nobody claims, and so nobody has a certificate for."""
    return CompiledService(
        "", (), CompiledRoute("", None, "", None, **{**defaults, "shares": (), "mtls": None})
    )


def _place(route: Route) -> str:
    """What a route is known by when others are put before it: its name, else its match."""
    if route.name is not None or not (route.faults or route.rate_limit or route.circuit_breaker):
        return route.name or ""
    return json.dumps([match.document() for match in route.match or ()], sort_keys=True)


def _everything(service: str, tables: Tables, balancing_of: BalancingOf) -> tuple[Share, ...]:
    endpoints = tables[service].get(None)
    # Nobody may be registered yet: that is not the same as a service whose callers name the address.
    return () if endpoints is None else (Share("", service, None, endpoints, 1.0, balancing_of(service)),)


def _split(
    to: Mapping[str, float], service: str, tables: Tables, balancing_of: BalancingOf
) -> tuple[Share, ...]:
    total = sum(to.values())
    shares = []
    for name, weight in to.items():
        other, slash, version = name.partition("/")
        owner, version = (other.lower(), version) if slash else (service, name)
        endpoints = tables.get(owner, {}).get(version, ())
        shown = version if owner == service else f"{owner}/{version}"
        shares.append(Share(shown, owner, version, endpoints, weight / total, balancing_of(owner)))
    return tuple(shares)
