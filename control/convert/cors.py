"""Which websites may call: the CORS of Gateway API and of Istio in our words."""

from typing import Any

from control.convert.fields import Fields
from control.convert.values import duration, quoted, regex
from control.policy.units import format_duration

_LISTS = {
    "allowMethods": "allow_methods",
    "allowHeaders": "allow_headers",
    "exposeHeaders": "expose_headers",
}


def gateway_cors(part: Fields) -> dict[str, Any] | None:
    """Of a filter of an HTTPRoute. A `*` in an origin stands for anything but a slash."""
    origins: list[Any] = []
    for origin in part.texts("allowOrigins"):
        if origin == "*" or "*" not in origin:
            origins.append(origin)
        else:
            origins.append({"regex": "[^/]+".join(quoted(piece) for piece in origin.split("*"))})
    age = part.whole("maxAge")
    return _cors(part, origins, None if age is None else format_duration(age))


def istio_cors(part: Fields) -> dict[str, Any] | None:
    """Of a route of a VirtualService."""
    origins: list[Any] = list(part.texts("allowOrigin"))
    for each in part.parts("allowOrigins"):
        if (exact := each.text("exact")) is not None:
            origins.append(exact)
        elif (prefix := each.text("prefix")) is not None:
            origins.append({"prefix": prefix})
        elif (expression := each.parsed("regex", regex)) is not None:
            origins.append({"regex": expression})
        each.done()
    if part.text("unmatchedPreflights") not in (None, "UNSPECIFIED"):
        part.lose(("unmatchedPreflights",))
    return _cors(part, origins, part.parsed("maxAge", duration))


def _cors(part: Fields, origins: list[Any], age: str | None) -> dict[str, Any] | None:
    found: dict[str, Any] = {"allow_origins": origins}
    for theirs, ours in _LISTS.items():
        if listed := part.texts(theirs):
            found[ours] = listed
    if part.truth("allowCredentials"):
        found["allow_credentials"] = True
    if age is not None:
        found["max_age"] = age
    part.done()
    if not origins:
        part.lose((), "it names no origin that is allowed")
        return None
    return found
