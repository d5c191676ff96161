"""Whether a request fits a `match`. Each condition decides (`holds`) and can say why not (`why_not`), on the same data."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from random import Random
from typing import Any, Protocol

from control.policy.facts import RequestFacts, policy_path
from control.policy.model import Match, PathMatch
from control.policy.patterns import compile_regex
from control.policy.strings import StringTest, compile_string


class Condition(Protocol):
    """A question about a request. `why_not` gives "" where it holds for sure."""

    def holds(self, facts: RequestFacts, random: Random) -> bool: ...

    def why_not(self, facts: RequestFacts) -> str: ...


@dataclass(frozen=True, slots=True)
class PathExact:
    path: str

    def holds(self, facts: RequestFacts, random: Random) -> bool:
        return facts.path == self.path

    def why_not(self, facts: RequestFacts) -> str:
        return "" if facts.path == self.path else f"path {facts.path} is not {self.path}"


@dataclass(frozen=True, slots=True)
class PathPrefix:
    """`prefix` has no slash at its end ("" for all paths), `below` has one."""

    prefix: str
    below: str

    def holds(self, facts: RequestFacts, random: Random) -> bool:
        path = facts.path
        return path.startswith(self.below) or path == self.prefix

    def why_not(self, facts: RequestFacts) -> str:
        path = facts.path
        if path.startswith(self.below) or path == self.prefix:
            return ""
        return f"path {path} has not the prefix {self.prefix or '/'}"


@dataclass(frozen=True, slots=True)
class PathRegex:
    pattern: str
    _compiled: Any = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_compiled", compile_regex(self.pattern))

    def holds(self, facts: RequestFacts, random: Random) -> bool:
        return self._compiled.fullmatch(facts.path) is not None

    def why_not(self, facts: RequestFacts) -> str:
        if self._compiled.fullmatch(facts.path) is not None:
            return ""
        return f"path {facts.path} does not match the regex {self.pattern}"


@dataclass(frozen=True, slots=True)
class MethodIn:
    methods: tuple[str, ...]

    def holds(self, facts: RequestFacts, random: Random) -> bool:
        return facts.method in self.methods

    def why_not(self, facts: RequestFacts) -> str:
        if facts.method in self.methods:
            return ""
        return f"method {facts.method} is not {' or '.join(self.methods)}"


@dataclass(frozen=True, slots=True)
class SourceIn:
    """Service names in lower case."""

    services: tuple[str, ...]

    def holds(self, facts: RequestFacts, random: Random) -> bool:
        return facts.source.lower() in self.services

    def why_not(self, facts: RequestFacts) -> str:
        if facts.source.lower() in self.services:
            return ""
        wanted = " or ".join(self.services)
        return (
            f"source {facts.source} is not {wanted}" if facts.source else f"source is unknown, not {wanted}"
        )


@dataclass(frozen=True, slots=True)
class HeaderTest:
    name: bytes
    test: StringTest

    def holds(self, facts: RequestFacts, random: Random) -> bool:
        return self.test.matches(facts.field(self.name))

    def why_not(self, facts: RequestFacts) -> str:
        return _reason(f"header {self.name.decode()}", self.test, facts.field(self.name))


@dataclass(frozen=True, slots=True)
class QueryTest:
    name: str
    test: StringTest

    def holds(self, facts: RequestFacts, random: Random) -> bool:
        return self.test.matches(facts.query(self.name))

    def why_not(self, facts: RequestFacts) -> str:
        return _reason(f"query {self.name}", self.test, facts.query(self.name))


@dataclass(frozen=True, slots=True)
class CookieTest:
    name: str
    test: StringTest

    def holds(self, facts: RequestFacts, random: Random) -> bool:
        return self.test.matches(facts.cookie(self.name))

    def why_not(self, facts: RequestFacts) -> str:
        return _reason(f"cookie {self.name}", self.test, facts.cookie(self.name))


@dataclass(frozen=True, slots=True)
class Percent:
    """A random share; `why_not` never rolls the dice and tells the share instead."""

    percent: float

    def holds(self, facts: RequestFacts, random: Random) -> bool:
        return random.random() * 100 < self.percent

    def why_not(self, facts: RequestFacts) -> str:
        return "" if self.percent >= 100 else f"takes {self.percent:g} % of such requests at random"


@dataclass(frozen=True, slots=True)
class All:
    """Every condition must hold. A `Percent` stands last, so that it is only rolled for requests that fit otherwise."""

    conditions: tuple[Condition, ...]

    def holds(self, facts: RequestFacts, random: Random) -> bool:
        for condition in self.conditions:
            if not condition.holds(facts, random):
                return False
        return True

    def why_not(self, facts: RequestFacts) -> str:
        sure = [c.why_not(facts) for c in self.conditions if not isinstance(c, Percent)]
        if any(sure):
            return " and ".join(filter(None, sure))
        return next((c.why_not(facts) for c in self.conditions if isinstance(c, Percent)), "")


@dataclass(frozen=True, slots=True)
class AnyOf:
    """One of the alternatives must hold; they are tried in order."""

    alternatives: tuple[Condition, ...]

    def holds(self, facts: RequestFacts, random: Random) -> bool:
        for alternative in self.alternatives:
            if alternative.holds(facts, random):
                return True
        return False

    def why_not(self, facts: RequestFacts) -> str:
        reasons = [alternative.why_not(facts) for alternative in self.alternatives]
        return "; or ".join(reasons) if all(reasons) else ""


def _reason(what: str, test: StringTest, value: str | None) -> str:
    return "" if test.matches(value) else f"{what} {test.unlike(value)}"


def path_condition(match: PathMatch) -> Condition:
    """The condition on a path."""
    if match.exact is not None:
        return PathExact(policy_path(match.exact))
    if match.prefix is not None:
        prefix = policy_path(match.prefix).rstrip("/")
        return PathPrefix(prefix, prefix + "/")
    assert match.regex is not None
    return PathRegex(match.regex)


def _conditions(match: Match) -> Iterable[Condition]:
    """Cheap conditions first: the order changes nothing but the cost."""
    if match.method is not None:
        yield MethodIn(match.method)
    if match.path is not None:
        yield path_condition(match.path)
    if match.source is not None:
        yield SourceIn(tuple(name.lower() for name in match.source))
    for name, test in (match.headers or {}).items():
        yield HeaderTest(name.encode(), compile_string(test))
    for name, test in (match.query or {}).items():
        yield QueryTest(name, compile_string(test))
    for name, test in (match.cookies or {}).items():
        yield CookieTest(name, compile_string(test))
    if match.percent is not None and match.percent < 100:
        yield Percent(match.percent)


def compile_match(matches: tuple[Match, ...] | None) -> Condition | None:
    """The condition that a `match` describes; None: every request fits."""
    alternatives: list[Condition] = []
    for match in matches or ():
        conditions = tuple(_conditions(match))
        if not conditions:
            return None
        alternatives.append(conditions[0] if len(conditions) == 1 else All(conditions))
    if len(alternatives) > 1:
        return AnyOf(tuple(alternatives))
    return alternatives[0] if alternatives else None
