"""Ends tasks for certain, and closes what they used."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

from control.store import Store


async def end_all(tasks: "list[asyncio.Task[None]]") -> None:
    """Cancel them and wait. On Python 3.11 a cancellation that meets redis-py while it sends is lost: it is repeated."""
    while pending := [task for task in tasks if not task.done()]:
        for task in pending:
            task.cancel()
        # Also when this is cancelled itself, as at the end of the process: nothing may be left behind.
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.wait(pending, timeout=0.1)


async def closing(work: Callable[[], Awaitable[None]], store: Store) -> None:
    """Do the work; the store is closed behind it, however it ends."""
    try:
        await work()
    finally:
        await store.close()
