"""Mirrors made ready: which requests are copied, and which host the copy names. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from random import Random

from control.policy.endpoints import Endpoint, EndpointTable
from control.policy.model import Mirror

_SUFFIX = "-shadow"


@dataclass(frozen=True, slots=True)
class CompiledMirror:
    """`name` is the version as `to` has it, `service` and `version` whose it is."""

    source: Mirror
    name: str
    service: str
    version: str | None
    endpoints: tuple[Endpoint, ...]

    def wants(self, random: Random) -> bool:
        """Whether this request is copied."""
        percent = self.source.percent
        return percent >= 100 or random.random() * 100 < percent


def compile_mirror(mirror: Mirror, service: str, tables: Mapping[str, EndpointTable]) -> CompiledMirror:
    """`service` is the one whose document says it; `tables` holds its endpoints and those it reaches."""
    owner, slash, version = mirror.to.partition("/")
    if not slash:
        owner, version = service, mirror.to
    name = version if owner == service else mirror.to
    return CompiledMirror(mirror, name, owner, version, tables.get(owner, {}).get(version, ()))


def shadow_host(host: str) -> str:
    """The host that a copy names: `reviews:8080` -> `reviews-shadow:8080`, as Envoy does; an address stays as it is."""
    name, colon, port = host.rpartition(":")
    if not colon or not port.isdigit():
        name, colon, port = host, "", ""
    try:
        ip_address(name.strip("[]"))
    except ValueError:
        return f"{name}{_SUFFIX}{colon}{port}"
    return host
