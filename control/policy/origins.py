"""Which websites may call a service from a browser, as types (Cross-Origin Resource Sharing, the Fetch standard)."""

from typing import Annotated, ClassVar

from pydantic import BeforeValidator, Field

from control.policy.conditions import Matcher
from control.policy.parts import Part, Written
from control.policy.values import Duration, HeaderName, Method, listed

_ORIGINS = 'a matcher of origins, or a list such as ["https://shop.example", {suffix: .shop.example}]'


class Cors(Part):
    """Browsers' preflights are answered by the proxy, and answers say which website may read them."""

    written: ClassVar[str] = (
        'a mapping such as {allow_origins: ["https://shop.example"], allow_methods: [GET, POST]}'
    )

    allow_origins: Annotated[
        tuple[Matcher, ...],
        Field(min_length=1, strict=False),
        BeforeValidator(listed),
        Written(_ORIGINS, alone="items"),
    ] = Field(
        description='origins that are allowed, as browsers send them: scheme://host:port; `"*"`: every one'
    )
    allow_methods: Annotated[
        tuple[Method, ...], Field(strict=False), Written("a list of methods, such as [GET, POST]")
    ] = Field((), description="methods that a preflight's answer allows")
    allow_headers: Annotated[
        tuple[HeaderName, ...], Field(strict=False), Written("a list of header names, such as [x-user]")
    ] = Field((), description="request headers that a preflight's answer allows")
    expose_headers: Annotated[
        tuple[HeaderName, ...], Field(strict=False), Written("a list of header names, such as [x-total]")
    ] = Field((), description="answer's headers that the website's script may read")
    allow_credentials: bool = Field(
        False, description="whether the browser may send cookies, and show such answers to the script"
    )
    max_age: Duration | None = Field(
        None, description="how long a browser may remember a preflight's answer, in whole seconds"
    )
