"""Where a canary's split stands in a document, what its weights become, and the document with them. Pure."""

import json
from collections.abc import Mapping
from typing import Any

from control.canary.plan import Weights
from control.policy.model import Policy
from control.policy.stored import parse_stored


class CannotSplitError(Exception):
    """One sentence on why there can be no canary here, and what to do."""


def split_of(policy: Policy, route: str | None) -> Weights | None:
    """The `to` of the document, or of the route of that name; None: it has none. Raises CannotSplitError."""
    if route is None:
        return policy.to
    found = [each for each in policy.routes if each.name == route]
    if not found:
        names = [each.name for each in policy.routes if each.name]
        known = f"known are {', '.join(names)}" if names else "none of its routes has a name"
        raise CannotSplitError(f"{policy.service} has no route {route}: {known}")
    if found[0].for_ is not None:
        raise CannotSplitError(
            f"route {route} expires by itself: take its `for` out first, or split elsewhere"
        )
    # A route without `to` goes where the document goes.
    return found[0].to if found[0].to is not None else policy.to


def source_of(policy: Policy, route: str | None, to: str, given: str | None) -> str:
    """The version that the share of `to` is taken from. Raises CannotSplitError where that cannot be told."""
    split = split_of(policy, route)
    versions = list(policy.endpoints or ())
    if route is None:
        _is_reached(policy)
    if "/" not in to and to not in versions:
        known = f": known are {', '.join(versions)}" if versions else ", it has no endpoints"
        raise CannotSplitError(f"{policy.service} has no version {to}{known}")
    among = versions if split is None else list(split)
    others = [name for name in among if name != to]
    if split is None and len(others) > 1:
        raise CannotSplitError(
            f"{policy.service} has no `to`, so all of {', '.join(versions)} get requests: apply a `to` first"
        )
    if given is None:
        # A version that gets nothing now is none to take from.
        giving = [name for name in others if split is None or split[name] > 0] or others
        if len(giving) != 1:
            named = ", ".join(giving) or f"none but {to}"
            raise CannotSplitError(f"the split is between {named}: say with --from whose share {to} takes")
        return giving[0]
    if given == to:
        raise CannotSplitError(f"--from and --to are both {to}")
    if given not in others:
        named = ", ".join(others) or f"{to} alone"
        raise CannotSplitError(f"--from {given}: the split has no {given}, but {named}")
    return given


def _is_reached(policy: Policy) -> None:
    for route in policy.routes:
        if route.match is None and route.for_ is None:
            name = f"say --route {route.name}" if route.name else "give it a name and say --route NAME"
            raise CannotSplitError(
                f"a route without `match` takes every request of {policy.service}, the document's own `to` none: {name}"
            )


def weights(split: Weights | None, source: str, to: str, percent: float) -> dict[str, float]:
    """The split in which `to` has this share of what the two of them have together; others keep their weights.

    Raises CannotSplitError where the two have nothing to share.
    """
    others = {name: weight for name, weight in (split or {}).items() if name not in (source, to)}
    both = (split or {}).get(source, 0) + (split or {}).get(to, 0)
    # Of two versions per cent; beside others in proportion to them.
    if others and both <= 0:
        raise CannotSplitError(f"neither {source} nor {to} has a weight in the split: give {source} one")
    pool = both if others else 100.0
    share = pool * percent / 100
    wanted = {**dict.fromkeys(split or {}, 0.0), source: pool - share, to: share, **others}
    return {name: _number(weight) for name, weight in wanted.items()}


def _number(weight: float) -> float:
    rounded = round(weight, 9)
    return int(rounded) if rounded == int(rounded) else rounded


def with_split(service: str, text: str, route: str | None, split: Weights) -> Policy:
    """The policy of a stored document with this split and all else as it is. Raises PolicyErrors."""
    data: dict[str, Any] = json.loads(text)
    place: Mapping[str, Any] = data
    if route is not None:
        place = next(each for each in data["routes"] if each.get("name") == route)
    place["to"] = dict(split)  # type: ignore[index]
    return parse_stored(service, json.dumps(data))


def percent_of(split: Weights | None, source: str, to: str) -> float | None:
    """The share in per cent that `to` has of what the two have together; None: there is no split."""
    if split is None:
        return None
    both = split.get(source, 0) + split.get(to, 0)
    return 100 * split.get(to, 0) / both if both else None
