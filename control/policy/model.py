"""The policy language as types: one `Policy` per document, frozen, nothing unknown accepted.

Shorthand is turned into the long form while it is read (`retry: 2` becomes
`{attempts: 2}`), so a value has one shape from here on: in Redis, in the
compiler and in what `mitmesh get` prints. Field descriptions are the text of
docs/policy.md and of the JSON Schema. None means: not said here.
"""

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    WithJsonSchema,
    field_validator,
    model_validator,
)

from control.policy.patterns import check_regex
from control.policy.units import (
    format_duration,
    format_size,
    parse_duration,
    parse_percent,
    parse_size,
)

DEFAULTS_SERVICE = "*"
DEFAULT_VERSION = "default"

NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,251}[A-Za-z0-9])?", re.ASCII)
HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", re.ASCII)
METHOD = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", re.ASCII)
_HOST = re.compile(
    r"(?:[A-Za-z0-9_](?:[A-Za-z0-9_-]*[A-Za-z0-9_])?\.)*[A-Za-z0-9_](?:[A-Za-z0-9_-]*[A-Za-z0-9_])?\.?",
    re.ASCII,
)
_IPV6 = re.compile(r"\[[0-9A-Fa-f:.]+\]", re.ASCII)
_STATUS_RANGE = re.compile(r"([1-5]\d\d)-([1-5]\d\d)", re.ASCII)

RETRY_WORDS = ("connect-failure", "reset", "timeout", "5xx", "gateway-error", "retriable-4xx")


