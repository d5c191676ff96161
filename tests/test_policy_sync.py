"""Following a real Valkey: what is in force, what is reported, and what the proxy goes on with."""

import asyncio
import contextlib
import json
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from addons import policy_building, policy_sync
from addons.policy_cache import read_cache, write_cache
from addons.policy_sync import PolicySync
from control.policy.snapshot import Snapshot
from control.store import NodeReport, Store, StoreError
from tests.conftest import StartValkey, Valkey, free_port
from tests.flows import snapshot

WITHIN = 20.0


def document(service: str = "web", body: str = "x") -> str:
    return json.dumps({"service": service, "respond": {"body": body}})


async def soon(look, within: float = WITHIN):
    """What `look` returns once it is true."""
    async with asyncio.timeout(within):
        while not (seen := look()):
            await asyncio.sleep(0.005)
        return seen


class World:
    """A proxy's feed and a writer beside it."""

    def __init__(self, url: str, **more) -> None:
        self.store = Store(url)
        self.writer = Store(url)
        self.heard: list[Snapshot] = []
        describe = NodeReport("node-1", "shop", 0, addresses=("127.0.0.1:1",))
        self.sync = PolicySync(self.store, lambda: describe, on_change=self.heard.append, **more)
        self.task = asyncio.create_task(self.sync.run())

    async def apply(self, **documents: str | None) -> int:
        change = await self.writer.change(lambda stored: documents, author="a", message="")
        return change.revision

    async def in_force(self, revision: int) -> Snapshot:
        """The snapshot once it is this one, and the first read is over."""
        sync = self.sync
        await soon(lambda: sync.connected and sync.snapshot and sync.snapshot.revision == revision)
        return sync.snapshot

    async def report(self, wanted) -> NodeReport:
        """The node's report as soon as it is so."""
        async with asyncio.timeout(WITHIN):
            while True:
                # A connection that was idle while its server died says so once.
                with contextlib.suppress(StoreError):
                    for node in await self.writer.nodes():
                        if wanted(node):
                            return node
                await asyncio.sleep(0.005)

    async def end(self) -> None:
        self.task.cancel()
        await asyncio.wait([self.task], timeout=WITHIN)
        assert self.task.done()
        await self.store.close()
        await self.writer.close()


@asynccontextmanager
async def following(url: str, **more) -> AsyncIterator[World]:
    world = World(url, **more)
    try:
        yield world
    finally:
        await world.end()


async def test_an_empty_redis_is_a_policy_too(redis_url):
    async with following(redis_url) as world:
        assert (await world.in_force(0)).unknown is not None
        await asyncio.wait_for(world.sync.settled.wait(), WITHIN)


async def test_what_was_there_before_and_every_change(redis_url):
    async with following(redis_url) as world:
        await world.in_force(0)
        for number in range(1, 6):
            assert await world.apply(web=document(body=str(number))) == number
            now = await world.in_force(number)
            assert now.services["web"].own.respond.body == str(number).encode()
        assert await world.apply(web=None, other=document("other")) == 6
        assert list((await world.in_force(6)).services) == ["other"]
        assert [each.revision for each in world.heard] == list(range(7))


async def test_a_change_costs_only_what_it_changes(redis_url):
    async with following(redis_url) as world:
        await world.apply(web=document(), other=document("other"))
        before = await world.in_force(1)
        await world.apply(web=document(body="new"))
        after = await world.in_force(2)
        assert after.services["other"] is before.services["other"]


async def test_the_report_says_what_is_in_force(redis_url):
    async with following(redis_url) as world:
        await world.apply(web=document())
        node = await world.report(lambda node: node.revision == 1)
        assert (node.id, node.service, node.error, node.addresses) == ("node-1", "shop", "", ("127.0.0.1:1",))


async def test_reports_go_on_without_changes(redis_url, monkeypatch, valkey_server: Valkey):
    monkeypatch.setattr(policy_sync, "HEARTBEAT", 0.02)
    async with following(redis_url) as world:
        await world.report(lambda node: True)
        valkey_server.command("DEL", "{mesh}:node:node-1")
        await world.report(lambda node: True)


@pytest.mark.parametrize("publish", [True, False])
async def test_nonsense_is_refused_and_the_next_change_is_heard(
    redis_url, monkeypatch, valkey_server, publish
):
    monkeypatch.setattr(policy_sync, "RESYNC", 0.05)
    async with following(redis_url) as world:
        await world.apply(web=document())
        good = await world.in_force(1)
        valkey_server.command(
            "HSET", "{mesh}:policy", "bad", "nonsense", "worse", '{"service": "worse", "retries": 1}'
        )
        valkey_server.command("INCR", "{mesh}:revision")
        if publish:
            valkey_server.command("PUBLISH", "{mesh}:changes", "nonsense, too")
        node = await world.report(lambda node: node.error)
        assert node.error.startswith("refused revision 2: redis: ")
        assert node.error.endswith("(and 1 more)")
        assert (node.revision, world.sync.snapshot) == (1, good)
        await world.apply(bad=None, worse=None)
        await world.in_force(3)
        assert (await world.report(lambda node: node.revision == 3)).error == ""


async def test_what_cannot_be_compiled_for_any_reason_does_not_end_the_feed(redis_url, monkeypatch, caplog):
    def broken(*_: object) -> Snapshot:
        raise ZeroDivisionError("of the compiler")

    async with following(redis_url) as world:
        await world.in_force(0)
        with monkeypatch.context() as patched:
            patched.setattr(policy_building, "build", broken)
            await world.apply(web=document())
            node = await world.report(lambda node: node.error)
            assert node.error == "refused revision 1: ZeroDivisionError: of the compiler"
            assert "Traceback" in caplog.text
        await world.apply(web=document(body="y"))
        await world.in_force(2)


