"""What a policy does to requests and answers, as types: header edits, own answers, the access log."""

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from control.policy.parts import Broken, Part, Written
from control.policy.values import HeaderName, Headers, Percent, Status


class HeaderOperations(Part):
    """Changes to headers, in the order remove, set, add."""

    written: ClassVar[str] = 'a mapping such as {set: {x-user: "7"}, remove: [cookie]}'

    set: Headers = Field(default_factory=dict, description="replace the header's values with this one")
    add: Headers = Field(default_factory=dict, description="add a value, keep those there are")
    remove: Annotated[
        tuple[HeaderName, ...], Field(strict=False), Written("a list of header names, such as [cookie]")
    ] = Field((), description="drop the header")

    @classmethod
    def rules(cls, given: Mapping[str, Any]) -> Iterator[Broken]:
        added = given.get("add")
        for name in added if isinstance(added, Mapping) else ():
            if isinstance(name, str) and name.lower() == "host":
                yield ("add", name), "a request has one Host: write rewrite: {host: ...} for another one"


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
