"""Where requests go, as types: versions with weights, and the endpoints that serve them."""

from collections.abc import Callable, Mapping
from typing import Annotated, Any, ClassVar

from pydantic import AfterValidator, BeforeValidator, Field, PlainSerializer, WrapValidator

from control.policy.parts import Part, Written
from control.policy.stickiness import Sticky
from control.policy.values import ADDRESS_SCHEMA, Address, VersionName, Weight, distinct, named, version_name

DEFAULT_VERSION = "default"
OTHERS = "*"
"""Instead of a version: all that are registered and not listed."""
_AUTO = "auto"


def _to(value: object) -> object:
    return {value: 1} if isinstance(value, str) else value


def _positive_sum(weights: Mapping[str, float]) -> Mapping[str, float]:
    if sum(weights.values()) <= 0:
        raise ValueError("weights need a positive sum: give at least one version a weight above 0")
    return weights


class Destination(Part):
    """Where requests go."""

    to: (
        Annotated[
            dict[VersionName, Weight],
            distinct(version_name),
            BeforeValidator(_to),
            AfterValidator(_positive_sum),
            Written(
                "a version, or a mapping of versions to weights such as {v1: 90, v2: 10}",
                short=({"type": "string"},),
            ),
        ]
        | None
    ) = Field(
        None,
        description="a version, or versions with weights; `other-service/version` reaches another service's; default: all endpoints together",
    )
    sticky: Sticky | None = Field(
        None, description="whoever was given a version of a split keeps it; default: each request by chance"
    )


class Endpoint(Part):
    """One address that serves a version; a plain text means `address`."""

    written: ClassVar[str] = (
        "an address such as 10.0.0.1:8080, or a mapping such as {address: 10.0.0.1:8080, weight: 2}"
    )

    address: Address = Field(description="host:port")
    weight: Weight = Field(1.0, description="its share beside the others of its version")
    mtls: bool = Field(
        False,
        description="whether it speaks mutual TLS; asked only where the service's `mtls` is `permissive`",
    )


def _endpoint(value: object) -> object:
    return {"address": value} if isinstance(value, str) else value


AUTO: tuple[Endpoint, ...] = ()
"""Instead of endpoints: those that register themselves."""


def _version(value: object) -> str:
    return OTHERS if value == OTHERS else named(value)


def _auto(value: object, read: Callable[[object], tuple[Endpoint, ...]]) -> tuple[Endpoint, ...]:
    return AUTO if value == _AUTO else read(value)


def _written(endpoints: tuple[Endpoint, ...]) -> Any:
    return [endpoint.document() for endpoint in endpoints] if endpoints else _AUTO


def _addresses(value: object) -> object:
    if isinstance(value, (list, tuple)) and value:
        return value
    raise ValueError("write a list of addresses, such as [10.0.0.1:8080], or auto")


def _some_weight(endpoints: tuple[Endpoint, ...]) -> tuple[Endpoint, ...]:
    if sum(endpoint.weight for endpoint in endpoints) <= 0:
        raise ValueError("weights need a positive sum: give at least one endpoint a weight above 0")
    return endpoints


Endpoints = Annotated[
    tuple[
        Annotated[Endpoint, BeforeValidator(_endpoint), Written(Endpoint.written, short=(ADDRESS_SCHEMA,))],
        ...,
    ],
    Field(min_length=1, strict=False),
    BeforeValidator(_addresses),
    AfterValidator(_some_weight),
    WrapValidator(_auto),
    PlainSerializer(_written),
    Written(
        "a list of addresses such as [10.0.0.1:8080], or auto for those that register themselves",
        short=({"const": _AUTO},),
    ),
]
Version = Annotated[
    str, BeforeValidator(_version), Written('a version, such as v2, or "*" for all that are not listed')
]


def endpoints_short(value: object) -> object:
    """A list of addresses alone is the version `default`; `auto` alone is all versions that are registered."""
    if isinstance(value, (list, tuple)):
        return {DEFAULT_VERSION: value}
    if value == _AUTO:
        return {OTHERS: value}
    if isinstance(value, Mapping) and not value:
        raise ValueError(
            "write at least one version; without endpoints the address that the caller named is dialled"
        )
    if isinstance(value, Mapping) and value.get(OTHERS, _AUTO) not in (_AUTO, AUTO):
        raise ValueError('"*" stands for versions that are registered: write "*": auto, or name the version')
    return value
