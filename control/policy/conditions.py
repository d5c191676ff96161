"""The conditions of the policy language as types: on a text, a path, a request, an answer's body."""

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field

from control.policy.parts import Broken, Part, Written, exactly_one
from control.policy.values import HeaderName, Method, Name, Percent, Regex, distinct, header_name, listed

_TEXT_SHORT = ({"type": "string"},)


def _as_exact(value: object) -> object:
    return {"exact": value} if isinstance(value, str) else value


class StringMatch(Part):
    """How one text is compared; a plain text means `exact`. Exactly one key."""

    model_config = ConfigDict(json_schema_extra={"minProperties": 1, "maxProperties": 1})
    written: ClassVar[str] = (
        "a text (exact) or one of {exact: ...}, {prefix: ...}, {suffix: ...}, {contains: ...}, {regex: ...}, {present: true}, {not: ...}"
    )

    exact: str | None = Field(None, description="the whole value")
    prefix: str | None = Field(None, description="the value starts with this")
    suffix: str | None = Field(None, description="the value ends with this")
    contains: str | None = Field(None, description="the value has this somewhere")
    regex: Regex | None = Field(None, description="the whole value matches this RE2 expression")
    present: bool | None = Field(
        None, description="`true`: it is there, whatever it says; `false`: it is not there"
    )
    not_: "Matcher | None" = Field(
        None, alias="not", description="matches where this matcher does not, absence included"
    )

    @classmethod
    def rules(cls, given: Mapping[str, Any]) -> Iterator[Broken]:
        yield from exactly_one(
            cls, given, ("exact", "prefix", "suffix", "contains", "regex", "present", "not")
        )


Matcher = Annotated[
    StringMatch,
    BeforeValidator(_as_exact),
    Written("a text or a matcher such as {prefix: ...}", short=_TEXT_SHORT),
]
StringMatch.model_rebuild()  # it names Matcher, which is known from here on

Matchers = Annotated[
    dict[HeaderName, Matcher],
    distinct(header_name),
    Written("a mapping of header names to matchers, such as {x-group: qa}"),
]
NamedMatchers = Annotated[
    dict[str, Matcher], Written("a mapping of names to matchers, such as {user: {prefix: a}}")
]


def _path_text(value: str) -> str:
    if not value.startswith("/"):
        raise ValueError("a path starts with /")
    if "?" in value:
        raise ValueError("a path is compared without its query: use query for what follows the ?")
    return value


_PATH = "^/[^?]*$"
PathText = Annotated[
    str, AfterValidator(_path_text), Written("a path, such as /api", {"type": "string", "pattern": _PATH})
]


_PATH_SHORT = ({"type": "string", "pattern": _PATH},)


class PathMatch(Part):
    """How the path (without the query) is compared; a plain text means `exact`. Exactly one key."""

    model_config = ConfigDict(json_schema_extra={"minProperties": 1, "maxProperties": 1})
    written: ClassVar[str] = (
        "a path such as /api (exact) or one of {exact: /api}, {prefix: /api}, {regex: ...}"
    )

    exact: PathText | None = Field(None, description="the whole path")
    prefix: PathText | None = Field(
        None, description="whole segments: `/foo` matches `/foo` and `/foo/x`, not `/foobar`"
    )
    regex: Regex | None = Field(None, description="the whole path matches this RE2 expression")

    @classmethod
    def rules(cls, given: Mapping[str, Any]) -> Iterator[Broken]:
        yield from exactly_one(cls, given, ("exact", "prefix", "regex"))


PathMatcher = Annotated[PathMatch, BeforeValidator(_as_exact), Written(PathMatch.written, short=_PATH_SHORT)]


class Match(Part):
    """Conditions on a request; all that are given must hold."""

    written: ClassVar[str] = "a mapping of conditions, such as {path: {prefix: /api}, method: GET}"

    path: PathMatcher | None = Field(None, description="the path, without the query")
    method: (
        Annotated[
            tuple[Method, ...],
            Field(min_length=1, strict=False),
            BeforeValidator(listed),
            Written("a method, or a list such as [GET, HEAD]", alone="items"),
        ]
        | None
    ) = Field(None, description="the method is one of these")
    headers: Matchers | None = Field(None, description="header name to a matcher; all must hold")
    query: NamedMatchers | None = Field(None, description="query parameter to a matcher; all must hold")
    cookies: NamedMatchers | None = Field(None, description="cookie name to a matcher; all must hold")
    source: (
        Annotated[
            tuple[Name, ...],
            Field(min_length=1, strict=False),
            BeforeValidator(listed),
            Written("a service, or a list such as [frontend, batch]", alone="items"),
        ]
        | None
    ) = Field(None, description="the calling service is one of these")
    percent: Percent | None = Field(None, description="a random share of the requests")


Matches = Annotated[
    tuple[Match, ...],
    Field(min_length=1, strict=False),
    BeforeValidator(listed),
    Written(f"{Match.written}, or a list of such mappings, any of which may hold", alone="items"),
]


class BodyMatch(Part):
    """A condition on an answer's body, or on a value inside a JSON body; a plain text means `exact`."""

    model_config = ConfigDict(json_schema_extra={"minProperties": 1, "maxProperties": 2})
    written: ClassVar[str] = 'a text such as "failure\\n" (exact), a matcher, or {json: a.b.0.c, exact: ...}'

    exact: str | None = Field(None, description="the whole body")
    prefix: str | None = Field(None, description="the body starts with this")
    suffix: str | None = Field(None, description="the body ends with this")
    contains: str | None = Field(None, description="the body has this somewhere")
    regex: Regex | None = Field(None, description="the whole body matches this RE2 expression")
    present: bool | None = Field(
        None, description="`true`: it is there, whatever it says; `false`: it is not there"
    )
    not_: Matcher | None = Field(None, alias="not", description="matches where this matcher does not")
    json_: Annotated[str, Field(min_length=1), Written("a place in a JSON body, such as a.b.0.c")] | None = (
        Field(
            None,
            alias="json",
            description="beside one of the others: the value in the JSON body that is compared, names and list indices joined by dots",
        )
    )

    @classmethod
    def rules(cls, given: Mapping[str, Any]) -> Iterator[Broken]:
        yield from exactly_one(
            cls, given, ("exact", "prefix", "suffix", "contains", "regex", "present", "not")
        )

    @property
    def matcher(self) -> StringMatch:
        """The comparison alone, without the place in the body."""
        return StringMatch.model_validate({k: v for k, v in self.document().items() if k != "json"})


Body = Annotated[BodyMatch, BeforeValidator(_as_exact), Written(BodyMatch.written, short=_TEXT_SHORT)]
