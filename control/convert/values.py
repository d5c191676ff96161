"""Single values of foreign documents in the form that a policy has them."""

import re
from collections.abc import Mapping
from typing import Any

from control.convert.fields import Fields
from control.policy.model import HeaderOperations
from control.policy.patterns import check_regex
from control.policy.units import format_duration
from control.policy.values import NAME, header_name

ALL_METHODS = ["GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"]
"""Their retries look at no method; ours resend what may be repeated unless all are named."""

_PART = re.compile(r"(\d+(?:\.\d+)?|\.\d+)(h|ms|m|s|us|µs|ns)")
_SECONDS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9}
_SPECIAL = re.compile(r"([\\.+*?()|\[\]{}^$])")


def seconds(text: str) -> float:
    """Go's durations, as Kubernetes writes them: `1h30m`, `1.5s`, `300ms`, `0`. Raises ValueError."""
    if text in ("0", "+0", "-0"):
        return 0.0
    parts = _PART.findall(text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        raise ValueError(f"not a duration such as 1h30m or 500ms: {text!r}")
    return sum(float(number) * _SECONDS[unit] for number, unit in parts)


def duration(text: str) -> str:
    """The same as a policy writes it. Raises ValueError for one that is no whole number of microseconds."""
    return format_duration(seconds(text))


def quoted(text: str) -> str:
    """A regular expression that matches exactly this text."""
    return _SPECIAL.sub(r"\\\1", text)


def starts_with(text: str) -> str:
    """A regular expression for whatever begins with this text."""
    return quoted(text) + ".*"


def regex(text: str) -> str:
    """The expression, if RE2 takes it; ValueError otherwise."""
    return check_regex(text)


def name_of(text: str) -> str:
    """A name of a version or service, made of a text that may have other characters."""
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("._-")
    return name if NAME.fullmatch(name) else "unnamed"


def header_edits(pairs: list[tuple[Fields, Mapping[str, Any]]]) -> dict[str, Any] | None:
    """`set`, `add` and `remove` of several parts as one `request_headers`; None: nothing is to do.

    What a policy does not allow (headers of the connection, values that are none) is reported and left out.
    """
    edits: dict[str, Any] = {}
    for fields, said in pairs:
        for kind in ("set", "add"):
            for name, value in (said.get(kind) or {}).items():
                if _allowed(fields, kind, name, value):
                    edits.setdefault(kind, {})[name.lower()] = value
        for name in said.get("remove") or ():
            try:
                edits.setdefault("remove", []).append(header_name(name))
            except ValueError as error:
                fields.lose(("remove",), f"{name}: {error}")
    return edits or None


def _allowed(fields: Fields, kind: str, name: str, value: str) -> bool:
    try:
        HeaderOperations.model_validate({kind: {name: value}})
    except ValueError:
        fields.lose((kind,), f"{name}: cannot be set by a policy")
        return False
    if "%" in value.replace("%%", ""):
        fields.lose((kind,), f"{name}: its value has a variable of Envoy: {value}")
        return False
    return True
