"""Sticky splits: which version a user has, and what `apply` writes down so that it stays so."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import ceil

from control.policy.allotment import Allotment, Stretches, allot, from_document, grown, plain, to_document
from control.policy.facts import RequestFacts
from control.policy.model import Policy, Route, Sticky
from control.policy.stickiness import can_be_set


@dataclass(frozen=True, slots=True)
class CompiledSticky:
    """`max_age`: seconds that the cookie lasts, None: until the browser is closed. `places`: version -> its share's index."""

    source: Sticky
    header: bytes | None
    cookie: str | None
    max_age: int | None
    allotment: Allotment
    places: Mapping[str, int]

    def user(self, facts: RequestFacts) -> str | None:
        """Who this is; None: nobody that can be told apart yet."""
        if self.header is not None:
            return facts.field(self.header)
        assert self.cookie is not None
        return facts.cookie(self.cookie)

    def place(self, user: str) -> int:
        """The index of this user's share among those of the route."""
        return self.places[self.allotment.version(user)]

    def set_cookie(self, value: str) -> str:
        """The field that gives a user a name."""
        lasts = "" if self.max_age is None else f"; Max-Age={self.max_age}"
        return f"{self.cookie}={value}{lasts}; Path=/; HttpOnly; SameSite=Lax"


def compile_sticky(policy: Policy, route: Route | None) -> CompiledSticky | None:
    """Of a route, or of the document's own settings; None: it is not said, or there is nothing to split."""
    level = _level(policy, route)
    if level is None or sum(weight > 0 for weight in level.to.values()) < 2:
        return None
    sticky = level.sticky
    if sticky.cookie is not None and not can_be_set(sticky.cookie):
        return None
    return CompiledSticky(
        source=sticky,
        header=None if sticky.header is None else sticky.header.encode(),
        cookie=sticky.cookie,
        max_age=None if sticky.ttl is None else ceil(sticky.ttl),
        allotment=allot(level.stretches(), policy.service),
        places={name: place for place, name in enumerate(level.to)},
    )


@dataclass(frozen=True, slots=True)
class _Level:
    """A `sticky` with the `to` that it is for; `own`: its stretches are for these weights, too."""

    sticky: Sticky
    to: Mapping[str, float]
    own: bool

    def stretches(self) -> Stretches:
        written = self.written()
        return plain(self.to) if written is None else grown(written, self.to)

    def written(self) -> Stretches | None:
        stretches = self.sticky.stretches if self.own else None
        return None if stretches is None else from_document(stretches)

    @property
    def key(self) -> tuple[str | None, str | None]:
        return self.sticky.header, self.sticky.cookie


def _level(policy: Policy, route: Route | None) -> _Level | None:
    if route is None:
        sticky, to, own = policy.sticky, policy.to, True
    else:
        sticky = policy.sticky if route.sticky is None else route.sticky
        to = policy.to if route.to is None else route.to
        own = route.sticky is not None or route.to is None
    return None if sticky is None or to is None else _Level(sticky, to, own)


def _levels(policy: Policy) -> Iterator[tuple[str, Route | None, _Level]]:
    """With what each is known by in another writing of the document: a route by its name, else by its match."""
    seen: dict[str, int] = {}
    for route in (None, *policy.routes):
        if route is None:
            place = ""
        else:
            place = json.dumps(
                [route.name, [match.document() for match in route.match or ()]], sort_keys=True
            )
            if route.name is not None:
                place = json.dumps(route.name)
        ordinal = seen[place] = seen.get(place, -1) + 1
        level = _level(policy, route)
        if level is not None:
            yield f"{place}\n{ordinal}", route, level


def allotted(policy: Policy, stored: Policy | None) -> Policy:
    """The policy as it is stored over what was stored: with the stretches that leave users where they were.

    They are written where weights alone do not tell them, and taken out where they do.
    """
    if policy.sticky is None and all(route.sticky is None for route in policy.routes):
        return policy
    before = {
        place: (level.key, level.stretches())
        for place, _, level in (_levels(stored) if stored is not None else ())
    }
    own: Sticky | None = policy.sticky
    routes = {id(route): route for route in policy.routes}
    for place, route, level in _levels(policy):
        key, earlier = before.get(place, (None, None))
        if key != level.key:
            earlier = level.written()
        made = plain(level.to) if earlier is None else grown(earlier, level.to)
        stretches = None if made == plain(level.to) else made
        if route is None:
            own = _with(level.sticky, stretches)
        elif route.to is not None or route.sticky is not None:
            if stretches is not None or route.sticky is not None:
                update = {"sticky": _with(level.sticky, stretches)}
                routes[id(route)] = route.model_copy(update=update)
    update = {} if own is None else {"sticky": own}
    if policy.routes:
        update["routes"] = tuple(routes[id(route)] for route in policy.routes)  # type: ignore[assignment]
    return policy.model_copy(update=update)


def _with(sticky: Sticky, stretches: Stretches | None) -> Sticky:
    document = sticky.document()
    document.pop("stretches", None)
    if stretches is not None:
        document["stretches"] = to_document(stretches)
    return Sticky.model_validate(document)
