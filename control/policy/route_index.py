"""A short list of the routes that a path can match at all, for services with many routes."""

from collections.abc import Iterable, Sequence
from typing import Generic, Protocol, TypeVar

from control.policy.matching import All, AnyOf, Condition, PathExact, PathPrefix, PathRegex
from control.policy.patterns import RegexSet

# With fewer routes asking them one by one is as fast.
_WORTH_IT = 4
# Routes listed in all tables together, per route: what an index may cost in memory.
_LARGEST = 32

RouteT = TypeVar("RouteT")
FoundT_co = TypeVar("FoundT_co", covariant=True)
PathKey = PathExact | PathPrefix | PathRegex


class RouteIndex(Protocol[FoundT_co]):
    """Immutable. It only leaves out routes that cannot match; whether one does match is still asked."""

    def candidates(self, path: str) -> Sequence[FoundT_co]:
        """The routes that may match this path, in their order."""
        ...


class PathTable(Generic[RouteT]):
    """For each path of an exact match and each prefix: the routes that may match there."""

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


class PatternIndex(Generic[RouteT]):
    """The same where paths are regular expressions: all of them are compared at once."""

    __slots__ = ("_numbers", "_patterns", "_routes", "_table")

    def __init__(
        self, patterns: RegexSet, numbers: Sequence[int], table: PathTable[int], routes: Sequence[RouteT]
    ) -> None:
        """numbers: the place in `routes` of each expression's route."""
        self._patterns = patterns
        self._numbers = numbers
        self._table = table
        self._routes = routes

    def candidates(self, path: str) -> list[RouteT]:
        numbers: Iterable[int] = self._table.candidates(path)
        if found := self._patterns.matching(path):
            numbers = sorted({*numbers, *[self._numbers[place] for place in found]})
        return [self._routes[number] for number in numbers]


def index_routes(routes: Sequence[tuple[Condition | None, RouteT]]) -> RouteIndex[RouteT] | None:
    """The index of these routes; None where there are too few, or the lists would grow out of proportion."""
    if len(routes) < _WORTH_IT:
        return None
    listed = tuple(route for _, route in routes)
    keys = [path_keys(condition) for condition, _ in routes]
    places = [
        (key.pattern, number)
        for number, each in enumerate(keys)
        for key in each or ()
        if isinstance(key, PathRegex)
    ]
    patterns = _set_of([pattern for pattern, _ in places])
    if patterns is None:
        regexes = {number for _, number in places}
        return _table([None if number in regexes else each for number, each in enumerate(keys)], listed)
    others: list[list[PathKey] | None] = [
        None if each is None else [key for key in each if not isinstance(key, PathRegex)] for each in keys
    ]
    everything = tuple(range(len(routes)))
    table = _table(others, everything)
    if table is None:
        table = PathTable({}, {}, tuple(number for number in everything if others[number] != []))
    return PatternIndex(patterns, [number for _, number in places], table, listed)


def _set_of(patterns: Sequence[str]) -> RegexSet | None:
    if len(patterns) < _WORTH_IT:
        return None
    try:
        return RegexSet(patterns)
    except ValueError:
        return None


def _table(all_keys: Sequence[list[PathKey] | None], routes: Sequence[RouteT]) -> PathTable[RouteT] | None:
    """Of routes with these keys."""
    rest: list[int] = []
    exact: dict[str, set[int]] = {}
    below: dict[str, set[int]] = {}
    for number, keys in enumerate(all_keys):
        if keys is None:
            rest.append(number)
        for key in keys or ():
            if isinstance(key, PathExact):
                exact.setdefault(key.path, set()).add(number)
            elif isinstance(key, PathPrefix):
                below.setdefault(key.prefix, set()).add(number)
    size = (len(exact) + len(below)) * len(rest)
    if not (exact or below) or size > len(routes) * _LARGEST:
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
        return tuple([routes[number] for number in sorted(numbers)])

    return PathTable(
        {path: listed(numbers) for path, numbers in exact.items()},
        {prefix: listed(numbers) for prefix, numbers in complete.items()},
        listed(rest),
    )


def path_keys(condition: Condition | None) -> list[PathKey] | None:
    """What a path must have one of for the condition to hold; None: any path may do."""
    if isinstance(condition, (PathExact, PathPrefix, PathRegex)):
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
