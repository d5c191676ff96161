"""The policy language as types: one `Policy` per document, frozen, nothing unknown accepted.

Shorthand is turned into the long form while it is read (`retry: 2` becomes
`{attempts: 2}`), so a value has one shape from here on: in Redis, in the
compiler and in what `mitmesh get` prints. Field descriptions are the text of
docs/policy.md and of the JSON Schema. None means: not said here.
"""

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field

from control.policy.actions import AccessLog, HeaderOperations, Respond, access_log_short
from control.policy.addresses import split_host_port
from control.policy.circuit_breakers import CircuitBreaker, Limits
from control.policy.conditions import BodyMatch, Match, Matcher, Matches, PathMatch, StringMatch
from control.policy.destinations import (
    DEFAULT_VERSION,
    Destination,
    Endpoint,
    Endpoints,
    Version,
    endpoints_short,
)
from control.policy.fault_parts import Abort, Delay, Fault, Normal, since_needs_for
from control.policy.load_balancers import HashBalancer, HashKey, LoadBalancer
from control.policy.mirrors import Mirror, MirrorField, no_mirror_for_all
from control.policy.moments import Moment
from control.policy.origins import Cors
from control.policy.parts import Broken, Part, Written
from control.policy.permissions import Authorization, AuthorizationRule
from control.policy.rates import ByHeader, RateLimit
from control.policy.redirects import Redirect, Rewrite, no_prefix_here, prefixes_matched
from control.policy.resending import RETRY_WORDS, Backoff, Budget, Hedge, Retry, RetryCondition, retry_short
from control.policy.stickiness import Sticky
from control.policy.values import (
    DEFAULTS_SERVICE,
    Duration,
    HostClaim,
    SomeTime,
    route_name,
    service_name,
)

__all__ = [
    "DEFAULTS_SERVICE",
    "DEFAULT_VERSION",
    "RETRY_WORDS",
    "Abort",
    "AccessLog",
    "Authorization",
    "AuthorizationRule",
    "Backoff",
    "BodyMatch",
    "Budget",
    "ByHeader",
    "CircuitBreaker",
    "Cors",
    "Delay",
    "Destination",
    "Endpoint",
    "Fault",
    "HashBalancer",
    "HashKey",
    "HeaderOperations",
    "Hedge",
    "Limits",
    "Match",
    "Matcher",
    "Mirror",
    "Normal",
    "PathMatch",
    "Policy",
    "RateLimit",
    "Redirect",
    "Respond",
    "Retry",
    "RetryCondition",
    "Rewrite",
    "Route",
    "Settings",
    "Sticky",
    "StringMatch",
    "split_host_port",
]


class Settings(Part):
    """What a document and a route may both say; a route's value replaces the document's whole."""

    timeout: Duration | None = Field(
        None, description="the most that all tries and pauses may take together; 0, and the default: no limit"
    )
    connect_timeout: SomeTime | None = Field(
        None, description="the most that opening a connection may take; default 5s"
    )
    idle_timeout: Duration | None = Field(
        None, description="the longest that neither side may send a byte; default 5m; 0: no limit"
    )
    retry: (
        Annotated[
            Retry,
            BeforeValidator(retry_short),
            Written(Retry.written, short=({"type": "integer", "minimum": 1, "maximum": 100},)),
        ]
        | None
    ) = Field(None, description="another try when one fails; default: none")
    circuit_breaker: CircuitBreaker | None = Field(
        None, description="leave endpoints alone that fail again and again; default: never"
    )
    faults: Annotated[tuple[Fault, ...], Field(strict=False)] | None = Field(
        None, description="failures made on purpose"
    )
    request_headers: HeaderOperations | None = Field(None, description="changes to the request's headers")
    response_headers: HeaderOperations | None = Field(None, description="changes to the answer's headers")
    rate_limit: RateLimit | None = Field(None, description="how many requests may pass in a time")
    mirror: MirrorField | None = Field(None, description="copies of requests for another version")
    cors: Cors | None = Field(None, description="which websites may call from a browser")
    rewrite: Rewrite | None = Field(None, description="another path or Host for the service to see")
    redirect: Redirect | None = Field(None, description="send the caller elsewhere")
    respond: Respond | None = Field(None, description="answer from the proxy itself")
    authorization: Authorization | None = Field(
        None, description="who may send what; 403 for the rest; default: everything passes"
    )
    access_log: (
        Annotated[
            AccessLog,
            BeforeValidator(access_log_short),
            Written(AccessLog.written, short=({"enum": ["on", "off"]},)),
        ]
        | None
    ) = Field(None, description="which exchanges are logged; default `on`")

    @classmethod
    def rules(cls, given: Mapping[str, Any]) -> Iterator[Broken]:
        if "redirect" in given and "respond" in given:
            yield ("respond",), "a request gets one answer: leave out respond or redirect"


