"""How one string, or its absence, is compared: `StringMatch` made ready for the request path."""

import json
from dataclasses import dataclass, field
from typing import Any, Protocol

from control.policy.model import StringMatch
from control.policy.patterns import compile_regex

_SHOWN = 80


def quoted(value: str) -> str:
    """The value in double quotes on one line, cut where it is long."""
    return json.dumps(value if len(value) <= _SHOWN else value[:_SHOWN] + "...", ensure_ascii=False)


class StringTest(Protocol):
    """`matches` takes None for a value that is not there; `unlike` says in words why a value does not match."""

    def matches(self, value: str | None) -> bool: ...

    def unlike(self, value: str | None) -> str: ...

    def describe(self) -> str: ...


@dataclass(frozen=True, slots=True)
class Exact:
    text: str

    def matches(self, value: str | None) -> bool:
        return value == self.text

    def unlike(self, value: str | None) -> str:
        return _is(value) if value is None else f"{_is(value)}, not {quoted(self.text)}"

    def describe(self) -> str:
        return quoted(self.text)


@dataclass(frozen=True, slots=True)
class Prefix:
    text: str

    def matches(self, value: str | None) -> bool:
        return value is not None and value.startswith(self.text)

    def unlike(self, value: str | None) -> str:
        return _is(value) if value is None else f"{_is(value)}, which does not start with {quoted(self.text)}"

    def describe(self) -> str:
        return f"prefix {quoted(self.text)}"


@dataclass(frozen=True, slots=True)
class Suffix:
    text: str

    def matches(self, value: str | None) -> bool:
        return value is not None and value.endswith(self.text)

    def unlike(self, value: str | None) -> str:
        return _is(value) if value is None else f"{_is(value)}, which does not end with {quoted(self.text)}"

    def describe(self) -> str:
        return f"suffix {quoted(self.text)}"


@dataclass(frozen=True, slots=True)
class Contains:
    text: str

    def matches(self, value: str | None) -> bool:
        return value is not None and self.text in value

    def unlike(self, value: str | None) -> str:
        return _is(value) if value is None else f"{_is(value)}, which does not contain {quoted(self.text)}"

    def describe(self) -> str:
        return f"contains {quoted(self.text)}"


@dataclass(frozen=True, slots=True)
class Pattern:
    text: str
    _compiled: Any = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_compiled", compile_regex(self.text))

    def matches(self, value: str | None) -> bool:
        if value is None:
            return False
        try:
            return self._compiled.fullmatch(value) is not None
        except UnicodeEncodeError:  # a lone surrogate, as JSON may hold one; RE2 reads UTF-8
            return self._compiled.fullmatch(value.encode("utf-8", "replace").decode()) is not None

    def unlike(self, value: str | None) -> str:
        return _is(value) if value is None else f"{_is(value)}, which does not match the regex {self.text}"

    def describe(self) -> str:
        return f"regex {quoted(self.text)}"


@dataclass(frozen=True, slots=True)
class Present:
    wanted: bool

    def matches(self, value: str | None) -> bool:
        return (value is not None) is self.wanted

    def unlike(self, value: str | None) -> str:
        return "is present" if value is not None else "is absent"

    def describe(self) -> str:
        return "present" if self.wanted else "absent"


@dataclass(frozen=True, slots=True)
class Not:
    inner: StringTest

    def matches(self, value: str | None) -> bool:
        return not self.inner.matches(value)

    def unlike(self, value: str | None) -> str:
        return f"{_is(value)}, which is excluded"

    def describe(self) -> str:
        return f"not {self.inner.describe()}"


def _is(value: str | None) -> str:
    return "is absent" if value is None else f"is {quoted(value)}"


def compile_string(match: StringMatch) -> StringTest:
    """The test that a matcher of the policy describes."""
    if match.exact is not None:
        return Exact(match.exact)
    if match.prefix is not None:
        return Prefix(match.prefix)
    if match.suffix is not None:
        return Suffix(match.suffix)
    if match.contains is not None:
        return Contains(match.contains)
    if match.regex is not None:
        return Pattern(match.regex)
    if match.not_ is not None:
        return Not(compile_string(match.not_))
    return Present(match.present is not False)
