"""Under which labels an exchange and its attempts are counted: Istio's, where Istio has one for it."""

from collections.abc import Callable

from mitmproxy import http

from addons.engine.wire import value
from addons.exchange import Attempt, Exchange
from addons.metrics_series import Labels
from control.policy.snapshot import Snapshot

UNKNOWN = "unknown"
UNCLAIMED = "PassthroughCluster"
"""Instead of the hosts that no service claims, which are without number. No service's name has a capital letter."""
REFUSED = "BlackHoleCluster"
"""The same where the policy refuses unknown hosts."""

_WHOSE = ("reporter", "source_workload", "destination_service", "destination_version", "route")
REQUESTS = (
    *_WHOSE,
    "endpoint",
    "request_protocol",
    "grpc_response_status",
    "response_code",
    "response_flags",
    "injected",
)
LATENCY = _WHOSE
ATTEMPTS = (*_WHOSE, "endpoint", "response_code", "error", "retry", "injected")
UPSTREAM = ("reporter", "destination_service", "destination_version")
FAULTS = ("destination_service", "route", "fault")

_GRPC_FAILURES = frozenset(("2", "4", "13", "14", "15"))
_BROKEN = frozenset(("UC", "UT", "UF", "UPE"))


def whose(exchange: Exchange, attempt: Attempt | None) -> Labels:
    """The values of _WHOSE. The version is the one reached by `attempt`, else the one that was chosen."""
    route, share = exchange.route, exchange.share
    service = exchange.service
    if attempt is not None and attempt.endpoint is not None:
        version = _version(service, attempt.endpoint.service, attempt.endpoint.version)
    elif share is not None and share.version is not None:
        version = _version(service, share.service, share.version)
    else:
        version = UNKNOWN
    if not service and not exchange.inbound:
        if route is not None:
            service = UNCLAIMED
        elif "NR" in exchange.flags:
            service = REFUSED
    return (
        "destination" if exchange.inbound else "source",
        exchange.source or UNKNOWN,
        service or UNKNOWN,
        version,
        "" if route is None else route.label,
    )


def _version(service: str, other: str, version: str) -> str:
    """As `to` names it: v1, or ratings/v1 where another service's was reached."""
    return version if other == service else f"{other}/{version}"


def request_labels(
    exchange: Exchange, attempt: Attempt | None, status: int, flags: str, grpc: str | None
) -> Labels:
    """The values of REQUESTS. `attempt`: the last one; `grpc`: the call's status, None if it is none."""
    return (
        *whose(exchange, attempt),
        _endpoint(attempt),
        "http" if grpc is None else "grpc",
        grpc or "",
        str(status),
        flags,
        _truth(injected(exchange, attempt)),
    )


def injected(exchange: Exchange, last: Attempt | None) -> bool:
    """Whether the outcome of an exchange was made up by a fault."""
    above = exchange.acting is not None and exchange.acting.answered
    return above or (last is not None and last.injected)


def attempt_labels(exchange: Exchange, attempt: Attempt) -> Labels:
    """The values of ATTEMPTS."""
    return (
        *whose(exchange, attempt),
        _endpoint(attempt),
        str(attempt.status or 0),
        attempt.error or "-",
        _truth(attempt.number > 1),
        _truth(attempt.injected),
    )


def upstream_labels(exchange: Exchange, attempt: Attempt) -> Labels:
    """The values of UPSTREAM."""
    reporter, _, service, version, _ = whose(exchange, attempt)
    return reporter, service, version


def fault_labels(exchange: Exchange, fault: str) -> Labels:
    """The values of FAULTS."""
    _, _, service, _, route = whose(exchange, None)
    return service, route, fault


def _endpoint(attempt: Attempt | None) -> str:
    """Only addresses of the policy: those that callers name are without number."""
    return UNKNOWN if attempt is None or attempt.endpoint is None else attempt.endpoint.address


def _truth(value: bool) -> str:
    return "true" if value else "false"


def grpc_status(flow: http.HTTPFlow) -> str | None:
    """The status of a gRPC call, 0 to 16 or `unknown`; None: it is none."""
    if not (value(flow.request.data.headers.fields, b"content-type") or b"").startswith(b"application/grpc"):
        return None
    response = flow.response
    for headers in (response.trailers, response.headers) if response is not None else ():
        said = value(headers.fields, b"grpc-status") if headers is not None else None
        if said is not None:
            return str(int(said)) if said.isdigit() and int(said) <= 16 else UNKNOWN
    return UNKNOWN


def failed(status: int, flags: list[str], grpc: str | None) -> bool:
    """Whether a request counts as failed: no answer, a 5xx, one that broke off, or gRPC's equals of 5xx.

    A client that left first is no failure of the service (nor of the mesh).
    """
    if "DC" in flags:
        return False
    return status == 0 or status >= 500 or grpc in _GRPC_FAILURES or not _BROKEN.isdisjoint(flags)


def addresses_of(snapshot: Snapshot) -> frozenset[str]:
    """Every endpoint of the policy, and UNKNOWN."""
    every = (table.get(None, ()) for table in snapshot.tables.values())
    return frozenset((UNKNOWN, *(endpoint.address for endpoints in every for endpoint in endpoints)))


def stale_in(snapshot: Snapshot, own: str, names: Labels) -> Callable[[Labels], bool]:
    """Whether a series is of a service, version or endpoint that is no longer in the policy. `own`: this proxy's service."""
    at = names.index("destination_service")
    endpoint_at = names.index("endpoint") if "endpoint" in names else None
    services = {*snapshot.services, own, UNKNOWN, UNCLAIMED, REFUSED}
    addresses = addresses_of(snapshot)

    def stale(labels: Labels) -> bool:
        if labels[at] not in services:
            return True
        return endpoint_at is not None and labels[endpoint_at] not in addresses

    return stale
