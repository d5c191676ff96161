"""Why a request would do what it would do: the decisions of the proxy, asked for one request."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

from control.policy.authorizing import NOBODY, Caller
from control.policy.balancers import Hashed
from control.policy.expiring import end_text, expired_text, label_of
from control.policy.explain_access import access_data
from control.policy.explain_text import explanation_lines, settings_data
from control.policy.facts import RequestFacts
from control.policy.faulting import CompiledFault
from control.policy.model import DEFAULTS_SERVICE, Destination, Route, Settings
from control.policy.routes import CompiledRoute, CompiledService, Share
from control.policy.snapshot import Snapshot


class _Fixed(Random):
    """Chance that always falls the same way."""

    def __init__(self, point: float) -> None:
        super().__init__(0)
        self._point = point

    def random(self) -> float:
        return self._point


# With the one no random share takes a request, with the other every one above 0 does.
_NEVER = _Fixed(1.0)
_ALWAYS = _Fixed(0.0)


@dataclass(frozen=True)
class Considered:
    """An earlier route (by its label) that does not, or not surely, take the request, and why."""

    route: str
    why: str


@dataclass(frozen=True)
class Explanation:
    """What happens to one request.

    `service` and `route` are None where nobody claims the host and that is refused. `faults` are those of the route that may hit
    this request. `origins`: setting -> where it is said (`reviews`, `reviews: canary`, `"*"`); one that is nowhere said is missing.
    """

    facts: RequestFacts
    revision: int
    service: CompiledService | None
    route: CompiledRoute | None
    considered: tuple[Considered, ...]
    faults: tuple[CompiledFault, ...]
    document: str | None
    origins: dict[str, str]
    access: dict[str, Any] | None = None
    """Whether the caller may, see `access_data`."""
    expires: str | None = None
    """When the route does; None: never."""
    lapsed: tuple[str, ...] = ()
    """Faults that would act here if they had not expired."""

    def data(self) -> dict[str, Any]:
        """As JSON data. `matched` is whether a route matched; without one the document's own settings apply.

        `share` is from 0 to 1, `sticky` marks the one that this user has; settings are spelt as in a policy, null is none or no limit.
        """
        claimed = self.service is not None and self.service.name != ""
        route = self.route
        data: dict[str, Any] = {
            "service": self.service.name if self.service is not None and claimed else None,
            "document": self.document,
            "host": self.facts.host,
            "port": self.facts.port,
            "revision": self.revision,
            "matched": route is not None and route.label != "",
            "route": None if route is None else route.name,
            "label": None if route is None else route.label or None,
            "considered": [{"route": each.route, "why": each.why} for each in self.considered],
            "to": [] if route is None else [_share_data(share, self.facts) for share in route.shares],
        }
        if route is None:
            refusal = {"status": 404, "flag": "NR"}
            return {**data, "retry": None, "timeout": None, "faults": [], "respond": refusal, "from": {}}
        data.update(settings_data(route, self.faults, self.facts))
        if (sticky := route.sticky) is not None and (user := sticky.user(self.facts)):
            data["to"][sticky.place(user)]["sticky"] = True
        if self.expires is not None:
            data["expires"] = self.expires
        if self.lapsed:
            data["expired"] = list(self.lapsed)
        if self.access is not None:
            data["authorization"] = self.access
        data["from"] = self.origins
        return data

    def lines(self) -> list[str]:
        """For a person: plain text, a line each."""
        return explanation_lines(self.facts, self.data())


def explain(snapshot: Snapshot, facts: RequestFacts, caller: Caller = NOBODY) -> Explanation:
    """The decisions on one request of this caller. Random shares are not rolled: such a route is told and passed over."""
    service = snapshot.find(facts.host, facts.port) or snapshot.unknown
    star = DEFAULTS_SERVICE if DEFAULTS_SERVICE in snapshot.policies else None
    if service is None:
        return Explanation(facts, snapshot.revision, None, None, (), (), star, {})
    taken = service.route(facts, _NEVER)
    levels = _levels(snapshot, service, taken)
    return Explanation(
        facts=facts,
        revision=snapshot.revision,
        service=service,
        route=taken,
        considered=tuple(_considered(snapshot, service, taken, facts)),
        faults=tuple(fault for fault in (*taken.request_faults, *taken.faults) if _may_hit(fault, facts)),
        document=service.name or star,
        origins=_origins(levels),
        expires=next((end_text(each) for _, each in levels if isinstance(each, Route)), None),
        lapsed=tuple(_lapsed(levels, (*taken.request_faults, *taken.faults))),
        access=access_data(service, taken, facts, caller, _NEVER),
    )


def _considered(
    snapshot: Snapshot, service: CompiledService, taken: CompiledRoute, facts: RequestFacts
) -> Iterator[Considered]:
    policy = snapshot.policies.get(service.name)
    compiled = {route.label: route for route in service.routes}
    for index, each in enumerate(policy.routes if policy is not None else ()):
        label = label_of(index, each)
        route = compiled.get(label)
        if route is None:
            yield Considered(label, expired_text(each))
        elif route is taken:
            return
        else:
            yield Considered(label, "" if route.conditions is None else route.conditions.why_not(facts))


def _lapsed(levels: Iterable[tuple[str, Settings]], faults: Iterable[CompiledFault]) -> Iterator[str]:
    """The faults of the levels that would act here if they had not expired."""
    live = {id(fault.source) for fault in faults}
    for place, level in levels:
        if level.faults is not None:
            for index, fault in enumerate(level.faults):
                if fault.for_ is not None and id(fault) not in live:
                    yield f"{place}: faults[{index}] {expired_text(fault)}"
            return


def _may_hit(fault: CompiledFault, facts: RequestFacts) -> bool:
    return fault.percent > 0 and (fault.conditions is None or fault.conditions.holds(facts, _ALWAYS))


def _levels(snapshot: Snapshot, service: CompiledService, route: CompiledRoute) -> list[tuple[str, Settings]]:
    """Who may say something here, the nearest first, each with its place."""
    levels: list[tuple[str, Settings]] = []
    if (policy := snapshot.policies.get(service.name)) is not None:
        if route is not service.own:
            written = next(
                each for index, each in enumerate(policy.routes) if label_of(index, each) == route.label
            )
            levels.append((f"{service.name}: {route.label}", written))
        levels.append((service.name, policy))
    if (defaults := snapshot.policies.get(DEFAULTS_SERVICE)) is not None:
        levels.append((f'"{DEFAULTS_SERVICE}"', defaults))
    return levels


def _origins(levels: Sequence[tuple[str, Settings]]) -> dict[str, str]:
    fields = [*Settings.model_fields, *Destination.model_fields, "mtls"]
    return {
        field: place
        for field in fields
        for place, level in reversed(levels)
        if getattr(level, field, None) is not None
    }


def _share_data(share: Share, facts: RequestFacts) -> dict[str, Any]:
    total = sum(endpoint.weight for endpoint in share.endpoints)
    versions = {endpoint.version for endpoint in share.endpoints}
    # All versions together have a name only where there is one of them.
    version = share.name or (versions.pop() if len(versions) == 1 else None)
    data: dict[str, Any] = {
        "version": version,
        "share": round(share.share, 6),
        "endpoints": [endpoint.address for endpoint in share.endpoints],
        "endpoint_shares": [
            round(endpoint.weight / total, 6) if total else 0.0 for endpoint in share.endpoints
        ],
    }
    if (balancing := share.balancing) is not None:
        source = balancing.source
        data["load_balancer"] = source if isinstance(source, str) else source.document()
        if (key := balancing.key(facts)) is not None and (picked := Hashed().pick(share.endpoints, (), key)):
            data["picked"] = picked.address
    return data
