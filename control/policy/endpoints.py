"""Addresses that serve a service, by version, made ready."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

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


# Version -> its endpoints; None -> those of all versions together.
EndpointTable = Mapping[str | None, tuple[Endpoint, ...]]


def compile_endpoints(policy: Policy, mtls: Mode | None) -> EndpointTable:
    """Empty for a service without endpoints. mtls: the service's, defaults counted."""
    table: dict[str | None, tuple[Endpoint, ...]] = {}
    for version, endpoints in (policy.endpoints or {}).items():
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
    if table:
        table[None] = tuple(endpoint for version in table.values() for endpoint in version)
    return table
