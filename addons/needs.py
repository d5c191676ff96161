"""Says which fields of a policy a hook is there for, so that it is not even called where none of them is set."""

from collections.abc import Callable
from dataclasses import fields
from functools import cache
from typing import TypeVar

from addons.engine.marks import wanted_if
from control.policy.routes import CompiledRoute

Function = TypeVar("Function", bound=Callable[..., object])

_FIELDS = frozenset(field.name for field in fields(CompiledRoute))


def needs(*names: str) -> Callable[[Function], Function]:
    """Marks a hook that does nothing for exchanges whose CompiledRoute has none of these fields set, or that have no route.

    In the fast lane it is then not called from the moment on when the request is routed. In mitmproxy's own lane it is,
    as are hooks of events before the routing in both; so every hook keeps a guard of its own. TypeError for a field that
    CompiledRoute does not have.
    """
    if unknown := [name for name in names if name not in _FIELDS]:
        raise TypeError(f"CompiledRoute has no field {', '.join(unknown)}")
    return wanted_if(_has_any(names))


@cache
def _has_any(names: tuple[str, ...]) -> Callable[[object], bool]:
    """One and the same function for the same fields."""

    def has_any(route: object) -> bool:
        return isinstance(route, CompiledRoute) and any(getattr(route, name) for name in names)

    return has_any
