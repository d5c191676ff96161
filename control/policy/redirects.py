"""Changes of where a request points, as types: rewritten before it is sent on, or told to the caller to go elsewhere."""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field

from control.policy.addresses import host_claim, split_host_port
from control.policy.parts import Broken, Part, Written, names_of
from control.policy.values import Whole

_TARGET = re.compile(r"/[^\x00-\x20\x7f#]*")
_STATUSES = (301, 302, 303, 307, 308)
_PREFIX_REMEDY = "match a path prefix in every alternative, such as match: {path: {prefix: /api}}"


def _target(value: str) -> str:
    if _TARGET.fullmatch(value):
        return value
    raise ValueError(
        "write a path that starts with /, perhaps with ?query, without spaces and without a fragment (#)"
    )


def _prefix(value: str) -> str:
    if value and (not _TARGET.fullmatch(value) or "?" in value):
        raise ValueError("write what the path starts with instead, such as /v2, or nothing between quotes")
    return value


def _host(value: object) -> str:
    """A host alone, without wildcard."""
    if isinstance(value, str) and not value.startswith("*."):
        host, port = split_host_port(value)
        if port is None:
            return f"[{host}]" if ":" in host else host
    raise ValueError("write a host without a port, such as reviews.example")


def _authority(value: object) -> str:
    """A host, or host:port, as a Host header has it."""
    if isinstance(value, str) and not value.startswith("*."):
        return host_claim(value)
    raise ValueError("write a host or host:port, such as reviews.example")


def _redirect_status(value: object) -> int:
    if isinstance(value, int) and not isinstance(value, bool) and value in _STATUSES:
        return value
    raise ValueError("write 301, 302, 303, 307 or 308")


_TargetText = Annotated[
    str,
    AfterValidator(_target),
    Written("a path, such as /v2 or /v2?from=v1", {"type": "string", "pattern": "^/"}),
]
_PrefixText = Annotated[
    str,
    AfterValidator(_prefix),
    Written('a path, such as /v2, or ""', {"type": "string", "pattern": "^(/[^?#]*)?$"}),
]
_HostText = Annotated[str, BeforeValidator(_host), Written("a host, such as reviews.example")]
_AuthorityText = Annotated[
    str, BeforeValidator(_authority), Written("a host, such as reviews.example or reviews.example:8080")
]
_StatusCode = Annotated[
    int,
    BeforeValidator(_redirect_status),
    Written("301, 302, 303, 307 or 308", {"enum": list(_STATUSES)}),
]


def _one_path(part: type[Part], given: Mapping[str, Any], names: Sequence[str]) -> Iterator[Broken]:
    if given.keys() <= names_of(part).keys() and not given.keys() & set(names):
        yield (), f"changes nothing: give it one of {', '.join(names)}"
    if "path" in given and "prefix" in given:
        yield (), "give path or prefix, not both: path replaces the whole path, prefix what was matched"


class Rewrite(Part):
    """What the service gets to see instead of what the caller asked for."""

    model_config = ConfigDict(json_schema_extra={"minProperties": 1})
    written: ClassVar[str] = "a mapping such as {prefix: /v2} or {path: /v2, host: reviews.internal}"

    path: _TargetText | None = Field(
        None, description="the whole path; the query stays, unless this has one of its own"
    )
    prefix: _PrefixText | None = Field(
        None,
        description="this in place of the prefix that the route's `match` has; only in a route that matches a prefix",
    )
    host: _AuthorityText | None = Field(None, description="the Host header; where it is sent stays the same")

    @classmethod
    def rules(cls, given: Mapping[str, Any]) -> Iterator[Broken]:
        yield from _one_path(cls, given, ("path", "prefix", "host"))


class Redirect(Part):
    """An answer that sends the caller elsewhere; what is not named stays as the caller had it."""

    written: ClassVar[str] = "a mapping such as {scheme: https} or {status: 301, host: reviews.example}"
    model_config = ConfigDict(
        json_schema_extra={"anyOf": [{"required": [n]} for n in ("scheme", "host", "port", "path", "prefix")]}
    )

    status: _StatusCode = Field(302, description="the status")
    scheme: Literal["http", "https"] | None = Field(None, description="the scheme to go on with")
    host: _HostText | None = Field(None, description="the host to go to")
    port: Annotated[int, Whole(1, 65535)] | None = Field(
        None, description="the port to go to; left out of the Location where it is the scheme's own"
    )
    path: _TargetText | None = Field(
        None, description="the whole path; the query stays, unless this has one of its own"
    )
    prefix: _PrefixText | None = Field(
        None,
        description="this in place of the prefix that the route's `match` has; only in a route that matches a prefix",
    )

    @classmethod
    def rules(cls, given: Mapping[str, Any]) -> Iterator[Broken]:
        yield from _one_path(cls, given, ("scheme", "host", "port", "path", "prefix"))


def prefixes_matched(given: Mapping[str, Any]) -> Iterator[Broken]:
    """The rule of a route (as it was written) that what replaces a prefix has one to replace."""
    for field in ("rewrite", "redirect"):
        if _replaces(given.get(field)) and not _matches_prefix(given.get("match")):
            yield (field, "prefix"), f"there is no prefix to replace: {_PREFIX_REMEDY}"


def no_prefix_here(given: Mapping[str, Any]) -> Iterator[Broken]:
    """The rule of a document (as it was written): its own settings match no prefix."""
    for field in ("rewrite", "redirect"):
        if _replaces(given.get(field)):
            yield (
                (field, "prefix"),
                "there is no prefix to replace: move it to a route with match: {path: {prefix: ...}}",
            )


def _replaces(part: object) -> bool:
    return "prefix" in part if isinstance(part, Mapping) else getattr(part, "prefix", None) is not None


def _matches_prefix(match: object) -> bool:
    alternatives = match if isinstance(match, (list, tuple)) else [match]
    return bool(alternatives) and all(_has_prefix(_part(each, "path")) for each in alternatives)


def _has_prefix(path: object) -> bool:
    return _part(path, "prefix") is not None


def _part(part: object, name: str) -> object:
    return part.get(name) if isinstance(part, Mapping) else getattr(part, name, None)
