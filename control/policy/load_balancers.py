"""`load_balancer` as types: which endpoint of a version gets a request."""

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, ConfigDict, Field

from control.policy.parts import Broken, Part, Written, exactly_one
from control.policy.values import HeaderName, Token

_WORDS = ("round_robin", "random", "least_request")
_HASH = "source_ip, or one of {header: x-user}, {cookie: uid}"
_WRITTEN = f"{', '.join(_WORDS)}, or {{hash: ...}} such as {{hash: {{header: x-user}}}}"


class HashKey(Part):
    """What of a request is hashed. Exactly one key."""

    model_config = ConfigDict(json_schema_extra={"minProperties": 1, "maxProperties": 1})
    written: ClassVar[str] = _HASH

    header: HeaderName | None = Field(None, description="the value of this header")
    cookie: Token | None = Field(None, description="the value of this cookie")

    @classmethod
    def rules(cls, given: Mapping[str, Any]) -> Iterator[Broken]:
        yield from exactly_one(cls, given, ("header", "cookie"))


def _hash(value: object) -> object:
    if value == "source_ip" or isinstance(value, HashKey):
        return value
    if isinstance(value, dict):
        return HashKey.model_validate(value)
    raise ValueError(f"write {_HASH}")


class HashBalancer(Part):
    """The same endpoint for the same key, as long as it is there."""

    written: ClassVar[str] = "a mapping such as {hash: {header: x-user}}"

    hash: Annotated[
        HashKey | Literal["source_ip"],
        BeforeValidator(_hash),
        Written(_HASH),
    ] = Field(
        description="what of a request is hashed; `source_ip` is the address of the client's connection"
    )


def _load_balancer(value: object) -> object:
    # Decided here and not by a union of types, which would name errors of the shapes that were not meant.
    if isinstance(value, HashBalancer) or (isinstance(value, str) and value in _WORDS):
        return value
    if isinstance(value, dict):
        return HashBalancer.model_validate(value)
    raise ValueError(f"write {_WRITTEN}")


LoadBalancer = Annotated[
    HashBalancer | Literal["round_robin", "random", "least_request"],
    BeforeValidator(_load_balancer),
    Written(_WRITTEN),
]
