"""What hooks say about themselves: where they have nothing to do, and whose they are."""

from collections.abc import Callable
from typing import Any, TypeVar

Function = TypeVar("Function", bound=Callable[..., Any])
Predicate = Callable[[Any], bool]

WANTED = "mesh_wanted"
_ELSEWHERE = "mesh_elsewhere"
_BESIDE_OTHERS = "mesh_beside_others"
_PACKAGE = __name__.partition(".")[0] + "."

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


def beside_others(function: Function) -> Function:
    """Marks a hook that has nothing to do in the engine unless an addon of a user's acts on flows as well."""
    setattr(function, _BESIDE_OTHERS, True)
    return function


def is_beside_others(hook: Callable[..., Any]) -> bool:
    """Whether it is marked so."""
    return getattr(hook, _BESIDE_OTHERS, False) is True


def is_of_the_mesh(thing: object) -> bool:
    """Of a hook or an addon: it is the mesh's, not a user's and not mitmproxy's."""
    return str(getattr(thing, "__module__", "")).startswith(_PACKAGE)


def is_of_a_user(thing: object) -> bool:
    """Of a hook: it is neither the mesh's nor of one of mitmproxy's own addons."""
    # Not all of mitmproxy: its decorators stand for what they decorate.
    return not str(getattr(thing, "__module__", "")).startswith((_PACKAGE, "mitmproxy.addons."))


def unhalted(hooks: tuple[Function, ...], index: int) -> tuple[Function, ...]:
    """What is still called of an event whose hook at `index` raised AddonHalt.

    That is for addons to keep each other from an event. The mesh is no such addon: it is what carries the request, by
    its policy. What the mesh itself halts is halted.
    """
    return () if is_of_the_mesh(hooks[index]) else tuple(filter(is_of_the_mesh, hooks[index + 1 :]))
