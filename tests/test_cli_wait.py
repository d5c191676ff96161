"""apply --wait: proxies that report in time, late, never, refuse, or die meanwhile. Reports are real ones in a real Valkey."""

import asyncio
import json
import time
from collections.abc import AsyncIterator

import pytest

from control.store import Store
from tests.cli import Mitmesh, Ran, mitmesh_fixture, node  # noqa: F401
from tests.conftest import Valkey

POLICY = "{service: reviews, retry: 2}"
LONG = 60.0


@pytest.fixture
async def store(redis_url: str) -> AsyncIterator[Store]:
    opened = Store(redis_url)
    yield opened
    await opened.close()


async def until_revision(store: Store, revision: int) -> None:
    while await store.revision() < revision:
        await asyncio.sleep(0.001)


def start(mitmesh: Mitmesh, *arguments: str, policy: str = POLICY) -> "asyncio.Task[Ran]":
    """The command in a thread, so that reports can be written meanwhile."""
    return asyncio.create_task(asyncio.to_thread(mitmesh, "apply", "-f", "-", *arguments, stdin=policy))


async def test_no_nodes(mitmesh: Mitmesh) -> None:
    ran = await start(mitmesh, "--wait", "5s")
    assert ran == Ran(0, "reviews: created\nrevision 1\nno live nodes to wait for\n", "")


async def test_all_report(mitmesh: Mitmesh, store: Store) -> None:
    for name in ("one", "two", "three"):
        await store.report(node(name), LONG)
    running = start(mitmesh, "--wait", "30s")
    await until_revision(store, 1)
    await store.report(node("one", 1), LONG)
    await store.report(node("two", 1), LONG)
    assert not running.done()
    await store.report(node("three", 2), LONG)  # another writer was there already: that is as good
    ran = await running
    assert (ran.code, ran.err) == (0, "")
    assert ran.out.startswith("reviews: created\nrevision 1\nin force at 3 live nodes after ")


async def test_nothing_to_do_waits_too(mitmesh: Mitmesh, store: Store) -> None:
    assert (await start(mitmesh)).code == 0
    await store.report(node("one", 1), LONG)
    assert "in force at 1 live node after" in (await start(mitmesh, "--wait", "5s")).out
    await store.report(node("one", 0), LONG)
    assert (await start(mitmesh, "--wait", "1ms")).code == 1


async def test_never_reports(mitmesh: Mitmesh, store: Store) -> None:
    await store.report(node("prompt", 1), LONG)
    await store.report(node("slow"), LONG)
    await store.report(node("nameless", service=""), LONG)
    ran = await start(mitmesh, "--wait", "50ms")
    assert (ran.code, ran.out) == (1, "reviews: created\nrevision 1\n")
    lines = ran.err.splitlines()
    assert lines[0].startswith("error: node nameless: still at revision 0 after 0.")
    assert lines[1].startswith("error: node slow (web): still at revision 0 after 0.")
    assert lines[2] == "error: revision 1 is stored, but 2 of 3 live nodes did not take it"


async def test_refused(mitmesh: Mitmesh, store: Store) -> None:
    for name in ("fine", "picky"):
        await store.report(node(name), LONG)
    began = time.monotonic()
    running = start(mitmesh, "--wait", "30s", "--json")
    await until_revision(store, 1)
    await store.report(node("picky", 0, "refused revision 1: no such field"), LONG)
    await store.report(node("fine", 1), LONG)
    ran = await running
    assert ran.code == 1
    assert ran.err.splitlines() == [
        "error: node picky (web): refused revision 1: no such field",
        "error: revision 1 is stored, but 1 of 2 live nodes did not take it",
    ]
    nodes = json.loads(ran.out)["nodes"]
    assert (nodes["reached"], nodes["refused"]) == (["fine"], {"picky": "refused revision 1: no such field"})
    assert time.monotonic() - began < 20  # it did not wait on


