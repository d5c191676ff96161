"""How many requests may pass in a time, as types."""

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field

from control.policy.parts import Broken, Part, Written
from control.policy.values import HeaderName, SomeTime, Whole

_BY = "source, client_ip or {header: x-user}"


class ByHeader(Part):
    """Counted apart by a header's value."""

    written: ClassVar[str] = _BY

    header: HeaderName = Field(
        description="the header; requests without it are counted together, as those with an empty one"
    )


def _by(value: object) -> object:
    if isinstance(value, dict):
        return ByHeader.model_validate(value)
    if isinstance(value, ByHeader) or (isinstance(value, str) and value in ("source", "client_ip")):
        return value
    raise ValueError(f"write {_BY}")


class RateLimit(Part):
    """A token bucket: it holds `burst` requests and is refilled evenly; who finds it empty gets 429 RL."""

    written: ClassVar[str] = "a mapping such as {requests: 100, per: 1s}"

    requests: Annotated[int, Whole(1, 10**9)] = Field(
        description="how many requests may pass in the time `per`"
    )
    per: SomeTime = Field(description="the time in which so many may pass")
    burst: Annotated[int, Whole(1, 10**9)] | None = Field(
        None, description="how many may pass at once after a quiet time; default: `requests`"
    )
    by: (
        Annotated[
            Literal["source", "client_ip"] | ByHeader,
            BeforeValidator(_by),
            Written(_BY),
        ]
        | None
    ) = Field(
        None,
        description="count apart by calling service, by the client's address, or by a header; default: all together",
    )
    scope: Literal["proxy", "mesh"] = Field(
        "proxy", description="`proxy`: each proxy counts for itself; `mesh`: all proxies together, in Redis"
    )
    without_redis: Literal["allow", "deny"] | None = Field(
        None,
        description="with `scope: mesh`: what happens to requests while Redis is away or slow; default `allow`",
    )

    @classmethod
    def rules(cls, given: Mapping[str, Any]) -> Iterator[Broken]:
        if "without_redis" in given and given.get("scope", "proxy") == "proxy":
            yield ("without_redis",), "only scope: mesh asks Redis: add that, or take this out"
