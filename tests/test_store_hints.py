"""Hints: heard at once, lost connections noticed, nothing left behind."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import aclosing

import pytest

from control.store import PING_AFTER, Hint, Store, StoreError
from tests.conftest import Valkey


@pytest.fixture
async def store(redis_url: str) -> AsyncIterator[Store]:
    opened = Store(redis_url)
    yield opened
    await opened.close()


async def put(store: Store, text: str) -> None:
    await store.change(lambda stored: {"a": text, f"ü{text}": text}, author="me", message="")


def clients(server: Valkey) -> int:
    """Connections to the server, without the one that asks."""
    return server.command("CLIENT", "LIST").count(b" laddr=127") - 1


async def until_clients(server: Valkey, count: int) -> None:
    while clients(server) != count:
        await asyncio.sleep(0.001)


async def test_hints(store: Store) -> None:
    async with aclosing(store.hints()) as hints:
        assert await anext(hints) is None
        await put(store, "1")
        await put(store, "2")
        assert await anext(hints) == Hint(1, ("a", "ü1"))
        assert await anext(hints) == Hint(2, ("a", "ü2"))


async def test_a_hint_comes_after_its_change_is_readable(store: Store) -> None:
    async with aclosing(store.hints()) as hints:
        await anext(hints)
        for number in range(1, 50):
            writer = asyncio.create_task(put(store, str(number)))
            hint = await anext(hints)
            assert hint is not None
            update = await store.read_since(number - 1, hint)
            assert (update.revision, update.documents["a"], update.full) == (number, str(number), False)
            await writer


@pytest.mark.parametrize(
    "message", ["", "x", "7", "{}", '{"revision":"x","services":[]}', '{"revision":1,"services":3}', b"\xff"]
)
async def test_what_is_no_hint_only_says_look(store: Store, valkey_server: Valkey, message: str) -> None:
    async with aclosing(store.hints()) as hints:
        await anext(hints)
        valkey_server.command("PUBLISH", "{mesh}:changes", message)
        valkey_server.command("PUBLISH", "{other}:changes", '{"revision":1,"services":[]}')
        valkey_server.command("PUBLISH", "{mesh}:changes", '{"revision":1,"services":[]}')
        assert await anext(hints) is None
        assert await anext(hints) == Hint(1, ())


async def test_a_killed_server_is_noticed_at_once(valkey: Valkey) -> None:
    store = Store(valkey.url)
    async with aclosing(store.hints()) as hints:
        await anext(hints)
        await put(store, "1")
        await anext(hints)
        waiting = asyncio.ensure_future(anext(hints))
        await asyncio.sleep(0)
        valkey.kill()
        start = time.monotonic()
        with pytest.raises(StoreError, match="it closed the connection; start one"):
            await waiting
        assert time.monotonic() - start < 0.5
    with pytest.raises(StoreError, match="connection refused"):
        await anext(store.hints())
    valkey.start()
    async with aclosing(store.hints()) as hints:
        assert await anext(hints) is None
        assert (await store.read()).revision == 1
        await put(store, "2")
        assert await anext(hints) == Hint(2, ("a", "ü2"))
    await store.close()


async def test_a_read_survives_a_restart(valkey: Valkey) -> None:
    store = Store(valkey.url)
    await put(store, "1")
    for stop in (valkey.kill, valkey.stop):
        stop()
        valkey.start()
        assert (await store.read()).documents["a"] == "1"
        assert await store.nodes() == []
    await store.close()


async def test_a_silent_server_is_noticed(valkey: Valkey, monkeypatch: pytest.MonkeyPatch) -> None:
    assert 2 * PING_AFTER <= 2
    monkeypatch.setattr("control.store.PING_AFTER", 0.1)
    store = Store(valkey.url)
    async with aclosing(store.hints()) as hints:
        await anext(hints)
        valkey.freeze()
        start = time.monotonic()
        with pytest.raises(StoreError, match="no answer in time"):
            await anext(hints)
        assert 0.15 < time.monotonic() - start < 0.5
    valkey.thaw()
    await store.close()


@pytest.mark.parametrize("rights", ["+ping", "-ping"])
async def test_a_quiet_channel_stays_open(
    valkey: Valkey, monkeypatch: pytest.MonkeyPatch, rights: str
) -> None:
    monkeypatch.setattr("control.store.PING_AFTER", 0.05)
    valkey.command("ACL", "SETUSER", "default", rights)
    store = Store(valkey.url)
    async with aclosing(store.hints()) as hints:
        await anext(hints)
        waiting = asyncio.ensure_future(anext(hints))
        done, _ = await asyncio.wait([waiting], timeout=0.3)
        assert not done
        await put(store, "1")
        assert await waiting == Hint(1, ("a", "ü1"))
    await store.close()


async def test_connections_are_given_back(valkey: Valkey) -> None:
    store = Store(valkey.url)

    async def listen() -> None:
        async for _ in store.hints():
            heard.set()

    for _ in range(3):
        async with aclosing(store.hints()) as hints:
            await anext(hints)
            await until_clients(valkey, 1)
        await until_clients(valkey, 0)

        heard = asyncio.Event()
        task = asyncio.create_task(listen())
        await heard.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await until_clients(valkey, 0)

        task = asyncio.create_task(listen())
        await asyncio.sleep(0)  # connecting
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await until_clients(valkey, 0)

        async for _ in store.hints():
            break
        await until_clients(valkey, 0)

    valkey.command("ACL", "SETUSER", "default", "resetchannels")
    with pytest.raises(StoreError, match="may not use the channel"):
        await anext(store.hints())
    await until_clients(valkey, 0)
    await store.close()


async def test_close_ends_subscriptions(valkey: Valkey) -> None:
    store = Store(valkey.url)
    hints = store.hints()
    await anext(hints)
    await store.read()
    waiting = asyncio.ensure_future(anext(hints))
    await asyncio.sleep(0)
    await store.close()
    with pytest.raises(StoreError):
        await asyncio.wait_for(waiting, 0.5)
    await until_clients(valkey, 0)


async def test_a_cancelled_operation_leaves_no_answer_for_the_next(store: Store) -> None:
    await put(store, "1")
    for turns in range(1, 30):
        task = asyncio.create_task(store.history())
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert (await store.read()).revision == 1


async def test_many_operations_at_once(store: Store) -> None:
    await put(store, "1")
    found = await asyncio.gather(*(store.read() for _ in range(50)))
    assert {stored.revision for stored in found} == {1}
