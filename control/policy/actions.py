"""What a policy does to requests and answers, as types: faults, header edits, own answers, the access log."""

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, ConfigDict, Field

from control.policy.conditions import Matches
from control.policy.parts import Broken, Part, Written, names_of
from control.policy.values import Duration, HeaderName, Headers, Percent, Status, Whole

_ABORT = "a status, a mapping such as {status: 503, body: sorry}, reset or hang"


class Abort(Part):
    """An answer made up by the proxy."""

    written: ClassVar[str] = _ABORT

    status: Status = Field(description="the status")
    headers: Headers = Field(default_factory=dict, description="headers of the answer")
    body: str = Field("", description="its body")


def _abort(value: object) -> object:
    # Decided here and not by a union of types, which would name errors of the shapes that were not meant.
    if isinstance(value, int) and not isinstance(value, bool):
        value = {"status": value}
    if isinstance(value, dict):
        return Abort.model_validate(value)
    if isinstance(value, Abort) or (isinstance(value, str) and value in ("reset", "hang")):
        return value
    raise ValueError(f"write {_ABORT}")


class Fault(Part):
    """A failure made on purpose. It acts on attempts, beneath retry and timeouts."""

    model_config = ConfigDict(json_schema_extra={"anyOf": [{"required": ["delay"]}, {"required": ["abort"]}]})
    written: ClassVar[str] = "a mapping such as {percent: 10, abort: 503}"

    percent: Percent = Field(100.0, description="the share of matching attempts that it hits")
    match: Matches | None = Field(None, description="only requests that match; as in a route")
    delay: Duration | None = Field(None, description="wait this long before the attempt goes out")
    abort: (
        Annotated[
            Abort | Literal["reset", "hang"],
            BeforeValidator(_abort),
            Written(_ABORT, short=({"type": "integer", "minimum": 200, "maximum": 599},)),
        ]
        | None
    ) = Field(
        None,
        description="answer in the service's place: a status, `{status, headers, body}`, `reset` (a broken connection) or `hang` (silence)",
    )
    first: Annotated[int, Whole(1, 10**9)] | None = Field(None, description="N hits, then no more")
    every: Annotated[int, Whole(1, 10**9)] | None = Field(
        None, description="one in N of the matching attempts: the Nth, the 2Nth, ..."
    )
    seed: Annotated[int, Whole(0, 2**63 - 1)] | None = Field(None, description="makes `percent` repeatable")

    @classmethod
    def rules(cls, given: Mapping[str, Any]) -> Iterator[Broken]:
        if given.keys() <= names_of(cls).keys() and not given.keys() & {"delay", "abort"}:
            yield (), "does nothing: give it a delay or an abort"


class HeaderOperations(Part):
    """Changes to headers, in the order remove, set, add."""

    written: ClassVar[str] = 'a mapping such as {set: {x-user: "7"}, remove: [cookie]}'

    set: Headers = Field(default_factory=dict, description="replace the header's values with this one")
    add: Headers = Field(default_factory=dict, description="add a value, keep those there are")
    remove: Annotated[
        tuple[HeaderName, ...], Field(strict=False), Written("a list of header names, such as [cookie]")
    ] = Field((), description="drop the header")


class Respond(Part):
    """An answer that the proxy gives itself, without calling anyone."""

    written: ClassVar[str] = "a mapping such as {status: 404, body: not here}"

    status: Status = Field(200, description="the status")
    headers: Headers = Field(default_factory=dict, description="headers of the answer")
    body: str = Field("", description="its body")


class AccessLog(Part):
    """Which exchanges are logged; `on` means all, `off` none."""

    written: ClassVar[str] = "on, off or a mapping such as {sample: 10, only: errors}"

    sample: Percent = Field(100.0, description="the share that is logged")
    only: Literal["errors"] | None = Field(
        None, description="`errors`: only exchanges with a status of 400 and above, or without any answer"
    )


def access_log_short(value: object) -> object:
    """The words on and off in their long form."""
    if isinstance(value, str) and value in ("on", "off"):
        return {"sample": 100 if value == "on" else 0}
    return value
