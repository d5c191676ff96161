"""Following the changes of the policy, over lost connections and lost messages."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator

from control.commands.output import remark, warn
from control.store import Entry, Hint, Store, StoreError

LOOK_AGAIN = 2.0
"""Seconds after which the revision is looked at even if nothing was published."""
_FIRST_PAUSE = 0.1
_LONGEST_PAUSE = 2.0


async def changes(store: Store) -> AsyncGenerator[Entry, None]:
    """Every change from now on, in order. Raises StoreError only if Redis cannot be used at the start."""
    last = await store.revision()
    remark(f"watching {store.url_shown} from revision {last}, Ctrl-C ends")
    pause = _FIRST_PAUSE
    lost = False
    while True:
        try:
            async with contextlib.aclosing(_looks(store)) as looks:
                async for _ in looks:
                    if lost:
                        remark("connected again")
                    pause, lost = _FIRST_PAUSE, False
                    entries, last = await since(store, last)
                    for entry in entries:
                        yield entry
        except StoreError as error:
            if not lost:
                warn(f"{error}; trying again")
            lost = True
        await asyncio.sleep(pause)
        pause = min(_LONGEST_PAUSE, pause * 2)


async def _looks(store: Store) -> AsyncGenerator[None, None]:
    """When to look: once subscribed, at every publication, and every LOOK_AGAIN seconds, for publications get lost."""
    hints = store.hints()

    async def next_hint() -> Hint | None:
        return await anext(hints)

    task = asyncio.create_task(next_hint())
    try:
        while True:
            done, _ = await asyncio.wait({task}, timeout=LOOK_AGAIN)
            if done:
                task.result()
                task = asyncio.create_task(next_hint())
            yield
    finally:
        # Unlike `await task`, waiting lets a cancellation of ourselves through. On Python 3.11 a cancellation that
        # meets redis-py while it sends is lost in asyncio.wait_for: it is repeated.
        while not task.done():
            task.cancel()
            await asyncio.wait({task}, timeout=0.1)
        if not task.cancelled():
            task.exception()  # looked at, so that asyncio does not complain


async def since(store: Store, last: int) -> tuple[list[Entry], int]:
    """The changes after revision `last`, oldest first, and the revision to go on from."""
    revision = await store.revision()
    if revision < last:
        warn(f"the revision went back from {last} to {revision}: Redis lost data or was restored")
    if revision <= last:
        return [], revision
    # Others may write meanwhile: read until the page reaches back far enough.
    limit = revision - last + 10
    while len(page := await store.history(limit=limit)) == limit and page[-1].revision > last + 1:
        limit *= 2
    entries = [entry for entry in reversed(page) if entry.revision > last]
    first = entries[0].revision if entries else revision + 1
    if first > last + 1:
        warn(f"no longer in the history: revisions {last + 1} to {first - 1}")
    return entries, max(revision, entries[-1].revision if entries else 0)
