"""The last words of a proxy to Redis.

`done` is called without a chance to await, often just before the loop closes, so they are said in a thread with a loop
of its own.
"""

import asyncio
import contextlib
import threading
from collections.abc import Awaitable, Callable

from control.store import Store, StoreError

_LONGEST = 1.0


def farewell(url: str, mesh: str, say: Callable[[Store], Awaitable[None]]) -> None:
    """Returns when it is said, or after a second."""

    async def run() -> None:
        store = Store(url, mesh)
        with contextlib.suppress(StoreError):
            await say(store)
        await store.close()

    thread = threading.Thread(target=lambda: asyncio.run(run()), name="mesh goodbye", daemon=True)
    thread.start()
    thread.join(_LONGEST)
