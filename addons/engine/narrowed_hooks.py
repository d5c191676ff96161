"""The hooks that are called for one exchange: those of a table that have something to do for it."""

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from mitmproxy import exceptions

from addons.engine.hook_calls import FAILURES, Hook, follow, log, run
from addons.engine.marks import WANTED, predicates, unhalted

if TYPE_CHECKING:
    from addons.engine.hooks import HookTable

_MOST_SUBJECTS = 10_000


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
        """Call the hooks now. None: all are done; else await what is returned for the rest of them."""
        hooks = self.find(name)
        return run(hooks, 0, args) if hooks else None

    async def trigger(self, name: str, *args: Any) -> None:
        """Call the hooks and wait for those that are async."""
        rest = self.run(name, *args)
        if rest is not None:
            await rest


class NarrowedHooks(Hooks):
    """Some hooks of a table; compiled again when the table is."""

    def __init__(self, table: "HookTable", wanted: Callable[[Hook], bool], subjects: "Subjects") -> None:
        self._table = table
        self._wanted = wanted
        self._subjects = subjects
        self.forget()

    def forget(self) -> None:
        """What was compiled is out of date."""
        self._hooks: dict[str, tuple[Hook, ...]] = {}
        # Nobody need be called where one of these is False: most exchanges have nobody who hears these events. True: perhaps.
        self.hears_request = True
        self.hears_responseheaders = True
        self.hears_update = True
        self.hears_mesh_attempt = True
        self.hears_mesh_attempt_end = True
        self.hears_mesh_forwarded = True

    def find(self, name: str) -> tuple[Hook, ...]:
        self._table.watch()
        hooks = self._hooks.get(name)
        if hooks is None:
            hooks = self._hooks[name] = tuple(filter(self._wanted, self._table.find(name)))
            if not hooks and hasattr(self, hears := f"hears_{name}"):
                setattr(self, hears, False)
        return hooks

    def event(self, name: str, flow: Any) -> Awaitable[None] | None:
        """As `run`, for the events of every exchange, in as few steps as possible."""
        hooks = self._hooks.get(name)
        if hooks is None:
            hooks = self.find(name)
        for hook in hooks:
            try:
                result = hook(flow)
            except exceptions.AddonHalt:
                return run(unhalted(hooks, hooks.index(hook)), 0, (flow,))
            except FAILURES:
                log("event")
            else:
                if result is not None:
                    return follow(result, hooks, hooks.index(hook) + 1, (flow,))
        return None

    def event_of(self, name: str, flow: Any, part: Any) -> Awaitable[None] | None:
        """The same for events that have something beside the flow."""
        hooks = self._hooks.get(name)
        if hooks is None:
            hooks = self.find(name)
        for hook in hooks:
            try:
                result = hook(flow, part)
            except exceptions.AddonHalt:
                return run(unhalted(hooks, hooks.index(hook)), 0, (flow, part))
            except FAILURES:
                log("event_of")
            else:
                if result is not None:
                    return follow(result, hooks, hooks.index(hook) + 1, (flow, part))
        return None

    def narrowed(self, subject: Any) -> "NarrowedHooks":
        return self._subjects.find(subject)

    def has_addon(self, name: str) -> bool:
        return self._table.has_addon(name)


class Subjects:
    """Narrowed hooks by the identity of what they are narrowed to; subjects that want the same share one."""

    def __init__(self, table: "HookTable", wanted: Callable[[Hook], bool]) -> None:
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
            hooks = self._alike[wants] = self._table.narrow(
                lambda hook: self._wanted(hook) and getattr(hook, WANTED, None) not in unwanted,
                self,
            )
        self._known[id(subject)] = subject, hooks
        return hooks
