"""Keeps the connections to a group of addresses within a limit: idle ones give way to those that are needed."""

from collections.abc import Container

from addons.engine.client import Client
from addons.engine.origin import Origin


def make_room(client: Client, wanted: Origin, group: Container[tuple[str, int]], most: int) -> None:
    """Close idle connections, so that with one more to `wanted` there are at most `most` to the group, if that can be.

    `group`: host and port of each address. An idle connection to `wanted` itself will be used again: nothing is closed.
    """
    pools = client._pools
    own = pools.get(wanted)
    if own is not None and own.idle:
        return
    near = [pool for origin, pool in pools.items() if (origin.host, origin.port) in group]
    surplus = sum(pool.open + pool.opening for pool in near) + 1 - most
    for pool in near:
        while surplus > 0 and pool.idle:
            # The oldest. It leaves the books by itself.
            pool.idle[0].close()
            surplus -= 1
