"""A short list of the routes that a path can match at all, for services with many routes."""

from collections.abc import Iterable, Sequence
from typing import Generic, TypeVar

from control.policy.matching import All, AnyOf, Condition, PathExact, PathPrefix

# With fewer routes asking them one by one is as fast.
_WORTH_IT = 4
# Routes listed in all tables together, per route: what an index may cost in memory.
_LARGEST = 32

RouteT = TypeVar("RouteT")
PathKey = PathExact | PathPrefix


class RouteIndex(Generic[RouteT]):
    """Immutable. For each path of an exact match and each prefix: the routes that may match there, in their order.

    It only leaves out routes that cannot match; whether one does match is still asked.
    """

    __slots__ = ("_below", "_depth", "_exact", "_rest")

    def __init__(
        self,
        exact: dict[str, tuple[RouteT, ...]],
        below: dict[str, tuple[RouteT, ...]],
        rest: tuple[RouteT, ...],
    ) -> None:
        self._exact = exact
        self._below = below
        self._rest = rest
        # No prefix has more segments: a path of thousands costs no more than that.
        self._depth = max((prefix.count("/") for prefix in below), default=0)

    def candidates(self, path: str) -> tuple[RouteT, ...]:
        """The routes that may match this path."""
        found = self._exact.get(path)
        if found is not None:
            return found
        parts = path.split("/", self._depth + 1)[: self._depth + 1]
        while parts:
            found = self._below.get("/".join(parts))
            if found is not None:
                return found
            parts.pop()
        return self._rest


def index_routes(routes: Sequence[tuple[Condition | None, RouteT]]) -> RouteIndex[RouteT] | None:
    """The index of these routes; None where there are too few, or the lists would grow out of proportion."""
    rest: list[int] = []
    exact: dict[str, set[int]] = {}
    below: dict[str, set[int]] = {}
    for number, (condition, _) in enumerate(routes):
        keys = path_keys(condition)
        if keys is None:
            rest.append(number)
        for key in keys or ():
            if isinstance(key, PathExact):
                exact.setdefault(key.path, set()).add(number)
            else:
                below.setdefault(key.prefix, set()).add(number)
    size = (len(exact) + len(below)) * len(rest)
    if len(routes) < _WORTH_IT or len(rest) == len(routes) or size > len(routes) * _LARGEST:
        return None

    # Shorter prefixes first, so that each can take over what those above it have.
    complete: dict[str, set[int]] = {}
    for prefix in sorted(below, key=len):
        above = _nearest(prefix.rpartition("/")[0], complete) if prefix else None
        complete[prefix] = below[prefix].union(rest if above is None else above)
        size += len(complete[prefix])
        if size > len(routes) * _LARGEST:
            return None
    for path, numbers in exact.items():
        above = _nearest(path, complete)
        numbers.update(rest if above is None else above)

    def listed(numbers: Iterable[int]) -> tuple[RouteT, ...]:
        return tuple(routes[number][1] for number in sorted(numbers))

    return RouteIndex(
        {path: listed(numbers) for path, numbers in exact.items()},
        {prefix: listed(numbers) for prefix, numbers in complete.items()},
        listed(rest),
    )


def path_keys(condition: Condition | None) -> list[PathKey] | None:
    """The exact paths and prefixes one of which a path must have for the condition to hold; None: any path may do."""
    if isinstance(condition, (PathExact, PathPrefix)):
        return [condition]
    if isinstance(condition, All):
        return next((keys for each in condition.conditions if (keys := path_keys(each)) is not None), None)
    if isinstance(condition, AnyOf):
        found: list[PathKey] = []
        for alternative in condition.alternatives:
            keys = path_keys(alternative)
            if keys is None:
                return None
            found += keys
        return found
    return None


def _nearest(path: str, prefixes: dict[str, set[int]]) -> set[int] | None:
    """What the longest prefix of the path, itself included, has."""
    while path not in prefixes:
        if not path:
            return None
        path = path.rpartition("/")[0]
    return prefixes[path]
