"""Idle connections give way to those that are needed."""

import asyncio

from addons.engine.client import Client
from addons.engine.origin import Origin
from addons.engine.room import make_room
from tests.upstream import Upstream

WITHIN = 20.0


async def ask(client: Client, upstream: Upstream) -> None:
    call = client.send(origin(upstream), b"GET / HTTP/1.1\r\nhost: a\r\n\r\n", method=b"GET")
    await asyncio.wait_for(call, WITHIN)


def origin(upstream: Upstream) -> Origin:
    return Origin("127.0.0.1", upstream.port)


async def test_idle_connections_of_the_group_are_closed_oldest_first() -> None:
    with Upstream() as one, Upstream() as two, Upstream() as other:
        client = Client()
        await asyncio.gather(*(ask(client, one) for _ in range(3)), ask(client, other))
        group = {("127.0.0.1", one.port), ("127.0.0.1", two.port)}
        assert client.stats()[origin(one)].idle == 3
        # There is one to use again.
        make_room(client, origin(one), group, 1)
        assert client.stats()[origin(one)].idle == 3
        make_room(client, origin(two), group, 4)
        assert client.stats()[origin(one)].idle == 3
        make_room(client, origin(two), group, 2)
        assert client.stats()[origin(one)].idle == 1
        await ask(client, two)
        make_room(client, Origin("127.0.0.1", 1), {*group, ("127.0.0.1", 1)}, 1)
        assert origin(one) not in client.stats()
        assert origin(two) not in client.stats()
        assert client.stats()[origin(other)].idle == 1
        client.close()
