"""Copies of requests for a version that nobody waits for, as types."""

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar

from pydantic import BeforeValidator, Field

from control.policy.parts import Broken, Part, Written
from control.policy.values import DEFAULTS_SERVICE, Percent, VersionName


class Mirror(Part):
    """A second version gets a copy of the requests; its answers are thrown away. A plain text means `to`."""

    written: ClassVar[str] = "a version, or a mapping such as {to: v2, percent: 10}"

    to: VersionName = Field(
        description="the version that gets the copies; `other-service/version` is another service's"
    )
    percent: Percent = Field(100.0, description="the share of the requests that is copied")


def _short(value: object) -> object:
    return {"to": value} if isinstance(value, str) else value


MirrorField = Annotated[Mirror, BeforeValidator(_short), Written(Mirror.written, short=({"type": "string"},))]


def no_mirror_for_all(given: Mapping[str, Any]) -> Iterator[Broken]:
    """The rule of a document (as it was written): the defaults of the mesh have no versions."""
    if given.get("service") == DEFAULTS_SERVICE and "mirror" in given:
        yield ("mirror",), '"*" holds defaults only: move this to the document of a service'