async def test_an_edit_by_hand_without_a_new_revision_is_found(redis_url, monkeypatch, valkey_server):
    monkeypatch.setattr(policy_sync, "RESYNC", 0.02)
    now = 0.0
    async with following(redis_url, clock=lambda: now) as world:
        await world.apply(web=document())
        await world.in_force(1)
        valkey_server.command("HSET", "{mesh}:policy", "web", document(body="by hand"))

        def found() -> bool:
            nonlocal now
            now += policy_sync.FULL_READ + 1
            return world.sync.snapshot.services["web"].own.respond.body == b"by hand"

        await soon(found)


async def test_a_lost_publication_is_made_up_for(redis_url, monkeypatch, valkey_server):
    monkeypatch.setattr(policy_sync, "RESYNC", 0.02)
    async with following(redis_url) as world:
        await world.in_force(0)
        valkey_server.command("HSET", "{mesh}:policy", "web", document())
        valkey_server.command("INCR", "{mesh}:revision")
        await world.in_force(1)


async def test_a_redis_that_goes_and_comes_back(start_valkey: StartValkey, caplog):
    valkey = start_valkey(persist=True)
    async with following(valkey.url) as world:
        await world.apply(web=document())
        before = await world.in_force(1)
        valkey.kill()
        await soon(lambda: not world.sync.connected)
        assert world.sync.snapshot is before
        assert "going on with revision 1" in caplog.text
        valkey.start()
        await soon(lambda: world.sync.connected)
        await world.apply(web=document(body="new"))
        await world.in_force(2)


async def test_a_redis_that_comes_back_empty_is_not_believed(start_valkey: StartValkey):
    valkey = start_valkey()
    async with following(valkey.url) as world:
        await world.apply(web=document())
        await world.apply(web=document(body="new"))
        before = await world.in_force(2)
        valkey.kill()
        valkey.start()
        node = await world.report(lambda node: node.error)
        assert node.error.startswith("Redis is empty, as if it had lost its data; going on with revision 2")
        assert world.sync.snapshot is before
        await world.apply(web=document(body="again"))
        assert (await world.in_force(1)).services["web"].own.respond.body == b"again"
        assert (await world.report(lambda node: node.revision == 1)).error == ""


async def test_deleting_the_last_service_is_no_loss(redis_url):
    async with following(redis_url) as world:
        await world.apply(web=document())
        await world.in_force(1)
        await world.apply(web=None)
        assert (await world.in_force(2)).services == {}
        assert world.sync.error == ""


async def test_without_redis_the_cache(tmp_path, start_valkey: StartValkey, caplog):
    cache = tmp_path / "cache"
    write_cache(cache, "mesh", 7, {"web": document()})
    port = free_port()
    async with following(f"redis://127.0.0.1:{port}", cache=cache) as world:
        await asyncio.wait_for(world.sync.settled.wait(), WITHIN)
        assert world.sync.snapshot.revision == 7
        assert [each.revision for each in world.heard] == [7]
        assert f"mesh_cache {cache}: revision 7 in force until Redis gives a newer one" in caplog.text
        start_valkey(port=port)
        await world.apply(web=document(body="new"))
        await world.in_force(1)
        await soon(lambda: read_cache(cache, "mesh")[0] == 1)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (None, "no such file yet"),
        (b"{", "not usable"),
        (b'{"mesh": "mesh", "revision": 1, "documents": {"web": "x"}}', "not usable: redis: web"),
    ],
)
async def test_a_bad_cache_is_named_and_nothing_is_in_force(tmp_path, caplog, data, said):
    cache = tmp_path / "cache"
    if data is not None:
        cache.write_bytes(data)
    async with following(f"redis://127.0.0.1:{free_port()}", cache=cache) as world:
        await asyncio.wait_for(world.sync.settled.wait(), WITHIN)
        assert world.sync.snapshot is None
        assert f"mesh_cache {cache}: {said}" in caplog.text


async def test_a_cache_that_cannot_be_written_does_no_harm(redis_url, caplog):
    async with following(redis_url, cache=Path("/no/such/folder/cache")) as world:
        await world.apply(web=document())
        await world.in_force(1)
        await soon(lambda: "mesh_cache /no/such/folder/cache: not written" in caplog.text)


async def test_the_last_snapshot_holds_until_there_is_a_newer_one(tmp_path, start_valkey: StartValkey):
    """Of an instance before this one; the older cache does not count then."""
    cache = tmp_path / "cache"
    write_cache(cache, "mesh", 1, {})
    port = free_port()
    last = snapshot("service: web\nrespond: {body: last}", revision=5)
    async with following(f"redis://127.0.0.1:{port}", last=last, cache=cache) as world:
        assert world.sync.snapshot is last
        await asyncio.wait_for(world.sync.settled.wait(), WITHIN)
        assert world.sync.snapshot is last
        start_valkey(port=port)
        await world.apply(web=document(body="new"))
        await soon(lambda: world.sync.snapshot.services["web"].own.respond.body == b"new")


async def test_it_ends_at_whatever_moment_it_is_told_to(redis_url):
    """On Python 3.11 a cancellation can be lost while redis-py sends."""
    source = random.Random(1)
    for _ in range(60):
        world = World(redis_url)
        await asyncio.sleep(source.random() * 0.01)
        await world.end()
