"""Calling the hooks of an event one after the other, some of which may have to be waited for."""

import asyncio
import inspect
import logging
import sys
import types
from collections.abc import Awaitable, Callable
from typing import Any

from mitmproxy import addonmanager, exceptions

from addons.engine.driver import SelfMade, asked_to_end, is_contained, isolated, needs_task
from addons.engine.errors import ClientGone
from addons.engine.marks import is_of_the_mesh, unhalted

Hook = Callable[..., Any]

logger = logging.getLogger("mitmproxy.addonmanager")

FAILURES = (Exception, asyncio.CancelledError)
"""What a hook raises that fails. A cancellation is as good as any: while hooks are called nobody can be interrupted."""


def run(hooks: tuple[Hook, ...], start: int, args: tuple[Any, ...]) -> Awaitable[None] | None:
    for index in range(start, len(hooks)):
        try:
            result = hooks[index](*args)
        except exceptions.AddonHalt:
            return run(unhalted(hooks, index), 0, args)
        except FAILURES:
            log("run")
        else:
            if result is not None:
                return follow(result, hooks, index + 1, args)
    return None


def follow(result: Any, hooks: tuple[Hook, ...], following: int, args: Any) -> Awaitable[None] | None:
    """Go on with the event after a hook that has returned something."""
    # A coroutine is one without being asked, and most often it is one.
    if type(result) is types.CoroutineType or inspect.isawaitable(result):
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
    except FAILURES as error:
        if not is_its_own(error, hooks[following - 1]):
            raise
        log("_wait")
    rest = run(hooks, following, args)
    if rest is not None:
        await rest


def is_its_own(error: BaseException, hook: Hook) -> bool:
    """Whether an awaited hook has failed by itself. False: what awaits it is to end, by a cancellation.

    Nor may an event go on after one in a hook of the mesh: what enforces would be passed over.
    """
    if not isinstance(error, asyncio.CancelledError):
        return True
    if isinstance(error, ClientGone) or is_of_the_mesh(hook):
        return False
    if isinstance(error, SelfMade):
        return True
    # Without a task it is the hook's task that was cancelled: a Driver is interrupted by ClientGone alone.
    task = asyncio.current_task()
    return task is not None and not asked_to_end(task)


def hook_of(addon: object, name: str) -> Hook | None:
    """An addon's own hook of that name."""
    hook = getattr(addon, name, None)
    if callable(hook):
        return hook  # type: ignore[no-any-return]
    if hook and not isinstance(hook, types.ModuleType):
        logger.error("Addon error: Addon handler %s (%s) not callable", name, addon)
    return None


def log(caller: str) -> None:
    kind, error, trace = sys.exc_info()
    trace = addonmanager.cut_traceback(trace, caller)
    assert kind is not None
    assert error is not None
    logger.error(f"Addon error: {str(error) or repr(error)}", exc_info=(kind, error, trace))
