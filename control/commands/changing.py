"""What `apply`, `delete` and `rollback` share: plan against Redis, write or refuse, say what came of it, wait."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from control.commands.author import author, storable
from control.commands.failure import Failed
from control.commands.options import Target
from control.commands.output import counted, remark, say, say_json, warn

if TYPE_CHECKING:
    from control.commands.planning import Plan
    from control.commands.waiting import Waited
    from control.store import NodeReport, Store


@dataclass(frozen=True)
class Outcome:
    """What a change did, or would do: the revision in force and the verb for each service."""

    revision: int
    verbs: Mapping[str, str]
    warnings: tuple[str, ...]
    ends: tuple[str, ...] = ()
    waited: "Waited | None" = None
    wait_failed: str = ""

    @property
    def nothing(self) -> bool:
        return all(verb == "unchanged" for verb in self.verbs.values())


def change(
    target: Target,
    plan_for: "Callable[[Mapping[str, str]], Plan]",
    *,
    message: str,
    wait: float | None = None,
    dry_run: bool = False,
) -> Outcome:
    """Write what `plan_for` makes of the stored documents, or only find out; wait for the proxies if asked.

    `plan_for` is asked again when another writer was faster. Raises what it raises, and Failed.
    """
    return target.run(lambda store: change_in(store, plan_for, message=message, wait=wait, dry_run=dry_run))


async def change_in(
    store: "Store",
    plan_for: "Callable[[Mapping[str, str]], Plan]",
    *,
    message: str,
    wait: float | None = None,
    dry_run: bool = False,
    trusted: Mapping[str, str] | None = None,
) -> Outcome:
    """As `change`, in a store that is open; `trusted` as in its `change`."""
    from control.commands.planning import difference, verb
    from control.commands.waiting import wait_for
    from control.store import Stored, StoreError

    made: Plan | None = None

    def edit(stored: Stored) -> Mapping[str, str | None]:
        nonlocal made
        made = plan_for(stored.documents)
        return made.writes

    if dry_run:
        stored = await store.read()
        edit(stored)
        assert made is not None
        revision, changed = stored.revision, difference(stored.documents, made.writes)
    else:
        before: list[NodeReport] = [] if wait is None else await store.nodes()
        done = await store.change(edit, author=author(), message=storable(message), trusted=trusted)
        revision, changed = done.revision, done.changed
    assert made is not None
    verbs = {service: verb(*changed.get(service, ("", ""))) for service in sorted(made.writes)}
    if wait is None or dry_run:
        return Outcome(revision, verbs, made.warnings, made.ends)
    try:
        waited = await wait_for(store, before, revision, wait)
        return Outcome(revision, verbs, made.warnings, made.ends, waited)
    except StoreError as error:
        return Outcome(revision, verbs, made.warnings, made.ends, wait_failed=str(error))


def tell(outcome: Outcome, *, dry_run: bool = False, as_json: bool = False) -> None:
    """Print an outcome. Raises Failed if proxies that were waited for have not taken it."""
    for warning in outcome.warnings:
        warn(warning)
    for end in outcome.ends:
        remark(end)
    if as_json:
        say_json(_data(outcome, dry_run))
    else:
        for service, verb in outcome.verbs.items():
            say(f"{service}: {verb if verb == 'unchanged' or not dry_run else f'would be {verb}'}")
        if outcome.nothing:
            say(f"nothing to do, revision {outcome.revision}")
        elif dry_run:
            say(f"dry run, nothing written, revision {outcome.revision}")
        else:
            say(f"revision {outcome.revision}")
    if outcome.wait_failed:
        raise Failed(
            f"error: revision {outcome.revision} is stored; waiting for it failed: {outcome.wait_failed}"
        )
    if outcome.waited is not None:
        _tell_waited(outcome.waited, outcome.revision, as_json)


def _tell_waited(waited: "Waited", revision: int, as_json: bool) -> None:
    if waited.refused or waited.behind:
        lines = [
            f"error: {_named(node)}: {node.error or 'refused, no reason given'}" for node in waited.refused
        ]
        lines += [
            f"error: {_named(node)}: still at revision {node.revision} after {waited.seconds:.1f}s"
            + (f" ({node.error})" if node.error else "")
            for node in waited.behind
        ]
        missing, total = len(waited.refused) + len(waited.behind), waited.total
        lines.append(
            f"error: revision {revision} is stored, but {missing} of {counted(total, 'live node')} did not take it"
        )
        raise Failed(*lines)
    for node in waited.gone:
        remark(f"{_named(node)}: gone, not waited for")
    if not as_json:
        in_force = counted(len(waited.reached), "live node")
        say(
            f"in force at {in_force} after {waited.seconds * 1000:.0f} ms"
            if waited.total
            else "no live nodes to wait for"
        )


def _named(node: "NodeReport") -> str:
    return f"node {node.id} ({node.service})" if node.service else f"node {node.id}"


def _data(outcome: Outcome, dry_run: bool) -> dict[str, Any]:
    data: dict[str, Any] = {"revision": outcome.revision, "services": dict(outcome.verbs), "dry_run": dry_run}
    if (waited := outcome.waited) is not None:
        data["nodes"] = {
            "reached": [node.id for node in waited.reached],
            "refused": {node.id: node.error for node in waited.refused},
            "behind": {node.id: node.revision for node in waited.behind},
            "gone": [node.id for node in waited.gone],
            "seconds": round(waited.seconds, 3),
        }
    return data
