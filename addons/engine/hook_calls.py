"""Calling the hooks of an event one after the other, some of which may have to be waited for."""

import inspect
import logging
import sys
from collections.abc import Awaitable, Callable
from types import CoroutineType
from typing import Any

from mitmproxy import addonmanager, exceptions

from addons.engine.driver import is_contained, isolated, needs_task
from addons.engine.marks import unhalted

Hook = Callable[..., Any]

logger = logging.getLogger("mitmproxy.addonmanager")


class Narrowing:
    """What a hook may return to say which hooks the rest of its event is for."""

    def behind(self, hooks: tuple[Hook, ...], index: int) -> tuple[Hook, ...]:
        """What is left to call of an event after the hook at `index`."""
        raise NotImplementedError


def run(hooks: tuple[Hook, ...], start: int, args: tuple[Any, ...]) -> Awaitable[None] | None:
    for index in range(start, len(hooks)):
        try:
            result = hooks[index](*args)
        except exceptions.AddonHalt:
            return run(unhalted(hooks, index), 0, args)
        except Exception:
            log("run")
        else:
            if result is not None:
                return follow(result, hooks, index + 1, args)
    return None


def follow(result: Any, hooks: tuple[Hook, ...], following: int, args: Any) -> Awaitable[None] | None:
    """Go on with the event after a hook that has returned something."""
    if isinstance(result, Narrowing):
        left = result.behind(hooks, following - 1)
        if len(left) == 1 and is_contained(left[0]):
            # Most often the forwarder alone; its coroutine needs nothing around it.
            try:
                return left[0](*args)  # type: ignore[no-any-return]
            except Exception:
                log("follow")
                return None
        return run(left, 0, args)
    # A coroutine is one without being asked, and most often it is one.
    if type(result) is CoroutineType or inspect.isawaitable(result):
        if needs_task(hooks[following - 1]):
            result = isolated(result)
        elif following == len(hooks) and is_contained(hooks[following - 1]):
            return result
        return _wait(result, hooks, following, args)
    return run(hooks, following, args)


async def _wait(
    pending: Awaitable[Any], hooks: tuple[Hook, ...], following: int, args: tuple[Any, ...]
) -> None:
    rest: Awaitable[None] | None
    try:
        await pending
    except exceptions.AddonHalt:
        hooks, following = unhalted(hooks, following - 1), 0
    except Exception:
        log("_wait")
    rest = run(hooks, following, args)
    if rest is not None:
        await rest


def log(caller: str) -> None:
    kind, error, trace = sys.exc_info()
    trace = addonmanager.cut_traceback(trace, caller)
    assert kind is not None
    assert error is not None
    logger.error(f"Addon error: {error}", exc_info=(kind, error, trace))