def _whole(value: object, least: int, most: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(f"write a whole number from {least} to {most}")
    if value < least:
        raise ValueError(f"at least {least}")
    if value > most:
        raise ValueError(f"at most {most}")
    return value


def _named(value: object) -> str:
    if isinstance(value, str) and NAME.fullmatch(value):
        return value
    raise ValueError("write a name of letters, digits, '.', '_' and '-', such as reviews or v2")


def _header_name(value: object) -> str:
    if isinstance(value, str) and HEADER_NAME.fullmatch(value):
        return value.lower()
    raise ValueError("write a header name, such as x-user")


def _header_value(value: object) -> str:
    if isinstance(value, str) and not re.search(r"[\x00-\x08\x0a-\x1f\x7f]", value):
        return value
    raise ValueError("write a header value in quotes, without line breaks or control characters")


def _method(value: object) -> str:
    if isinstance(value, str) and METHOD.fullmatch(value):
        return value.upper()
    raise ValueError("write a method, such as GET")


def _status(value: object) -> int:
    if isinstance(value, int) and not isinstance(value, bool) and 200 <= value <= 599:
        return value
    raise ValueError("write a status from 200 to 599")


def split_host_port(text: str) -> tuple[str, int | None]:
    """`a:1` -> ("a", 1), `a` -> ("a", None), `[::1]:80` -> ("::1", 80); the host in lower case.

    Raises ValueError when either part cannot be one.
    """
    host, port = text, None
    if text.startswith("["):
        host, _, rest = text.partition("]")
        host += "]"
        if not _IPV6.fullmatch(host) or (rest and not rest.startswith(":")):
            raise ValueError("write an IPv6 address as [::1] or [::1]:8080")
        digits = rest[1:] if rest else None
        host = host[1:-1]
    else:
        host, colon, digits_text = text.partition(":")
        digits = digits_text if colon else None
        if not _HOST.fullmatch(host):
            raise ValueError("write a host or host:port, such as reviews.example or 10.0.0.1:8080")
    if digits is not None:
        if not re.fullmatch(r"[0-9]{1,5}", digits) or not 1 <= int(digits) <= 65535:
            raise ValueError("a port is a number from 1 to 65535")
        port = int(digits)
    return host.lower().rstrip("."), port


def _host_claim(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError("write a host, such as reviews.example, *.reviews.example or 10.0.0.5:8080")
    wildcard = value.startswith("*.")
    host, port = split_host_port(value[2:] if wildcard else value)
    shown = f"[{host}]" if ":" in host else host
    return ("*." if wildcard else "") + shown + ("" if port is None else f":{port}")


def _address(value: object) -> str:
    if isinstance(value, str):
        host, port = split_host_port(value)
        if port is not None:
            return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    raise ValueError("write an address as host:port, such as 10.0.0.1:8080")


def _weight(value: object) -> float:
    if isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < float("inf"):
        return value
    raise ValueError("write a weight as a number of at least 0")


def _listed(value: object) -> object:
    """One item stands for a list of it."""
    return value if isinstance(value, (list, tuple)) else [value]


def _schema(**schema: Any) -> WithJsonSchema:
    return WithJsonSchema(schema)


Duration = Annotated[
    float,
    BeforeValidator(parse_duration),
    PlainSerializer(format_duration, return_type=str),
    _schema(anyOf=[{"type": "string", "pattern": r"^\d+(\.\d+)?(ms|s|m|h)$"}, {"const": 0}]),
]
Size = Annotated[
    int,
    BeforeValidator(parse_size),
    PlainSerializer(format_size, return_type=str),
    _schema(anyOf=[{"type": "string", "pattern": r"^\d+(\.\d+)?(B|KB|MB|GB|KiB|MiB|GiB)$"}, {"const": 0}]),
]
Percent = Annotated[float, BeforeValidator(parse_percent), _schema(type="number", minimum=0, maximum=100)]
Name = Annotated[str, BeforeValidator(_named)]
HeaderName = Annotated[str, BeforeValidator(_header_name)]
HeaderValue = Annotated[str, BeforeValidator(_header_value)]
Method = Annotated[str, BeforeValidator(_method)]
Status = Annotated[int, BeforeValidator(_status), _schema(type="integer", minimum=200, maximum=599)]
HostClaim = Annotated[str, BeforeValidator(_host_claim)]
Address = Annotated[str, BeforeValidator(_address)]
Weight = Annotated[float, BeforeValidator(_weight), _schema(type="number", minimum=0)]
Regex = Annotated[str, AfterValidator(check_regex)]


def _count(least: int, most: int) -> Any:
    return Annotated[
        int,
        BeforeValidator(lambda value: _whole(value, least, most)),
        _schema(type="integer", minimum=least, maximum=most),
    ]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, populate_by_name=True)

    def document(self) -> dict[str, Any]:
        """This part as plain JSON data in its normalized form: only what was said."""
        return self.model_dump(mode="json", exclude_unset=True, by_alias=True)


class StringMatch(_Part):
    """How one string is compared; a plain string means `exact`. Exactly one key."""

    exact: str | None = Field(None, description="the whole value")
    prefix: str | None = Field(None, description="the value starts with this")
    suffix: str | None = Field(None, description="the value ends with this")
    contains: str | None = Field(None, description="the value has this somewhere")
    regex: Regex | None = Field(None, description="the whole value matches this RE2 expression")
    present: bool | None = Field(
        None, description="true: it is there, whatever it says; false: it is not there"
    )
    not_: "Matcher | None" = Field(
        None, alias="not", description="matches where this matcher does not, absence included"
    )

    @model_validator(mode="after")
    def _one(self) -> "StringMatch":
        if len(self.model_fields_set) != 1:
            raise ValueError("give exactly one of exact, prefix, suffix, contains, regex, present, not")
        return self


def _as_exact(value: object) -> object:
    return {"exact": value} if isinstance(value, str) else value


Matcher = Annotated[StringMatch, BeforeValidator(_as_exact)]


class PathMatch(_Part):
    """How the path (without the query) is compared; a plain string means `exact`. Exactly one key."""

    exact: str | None = Field(None, description="the whole path")
    prefix: str | None = Field(None, description="whole segments: /foo matches /foo and /foo/x, not /foobar")
    regex: Regex | None = Field(None, description="the whole path matches this RE2 expression")

    @model_validator(mode="after")
    def _one(self) -> "PathMatch":
        if len(self.model_fields_set) != 1:
            raise ValueError("give exactly one of exact, prefix, regex")
        for value in (self.exact, self.prefix):
            if value is not None and not value.startswith("/"):
                raise ValueError("a path starts with /")
        return self


class Match(_Part):
    """Conditions on a request; all that are given must hold."""

    path: Annotated[PathMatch, BeforeValidator(_as_exact)] | None = Field(
        None, description="the path, without the query"
    )
    method: (
        Annotated[tuple[Method, ...], Field(min_length=1, strict=False), BeforeValidator(_listed)] | None
    ) = Field(None, description="one method or a list of them")
    headers: dict[HeaderName, Matcher] | None = Field(None, description="header name to a matcher")
    query: dict[str, Matcher] | None = Field(None, description="query parameter to a matcher")
    cookies: dict[str, Matcher] | None = Field(None, description="cookie name to a matcher")
    source: (
        Annotated[tuple[Name, ...], Field(min_length=1, strict=False), BeforeValidator(_listed)] | None
    ) = Field(None, description="the calling service, or a list of them")
    percent: Percent | None = Field(None, description="a random share of the requests")


Matches = Annotated[tuple[Match, ...], Field(min_length=1, strict=False), BeforeValidator(_listed)]


class BodyMatch(_Part):
    """A condition on an answer's body: a matcher, or one on a value inside a JSON body."""

    exact: str | None = None
    prefix: str | None = None
    suffix: str | None = None
    contains: str | None = None
    regex: Regex | None = None
    present: bool | None = None
    not_: Matcher | None = Field(None, alias="not")
    json_: str | None = Field(
        None,
        alias="json",
        description="where in the JSON body the value is: names and list indices joined by dots",
    )

    @model_validator(mode="after")
    def _one(self) -> "BodyMatch":
        if len(self.model_fields_set - {"json_"}) != 1:
            raise ValueError(
                "give exactly one of exact, prefix, suffix, contains, regex, present, not (and json for where)"
            )
        return self

    @property
    def matcher(self) -> StringMatch:
        """The comparison alone, without the place in the body."""
        return StringMatch.model_validate({k: v for k, v in self.document().items() if k != "json"})


class RetryCondition(_Part):
    """What calls for another try, beyond the plain words, statuses and ranges. Exactly one key."""

    header: dict[HeaderName, Matcher] | None = Field(
        None, description="a header of the answer, name to matcher; all must hold"
    )
    body: Annotated[BodyMatch, BeforeValidator(_as_exact)] | None = Field(
        None, description="the body of the answer"
    )

    @model_validator(mode="after")
    def _one(self) -> "RetryCondition":
        if len(self.model_fields_set) != 1:
            raise ValueError("give exactly one of header, body")
        return self


def _retry_on(value: object) -> object:
    if isinstance(value, (dict, RetryCondition)):
        return value
    if isinstance(value, int) and not isinstance(value, bool) and 100 <= value <= 599:
        return value
    if isinstance(value, str):
        if value in RETRY_WORDS:
            return value
        if (found := _STATUS_RANGE.fullmatch(value)) and found[1] <= found[2]:
            return value
    raise ValueError(
        'write connect-failure, reset, timeout, 5xx, gateway-error, retriable-4xx, a status, a range such as "500-504",'
        " {header: ...} or {body: ...}"
    )


def _retry_on_shape(value: object) -> object:
    return RetryCondition.model_validate(value) if isinstance(value, dict) else value


class Backoff(_Part):
    """The pause before try n+1: a random time in [0, min(max, base * 2^(n-1)))."""

    base: Duration = Field(0.025, description="the most before the second try")
    max: Duration = Field(0.25, description="the most before any try")

    @model_validator(mode="after")
    def _ordered(self) -> "Backoff":
        if self.max < self.base:
            raise ValueError("max is at least base")
        return self


class Budget(_Part):
    """How many retries may run beside the first tries, so that retries cannot drown a service."""

    percent: Percent = Field(20.0, description="retries per running request")
    min_concurrent: _count(0, 10_000) = Field(3, description="retries always allowed at once")  # type: ignore[valid-type]


class Retry(_Part):
    """When and how a request is tried again; a plain number means `attempts`."""

    attempts: _count(1, 100) = Field(2, description="tries in all, the first included (1 to 100)")  # type: ignore[valid-type]
    on: Annotated[
        tuple[Annotated[str | int | RetryCondition, BeforeValidator(_retry_on)], ...],
        Field(min_length=1, strict=False),
        BeforeValidator(_listed),
    ] = Field(("connect-failure", "reset", "gateway-error"), description="what calls for another try")
    methods: (
        Annotated[tuple[Method, ...], Field(min_length=1, strict=False), BeforeValidator(_listed)] | None
    ) = Field(None, description="methods that may be sent again; without it the idempotent ones of RFC 9110")
    backoff: Backoff = Field(Backoff(), description="pauses between tries")
    per_try_timeout: Duration | None = Field(
        None, description="the most that one try may take until the answer's head"
    )
    budget: Budget | None = Field(None, description="a limit on retries at once")
    other_endpoint: bool = Field(True, description="prefer an endpoint that this request has not tried")
    retry_after: bool = Field(
        True, description="wait as long as the answer's Retry-After asks, if that is longer"
    )
    max_body: Size = Field(
        64 * 1024, description="a larger request is not sent again, a larger answer not judged by its body"
    )


class Abort(_Part):
    """An answer made up by the proxy."""

    status: Status = Field(description="the status")
    headers: dict[HeaderName, HeaderValue] = Field(default_factory=dict, description="headers of the answer")
    body: str = Field("", description="its body")


def _abort(value: object) -> object:
    if isinstance(value, int) and not isinstance(value, bool):
        return {"status": value}
    if isinstance(value, str) and value not in ("reset", "hang"):
        raise ValueError("write a status, {status, headers, body}, reset or hang")
    return value


class Fault(_Part):
    """A failure made on purpose. It acts on attempts, beneath retry and timeouts."""

    percent: Percent = Field(100.0, description="the share of matching attempts that it hits")
    match: Matches | None = Field(None, description="only requests that match; as in a route")
    delay: Duration | None = Field(None, description="wait this long before the attempt goes out")
    abort: Annotated[Abort | Literal["reset", "hang"], BeforeValidator(_abort)] | None = Field(
        None,
        description="answer in the service's place: a status, `{status, headers, body}`, `reset` (as a broken connection) or `hang`",
    )
    first: _count(1, 10**9) | None = Field(None, description="only the first N matching attempts")  # type: ignore[valid-type]
    every: _count(1, 10**9) | None = Field(None, description="one in N matching attempts")  # type: ignore[valid-type]
    seed: _count(0, 2**63 - 1) | None = Field(None, description="makes `percent` repeatable")  # type: ignore[valid-type]

    @model_validator(mode="after")
    def _acts(self) -> "Fault":
        if self.delay is None and self.abort is None:
            raise ValueError("give a delay or an abort")
        return self


class HeaderOperations(_Part):
    """Changes to headers, in the order remove, set, add."""

    set: dict[HeaderName, HeaderValue] = Field(
        default_factory=dict, description="replace the header's values with this one"
    )
    add: dict[HeaderName, HeaderValue] = Field(
        default_factory=dict, description="add a value, keep those there are"
    )
    remove: Annotated[tuple[HeaderName, ...], Field(strict=False)] = Field((), description="drop the header")


class Respond(_Part):
    """An answer that the proxy gives itself, without calling anyone."""

    status: Status = Field(200, description="the status")
    headers: dict[HeaderName, HeaderValue] = Field(default_factory=dict, description="headers of the answer")
    body: str = Field("", description="its body")


class AccessLog(_Part):
    """Which exchanges are logged; `on` means all, `off` none."""

    sample: Percent = Field(100.0, description="the share that is logged")
    only: Literal["errors"] | None = Field(
        None, description="`errors`: only answers of 400 and above, and none at all"
    )


def _access_log(value: object) -> object:
    if value == "on" and isinstance(value, str):
        return {"sample": 100}
    if value == "off" and isinstance(value, str):
        return {"sample": 0}
    if not isinstance(value, (dict, AccessLog)):
        raise ValueError("write on, off or {sample: 10, only: errors}")
    return value


def _retry(value: object) -> object:
    if isinstance(value, int) and not isinstance(value, bool):
        return {"attempts": value}
    return value


def _to(value: object) -> object:
    return {value: 1} if isinstance(value, str) else value


def _version_name(value: object) -> str:
    if isinstance(value, str):
        service, slash, version = value.partition("/")
        if NAME.fullmatch(service) and (not slash or NAME.fullmatch(version)):
            return value
    raise ValueError("write a version, such as v2, or other-service/version")


VersionName = Annotated[str, BeforeValidator(_version_name)]


class Settings(_Part):
    """What a document and a route may both say; a route's value replaces the document's whole."""

    timeout: Duration | None = Field(
        None, description="the most that all tries and pauses may take together; 0: no limit"
    )
    connect_timeout: Duration | None = Field(
        None, description="the most that opening a connection may take (5s)"
    )
    idle_timeout: Duration | None = Field(
        None, description="the longest silence in either direction (5m); 0: no limit"
    )
    retry: Annotated[Retry, BeforeValidator(_retry)] | None = Field(
        None, description="another try when one fails"
    )
    faults: Annotated[tuple[Fault, ...], Field(strict=False)] | None = Field(
        None, description="failures made on purpose"
    )
    request_headers: HeaderOperations | None = Field(None, description="changes to the request's headers")
    response_headers: HeaderOperations | None = Field(None, description="changes to the answer's headers")
    respond: Respond | None = Field(None, description="answer from the proxy itself")
    access_log: Annotated[AccessLog, BeforeValidator(_access_log)] | None = Field(
        None, description="which exchanges are logged"
    )


class Destination(_Part):
    to: Annotated[dict[VersionName, Weight], BeforeValidator(_to)] | None = Field(
        None,
        description="a version, or versions with weights; `other-service/version` reaches another service's",
    )

    @field_validator("to")
    @classmethod
    def _positive(cls, to: Mapping[str, float] | None) -> Mapping[str, float] | None:
        if to is not None and sum(to.values()) <= 0:
            raise ValueError("weights need a positive sum")
        return to


class Route(Settings, Destination):
    """A match plus what happens to the requests that match."""

    name: str | None = Field(
        None,
        min_length=1,
        max_length=100,
        pattern=r"^[^\x00-\x1f\x7f]+$",
        description="shown in logs and by `mitmesh explain`",
    )
    match: Matches | None = Field(
        None, description="conditions, or a list of alternatives; none: every request"
    )


class Endpoint(_Part):
    """One address that serves a version; a plain string means `address`."""

    address: Address = Field(description="host:port")
    weight: Weight = Field(1.0, description="its share beside the others of its version")


def _endpoint(value: object) -> object:
    return {"address": value} if isinstance(value, str) else value


Endpoints = Annotated[
    tuple[Annotated[Endpoint, BeforeValidator(_endpoint)], ...],
    Field(min_length=1, strict=False),
]


def _endpoints(value: object) -> object:
    return {DEFAULT_VERSION: value} if isinstance(value, (list, tuple)) else value


def _service(value: object) -> str:
    return DEFAULTS_SERVICE if value == DEFAULTS_SERVICE else _named(value).lower()


class Policy(Settings, Destination):
    """One document: everything about one service, or, for the service `"*"`, defaults for the whole mesh."""

    service: Annotated[str, BeforeValidator(_service)] = Field(
        description='the service\'s name, or `"*"` for defaults of the mesh'
    )
    hosts: Annotated[tuple[HostClaim, ...], Field(strict=False)] = Field(
        (), description="hosts it answers to besides its name"
    )
    endpoints: Annotated[dict[Name, Endpoints], BeforeValidator(_endpoints)] | None = Field(
        None,
        description="addresses by version; a list alone is the version `default`; none: dial what the caller named",
    )
    routes: Annotated[tuple[Route, ...], Field(strict=False)] = Field(
        (), description="the first that matches wins"
    )
    unknown_hosts: Literal["allow", "refuse"] | None = Field(
        None,
        description='only in `"*"`: whether hosts that no service claims are passed on (`allow`) or get 404',
    )

    @model_validator(mode="after")
    def _scope(self) -> "Policy":
        if self.service == DEFAULTS_SERVICE:
            for field in ("hosts", "endpoints", "routes", "to"):
                if field in self.model_fields_set:
                    raise ValueError(f'"*" holds defaults only: move {field} to the document of a service')
        elif self.unknown_hosts is not None:
            raise ValueError('unknown_hosts stands only in the document of service "*"')
        return self
