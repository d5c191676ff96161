"""Why a request would do what it would do: the decisions of the proxy, asked for one request."""

from dataclasses import dataclass
from random import Random
from typing import Any

from control.policy.facts import RequestFacts
from control.policy.model import DEFAULTS_SERVICE
from control.policy.routes import CompiledRoute, CompiledService
from control.policy.snapshot import Snapshot


class _Fixed(Random):
    """Chance that always falls the same way."""

    def __init__(self, point: float) -> None:
        super().__init__(0)
        self._point = point

    def random(self) -> float:
        return self._point


# No random share takes a request, every random share takes it.
_NEVER = _Fixed(1.0)
_ALWAYS = _Fixed(0.0)


@dataclass(frozen=True)
class Considered:
    """A route that does not (or not surely) take the request, and why."""

    route: str
    why: str


@dataclass(frozen=True)
class Explanation:
    """What happens to one request. `service` and `route` are None where nobody claims the host and that is refused."""

    facts: RequestFacts
    revision: int
    service: CompiledService | None
    route: CompiledRoute | None
    considered: tuple[Considered, ...]
    has_defaults: bool

    def data(self) -> dict[str, Any]:
        """As JSON data; what `mitmesh explain --json` prints."""
        raise NotImplementedError

    def lines(self) -> list[str]:
        """For a person."""
        raise NotImplementedError


def explain(snapshot: Snapshot, facts: RequestFacts) -> Explanation:
    """The decisions on one request. Random shares are not rolled: such a route is told and passed over."""
    service = snapshot.find(facts.host, facts.port) or snapshot.unknown
    has_defaults = DEFAULTS_SERVICE in snapshot.policies
    if service is None:
        return Explanation(facts, snapshot.revision, None, None, (), has_defaults)
    taken = service.route(facts, _NEVER)
    considered = []
    for route in service.routes:
        if route is taken:
            break
        why = "" if route.conditions is None else route.conditions.why_not(facts)
        considered.append(Considered(route.label, why))
    return Explanation(facts, snapshot.revision, service, taken, tuple(considered), has_defaults)
