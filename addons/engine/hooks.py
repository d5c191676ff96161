"""mitmproxy's hooks, called from a table that is compiled once instead of searched for at every event."""

import inspect
import logging
import sys
import types
from collections.abc import Awaitable, Callable
from types import CoroutineType
from typing import Any

from mitmproxy import addonmanager, exceptions

from addons.engine.driver import isolated, needs_task
from addons.engine.marks import WANTED, is_for_the_engine, predicates, unhalted
from addons.engine.watched import Manager, Watched

Hook = Callable[..., Any]

_MOST_SUBJECTS = 10_000

logger = logging.getLogger("mitmproxy.addonmanager")


class Hooks:
    """Hooks by name, in the chain's order."""

    def find(self, name: str) -> tuple[Hook, ...]:
        """The hooks of that name, bound methods or functions; empty when no addon has one."""
        raise NotImplementedError

    def narrowed(self, subject: Any) -> "Hooks":
        """Without those that `wanted_if` says have nothing to do for `subject`, whatever these were narrowed to."""
        raise NotImplementedError

    def has_addon(self, name: str) -> bool:
        """Whether an addon of that name is loaded, be it one of mitmproxy's own."""
        raise NotImplementedError

    def run(self, name: str, *args: Any) -> Awaitable[None] | None:
        """Call the hooks now. None: all are done; else await what is returned for the rest of them.

        A hook may return the NarrowedHooks from which the rest of this event is to be called.
        """
        hooks = self.find(name)
        return _run(hooks, 0, args) if hooks else None

    async def trigger(self, name: str, *args: Any) -> None:
        """Call the hooks and wait for those that are async."""
        rest = self.run(name, *args)
        if rest is not None:
            await rest


class HookTable(Hooks):
    """The hooks of all loaded addons, nested addons after the one that holds them.

    Compiled again when an addon was added, removed or reloaded; after other changes (a method put onto a live addon)
    call `refresh`. An exception in one hook is logged as mitmproxy does and the next hook is called; AddonHalt ends the
    event for all but the mesh.
    """

    def __init__(self, manager: Manager) -> None:
        self.manager = manager
        self._hooks: dict[str, tuple[Hook, ...]] = {}
        self.watched: Watched = Watched()
        self._seen = -1
        self._subjects = _Subjects(self, lambda hook: True)
        self.engine = NarrowedHooks(self, is_for_the_engine, _Subjects(self, is_for_the_engine))
        """Without those that are `elsewhere`."""

    def refresh(self) -> None:
        """Forget what was compiled, in every table of this manager."""
        self._renew()
        self.watched.changes += 1

    def _renew(self) -> None:
        self._hooks = {}
        lookup = self.manager.lookup
        if not isinstance(lookup, Watched):
            lookup = self.manager.lookup = Watched(lookup)
        self.watched = lookup
        self._seen = lookup.changes

    def find(self, name: str) -> tuple[Hook, ...]:
        lookup = self.watched
        if lookup is not self.manager.lookup or lookup.changes != self._seen:
            self._renew()
        hooks = self._hooks.get(name)
        if hooks is None:
            hooks = self._hooks[name] = self._compile(name)
        return hooks

    def has_addon(self, name: str) -> bool:
        return name in self.manager.lookup

    def narrowed(self, subject: Any) -> "NarrowedHooks":
        return self._subjects.find(subject)

    def _compile(self, name: str) -> tuple[Hook, ...]:
        hooks = []
        for addon in addonmanager.traverse(self.manager.chain):
            hook = getattr(addon, name, None)
            if callable(hook):
                hooks.append(hook)
            elif hook and not isinstance(hook, types.ModuleType):
                logger.error("Addon error: Addon handler %s (%s) not callable", name, addon)
        return tuple(hooks)


