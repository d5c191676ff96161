"""`circuit_breaker` as types: when an endpoint that fails is left alone, and how much a service may be asked at once."""

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar, Self

from pydantic import ConfigDict, Field, model_validator

from control.policy.parts import Broken, Part, names_of
from control.policy.values import Percent, SomeTime, Whole

_MOST = 10**6


class Limits(Part):
    """The most at once for a service, by each proxy; what is above gets 503 UO."""

    model_config = ConfigDict(json_schema_extra={"minProperties": 1})
    written: ClassVar[str] = "a mapping such as {connections: 100, pending: 10}"

    connections: Annotated[int, Whole(1, _MOST)] | None = Field(
        None, description="connections to its endpoints; further requests wait until one is free"
    )
    pending: Annotated[int, Whole(0, _MOST)] | None = Field(
        None, description="requests that wait for one of the `connections`; default 1024"
    )
    requests: Annotated[int, Whole(1, _MOST)] | None = Field(
        None, description="requests under way, from their first try to the end of their answer"
    )
    retries: Annotated[int, Whole(0, _MOST)] | None = Field(
        None, description="retries under way, their pauses included; what is above keeps the answer it has"
    )

    @classmethod
    def rules(cls, given: Mapping[str, Any]) -> Iterator[Broken]:
        if given.keys() <= names_of(cls).keys():
            if not given:
                yield (), "limits nothing: give at least one of " + ", ".join(names_of(cls))
            elif "pending" in given and "connections" not in given:
                yield ("pending",), "requests wait for one of `connections` only: give it, or leave this out"


class CircuitBreaker(Part):
    """An endpoint that fails again and again is left alone for a while, then tried with one request."""

    written: ClassVar[str] = "a mapping such as {consecutive_failures: 5, open_for: 30s}"

    consecutive_failures: Annotated[int, Whole(0, 10_000)] = Field(
        5, description="failures in a row that eject an endpoint; 0: none is ejected, only `limits` count"
    )
    open_for: SomeTime = Field(
        30.0, description="how long it is left alone; twice as long each time that its probe fails"
    )
    max_open: SomeTime = Field(300.0, description="the longest that it is left alone")
    max_ejected: Percent = Field(
        50.0, description="the most that may be ejected of the endpoints of a version; one always may"
    )
    panic: bool = Field(
        False,
        description="`true`: where all are ejected, send to all of them; else such a request gets 503 UH",
    )
    limits: Limits | None = Field(None, description="the most at once; default: no limits")

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.max_open < self.open_for:
            raise ValueError("max_open (5m unless given) is less than open_for: raise max_open")
        return self
