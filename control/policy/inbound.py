"""What of a service's document acts in front of the service itself. The rest acts at its callers, and must not twice."""

from control.policy.compiling import BUILT_IN, Level, compile_unclaimed
from control.policy.routes import CompiledRoute, CompiledService
from control.policy.snapshot import Snapshot

ACTS_INBOUND = ("connect_timeout", "idle_timeout", "access_log", "authorization", "mtls")


class Inbound:
    """The proxy's own service in the newest snapshot it was asked about; made anew only when the document is."""

    def __init__(self) -> None:
        self._snapshot: Snapshot | None = None
        self._name = ""
        self._of: tuple[CompiledService | None, Level] | None = None
        self._made: CompiledService | None = None

    def service(self, snapshot: Snapshot, name: str) -> CompiledService:
        """`name`: the service that the proxy stands in front of, "" if it was not told."""
        if snapshot is not self._snapshot or name != self._name or self._made is None:
            service = snapshot.services.get(name)
            if (
                self._made is None
                or self._of is None
                or self._of[0] is not service
                or self._of[1] is not snapshot.defaults
            ):
                self._made = inbound_of(service, snapshot.defaults)
                self._of = service, snapshot.defaults
            self._snapshot, self._name = snapshot, name
        return self._made


def inbound_of(service: CompiledService | None, defaults: Level) -> CompiledService:
    """The service as the proxy in front of it sees it; None: it has no document, and the mesh's defaults hold.

    Its routes are left out where they do not differ in anything that acts here.
    """
    if service is None:
        service = compile_unclaimed(defaults)
    own = _inbound(service.own)
    routes = tuple(_inbound(route) for route in service.routes)
    if all(_acts(route) == _acts(own) for route in routes):
        routes = ()
    return CompiledService(service.name, routes, own)


def _inbound(route: CompiledRoute) -> CompiledRoute:
    settings = {**BUILT_IN, **dict(zip(ACTS_INBOUND, _acts(route), strict=True))}
    return CompiledRoute(route.service, route.name, route.label, route.conditions, shares=(), **settings)


def _acts(route: CompiledRoute) -> tuple[object, ...]:
    return tuple(getattr(route, name) for name in ACTS_INBOUND)
