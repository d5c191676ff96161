"""Marks on hooks that say where they have nothing to do, so that they are not called there."""

from collections.abc import Callable
from typing import Any, TypeVar

Function = TypeVar("Function", bound=Callable[..., Any])
Predicate = Callable[[Any], bool]

WANTED = "mesh_wanted"
_ELSEWHERE = "mesh_elsewhere"

predicates: list[Predicate] = []
"""All that were given to `wanted_if`."""


def wanted_if(predicate: Predicate) -> Callable[[Function], Function]:
    """Marks a hook that has nothing to do where the predicate is False of the subject that hooks are narrowed to."""
    if predicate not in predicates:
        predicates.append(predicate)

    def mark(function: Function) -> Function:
        setattr(function, WANTED, predicate)
        return function

    return mark


def elsewhere(function: Function) -> Function:
    """Marks a hook that has nothing to do for exchanges which the engine carries."""
    setattr(function, _ELSEWHERE, True)
    return function


def is_for_the_engine(hook: Callable[..., Any]) -> bool:
    """False for a hook that is `elsewhere`."""
    return getattr(hook, _ELSEWHERE, False) is not True
