"""Istio's DestinationRule and ServiceEntry: how a host is reached, which subsets it has, where it is."""

from dataclasses import dataclass, field
from typing import Any

from control.convert.building import Draft
from control.convert.fields import UNKNOWN, Fields
from control.convert.values import duration, name_of, seconds
from control.policy.units import format_duration

_BALANCERS = {
    "ROUND_ROBIN": "round_robin",
    "LEAST_CONN": "least_request",
    "LEAST_REQUEST": "least_request",
    "RANDOM": "random",
}
_MTLS = {"DISABLE": "off", "ISTIO_MUTUAL": "strict"}


@dataclass
class Rule:
    """What is known of one host from all documents about it. `settings` of its document; `entries` are addresses."""

    host: str
    file: str
    line: int
    settings: dict[str, Any] = field(default_factory=dict)
    subsets: dict[str, None] = field(default_factory=dict)
    entries: list[str] = field(default_factory=list)
    hosts: list[str] = field(default_factory=list)

    @property
    def has_policy(self) -> bool:
        return bool(self.settings)

    def addresses(self, draft: Draft, port: int) -> None:
        """Put into the document of this host, after its routes, where the subsets are that no route names."""
        if self.entries:
            draft.endpoints.setdefault("default", list(self.entries))
        said = {str(each[0]).rpartition(":")[2] for each in draft.endpoints.values()}
        for subset in self.subsets:
            if name_of(subset) not in draft.endpoints:
                where = address_of(self.host, subset)
                draft.version(subset, f"{where}:{said.pop() if len(said) == 1 else port}")
                said = {str(each[0]).rpartition(":")[2] for each in draft.endpoints.values()}


def address_of(host: str, subset: str | None) -> str:
    """Where a subset is looked for: `reviews-v1` for v1 of reviews, beside it in the same domain."""
    if subset is None:
        return host
    first, dot, domain = host.partition(".")
    return f"{first}-{name_of(subset).lower()}{dot}{domain}"


def read_destination_rule(spec: Fields, into: Rule) -> None:
    """Add what a DestinationRule says of its host."""
    into.settings |= _policy(spec.part("trafficPolicy"))
    for subset in spec.parts("subsets"):
        name = subset.text("name")
        labels = subset.part("labels")
        # The usual way to say which pods a version has: its name says it here.
        if labels.names() != ["version"] or labels.text("version") != name:
            labels.take(*labels.names())
            subset.lose(("labels",), f"there are no labels here: see to the addresses of version {name}")
        subset.unsaid(("trafficPolicy",), f"{UNKNOWN} for one version alone")
        subset.done()
        if name is not None:
            into.subsets[name] = None
    spec.take("host")
    spec.unsaid(("exportTo", "workloadSelector"), UNKNOWN)
    spec.done()


def _policy(policy: Fields) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if balancer := _load_balancer(policy.part("loadBalancer")):
        found["load_balancer"] = balancer
    tls = policy.part("tls")
    if (mode := tls.text("mode")) is not None:
        if mode in _MTLS:
            found["mtls"] = _MTLS[mode]
        else:
            tls.take(*tls.names())
            tls.lose(("mode",), f"{mode}: {UNKNOWN}")
    tls.done()
    pool, outliers = policy.part("connectionPool"), policy.part("outlierDetection")
    tcp, http = pool.part("tcp"), pool.part("http")
    if (connect := tcp.parsed("connectTimeout", duration)) is not None:
        found["connect_timeout"] = connect
    if breaker := _breaker(tcp, http, outliers):
        found["circuit_breaker"] = breaker
    for part in (tcp, http, pool, outliers, policy):
        part.done()
    return found


def _load_balancer(part: Fields) -> Any:
    simple = part.text("simple")
    consistent = part.part("consistentHash")
    found: Any = None
    if simple in _BALANCERS:
        found = _BALANCERS[simple]
    elif simple not in (None, "UNSPECIFIED"):
        part.lose(("simple",), f"{simple}: {UNKNOWN}")
    if (header := consistent.text("httpHeaderName")) is not None:
        found = {"hash": {"header": header}}
    if cookie := consistent.part("httpCookie"):
        found = {"hash": {"cookie": cookie.text("name")}}
        cookie.unsaid(("ttl", "path"), "a cookie that is absent is not made here")
        cookie.done()
    if consistent.truth("useSourceIp"):
        found = {"hash": "source_ip"}
    # How large the ring is changes how evenly it spreads, not what it is for.
    consistent.take("ringHash", "maglev", "minimumRingSize")
    consistent.done()
    part.done()
    return found


def _breaker(tcp: Fields, http: Fields, outliers: Fields) -> dict[str, Any]:
    found: dict[str, Any] = {}
    limits = {
        "connections": tcp.whole("maxConnections"),
        "pending": http.whole("http1MaxPendingRequests"),
        "requests": http.whole("http2MaxRequests"),
        "retries": http.whole("maxRetries"),
    }
    limits = {name: limit for name, limit in limits.items() if limit is not None}
    if "pending" in limits and "connections" not in limits:
        del limits["pending"]
        http.lose(
            ("http1MaxPendingRequests",), "requests wait for a connection only where maxConnections is set"
        )
    if limits:
        found["limits"] = limits
    if not outliers:
        return {"consecutive_failures": 0, **found} if found else {}
    count = outliers.whole("consecutive5xxErrors")
    older = outliers.whole("consecutiveErrors")
    count = older if count is None else count
    gateway = outliers.whole("consecutiveGatewayErrors")
    if gateway:
        outliers.lose(("consecutiveGatewayErrors",), "every failure counts here, not 502 to 504 alone")
    found["consecutive_failures"] = 5 if count is None else count
    open_for = outliers.parsed("baseEjectionTime", seconds) or 30.0
    # Envoy leaves an endpoint alone for longer each time, up to 300 s or the base.
    found["open_for"], found["max_open"] = format_duration(open_for), format_duration(max(300.0, open_for))
    share = outliers.number("maxEjectionPercent")
    found["max_ejected"] = 10 if share is None else share
    # Here a failure is looked at when it comes, not every so often.
    outliers.take("interval")
    return found


def read_service_entry(spec: Fields, into: Rule, port: int) -> None:
    """Add where a host is; one without endpoints is where its name leads, which needs no saying."""
    ports = [each.whole("number") for each in spec.parts("ports")]
    for each in spec.parts("endpoints"):
        address, own = each.text("address"), each.part("ports")
        each.unsaid(("labels", "network", "locality", "serviceAccount"), UNKNOWN)
        weight = each.number("weight")
        if weight not in (None, 0, 1):
            each.lose(("weight",), UNKNOWN)
        each.done()
        if address is None or address.startswith("unix:"):
            each.lose(("address",), "an address here is a host")
            continue
        numbers = [number for name in own.names() if (number := own.whole(name)) is not None]
        chosen = numbers or [number for number in ports if number is not None] or [port]
        if len(set(chosen)) > 1:
            each.lose((), f"several ports: {chosen[0]} is taken")
        into.entries.append(f"[{address}]:{chosen[0]}" if ":" in address else f"{address}:{chosen[0]}")
    if not into.entries:
        for index, address in enumerate(spec.texts("addresses")):
            spec.lose(("addresses", index), f"{address}: {UNKNOWN}")
    spec.take("hosts", "addresses", "location", "resolution", "ports")
    spec.unsaid(("exportTo", "subjectAltNames", "workloadSelector"), UNKNOWN)
    spec.done()
