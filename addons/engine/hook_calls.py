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
    # A coroutine is one without being asked, and most often it is one.
    if type(result) is CoroutineType or inspect.isawaitable(result):
        if following == len(hooks) and is_contained(hooks[-1]):
            # Nothing has to stand around it, and nothing follows.
            return result
        if needs_task(hooks[following - 1]):
            result = isolated(result)
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
