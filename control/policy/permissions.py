"""Who may call a service and for what, as types."""

import re
from typing import Annotated, ClassVar

from pydantic import AfterValidator, BeforeValidator, Field

from control.policy.conditions import Matchers, PathMatcher
from control.policy.parts import Part, Written
from control.policy.values import Method, listed

_SERVICE = re.compile(r"[A-Za-z0-9._*-]{1,253}", re.ASCII)
_SPIFFE = re.compile(r"spiffe://[a-z0-9._*-]+(?:/[A-Za-z0-9._*-]+)*", re.ASCII)


def _caller(value: str) -> str:
    if value.startswith("spiffe:"):
        if _SPIFFE.fullmatch(value):
            return value
        raise ValueError(
            "write a SPIFFE ID, such as spiffe://mesh/service/web or spiffe://other/*, its trust domain in lower case"
        )
    if _SERVICE.fullmatch(value):
        return value.lower()
    raise ValueError(f"write {_CALLER}")


_CALLER = 'a service such as web, web-* or "*", or a SPIFFE ID such as spiffe://other/service/web'
Caller = Annotated[str, AfterValidator(_caller), Written(_CALLER)]


class AuthorizationRule(Part):
    """Conditions on a caller and its request; all that are given must hold, and a rule without any always does."""

    written: ClassVar[str] = (
        "a mapping such as {from: web, methods: GET, paths: {prefix: /api}}, or {} for every request"
    )

    from_: (
        Annotated[
            tuple[Caller, ...],
            Field(min_length=1, strict=False),
            BeforeValidator(listed),
            Written("a service or a SPIFFE ID, or a list such as [web, batch-*]", alone="items"),
        ]
        | None
    ) = Field(
        None,
        alias="from",
        description="who calls, by verified certificate: services of this mesh or SPIFFE IDs; `*` stands for any characters",
    )
    methods: (
        Annotated[
            tuple[Method, ...],
            Field(min_length=1, strict=False),
            BeforeValidator(listed),
            Written("a method, or a list such as [GET, HEAD]", alone="items"),
        ]
        | None
    ) = Field(None, description="the method is one of these")
    paths: (
        Annotated[
            tuple[PathMatcher, ...],
            Field(min_length=1, strict=False),
            BeforeValidator(listed),
            Written("a path or a matcher, or a list such as [/health, {prefix: /api}]", alone="items"),
        ]
        | None
    ) = Field(None, description="one of these matches the path, without the query")
    headers: Matchers | None = Field(None, description="header name to a matcher; all must hold")


Rules = Annotated[
    tuple[AuthorizationRule, ...],
    Field(min_length=1, strict=False),
    BeforeValidator(listed),
    Written("a list, each item " + AuthorizationRule.written, alone="items"),
]


class Authorization(Part):
    """`deny` wins; once there is any `allow`, what none of them allows is refused."""

    written: ClassVar[str] = "a mapping such as {allow: [{from: web}], deny: [{paths: /admin}]}"

    allow: Rules | None = Field(
        None, description="what may pass; once there is any, nothing else may; none: everything"
    )
    deny: Rules | None = Field(None, description="what may not pass, whatever `allow` says")
    audit: bool = Field(False, description="`true`: let pass what would be refused, and tell of it")
