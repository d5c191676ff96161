"""Whether a caller may send a request: `Authorization` made ready, and the decision.

Where something cannot be told, the answer is no: a deny rule's `from` holds for a caller whose name nobody
proves, and of a header that stands there several times each value counts against the request.
"""

import re
from dataclasses import dataclass, field
from random import Random
from typing import Any

from control.policy.facts import RequestFacts, field_text
from control.policy.matching import Condition, HeaderTest, path_condition
from control.policy.patterns import compile_regex
from control.policy.permissions import Authorization, AuthorizationRule
from control.policy.strings import compile_string

_NO_CHANCE = Random(0)
"""Paths and headers leave nothing to chance."""


@dataclass(frozen=True, slots=True)
class Caller:
    """Who a verified certificate says it is; both are "" where none does, `service` for somebody of another mesh."""

    spiffe_id: str = ""
    service: str = ""


NOBODY = Caller()


@dataclass(frozen=True, slots=True)
class CallerPattern:
    """A service of this mesh, or a SPIFFE ID; `*` stands for any characters, slashes among them."""

    text: str
    _compiled: Any = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        pattern = ".*".join(re.escape(part) for part in self.text.split("*"))
        object.__setattr__(self, "_compiled", compile_regex(pattern) if "*" in self.text else None)

    def fits(self, caller: Caller) -> bool:
        """Whether it is this caller for sure. `"*"` is anybody with a name, of another mesh too."""
        if self.text == "*":
            return caller != NOBODY
        name = caller.spiffe_id if self.text.startswith("spiffe:") else caller.service
        if not name:
            return False
        return name == self.text if self._compiled is None else self._compiled.fullmatch(name) is not None


@dataclass(frozen=True, slots=True)
class CompiledRule:
    """None: that condition is not there."""

    callers: tuple[CallerPattern, ...] | None
    methods: tuple[str, ...] | None
    paths: tuple[Condition, ...] | None
    headers: tuple[HeaderTest, ...]
    source: AuthorizationRule

    def fits(self, caller: Caller) -> bool:
        return self.callers is None or any(pattern.fits(caller) for pattern in self.callers)

    def allows(self, facts: RequestFacts, caller: Caller) -> bool:
        """Whether it holds beyond doubt."""
        return (
            self.fits(caller)
            and (self.methods is None or facts.method in self.methods)
            and self._path_holds(facts)
            and all(
                test.holds(facts, _NO_CHANCE) and all(map(test.test.matches, _lines(facts, test.name)))
                for test in self.headers
            )
        )

    def denies(self, facts: RequestFacts, caller: Caller) -> bool:
        """Whether it may hold."""
        return (
            (caller == NOBODY or self.fits(caller))
            and (self.methods is None or facts.method.upper() in self.methods)
            and self._path_holds(facts)
            and all(
                test.holds(facts, _NO_CHANCE) or any(map(test.test.matches, _lines(facts, test.name)))
                for test in self.headers
            )
        )

    @property
    def for_every_request(self) -> bool:
        """Whether only the caller is asked about."""
        return self.methods is None and self.paths is None and not self.headers

    def _path_holds(self, facts: RequestFacts) -> bool:
        return self.paths is None or any(path.holds(facts, _NO_CHANCE) for path in self.paths)


@dataclass(frozen=True, slots=True)
class CompiledAuthorization:
    """`allow` None: everything may pass that no `deny` holds for."""

    allow: tuple[CompiledRule, ...] | None
    deny: tuple[CompiledRule, ...]
    audit: bool
    source: Authorization


@dataclass(frozen=True, slots=True)
class Verdict:
    """`rule` is the one that decided, such as `deny[0]`, or "" where no allow rule held, or there are none."""

    allowed: bool
    rule: str = ""
    audit: bool = False
    """It would be refused, but shall only be told of."""
    reading: str = ""
    """The path in the reading that decided, where that is not the one that routes see."""

    @property
    def refused(self) -> bool:
        return not self.allowed and not self.audit


PASSED = Verdict(True)


def judge(rules: CompiledAuthorization | None, facts: RequestFacts, caller: Caller) -> Verdict:
    """One request, by the path that stands in its facts."""
    if rules is None:
        return PASSED
    for index, rule in enumerate(rules.deny):
        if rule.denies(facts, caller):
            return Verdict(False, f"deny[{index}]", rules.audit)
    if rules.allow is None:
        return PASSED
    for index, rule in enumerate(rules.allow):
        if rule.allows(facts, caller):
            return Verdict(True, f"allow[{index}]")
    return Verdict(False, "", rules.audit)


def judge_tunnel(rules: CompiledAuthorization | None, caller: Caller) -> tuple[Verdict, bool]:
    """A tunnel, by its caller alone; and whether the rules leave no question about what goes through it.

    Refused is one through which nothing could pass. Requests inside it are judged one by one; what is no HTTP cannot be.
    """
    if rules is None:
        return PASSED, True
    plain = True
    for index, rule in enumerate(rules.deny):
        if caller == NOBODY or rule.fits(caller):
            if rule.for_every_request:
                return Verdict(False, f"deny[{index}]", rules.audit), False
            plain = False
    if rules.allow is None:
        return PASSED, plain
    fitting = [(index, rule) for index, rule in enumerate(rules.allow) if rule.fits(caller)]
    if not fitting:
        return Verdict(False, "", rules.audit), False
    return Verdict(True, f"allow[{fitting[0][0]}]"), plain and any(
        rule.for_every_request for _, rule in fitting
    )


def compile_authorization(authorization: Authorization) -> CompiledAuthorization:
    """The rules, made ready."""
    allow = authorization.allow
    return CompiledAuthorization(
        None if allow is None else tuple(_rule(rule) for rule in allow),
        tuple(_rule(rule) for rule in authorization.deny or ()),
        authorization.audit,
        authorization,
    )


def _rule(rule: AuthorizationRule) -> CompiledRule:
    return CompiledRule(
        None if rule.from_ is None else tuple(CallerPattern(text) for text in rule.from_),
        rule.methods,
        None if rule.paths is None else tuple(path_condition(path) for path in rule.paths),
        tuple(HeaderTest(name.encode(), compile_string(test)) for name, test in (rule.headers or {}).items()),
        rule,
    )


def _lines(facts: RequestFacts, name: bytes) -> list[str]:
    """The values of a header that stands there more than once, one by one."""
    values = [field_text(value) for each, value in facts.fields if each.lower() == name]
    return values if len(values) > 1 else []
