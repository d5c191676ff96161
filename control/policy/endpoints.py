"""Addresses that serve a service, by version, made ready."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from control.policy.destinations import AUTO, OTHERS
from control.policy.destinations import Endpoint as Listed
from control.policy.model import Policy, split_host_port
from control.policy.mtls import Mode, endpoint_mode


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One address; `address` is `host:port` with IPv6 in brackets, `host` is without them."""

    service: str
    version: str
    host: str
    port: int
    address: str
    weight: float
    mtls: Literal["strict", "permissive"] | None = None
    """By mutual TLS or not at all; by mutual TLS where the caller can; plain."""


@dataclass(frozen=True, slots=True, order=True)
class Registered:
    """An endpoint as the proxy in front of it registered it. mtls: its port takes mutual TLS."""

    version: str
    address: str
    mtls: bool = False
    weight: float = 1.0


# Service -> the endpoints that have registered themselves, in one order.
Registry = Mapping[str, tuple[Registered, ...]]
NOBODY: Registry = {}

# Version -> its endpoints; None -> those of all versions together.
EndpointTable = Mapping[str | None, tuple[Endpoint, ...]]


def registers(policy: Policy) -> bool:
    """Whether some of its endpoints are those that register themselves."""
    return any(endpoints == AUTO for endpoints in (policy.endpoints or {}).values())


def compile_endpoints(
    policy: Policy, mtls: Mode | None, registered: Sequence[Registered] = ()
) -> EndpointTable:
    """Empty for a service without endpoints. mtls: the service's, defaults counted."""
    table: dict[str | None, tuple[Endpoint, ...]] = {}
    if policy.endpoints is None:
        return table
    for version, endpoints in _listed(policy.endpoints, registered).items():
        compiled = []
        for endpoint in endpoints:
            host, port = split_host_port(endpoint.address)
            compiled.append(
                Endpoint(
                    policy.service,
                    version,
                    host,
                    port or 0,
                    endpoint.address,
                    endpoint.weight,
                    endpoint_mode(mtls, endpoint.mtls),
                )
            )
        table[version] = tuple(compiled)
    table[None] = tuple(endpoint for version in table.values() for endpoint in version)
    return table


def _listed(
    endpoints: Mapping[str, Sequence[Listed]], registered: Sequence[Registered]
) -> dict[str, list[Listed | Registered]]:
    """By version, with those that are registered where the policy says so."""
    found: dict[str, list[Listed | Registered]] = {
        version: list(listed) for version, listed in endpoints.items() if version != OTHERS
    }
    for each in registered:
        if endpoints.get(each.version, None) == AUTO or (
            OTHERS in endpoints and each.version not in endpoints
        ):
            found.setdefault(each.version, []).append(each)
    return found