async def test_an_old_error_is_no_refusal(mitmesh: Mitmesh, store: Store) -> None:
    await store.report(node("one", 0, "refused revision 0: nonsense"), LONG)
    running = start(mitmesh, "--wait", "30s")
    await until_revision(store, 1)
    await store.report(node("one", 0, "refused revision 0: nonsense"), LONG)  # a heartbeat before it looked
    assert not running.done()
    await store.report(node("one", 1), LONG)
    assert (await running).code == 0


async def test_an_old_error_that_stays_is_told(mitmesh: Mitmesh, store: Store) -> None:
    await store.report(node("one", 0, "stuck"), LONG)
    ran = await start(mitmesh, "--wait", "20ms")
    assert (ran.code, "(stuck)" in ran.err) == (1, True)


async def test_dies_meanwhile(mitmesh: Mitmesh, store: Store) -> None:
    await store.report(node("fine"), LONG)
    await store.report(node("dying"), 0.4)
    running = start(mitmesh, "--wait", "30s", "--json")
    await until_revision(store, 1)
    await store.report(node("fine", 1), LONG)
    ran = await running
    nodes = json.loads(ran.out)["nodes"]
    assert (ran.code, nodes["reached"], nodes["gone"]) == (0, ["fine"], ["dying"])
    assert ran.err == "node dying (web): gone, not waited for\n"
    assert nodes["seconds"] < 10


async def test_a_newcomer_is_not_waited_for(mitmesh: Mitmesh, store: Store) -> None:
    await store.report(node("one"), LONG)
    running = start(mitmesh, "--wait", "30s")
    await until_revision(store, 1)
    await store.report(node("newcomer", 0), LONG)
    await store.report(node("one", 1), LONG)
    assert "in force at 1 live node " in (await running).out


@pytest.mark.parametrize("arguments", [("delete", "reviews"), ("rollback", "0")])
async def test_other_changes_wait_too(mitmesh: Mitmesh, store: Store, arguments: tuple[str, ...]) -> None:
    assert (await start(mitmesh)).code == 0
    await store.report(node("one", 1), LONG)
    running = asyncio.create_task(asyncio.to_thread(mitmesh, *arguments, "--wait", "30s"))
    await until_revision(store, 2)
    await store.report(node("one", 2), LONG)
    ran = await running
    assert (ran.code, ran.out.splitlines()[-1].startswith("in force at 1 live node")) == (0, True)


async def test_the_wait_adds_little(mitmesh: Mitmesh, store: Store) -> None:
    """Twenty nodes that answer the publication at once: how much later the command knows."""
    ids = [f"node{number}" for number in range(20)]
    for name in ids:
        await store.report(node(name), LONG)

    async def proxies() -> float:
        async for hint in store.hints():
            if hint is None:
                subscribed.set()
            else:
                for name in ids:
                    await store.report(node(name, hint.revision), LONG)
                return time.monotonic()
        raise AssertionError

    delays = []
    for tries in range(2, 12):
        subscribed = asyncio.Event()
        reported = asyncio.create_task(proxies())
        await subscribed.wait()
        ran = await start(mitmesh, "--wait", "10s", policy=f"{{service: reviews, retry: {tries}}}")
        delays.append(time.monotonic() - await reported)
        assert ran.code == 0
    # A look every 3 ms, and the end of the command; generous, for the machine may be busy.
    assert sorted(delays)[len(delays) // 2] < 0.1


async def test_redis_dies_meanwhile(mitmesh: Mitmesh, valkey: Valkey) -> None:
    """The change is made; only whether it arrived is not known."""
    store = Store(valkey.url)
    await store.report(node("one"), LONG)
    running = start(mitmesh, "--wait", "30s", "--redis", valkey.url)
    await until_revision(store, 1)
    await store.close()
    valkey.kill()
    ran = await running
    assert (ran.code, ran.out) == (1, "reviews: created\nrevision 1\n")
    assert ran.err.startswith(
        "error: revision 1 is stored; waiting for it failed: cannot reach Redis at redis://"
    )
