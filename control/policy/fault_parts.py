"""`faults` as types: failures made on purpose, what each does and whom it hits."""

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BeforeValidator, ConfigDict, Field, model_validator

from control.policy.conditions import Matches
from control.policy.fault_values import ByteCount, Rate, SomePercent
from control.policy.grpc_status import GRPC_STATUSES
from control.policy.moments import Moment
from control.policy.parts import Broken, Part, Written, exactly_one, names_of
from control.policy.units import parse_duration
from control.policy.values import Duration, Headers, Percent, SomeTime, Status, Whole

_ABORT = "a status, a mapping such as {status: 503, body: sorry} or {grpc: UNAVAILABLE}, reset or hang"
_DELAY = "a duration such as 2s, {uniform: [1s, 3s]} or {normal: {mean: 2s, stddev: 500ms}}"
EFFECTS = ("delay", "abort", "bandwidth", "truncate", "corrupt", "slow_close")


def since_needs_for(given: Mapping[str, Any]) -> Iterator[Broken]:
    """The rule for a part that may expire."""
    if "since" in given and "for" not in given:
        yield ("since",), "it says when `for` began: add that, or take it out"


class Normal(Part):
    """Durations that scatter around a middle one."""

    written: ClassVar[str] = "a mapping such as {mean: 2s, stddev: 500ms}"

    mean: Duration = Field(description="the middle")
    stddev: Duration = Field(
        description="the standard deviation: two of three delays differ by less; none is below 0"
    )


class Delay(Part):
    """A delay that differs from attempt to attempt. Exactly one key."""

    model_config = ConfigDict(json_schema_extra={"minProperties": 1, "maxProperties": 1})
    written: ClassVar[str] = "{uniform: [1s, 3s]} or {normal: {mean: 2s, stddev: 500ms}}"

    uniform: (
        Annotated[
            tuple[Duration, Duration],
            Field(strict=False),
            Written("the shortest and the longest duration, such as [1s, 3s]"),
        ]
        | None
    ) = Field(None, description="any duration between two, all of them equally often")
    normal: Normal | None = Field(None, description="around a mean, mostly near it")

    @classmethod
    def rules(cls, given: Mapping[str, Any]) -> Iterator[Broken]:
        yield from exactly_one(cls, given, ("uniform", "normal"))

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.uniform is not None and self.uniform[0] > self.uniform[1]:
            raise ValueError("uniform: write the shorter duration first")
        return self


class Abort(Part):
    """An answer made up by the proxy. A `status`, or for gRPC one of its codes."""

    model_config = ConfigDict(json_schema_extra={"oneOf": [{"required": ["status"]}, {"required": ["grpc"]}]})
    written: ClassVar[str] = _ABORT

    status: Status | None = Field(
        None, description="the status; a gRPC call gets the gRPC status that stands for it"
    )
    grpc: Literal[GRPC_STATUSES] | None = Field(  # type: ignore[valid-type]
        None, description="the gRPC status; what is no gRPC call gets the HTTP status that stands for it"
    )
    headers: Headers = Field(default_factory=dict, description="headers of the answer")
    body: str = Field("", description="its body; in gRPC the message of the status")

    @classmethod
    def rules(cls, given: Mapping[str, Any]) -> Iterator[Broken]:
        yield from exactly_one(cls, given, ("status", "grpc"))


def _abort(value: object) -> object:
    # Decided here and not by a union of types, which would name errors of the shapes that were not meant.
    if isinstance(value, int) and not isinstance(value, bool):
        value = {"status": value}
    if isinstance(value, dict):
        return Abort.model_validate(value)
    if isinstance(value, Abort) or (isinstance(value, str) and value in ("reset", "hang")):
        return value
    raise ValueError(f"write {_ABORT}")


def _delay(value: object) -> object:
    if isinstance(value, dict):
        return Delay.model_validate(value)
    if isinstance(value, str) or value == 0:
        parse_duration(value)
    elif not isinstance(value, Delay):
        raise ValueError(f"write {_DELAY}")
    return value


class Fault(Part):
    """A failure made on purpose. It acts on attempts, beneath retry and timeouts."""

    model_config = ConfigDict(
        json_schema_extra={"anyOf": [{"required": [name]} for name in (*EFFECTS, "allow_header")]}
    )
    written: ClassVar[str] = "a mapping such as {percent: 10, abort: 503}"

    percent: Percent = Field(100.0, description="the share of matching attempts that it hits")
    match: Matches | None = Field(None, description="only requests that match; as in a route")
    delay: (
        Annotated[
            # In this order: the serializer of a duration takes everything.
            Delay | Duration,
            BeforeValidator(_delay),
            Written(_DELAY),
        ]
        | None
    ) = Field(None, description="wait this long before the attempt goes out")
    abort: (
        Annotated[
            Abort | Literal["reset", "hang"],
            BeforeValidator(_abort),
            Written(_ABORT, short=({"type": "integer", "minimum": 200, "maximum": 599},)),
        ]
        | None
    ) = Field(
        None,
        description="answer in the service's place: a status, `{status, headers, body}`, `{grpc}`, `reset` (a broken connection) or `hang` (silence)",
    )
    bandwidth: Rate | None = Field(None, description="let the answer's body through at most this fast")
    truncate: ByteCount | None = Field(
        None,
        description="cut the connection after so many bytes of the answer's body; a shorter one is whole",
    )
    corrupt: SomePercent | None = Field(
        None, description="the share of the bytes of the answer's body in which one bit is flipped"
    )
    slow_close: SomeTime | None = Field(
        None,
        description="after the answer's last byte wait this long, then end the answer and the client's connection",
    )
    first: Annotated[int, Whole(1, 10**9)] | None = Field(None, description="N hits, then no more")
    every: Annotated[int, Whole(1, 10**9)] | None = Field(
        None, description="one in N of the matching attempts: the Nth, the 2Nth, ..."
    )
    max_active: Annotated[int, Whole(1, 10**9)] | None = Field(
        None, description="at most so many hits at the same time"
    )
    seed: Annotated[int, Whole(0, 2**63 - 1)] | None = Field(
        None, description="makes all that is left to chance repeatable"
    )
    for_: SomeTime | None = Field(
        None, alias="for", description="expires so long after the apply, by itself and in every proxy"
    )
    since: Moment | None = Field(
        None, description="when `for` began; written by `mitmesh apply`, and shown by `mitmesh get`"
    )
    scope: Literal["attempt", "request"] = Field(
        "attempt", description="`request`: act once for a request, above its retries and timeouts"
    )
    allow_header: bool = Field(
        False,
        description="do what the request's header `x-mesh-fault` asks for, such as `delay=2s, abort=503`",
    )

    @classmethod
    def rules(cls, given: Mapping[str, Any]) -> Iterator[Broken]:
        if not given.keys() <= names_of(cls).keys():
            return
        acts = [name for name in EFFECTS if name in given]
        asked = given.get("allow_header") is True
        if asked and acts:
            yield (
                ("allow_header",),
                f"the header says what this fault does: take {acts[0]} out, or write it as a fault of its own",
            )
        elif not acts and not asked:
            yield (), f"does nothing: give it one of {', '.join(EFFECTS)}"
        yield from since_needs_for(given)
