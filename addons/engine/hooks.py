"""mitmproxy's hooks, called from a table that is compiled once instead of searched for at every event."""

import inspect
import logging
import sys
import types
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

from mitmproxy import addonmanager, exceptions

from addons.engine.driver import isolated, needs_task

Hook = Callable[..., Any]

logger = logging.getLogger("mitmproxy.addonmanager")


class Manager(Protocol):
    """mitmproxy's AddonManager, as far as it is used here."""

    chain: list[Any]
    lookup: dict[str, Any]


class Watched(dict[str, Any]):
    """The manager's register of addons, with a count of its changes: every addon that comes or goes passes by here."""

    changes = 0

    def __setitem__(self, name: str, addon: Any) -> None:
        super().__setitem__(name, addon)
        self.changes += 1

    def __delitem__(self, name: str) -> None:
        super().__delitem__(name)
        self.changes += 1


class HookTable:
    """The hooks of all loaded addons by name, in the chain's order, nested addons after the one that holds them.

    Compiled again when an addon was added, removed or reloaded; after other changes (a method put onto a live addon)
    call `refresh`. An exception in one hook is logged as mitmproxy does and the next hook is called; AddonHalt ends the
    event.
    """

    def __init__(self, manager: Manager) -> None:
        self._manager = manager
        self._hooks: dict[str, tuple[Hook, ...]] = {}
        self._lookup: Watched = Watched()
        self._seen = -1

    def refresh(self) -> None:
        """Forget what was compiled."""
        self._hooks = {}
        lookup = self._manager.lookup
        if not isinstance(lookup, Watched):
            lookup = self._manager.lookup = Watched(lookup)
        self._lookup = lookup
        self._seen = lookup.changes

    def find(self, name: str) -> tuple[Hook, ...]:
        """The hooks of that name, bound methods or functions; empty when no addon has one."""
        lookup = self._lookup
        if lookup is not self._manager.lookup or lookup.changes != self._seen:
            self.refresh()
        hooks = self._hooks.get(name)
        if hooks is None:
            hooks = self._hooks[name] = self._compile(name)
        return hooks

    def has_addon(self, name: str) -> bool:
        """Whether an addon of that name is loaded, be it one of mitmproxy's own."""
        return name in self._manager.lookup

    def run(self, name: str, *args: Any) -> Awaitable[None] | None:
        """Call the hooks now. None: all are done; else await what is returned for the rest of them."""
        hooks = self.find(name)
        return _run(hooks, 0, args) if hooks else None

    async def trigger(self, name: str, *args: Any) -> None:
        """Call the hooks and wait for those that are async."""
        rest = self.run(name, *args)
        if rest is not None:
            await rest

    def _compile(self, name: str) -> tuple[Hook, ...]:
        hooks = []
        for addon in addonmanager.traverse(self._manager.chain):
            hook = getattr(addon, name, None)
            if callable(hook):
                hooks.append(hook)
            elif hook and not isinstance(hook, types.ModuleType):
                logger.error("Addon error: Addon handler %s (%s) not callable", name, addon)
        return tuple(hooks)


def _run(hooks: tuple[Hook, ...], start: int, args: tuple[Any, ...]) -> Awaitable[None] | None:
    for index in range(start, len(hooks)):
        try:
            result = hooks[index](*args)
        except exceptions.AddonHalt:
            return None
        except Exception:
            _log("_run")
        else:
            if result is not None and inspect.isawaitable(result):
                if needs_task(hooks[index]):
                    result = isolated(result)
                return _wait(result, hooks, index + 1, args)
    return None


async def _wait(
    pending: Awaitable[Any], hooks: tuple[Hook, ...], following: int, args: tuple[Any, ...]
) -> None:
    rest: Awaitable[None] | None
    try:
        await pending
    except exceptions.AddonHalt:
        return
    except Exception:
        _log("_wait")
    rest = _run(hooks, following, args)
    if rest is not None:
        await rest


def _log(caller: str) -> None:
    kind, error, trace = sys.exc_info()
    trace = addonmanager.cut_traceback(trace, caller)
    assert kind is not None
    assert error is not None
    logger.error(f"Addon error: {error}", exc_info=(kind, error, trace))
