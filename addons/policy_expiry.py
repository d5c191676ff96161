"""Ends what a policy says `for` a while: puts the snapshot without it in force at that moment, Redis or not."""

import asyncio
import contextlib
import logging
from collections.abc import Callable
from typing import Protocol

from control.policy.snapshot import Snapshot, build

logger = logging.getLogger("mesh.policy_feed")

LONGEST_SLEEP = 30.0
"""Seconds until the time of day is asked again, which somebody may have set."""
_AFTER_FAILURE = 1.0


class Holder(Protocol):
    """Who has the snapshot in force; `swapped` is set whenever that is another one."""

    snapshot: Snapshot | None
    swapped: asyncio.Event

    def put_in_force(self, snapshot: Snapshot) -> None: ...


async def expire(holder: Holder, wall: Callable[[], float]) -> None:
    """Until cancelled. `wall` tells the seconds since the epoch."""
    while True:
        holder.swapped.clear()
        snapshot = holder.snapshot
        if snapshot is None or snapshot.expires is None:
            await holder.swapped.wait()
            continue
        left = snapshot.expires - wall()
        if left > 0:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(min(left, LONGEST_SLEEP)):
                    await holder.swapped.wait()
            continue
        try:
            without = await asyncio.to_thread(build, snapshot.revision, snapshot.texts, snapshot, now=wall())
        except Exception:
            logger.exception("what has expired could not be taken out; trying again")
            await asyncio.sleep(_AFTER_FAILURE)
            continue
        # A newer policy may have come meanwhile; it is looked at anew.
        if holder.snapshot is snapshot:
            holder.put_in_force(without)
            logger.info(f"revision {snapshot.revision}: a part of it has expired")