class NarrowedHooks(Hooks):
    """Some hooks of a table; compiled again when the table is."""

    def __init__(self, table: HookTable, wanted: Callable[[Hook], bool], subjects: "_Subjects") -> None:
        self._table = table
        self._wanted = wanted
        self._subjects = subjects
        self._lookup: Watched = Watched()
        self._seen = -1
        self.updates = False
        """Whether any hears `update`; valid after `find` or `run`."""
        self._hooks: dict[str, tuple[Hook, ...]] = {}
        self._behind: dict[int, tuple[tuple[Hook, ...], tuple[Hook, ...]]] = {}

    def find(self, name: str) -> tuple[Hook, ...]:
        lookup = self._lookup
        if lookup is not self._table.manager.lookup or lookup.changes != self._seen:
            self._renew()
        hooks = self._hooks.get(name)
        if hooks is None:
            hooks = self._hooks[name] = tuple(filter(self._wanted, self._table.find(name)))
        return hooks

    def run(self, name: str, *args: Any) -> Awaitable[None] | None:
        # As above, all in one: this is called several times for every request.
        lookup = self._lookup
        if lookup is not self._table.manager.lookup or lookup.changes != self._seen:
            self._renew()
        hooks = self._hooks.get(name)
        if hooks is None:
            hooks = self.find(name)
        alone = len(args) == 1  # then Python calls each in this same interpreter loop
        for hook in hooks:
            try:
                result = hook(args[0]) if alone else hook(*args)
            except exceptions.AddonHalt:
                return _run(unhalted(hooks, hooks.index(hook)), 0, args)
            except Exception:
                _log("run")
            else:
                if result is not None:
                    return _follow(result, hooks, hooks.index(hook) + 1, args)
        return None

    def _renew(self) -> None:
        self._table.find("update")  # which compiles it again if need be
        self._lookup = self._table.watched
        self._seen = self._lookup.changes
        self._hooks.clear()
        self._behind.clear()
        self.updates = bool(self.find("update"))

    def narrowed(self, subject: Any) -> "NarrowedHooks":
        return self._subjects.find(subject)

    def has_addon(self, name: str) -> bool:
        return self._table.has_addon(name)

    def behind(self, hooks: tuple[Hook, ...], index: int) -> tuple[Hook, ...]:
        """What is left to call of an event after the hook at `index`."""
        known = self._behind.get(index)
        if known is None or known[0] is not hooks:
            known = self._behind[index] = hooks, tuple(filter(self._wanted, hooks[index + 1 :]))
        return known[1]


class _Subjects:
    """Narrowed hooks by the identity of what they are narrowed to; subjects that want the same share one."""

    def __init__(self, table: HookTable, wanted: Callable[[Hook], bool]) -> None:
        self._table = table
        self._wanted = wanted
        self._known: dict[int, tuple[Any, NarrowedHooks]] = {}
        self._alike: dict[tuple[bool, ...], NarrowedHooks] = {}

    def find(self, subject: Any) -> NarrowedHooks:
        known = self._known.get(id(subject))
        if known is not None and known[0] is subject:
            return known[1]
        if len(self._known) >= _MOST_SUBJECTS:
            self._known.clear()
        wants = tuple([predicate(subject) for predicate in predicates])
        hooks = self._alike.get(wants)
        if hooks is None:
            unwanted = [predicate for predicate, wanted in zip(predicates, wants, strict=True) if not wanted]
            hooks = self._alike[wants] = NarrowedHooks(
                self._table,
                lambda hook: self._wanted(hook) and getattr(hook, WANTED, None) not in unwanted,
                self,
            )
        self._known[id(subject)] = subject, hooks
        return hooks


def _run(hooks: tuple[Hook, ...], start: int, args: tuple[Any, ...]) -> Awaitable[None] | None:
    for index in range(start, len(hooks)):
        try:
            result = hooks[index](*args)
        except exceptions.AddonHalt:
            return _run(unhalted(hooks, index), 0, args)
        except Exception:
            _log("_run")
        else:
            if result is not None:
                return _follow(result, hooks, index + 1, args)
    return None


def _follow(result: Any, hooks: tuple[Hook, ...], following: int, args: Any) -> Awaitable[None] | None:
    """Go on with the event after a hook that has returned something."""
    if isinstance(result, NarrowedHooks):
        return _run(result.behind(hooks, following - 1), 0, args)
    # A coroutine is one without being asked, and most often it is one.
    if type(result) is CoroutineType or inspect.isawaitable(result):
        if needs_task(hooks[following - 1]):
            result = isolated(result)
        return _wait(result, hooks, following, args)
    return _run(hooks, following, args)


async def _wait(
    pending: Awaitable[Any], hooks: tuple[Hook, ...], following: int, args: tuple[Any, ...]
) -> None:
    rest: Awaitable[None] | None
    try:
        await pending
    except exceptions.AddonHalt:
        hooks, following = unhalted(hooks, following - 1), 0
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
