"""When a proxy registers itself, as what, and how it leaves; against a real Valkey."""

import asyncio

import pytest
from mitmproxy import exceptions
from mitmproxy.test import taddons

from addons import registration
from addons.certificates import Certificates
from addons.policy_feed import PolicyFeed
from addons.registration import Registration
from control.policy.endpoints import Registered
from control.store import Store
from control.store_registry import Registration as Entry
from control.store_server import host_of
from tests.conftest import StartValkey, free_port
from tests.flows import snapshot


class Listening:
    """Stands where mitmproxy's Proxyserver does."""

    def __init__(self, *addresses: tuple[str, int]) -> None:
        self.addresses = addresses

    def listen_addrs(self):
        return list(self.addresses)


class Sync:
    def __init__(self, policy: str | None) -> None:
        self.snapshot = None if policy is None else snapshot(policy)


class World:
    def __init__(self, context, url: str, policy: str | None = "", listening=(("127.0.0.1", 8000),)) -> None:
        self.feed = PolicyFeed()
        self.feed.node = "node-1"
        self.feed.sync = Sync(policy)  # type: ignore[assignment]
        self.certificates = Certificates()
        self.addon = Registration(self.feed, self.certificates)
        self.context = context
        server = Listening(*listening)
        context.master.addons.lookup["proxyserver"] = server
        for addon in (self.feed, self.certificates, self.addon):
            context.master.addons.add(addon)
        context.options.update(mesh_redis=url)
        self.store = Store(url)

    async def eventually(self, wanted) -> dict[str, Entry]:
        async with asyncio.timeout(20):
            while not wanted(found := await self.store.registrations()):
                await asyncio.sleep(0.01)
            return found

    async def end(self) -> None:
        task = self.addon._task
        self.addon.done()
        if task is not None:
            await asyncio.wait([task], timeout=20)
        await self.store.close()


@pytest.fixture
def url(start_valkey: StartValkey):
    return start_valkey().url


@pytest.fixture
async def context():
    with taddons.context() as context:
        yield context


async def test_it_is_registered_as_what_it_stands_in_front_of_and_leaves_at_the_stop(context, url):
    world = World(context, url)
    context.options.update(mesh_service="Web", mesh_inbound=["8000"], mesh_version="v2", mesh_weight="2.5")
    world.addon.running()
    found = await world.eventually(bool)
    assert found == {"node-1": Entry("web", Registered("v2", "127.0.0.1:8000", False, 2.5))}
    context.master.should_exit.set()
    world.addon.done()
    assert await world.store.registrations() == {}
    await world.end()


@pytest.mark.parametrize(
    ("options", "policy"),
    [
        ({"mesh_inbound": ["8000"]}, ""),
        ({"mesh_service": "web"}, ""),
        ({"mesh_service": "web", "mesh_inbound": ["8000"]}, None),
        ({"mesh_service": "web", "mesh_inbound": ["8001"]}, ""),
    ],
)
async def test_when_it_is_not(context, url, options, policy):
    world = World(context, url, policy)
    context.options.update(**options)
    await world.addon._beat(world.store, "node-1")
    assert await world.store.registrations() == {}
    await world.end()


async def test_it_is_there_once_a_policy_is(context, url):
    world = World(context, url, None)
    context.options.update(mesh_service="web", mesh_inbound=["8000"])
    world.addon.running()
    await asyncio.sleep(0)
    world.feed.sync.snapshot = snapshot("")  # type: ignore[union-attr]
    await world.eventually(bool)
    await world.end()


async def test_a_drain_says_goodbye_and_waits_until_nobody_comes(context, url, monkeypatch):
    monkeypatch.setattr(registration, "_QUIET", 0.02)
    monkeypatch.setattr(registration, "_LEAST_GOODBYE", 0.05)
    world = World(context, url)
    context.options.update(mesh_service="web", mesh_inbound=["8000"])
    world.addon.running()
    await world.eventually(bool)
    draining = asyncio.create_task(world.addon.mesh_drain())
    await world.eventually(lambda found: not found)

    async def callers() -> None:
        for _ in range(30):
            world.feed.arrived += 1
            assert not draining.done()
            await asyncio.sleep(0.005)

    await callers()
    await asyncio.wait_for(draining, 20)
    assert world.addon._task is None
    assert await world.store.registrations() == {}
    await world.end()


async def test_at_a_reload_it_stays(context, url):
    world = World(context, url)
    context.options.update(mesh_service="web", mesh_inbound=["8000"])
    world.addon.running()
    await world.eventually(bool)
    world.addon.done()
    assert await world.store.registrations() != {}
    await world.end()


async def test_it_says_once_where_it_cannot_be_reached(context, url, caplog):
    world = World(context, url, listening=(("127.0.0.1", 1),))
    context.options.update(mesh_service="web", mesh_inbound=["8000"])
    for _ in range(3):
        await world.addon._beat(world.store, "node-1")
    assert [record.message for record in caplog.records] == [
        "not registered: nothing listens on port 8000 of mesh_inbound"
    ]
    await world.end()


@pytest.mark.parametrize(
    ("listening", "found"),
    [
        ([("127.0.0.9", 8000)], "127.0.0.9:8000"),
        ([("0.0.0.0", 8000), ("::", 8000)], "127.0.0.1:8000"),
        ([("::1", 8000)], "[::1]:8000"),
        ([("0.0.0.0", 8000, 0, 0)], "127.0.0.1:8000"),
    ],
)
async def test_where_callers_reach_it(context, url, listening, found):
    world = World(context, url, listening=listening)
    assert await registration._reached_at(8000, url) == found
    assert await registration._reached_at(8000, "unix:///run/redis.sock") == found
    await world.end()


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("redis://:secret@10.0.0.1/0", ("10.0.0.1", 6379)),
        ("rediss://[::1]:7", ("::1", 7)),
        ("redis+sentinel://a,b:9/main", ("a", 26379)),
        ("redis+cluster://c:1,d", ("c", 1)),
        ("unix:///run/x", None),
    ],
)
def test_the_host_of_a_redis(url, host):
    assert host_of(url) == host


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("mesh_weight", "-1", "mesh_weight: write a number of at least 0"),
        ("mesh_weight", "nan", "mesh_weight: write a number of at least 0"),
        ("mesh_version", "a b", "mesh_version: write a name"),
        ("mesh_advertise", "web", "mesh_advertise: write an address as host:port"),
        ("mesh_advertise", "http://web:1", "mesh_advertise: write a host"),
    ],
)
async def test_a_mistake_in_an_option_is_told(context, option, value, said):
    world = World(context, f"redis://127.0.0.1:{free_port()}")
    with pytest.raises(exceptions.OptionsError, match=said):
        context.configure(world.addon, **{option: value})
    await world.end()
