"""What an attempt came to, and the conditions of `retry.on` on it."""

import json
import zlib
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any, NoReturn, Self

from control.policy.facts import Fields, field_map, field_text
from control.policy.model import BodyMatch, RetryCondition, StringMatch
from control.policy.strings import StringTest, compile_string

NO_ANSWER = ("connect-failure", "reset", "timeout")
_WORDS: dict[str, tuple[Collection[int], Collection[str]]] = {
    "connect-failure": ((), ("connect-failure",)),
    "reset": ((), ("reset",)),
    "timeout": ((), ("timeout",)),
    # What the proxy itself would answer with 5xx counts as that, as in Envoy.
    "5xx": (range(500, 600), NO_ANSWER),
    "gateway-error": (range(502, 505), NO_ANSWER),
    "retriable-4xx": ((409,), ()),
}


@dataclass(slots=True)
class Outcome:
    """One attempt's end: either a status or an error (`connect-failure`, `reset`, `timeout`).

    `body` is None where it was not looked at or is larger than `max_body`: then no body condition holds.
    """

    status: int | None
    error: str | None = None
    fields: Fields = ()
    body: bytes | None = None


@dataclass(frozen=True, slots=True)
class AnswerCondition:
    """One entry of `retry.on`; `inside` looks at fields and body of an answer, None for plain words and statuses."""

    label: str
    statuses: frozenset[int] = frozenset()
    errors: frozenset[str] = frozenset()
    inside: Callable[[Outcome], bool] | None = field(default=None, compare=False)
    needs_body: bool = False

    @property
    def looks_inside(self) -> bool:
        return self.inside is not None

    def holds(self, outcome: Outcome) -> bool:
        if outcome.error is not None:
            return outcome.error in self.errors
        if self.inside is not None:
            return self.inside(outcome)
        return outcome.status in self.statuses


def compile_condition(condition: str | int | RetryCondition, max_body: int) -> AnswerCondition:
    if isinstance(condition, int):
        return AnswerCondition(str(condition), statuses=frozenset((condition,)))
    if isinstance(condition, RetryCondition):
        if condition.body is not None:
            return _body_condition(condition.body, max_body)
        return _header_condition(condition.header or {})
    if condition in _WORDS:
        statuses, errors = _WORDS[condition]
        return AnswerCondition(condition, frozenset(statuses), frozenset(errors))
    low, high = condition.split("-")
    return AnswerCondition(condition, frozenset(range(int(low), int(high) + 1)))


def _header_condition(headers: dict[str, StringMatch]) -> AnswerCondition:
    tests = [(name.encode(), compile_string(match)) for name, match in headers.items()]

    def inside(outcome: Outcome) -> bool:
        values = field_map(outcome.fields)
        for name, test in tests:
            value = values.get(name)
            if not test.matches(None if value is None else field_text(value)):
                return False
        return True

    label = " and ".join(f"header {name.decode()} {test.describe()}" for name, test in tests)
    return AnswerCondition(label, inside=inside)


def _body_condition(match: BodyMatch, max_body: int) -> AnswerCondition:
    if match.json_ is None:
        test = compile_string(_of_text(match.matcher))
        label = f"body {test.describe()}"
        read: Callable[[bytes], str | None] = _text
    else:
        test = compile_string(match.matcher)
        label = f"body {match.json_} {test.describe()}"
        path = match.json_.split(".")

        def read(body: bytes) -> str | None:
            return json_value(body, path)

    return AnswerCondition(label, inside=_body_test(read, test, max_body), needs_body=True)


def _body_test(
    read: Callable[[bytes], str | None], test: StringTest, max_body: int
) -> Callable[[Outcome], bool]:
    def inside(outcome: Outcome) -> bool:
        body = None if outcome.body is None else decoded(outcome.body, outcome.fields, max_body)
        return body is not None and test.matches(read(body))

    return inside


def _of_text(match: StringMatch) -> StringMatch:
    """For a whole body `present` means that it is not empty."""
    if match.not_ is not None:
        return StringMatch.model_validate({"not": _of_text(match.not_)})
    if match.present is None:
        return match
    empty = StringMatch(exact="")
    return StringMatch.model_validate({"not": empty}) if match.present else empty


def _text(body: bytes) -> str:
    return body.decode("utf-8", "replace")


def decoded(body: bytes, fields: Fields, limit: int) -> bytes | None:
    """The body without its content coding (gzip, deflate); None: another coding, broken, or over `limit` bytes."""
    coding = field_map(fields).get(b"content-encoding", b"").strip().lower()
    if coding in (b"", b"identity"):
        return body
    if coding not in (b"gzip", b"x-gzip", b"deflate"):
        return None
    try:
        # 32: recognise gzip and zlib by their heads.
        unpacker = zlib.decompressobj(wbits=zlib.MAX_WBITS | 32)
        content = unpacker.decompress(body, limit + 1)
    except zlib.error:
        return None
    return content if unpacker.eof and len(content) <= limit else None


class _Spelled(float):
    """A JSON number that remembers how it was written."""

    text: str

    def __new__(cls, text: str) -> Self:
        number = super().__new__(cls, text)
        number.text = text
        return number


def _no_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is no JSON")


def json_value(body: bytes, path: list[str]) -> str | None:
    """What stands at `path` (names, and indices into lists) in a JSON body, as text; None: nothing, or no JSON.

    Strings stand for themselves; numbers, true, false, null for their spelling; objects and lists for their compact JSON.
    """
    try:
        value: Any = json.loads(body, parse_float=_Spelled, parse_constant=_no_constant)
        for name in path:
            if isinstance(value, list) and name.isascii() and name.isdigit():
                value = value[int(name)]
            elif isinstance(value, dict):
                value = value[name]
            else:
                return None
        if isinstance(value, str):
            return value
        if isinstance(value, _Spelled):
            return value.text
        return json.dumps(value, separators=(",", ":"), ensure_ascii=False)
    except (ValueError, KeyError, IndexError, RecursionError):
        return None
