"""The single values of the policy language: names, hosts, addresses, headers, statuses, weights, units."""

import re
from collections.abc import Callable, Mapping
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, GetCoreSchemaHandler, PlainSerializer
from pydantic_core import CoreSchema, core_schema

from control.policy.addresses import address, host_claim
from control.policy.parts import Written
from control.policy.patterns import check_regex
from control.policy.units import format_duration, format_size, parse_duration, parse_percent, parse_size

DEFAULTS_SERVICE = "*"
NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,251}[A-Za-z0-9])?", re.ASCII)
TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", re.ASCII)
_HEADER_VALUE = re.compile(r"[^\x00-\x08\x0a-\x1f\x7f]*")
MOST_WEIGHT = 10**9
# A policy that could set these could make one message look like two (RFC 9112, 11.2).
_FRAMING = frozenset(
    {"connection", "content-length", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade"}
)


def whole(value: object, least: int, most: int) -> int:
    """A whole number within bounds, or ValueError."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(f"write a whole number from {least} to {most}")
    if value < least:
        raise ValueError(f"at least {least}")
    if value > most:
        raise ValueError(f"at most {most}")
    return value


def service_name(value: object) -> str:
    """A service's name in lower case, or the `*` of the defaults; or ValueError."""
    return DEFAULTS_SERVICE if value == DEFAULTS_SERVICE else named(value).lower()


def route_name(value: object) -> str:
    """A route's name, or ValueError."""
    if isinstance(value, str) and 1 <= len(value) <= 100 and value.isprintable():
        return value
    raise ValueError("write a name of 1 to 100 characters, without line breaks or control characters")


def named(value: object) -> str:
    """A service's or version's name, or ValueError."""
    if isinstance(value, str) and NAME.fullmatch(value):
        return value
    raise ValueError("write a name of letters, digits, '.', '_' and '-', such as reviews or v2")


def header_name(value: object) -> str:
    """A header's name in lower case, or ValueError."""
    if isinstance(value, str) and TOKEN.fullmatch(value):
        return value.lower()
    raise ValueError("write a header name, such as x-user")


def _token(value: object) -> str:
    if isinstance(value, str) and TOKEN.fullmatch(value):
        return value
    raise ValueError("write a name of letters, digits and the like, without spaces, such as uid")


def _header_value(value: object) -> str:
    if isinstance(value, str) and _HEADER_VALUE.fullmatch(value):
        return value
    raise ValueError("write a header value in quotes, without line breaks or control characters")


def _not_framing(headers: dict[str, str]) -> dict[str, str]:
    if taken := sorted(_FRAMING & headers.keys()):
        raise ValueError(f"{taken[0]} belongs to the connection, and the proxy writes it: take it out")
    return headers


def _method(value: object) -> str:
    if isinstance(value, str) and TOKEN.fullmatch(value):
        return value.upper()
    raise ValueError("write a method, such as GET")


def _status(value: object) -> int:
    if isinstance(value, int) and not isinstance(value, bool) and 200 <= value <= 599:
        return value
    raise ValueError("write a status from 200 to 599")


def _weight(value: object) -> float:
    if isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value <= MOST_WEIGHT:
        return value
    raise ValueError(f"write a weight as a number from 0 to {MOST_WEIGHT}")


def version_name(value: object) -> str:
    """A version, or another service's as `service/version` with the service in lower case; or ValueError."""
    if isinstance(value, str):
        service, slash, version = value.partition("/")
        if NAME.fullmatch(service) and (not slash or NAME.fullmatch(version)):
            return f"{service.lower()}/{version}" if slash else value
    raise ValueError("write a version, such as v2, or other-service/version")


def distinct(canonical: Callable[[object], str]) -> BeforeValidator:
    """Refuses names of a mapping that are one name in the form they are kept in, where one would be lost."""

    def check(value: object) -> object:
        seen: dict[str, object] = {}
        for name in value if isinstance(value, Mapping) else ():
            try:
                twin = seen.setdefault(canonical(name), name)
            except ValueError:
                continue
            if twin != name:
                raise ValueError(f"{twin} and {name} are the same, since case does not matter: keep one")
        return value

    return BeforeValidator(check)


def listed(value: object) -> object:
    """One item stands for a list of it."""
    return value if isinstance(value, (list, tuple)) else [value]


def _number(value: float) -> float:
    return int(value) if value.is_integer() else value


def _positive(seconds: float) -> float:
    if seconds == 0:
        raise ValueError("write a duration above 0; leave it out for the default")
    return seconds


class Whole(Written):
    """A whole number within bounds: `Annotated[int, Whole(1, 100)]`."""

    bounds: tuple[int, int]

    def __init__(self, least: int, most: int) -> None:
        bounds = {"minimum": least, "maximum": most}
        super().__init__(f"a whole number from {least} to {most}", {"type": "integer", **bounds})
        object.__setattr__(self, "bounds", (least, most))

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        least, most = self.bounds
        return core_schema.no_info_before_validator_function(
            lambda value: whole(value, least, most), handler(source)
        )


_DURATION = r"^[0-9]+(\.[0-9]+)?(ms|s|m|h)$"
Duration = Annotated[
    float,
    BeforeValidator(parse_duration),
    PlainSerializer(format_duration, return_type=str),
    Written(
        "a duration, such as 25ms, 1.5s, 2m or 1h",
        {"anyOf": [{"type": "string", "pattern": _DURATION}, {"const": 0}]},
    ),
]
SomeTime = Annotated[
    Duration,
    AfterValidator(_positive),
    Written("a duration above 0, such as 25ms, 1.5s, 2m or 1h", {"type": "string", "pattern": _DURATION}),
]
"""A duration for which 0 would make no sense."""
Size = Annotated[
    int,
    BeforeValidator(parse_size),
    PlainSerializer(format_size, return_type=str),
    Written(
        "a size, such as 100B, 64KiB or 1MB",
        {
            "anyOf": [
                {"type": "string", "pattern": r"^[0-9]+(\.[0-9]+)?(B|KB|MB|GB|KiB|MiB|GiB)$"},
                {"const": 0},
            ]
        },
    ),
]
Percent = Annotated[
    float,
    BeforeValidator(parse_percent),
    PlainSerializer(_number, return_type=int | float),
    Written("a number from 0 to 100", {"type": "number", "minimum": 0, "maximum": 100}),
]
Weight = Annotated[
    float,
    BeforeValidator(_weight),
    PlainSerializer(_number, return_type=int | float),
    Written("a number of at least 0", {"type": "number", "minimum": 0, "maximum": MOST_WEIGHT}),
]
Status = Annotated[
    int,
    BeforeValidator(_status),
    Written("a status from 200 to 599", {"type": "integer", "minimum": 200, "maximum": 599}),
]
Name = Annotated[str, BeforeValidator(named), Written("a name")]
HeaderName = Annotated[str, BeforeValidator(header_name), Written("a header name, such as x-user")]
Token = Annotated[str, BeforeValidator(_token), Written("a cookie's name, such as uid")]
HeaderValue = Annotated[str, BeforeValidator(_header_value), Written("a header value in quotes")]
Method = Annotated[str, BeforeValidator(_method), Written("a method, such as GET")]
HostClaim = Annotated[
    str, BeforeValidator(host_claim), Written("a host, such as reviews.example or 10.0.0.5:8080")
]
ADDRESS_SCHEMA = {"type": "string", "pattern": ":[0-9]{1,5}$"}
Address = Annotated[
    str,
    BeforeValidator(address),
    Written("an address, such as 10.0.0.1:8080", ADDRESS_SCHEMA),
]
VersionName = Annotated[str, BeforeValidator(version_name), Written("a version")]
Regex = Annotated[str, AfterValidator(check_regex), Written("an RE2 regular expression in quotes")]
Headers = Annotated[
    dict[HeaderName, HeaderValue],
    distinct(header_name),
    AfterValidator(_not_framing),
    Written('a mapping of header names to values, such as {x-user: "7"}'),
]
