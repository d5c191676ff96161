"""Parts of a policy that hold for a while: from when to when, and how `apply` sets their clock.

`for` counts from the apply, whose time is stored beside it as `since`: so every proxy ends it at the same moment, and one
that starts later never begins it. Times are seconds since the epoch.
"""

import json
from collections.abc import Iterator
from typing import Any

from control.policy.fault_parts import Fault
from control.policy.model import Policy, Route
from control.policy.moments import format_moment

NEVER_BEGUN = float("-inf")
Timed = Fault | Route


def end_of(part: Timed) -> float | None:
    """When it expires; None: never. A `for` that was stored without its `since` has never begun."""
    if part.for_ is None:
        return None
    return NEVER_BEGUN if part.since is None else part.since + part.for_


def in_force(part: Timed, now: float) -> bool:
    """Whether it has not expired."""
    end = end_of(part)
    return end is None or now < end


def end_text(part: Timed) -> str | None:
    """When it expires, for a program; None: never."""
    end = end_of(part)
    return None if end is None or end == NEVER_BEGUN else format_moment(end)


def expired_text(part: Timed) -> str:
    """For a person, of a part that has expired."""
    said = end_text(part)
    return "has never begun: write it with `mitmesh apply`" if said is None else f"expired {said}"


def label_of(index: int, route: Route) -> str:
    """What a route is called: its name, or its place in the document."""
    return route.name or f"routes[{index}]"


def timed(policy: Policy) -> Iterator[tuple[str, Timed]]:
    """Every part of a document that expires, with its place, such as `canary` or `canary: faults[0]`."""
    yield from _timed_faults(policy.faults, "")
    for index, route in enumerate(policy.routes):
        label = label_of(index, route)
        if route.for_ is not None:
            yield label, route
        yield from _timed_faults(route.faults, f"{label}: ")


def _timed_faults(faults: tuple[Fault, ...] | None, where: str) -> Iterator[tuple[str, Timed]]:
    for index, fault in enumerate(faults or ()):
        if fault.for_ is not None:
            yield f"{where}faults[{index}]", fault


def next_end(policy: Policy, now: float) -> float | None:
    """When the next of its parts expires; None: none will."""
    ends = [end for _, part in timed(policy) if (end := end_of(part)) is not None and end > now]
    return min(ends, default=None)


def stamped(policy: Policy, stored: Policy | None, now: float, *, renew: bool = False) -> Policy:
    """The policy as it is stored by an apply at `now`: every `for` has its `since`.

    A part that stands in the stored document with the same words goes on as it was, expired or not, unless `renew`; so does
    one whose `since` was written, as `mitmesh get` shows it. All others begin now.
    """
    if not any(True for _ in timed(policy)):
        return policy
    known: dict[str, list[float]] = {}
    for _, part in timed(stored) if stored is not None and not renew else ():
        if part.since is not None:
            known.setdefault(_words(part), []).append(part.since)
    moment = round(now, 3)

    def begun(part: Any) -> dict[str, float]:
        if part.for_ is None or (part.since is not None and not renew):
            return {}
        earlier = known.get(_words(part))
        return {"since": earlier.pop(0) if earlier else moment}

    def faults_of(part: Any) -> dict[str, Any]:
        if not any(fault.for_ is not None for fault in part.faults or ()):
            return {}
        return {"faults": tuple(fault.model_copy(update=begun(fault)) for fault in part.faults)}

    routes = [route.model_copy(update={**begun(route), **faults_of(route)}) for route in policy.routes]
    update = faults_of(policy)
    if routes:
        update["routes"] = tuple(routes)
    return policy.model_copy(update=update)


def _words(part: Timed) -> str:
    """What its author wrote of it: by that it is known again."""
    document = part.document()
    for each in (document, *document.get("faults", ())):
        each.pop("since", None)
    return json.dumps([type(part).__name__, document], sort_keys=True)
