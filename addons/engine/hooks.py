"""mitmproxy's hooks, called from a table that is compiled once instead of searched for at every event."""

from collections.abc import Callable
from typing import Any

from mitmproxy import addonmanager

from addons.engine.hook_calls import Hook, hook_of
from addons.engine.marks import is_beside_others, is_for_the_engine, is_of_a_user
from addons.engine.narrowed_hooks import Hooks, NarrowedHooks, Subjects
from addons.engine.watched import Manager, Watched

_OF_A_FLOW = ("requestheaders", "request", "responseheaders", "response")


class HookTable(Hooks):
    """The hooks of all loaded addons, nested addons after the one that holds them.

    Compiled again when an addon was added, removed or reloaded; after other changes (a method put onto a live addon)
    call `refresh`. An exception in one hook is logged as mitmproxy does and the next hook is called; AddonHalt ends the
    event for all but the mesh.
    """

    def __init__(self, manager: Manager) -> None:
        self.manager = manager
        self._watched: Watched | None = None
        self._hooks: dict[str, tuple[Hook, ...]] = {}
        self._narrowed: list[NarrowedHooks] = []
        self._subjects = Subjects(self, lambda hook: True)
        self.engine = self.narrow(is_for_the_engine, Subjects(self, is_for_the_engine))
        """Without those that are `elsewhere`."""

    def refresh(self) -> None:
        """Forget what was compiled, in every table of this manager."""
        self.watch().tell()

    def watch(self) -> Watched:
        """Follow the register of addons that the manager has now; to be asked now and then, since it may be exchanged."""
        lookup = self.manager.lookup
        if lookup is self._watched:
            return self._watched
        if not isinstance(lookup, Watched):
            lookup = self.manager.lookup = Watched(lookup)
        self._watched = lookup
        lookup.followers.add(self)
        self.forget()
        return lookup

    def forget(self) -> None:
        """What was compiled is out of date. It is not compiled anew before it is asked for: an addon may be on its way."""
        self._hooks = {}
        for narrowed in self._narrowed:
            narrowed.forget()

    def narrow(self, wanted: Callable[[Hook], bool], subjects: Subjects) -> NarrowedHooks:
        """Those of this table that are wanted."""
        narrowed = NarrowedHooks(self, wanted, subjects)
        self._narrowed.append(narrowed)
        return narrowed

    def find(self, name: str) -> tuple[Hook, ...]:
        if self.manager.lookup is not self._watched:
            self.watch()
        hooks = self._hooks.get(name)
        if hooks is None:
            hooks = self._hooks[name] = self._compile(name)
        return hooks

    def has_addon(self, name: str) -> bool:
        return name in self.manager.lookup

    def narrowed(self, subject: Any) -> NarrowedHooks:
        return self._subjects.find(subject)

    def _compile(self, name: str) -> tuple[Hook, ...]:
        hooks = self._all(name)
        if any(map(is_beside_others, hooks)) and not any(
            is_of_a_user(hook) for event in _OF_A_FLOW for hook in self._all(event)
        ):
            hooks = [hook for hook in hooks if not is_beside_others(hook)]
        return tuple(hooks)

    def _all(self, name: str) -> list[Hook]:
        found = [hook_of(addon, name) for addon in addonmanager.traverse(self.manager.chain)]
        return [hook for hook in found if hook is not None]
