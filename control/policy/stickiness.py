"""`sticky` as types: the version that a user was given stays that user's."""

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field

from control.policy.parts import Broken, Part, Written, exactly_one
from control.policy.values import TOKEN, HeaderName, Percent, SomeTime, VersionName

_STRETCHES = "a list such as [{v1: 60}, {v3: 10}, {v2: 30}]"
_ROUNDING = 1e-6


def _stretch(value: object) -> object:
    if isinstance(value, Mapping) and len(value) != 1:
        raise ValueError("write one version with its per cent, such as {v1: 60}")
    return value


def _whole(stretches: tuple[Mapping[str, float], ...]) -> tuple[Mapping[str, float], ...]:
    if abs(sum(sum(each.values()) for each in stretches) - 100) > _ROUNDING:
        raise ValueError(
            "the stretches together are 100 per cent of the users: leave them out, and apply makes them"
        )
    return stretches


Stretches = Annotated[
    tuple[
        Annotated[dict[VersionName, Percent], BeforeValidator(_stretch), Written("{v1: 60}")],
        ...,
    ],
    Field(strict=False, min_length=1),
    AfterValidator(_whole),
    Written(_STRETCHES),
]


def can_be_set(cookie: str) -> bool:
    """Whether there can be a cookie of that name (RFC 6265, 4.1.1). With another one a split stays one by chance."""
    return TOKEN.fullmatch(cookie) is not None


class Sticky(Part):
    """Whoever was given a version of a split keeps it, as long as its weight does not fall. Exactly one of header and cookie."""

    model_config = ConfigDict(
        json_schema_extra={
            "oneOf": [{"required": ["header"]}, {"required": ["cookie"]}],
            "dependentRequired": {"ttl": ["cookie"]},
        }
    )
    written: ClassVar[str] = "{header: x-user}, or {cookie: mesh-canary, ttl: 1h}"

    header: HeaderName | None = Field(None, description="users are told apart by this header")
    cookie: Annotated[str, Written("a cookie's name, such as uid")] | None = Field(
        None, description="users are told apart by this cookie, which the proxy sets where it is absent"
    )
    ttl: SomeTime | None = Field(
        None, description="how long the cookie lasts; default: until the browser is closed"
    )
    stretches: Stretches | None = Field(
        None,
        description="which users have which version, where weights alone do not tell: kept by `mitmesh apply`, not written by hand",
    )

    @classmethod
    def rules(cls, given: Mapping[str, Any]) -> Iterator[Broken]:
        yield from exactly_one(cls, given, ("header", "cookie"))
        if "ttl" in given and "cookie" not in given:
            yield ("ttl",), "only a cookie has one: leave it out"
