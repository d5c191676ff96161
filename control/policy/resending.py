"""`retry` as types: when and how a request is tried again."""

import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar, Self

from pydantic import BeforeValidator, ConfigDict, Field, model_validator

from control.policy.conditions import Body, Matchers
from control.policy.parts import Broken, Part, Written, exactly_one
from control.policy.values import Duration, Method, Percent, Size, SomeTime, Whole, listed

RETRY_WORDS = ("connect-failure", "reset", "timeout", "5xx", "gateway-error", "retriable-4xx")
_STATUS_RANGE = re.compile(r"([1-5]\d\d)-([1-5]\d\d)", re.ASCII)
_CONDITION = (
    'connect-failure, reset, timeout, 5xx, gateway-error, retriable-4xx, a status, a range such as "500-504",'
    " {header: ...} or {body: ...}"
)


class RetryCondition(Part):
    """What calls for another try, beyond the plain words, statuses and ranges. Exactly one key."""

    model_config = ConfigDict(json_schema_extra={"minProperties": 1, "maxProperties": 1})
    written: ClassVar[str] = "{header: ...} or {body: ...}"

    header: Matchers | None = Field(
        None, description="a header of the answer, name to a matcher; all must hold"
    )
    body: Body | None = Field(None, description="the body of the answer")

    @classmethod
    def rules(cls, given: Mapping[str, Any]) -> Iterator[Broken]:
        yield from exactly_one(cls, given, ("header", "body"))


def _retry_on(value: object) -> object:
    if isinstance(value, dict):
        return RetryCondition.model_validate(value)
    if isinstance(value, RetryCondition):
        return value
    if isinstance(value, int) and not isinstance(value, bool) and 100 <= value <= 599:
        return value
    if isinstance(value, str):
        if value in RETRY_WORDS:
            return value
        if (found := _STATUS_RANGE.fullmatch(value)) and found[1] <= found[2]:
            return value
    raise ValueError(f"write {_CONDITION}")


_Word = Annotated[
    str,
    Written(
        "a word",
        {
            "anyOf": [
                {"enum": list(RETRY_WORDS)},
                {"type": "string", "pattern": "^[1-5][0-9]{2}-[1-5][0-9]{2}$"},
            ]
        },
    ),
]
_Answer = Annotated[int, Written("a status", {"type": "integer", "minimum": 100, "maximum": 599})]


class Backoff(Part):
    """The pause before try n+1: a random time in [0, min(max, base * 2^(n-1)))."""

    written: ClassVar[str] = "a mapping such as {base: 25ms, max: 250ms}"

    base: Duration = Field(0.025, description="the most before the second try")
    max: Duration = Field(0.25, description="the most before any try")

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.max < self.base:
            raise ValueError("max (250ms unless given) is less than base: raise max")
        return self


class Budget(Part):
    """How many retries may run beside the first tries, so that retries cannot drown a service."""

    written: ClassVar[str] = "a mapping such as {percent: 20, min_concurrent: 3}"

    percent: Percent = Field(20.0, description="retries at once, as a share of the requests that are running")
    min_concurrent: Annotated[int, Whole(0, 10_000)] = Field(3, description="retries always allowed at once")


class Hedge(Part):
    """Another try beside one that takes long; the first good answer wins, the others are cancelled."""

    written: ClassVar[str] = "a mapping such as {after: 200ms, max: 2}"

    after: SomeTime = Field(description="without an answer for so long, begin one more try beside it")
    max: Annotated[int, Whole(2, 10)] = Field(2, description="tries under way at once, at most")


class Retry(Part):
    """When and how a request is tried again; a plain number means `attempts`."""

    written: ClassVar[str] = (
        "a number of tries, or a mapping such as {attempts: 3, on: [connect-failure, 5xx]}"
    )

    attempts: Annotated[int, Whole(1, 100)] = Field(2, description="tries in all, the first included")
    on: Annotated[
        tuple[
            Annotated[
                _Word | _Answer | RetryCondition,
                BeforeValidator(_retry_on),
                Written(_CONDITION),
            ],
            ...,
        ],
        Field(min_length=1, strict=False),
        BeforeValidator(listed),
        Written("a list such as [connect-failure, 5xx]", alone="items"),
    ] = Field(("connect-failure", "reset", "gateway-error"), description="what calls for another try")
    methods: (
        Annotated[
            tuple[Method, ...],
            Field(min_length=1, strict=False),
            BeforeValidator(listed),
            Written("a list of methods, such as [GET, POST]", alone="items"),
        ]
        | None
    ) = Field(None, description="methods that may be sent again; default: the idempotent ones of RFC 9110")
    backoff: Backoff = Field(Backoff(), description="pauses between tries")
    per_try_timeout: SomeTime | None = Field(
        None, description="the most that one try may take until the answer's head; default: no limit"
    )
    hedge: Hedge | None = Field(
        None, description="another try beside a slow one, for requests that may be sent again; default: none"
    )
    budget: Budget | None = Field(None, description="a limit on retries at once; default: no limit")
    other_endpoint: bool = Field(True, description="prefer an endpoint that this request has not tried")
    retry_after: bool = Field(
        True, description="wait as long as the answer's Retry-After asks, if that is longer"
    )
    max_body: Size = Field(
        64 * 1024,
        description="a larger request is not sent again, a larger answer not judged by its body; neither is cut",
    )

    @model_validator(mode="after")
    def _enough_to_hedge(self) -> Self:
        if self.hedge is not None and self.hedge.max > self.attempts:
            raise ValueError(
                f"hedge.max {self.hedge.max} is more than attempts {self.attempts}, the tries in all: raise attempts"
            )
        return self


def retry_short(value: object) -> object:
    """A number of tries in its long form."""
    if isinstance(value, int) and not isinstance(value, bool):
        return {"attempts": value}
    return value
