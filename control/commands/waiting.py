"""Waiting until the live proxies have a revision in force."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace

from control.store import NodeReport, Store

# A proxy takes a few milliseconds; asked that often at first, the wait adds no more than those.
FIRST_PAUSE = 0.003
LONGEST_PAUSE = 0.05


@dataclass(frozen=True)
class Waited:
    """What became of the nodes that were waited for, and how long that took, in seconds."""

    reached: tuple[NodeReport, ...]
    refused: tuple[NodeReport, ...]
    behind: tuple[NodeReport, ...]
    gone: tuple[NodeReport, ...]
    seconds: float

    @property
    def total(self) -> int:
        """Nodes that count: a node whose report ran out meanwhile does not."""
        return len(self.reached) + len(self.refused) + len(self.behind)


async def wait_for(store: Store, nodes: Sequence[NodeReport], revision: int, seconds: float) -> Waited:
    """Until each of `nodes` has reached the revision, refused it or gone, or the time is over.

    `nodes` are the live ones' reports from before the change: an error that a
    node had already then is no refusal of this revision. One round trip a look.
    """
    clock = asyncio.get_running_loop().time
    start = clock()
    pause = FIRST_PAUSE
    known = {node.id: node for node in nodes}
    open_ids = [node.id for node in nodes]
    reached: list[NodeReport] = []
    refused: list[NodeReport] = []
    gone: list[NodeReport] = []
    while True:
        progress = await store.progress(open_ids)
        still_open = []
        for node_id in open_ids:
            before = known[node_id]
            if node_id not in progress:
                gone.append(before)
                continue
            there, error = progress[node_id]
            now = replace(before, revision=there, error=error)
            if there >= revision:
                reached.append(now)
            elif error and error != before.error:
                refused.append(now)
            else:
                still_open.append(node_id)
        open_ids = still_open
        spent = clock() - start
        if not open_ids or spent >= seconds:
            behind = tuple(
                replace(known[node_id], revision=progress[node_id][0], error=progress[node_id][1])
                for node_id in open_ids
            )
            return Waited(tuple(reached), tuple(refused), behind, tuple(gone), spent)
        await asyncio.sleep(min(pause, seconds - spent))
        # Steps of a tenth of what was waited so far: a long wait asks less often.
        pause = min(LONGEST_PAUSE, max(FIRST_PAUSE, spent / 10))