class Route(Destination, Settings):
    """A match plus what happens to the requests that match."""

    written: ClassVar[str] = "a mapping such as {match: {path: /x}, to: v2}"
    elsewhere: ClassVar[Mapping[str, str]] = dict.fromkeys(
        ("service", "hosts", "endpoints", "load_balancer", "routes", "mtls", "unknown_hosts"),
        "it stands in the document, not in a route",
    )

    name: Annotated[str, BeforeValidator(route_name), Written("a name of up to 100 characters")] | None = (
        Field(None, description="shown in logs and by `mitmesh explain`; once in a document")
    )
    match: Matches | None = Field(
        None, description="conditions, or a list of alternatives; none: every request"
    )
    for_: SomeTime | None = Field(
        None, alias="for", description="expires so long after the apply: then the next route is tried"
    )
    since: Moment | None = Field(
        None, description="when `for` began; written by `mitmesh apply`, and shown by `mitmesh get`"
    )

    @classmethod
    def rules(cls, given: Mapping[str, Any]) -> Iterator[Broken]:
        yield from super().rules(given)
        yield from prefixes_matched(given)
        yield from since_needs_for(given)


class Policy(Destination, Settings):
    """One document: everything about one service, or, for the service `"*"`, defaults for the whole mesh."""

    written: ClassVar[str] = "a mapping that starts with `service: NAME`"
    elsewhere: ClassVar[Mapping[str, str]] = {
        **dict.fromkeys(("match", "name"), "it stands in a route, under routes"),
        "for": "it stands in a route or a fault",
    }

    service: Annotated[
        str, BeforeValidator(service_name), Written("the service's name, such as `service: reviews`")
    ] = Field(description='the service\'s name, or `"*"` for defaults of the mesh')
    hosts: Annotated[
        tuple[HostClaim, ...], Field(strict=False), Written("a list of hosts, such as [reviews.example]")
    ] = Field((), description="hosts it answers to besides its name")
    endpoints: (
        Annotated[
            dict[Version, Endpoints],
            BeforeValidator(endpoints_short),
            Written(
                "a list of addresses such as [10.0.0.1:8080], auto, or a mapping of versions to either",
                alone="additionalProperties",
            ),
        ]
        | None
    ) = Field(
        None,
        description="addresses by version; a list alone is the version `default`; `auto`: those of proxies that stand in front of the service and register themselves; none: the address that the caller named is dialled",
    )
    load_balancer: LoadBalancer | None = Field(
        None, description="which endpoint of a version gets a request; default: round_robin"
    )
    routes: Annotated[tuple[Route, ...], Field(strict=False)] = Field(
        (), description="the first that matches wins"
    )
    mtls: Literal["strict", "permissive", "off"] | None = Field(
        None,
        description="mutual TLS with this service: callers must speak it (`strict`), may (`permissive`), or do not (`off`, the default)",
    )
    unknown_hosts: Literal["allow", "refuse"] | None = Field(
        None,
        description='only in `"*"`: whether hosts that no service claims are passed on (`allow`, the default) or get 404 (`refuse`)',
    )

    @classmethod
    def rules(cls, given: Mapping[str, Any]) -> Iterator[Broken]:
        yield from super().rules(given)
        yield from no_prefix_here(given)
        yield from no_mirror_for_all(given)
        if given.get("service") == DEFAULTS_SERVICE:
            for field in ("hosts", "endpoints", "routes", "to", "sticky"):
                if field in given:
                    yield (field,), '"*" holds defaults only: move this to the document of a service'
        elif "unknown_hosts" in given:
            yield ("unknown_hosts",), 'stands only in the document of service "*": move it there'
        yield from _names_once(given.get("routes"))


def _names_once(routes: object) -> Iterator[Broken]:
    first: dict[str, int] = {}
    for index, route in enumerate(routes if isinstance(routes, (list, tuple)) else ()):
        name = route.get("name") if isinstance(route, Mapping) else getattr(route, "name", None)
        if isinstance(name, str) and first.setdefault(name, index) != index:
            yield (
                ("routes", index, "name"),
                f"{name} is the name of routes[{first[name]}] already: give each its own",
            )
