"""Addresses that serve a service, by version, made ready."""

from collections.abc import Mapping
from dataclasses import dataclass

from control.policy.model import Policy, split_host_port


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One address; `address` is `host:port` with IPv6 in brackets, `host` is without them."""

    service: str
    version: str
    host: str
    port: int
    address: str
    weight: float


# Version -> its endpoints; None -> those of all versions together.
EndpointTable = Mapping[str | None, tuple[Endpoint, ...]]


def compile_endpoints(policy: Policy) -> EndpointTable:
    """Empty for a service without endpoints."""
    table: dict[str | None, tuple[Endpoint, ...]] = {}
    for version, endpoints in (policy.endpoints or {}).items():
        compiled = []
        for endpoint in endpoints:
            host, port = split_host_port(endpoint.address)
            compiled.append(
                Endpoint(policy.service, version, host, port or 0, endpoint.address, endpoint.weight)
            )
        table[version] = tuple(compiled)
    if table:
        table[None] = tuple(endpoint for version in table.values() for endpoint in version)
    return table
