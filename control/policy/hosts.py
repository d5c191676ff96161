"""Which service answers to a host: dictionaries only, so the cost does not grow with the number of services."""

from collections.abc import Iterable, Iterator

from control.policy.model import Policy, split_host_port
from control.policy.routes import CompiledService

# Longer names are no host names (RFC 1035, 2.3.4): they match no wildcard, which bounds the work for a hostile one.
_LONGEST = 253


class HostIndex:
    """Immutable. A key is the host (exact) or what follows the `*.` (wildcard), with a port or None."""

    __slots__ = ("_exact", "_exact_ports", "_wild", "_wild_ports")

    def __init__(self) -> None:
        self._exact: dict[str, CompiledService] = {}
        self._exact_ports: dict[tuple[str, int], CompiledService] = {}
        self._wild: dict[str, CompiledService] = {}
        self._wild_ports: dict[tuple[str, int], CompiledService] = {}

    def find(self, host: str, port: int) -> CompiledService | None:
        """The service that claims the host: exact with port, exact, then wildcards, the longest first, with port before without."""
        if self._exact_ports:
            found = self._exact_ports.get((host, port)) or self._exact.get(host)
        else:
            found = self._exact.get(host)
        # Where anything is claimed, a service's own name is.
        return self._find_spelled(host, port) if found is None and self._exact else found

    def _find_spelled(self, host: str, port: int) -> CompiledService | None:
        """The same for a host in any spelling: upper case, a dot at its end, brackets."""
        host = host.lower().rstrip(".")
        if host[:1] == "[" and host[-1:] == "]":
            host = host[1:-1]
        found = self._exact_ports.get((host, port)) or self._exact.get(host)
        if found is not None or len(host) > _LONGEST or not (self._wild or self._wild_ports):
            return found
        parent = host.partition(".")[2]
        while parent:
            found = self._wild_ports.get((parent, port)) or self._wild.get(parent)
            if found is not None:
                return found
            parent = parent.partition(".")[2]
        return None

    def owners(self, policy: Policy) -> Iterator[str]:
        """The services that claim what the policy claims; this one, if it is in the index, among them."""
        for wildcard, host, port in _claims(policy):
            if port is None:
                owner = (self._wild if wildcard else self._exact).get(host)
            else:
                owner = (self._wild_ports if wildcard else self._exact_ports).get((host, port))
            if owner is not None:
                yield owner.name

    def changed(self, gone: Iterable[Policy], come: Iterable[tuple[Policy, CompiledService]]) -> "HostIndex":
        """A new index without the claims of some documents, then with those of others."""
        index = HostIndex()
        for name in self.__slots__:
            setattr(index, name, getattr(self, name).copy())
        for policy in gone:
            for wildcard, host, port in _claims(policy):
                index._drop(wildcard, host, port)
        for policy, service in come:
            for wildcard, host, port in _claims(policy):
                index._put(wildcard, host, port, service)
        return index

    def _drop(self, wildcard: bool, host: str, port: int | None) -> None:
        if port is None:
            (self._wild if wildcard else self._exact).pop(host, None)
        else:
            (self._wild_ports if wildcard else self._exact_ports).pop((host, port), None)

    def _put(self, wildcard: bool, host: str, port: int | None, service: CompiledService) -> None:
        if port is None:
            (self._wild if wildcard else self._exact)[host] = service
        else:
            (self._wild_ports if wildcard else self._exact_ports)[host, port] = service


def _claims(policy: Policy) -> Iterator[tuple[bool, str, int | None]]:
    """(is it a wildcard, host or what follows the `*.`, port); the service's own name is the first."""
    yield False, policy.service, None
    for claim in policy.hosts:
        wildcard = claim.startswith("*.")
        yield (wildcard, *split_host_port(claim[2:] if wildcard else claim))
