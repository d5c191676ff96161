"""Who is registered, as a caller knows it: changes, a Redis that is away, one that has lost its memory."""

import pytest

from addons.endpoint_sync import COMING_BACK, EndpointSync
from control.policy.endpoints import Registered
from control.store import StoreError
from control.store_registry import Registration


def at(port: int, version: str = "default", service: str = "web") -> Registration:
    return Registration(service, Registered(version, f"10.0.0.1:{port}"))


class Redis:
    """Tells what it is set to."""

    def __init__(self) -> None:
        self.epoch = 1
        self.number = 0
        self.nodes: dict[str, Registration] = {}
        self.away = False

    def become(self, **nodes: Registration) -> None:
        self.nodes = nodes
        self.number += 1

    def forget(self, **nodes: Registration) -> None:
        self.epoch, self.number, self.nodes = self.epoch + 1, 0, nodes

    async def registered(self, state: str, ttl: float) -> tuple[str, dict[str, Registration] | None]:
        if self.away:
            raise StoreError("away")
        now = f"{self.epoch}-{self.number}"
        return now, None if state == now else dict(self.nodes)


class World:
    def __init__(self) -> None:
        self.redis = Redis()
        self.time = 100.0
        self.sync = EndpointSync(self.redis, lambda: self.time)

    @property
    def ports(self) -> set[str]:
        return {each.address[-1] for each in self.sync.registered.get("web", ())}


@pytest.fixture
def world():
    return World()


async def test_who_comes_and_goes(world):
    assert await world.sync.look()  # that there is nobody is news, the first time
    assert not await world.sync.look()
    world.redis.become(a=at(1))
    assert await world.sync.look()
    assert world.ports == {"1"}
    before = world.sync.registered
    world.redis.become(a=at(1), worker=at(1))
    assert not await world.sync.look()
    assert world.sync.registered == before
    world.redis.become(worker=at(1), b=at(2))
    assert await world.sync.look()
    assert world.ports == {"1", "2"}
    world.redis.become()
    assert await world.sync.look()
    assert world.ports == set()


async def test_while_redis_is_away_everything_stays(world):
    world.redis.become(a=at(1))
    await world.sync.look()
    world.redis.away = True
    with pytest.raises(StoreError):
        await world.sync.look()
    assert world.ports == {"1"}


async def test_a_redis_without_memory_is_given_time_to_be_told_again(world):
    world.redis.become(a=at(1), b=at(2))
    await world.sync.look()
    world.redis.forget()
    assert not await world.sync.look()
    assert world.ports == {"1", "2"}
    world.redis.become(a=at(1, "v2"))
    assert await world.sync.look()
    assert sorted(world.sync.registered["web"]) == [
        Registered("default", "10.0.0.1:2"),
        Registered("v2", "10.0.0.1:1"),
    ]
    world.time += COMING_BACK - 0.1
    assert not await world.sync.look()
    world.time += 0.2
    assert await world.sync.look()
    assert world.ports == {"1"}


async def test_it_may_lose_its_memory_twice(world):
    world.redis.become(a=at(1), b=at(2))
    await world.sync.look()
    world.redis.forget(a=at(1))
    assert not await world.sync.look()
    world.redis.forget()
    assert not await world.sync.look()
    assert world.ports == {"1", "2"}


async def test_a_cache_holds_until_redis_tells(world):
    world.sync.begin_with({"web": (Registered("default", "10.0.0.1:9"),)})
    assert (world.ports, world.sync.asked) == ({"9"}, False)
    world.redis.become(a=at(1))
    assert await world.sync.look()
    assert (world.ports, world.sync.asked) == ({"1"}, True)
