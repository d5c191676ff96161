"""The feed as an addon: its options, the snapshot that a flow gets, and what is said without one."""

import asyncio
import re

import pytest
from mitmproxy import exceptions

from addons import policy_feed
from addons.exchange import exchange_of
from addons.peer import Peer, note_peer
from addons.policy_feed import PolicyFeed
from control.policy.snapshot import EMPTY
from control.store import Store
from tests.conftest import free_port
from tests.flows import loaded, make_answer, make_flow, snapshot

WITHIN = 20.0


class Stub:
    """In the place of a PolicySync, with what the feed asks of it."""

    def __init__(self, in_force=None, settled=True, error="") -> None:
        self.snapshot = in_force
        self.settled = asyncio.Event()
        if settled:
            self.settled.set()
        self.error = error
        self.connected = False


async def pinned(feed: PolicyFeed, flow=None):
    flow = flow or make_flow()
    waits = feed.requestheaders(flow)
    if waits is not None:
        await asyncio.wait_for(waits, WITHIN)
    return flow, exchange_of(flow)


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("mesh_name", "", "mesh_name: give a name, such as mesh"),
        ("mesh_name", "a b", "mesh_name: use letters, digits, '.', '_' and '-', got 'a b'"),
        ("mesh_name", "ä", "mesh_name: use letters"),
        ("mesh_service", "-a", "mesh_service: use letters"),
        ("mesh_node", "a:b", "mesh_node: use letters"),
        ("mesh_inbound", ["80", "0"], "mesh_inbound: write a port from 1 to 65535, got '0'"),
        ("mesh_inbound", ["65536"], "mesh_inbound: write a port from 1 to 65535, got '65536'"),
        ("mesh_inbound", ["٣"], "mesh_inbound: write a port"),
        ("mesh_inbound", [" 80"], "mesh_inbound: write a port"),
        ("mesh_redis", "", "mesh_redis: "),
        ("mesh_redis", "127.0.0.1:6379", "mesh_redis: "),
        ("mesh_redis", "redis://:secret@h:x", "mesh_redis: "),
    ],
)
async def test_a_bad_option_is_named_with_what_to_write(option, value, said):
    with loaded() as context:
        feed = PolicyFeed()
        context.master.addons.add(feed)
        with pytest.raises(exceptions.OptionsError, match=re.escape(said)) as raised:
            context.configure(feed, **{option: value})
        assert "\n" not in str(raised.value)
        assert "secret" not in str(raised.value)


async def test_defaults_come_from_the_environment(monkeypatch):
    monkeypatch.setenv("MITMESH_REDIS", "redis://elsewhere:1/2")
    monkeypatch.setenv("MITMESH_NAME", "other")
    with loaded() as context:
        context.master.addons.add(PolicyFeed())
        assert (context.options.mesh_redis, context.options.mesh_name) == ("redis://elsewhere:1/2", "other")


async def test_a_flow_sees_one_snapshot():
    feed = PolicyFeed()
    with loaded() as context:
        context.master.addons.add(feed)
        feed.sync = Stub(EMPTY)
        flow, exchange = await pinned(feed)
        feed.sync.snapshot = snapshot("service: web\nrespond: {body: x}")
        assert exchange.snapshot is EMPTY
        assert (flow.response, exchange.inbound, exchange.source) == (None, False, "")


async def test_source_and_inbound():
    feed = PolicyFeed()
    with loaded() as context:
        context.master.addons.add(feed)
        context.configure(feed, mesh_service="Shop", mesh_node="n1", mesh_inbound=["15006"])
        feed.sync = Stub(EMPTY)
        flow = make_flow()
        flow.client_conn.sockname = ("127.0.0.1", 15001)
        _, outbound = await pinned(feed, flow)
        assert (outbound.source, outbound.service, outbound.inbound, outbound.node) == (
            "shop",
            "",
            False,
            "n1",
        )
        flow.client_conn.sockname = ("127.0.0.1", 15006)
        _, inbound = await pinned(feed, flow)
        assert (inbound.source, inbound.service, inbound.inbound) == ("", "shop", True)


async def test_without_policy_nothing_passes_and_the_text_says_what_to_do():
    feed = PolicyFeed()
    with loaded() as context:
        context.master.addons.add(feed)
        context.configure(feed, mesh_redis="redis://:secret@h:1/0")
        feed._store = Store("redis://:secret@h:1/0")
        feed.sync = Stub()
        flow, exchange = await pinned(feed)
        assert (flow.response.status_code, flow.response.headers["x-mesh-flag"]) == (503, "NP")
        assert flow.response.text == (
            "no policy: Redis at redis://:***@h:1/0 has given none yet and there is no cache;"
            " start Redis there, or name another with --set mesh_redis=URL\n"
        )
        assert (exchange.snapshot, exchange.flags) == (None, ["NP"])


async def test_a_refused_policy_at_the_start_is_told_to_callers():
    feed = PolicyFeed()
    with loaded() as context:
        context.master.addons.add(feed)
        feed.sync = Stub(error="refused revision 3: redis: web: nonsense")
        flow, _ = await pinned(feed)
        assert flow.response.text.startswith("no policy: refused revision 3: redis: web: nonsense; ")


async def test_an_answer_that_is_there_already_stands():
    feed = PolicyFeed()
    with loaded() as context:
        context.master.addons.add(feed)
        feed.sync = Stub()
        flow = make_flow()
        flow.response = make_answer(201)
        await pinned(feed, flow)
        assert flow.response.status_code == 201


async def test_requests_of_the_first_moments_wait_for_the_first_policy():
    feed = PolicyFeed()
    with loaded() as context:
        context.master.addons.add(feed)
        # Listening, but mitmproxy has not said that it runs.
        flow = make_flow()
        waiting = asyncio.ensure_future(feed.requestheaders(flow))
        await asyncio.sleep(0)
        assert exchange_of(flow) is None
        feed.sync = Stub(settled=False)
        feed._runs.set()
        await asyncio.sleep(0)
        assert exchange_of(flow) is None
        feed.sync.snapshot = EMPTY
        feed.sync.settled.set()
        await asyncio.wait_for(waiting, WITHIN)
        assert exchange_of(flow).snapshot is EMPTY
        assert flow.response is None


async def test_other_options_at_run_time_lead_to_another_redis(redis_url):
    async def change(name: str, body: str) -> None:
        store = Store(redis_url, name)
        text = f'{{"service":"web","respond":{{"body":"{body}"}}}}'
        await store.change(lambda stored: {"web": text}, author="", message="")
        await store.close()

    async def nodes(name: str) -> list[str]:
        store = Store(redis_url, name)
        try:
            return await store.node_ids()
        finally:
            await store.close()

    await change("one", "1")
    await change("two", "2")
    feed = PolicyFeed()
    with loaded(feed, mesh_redis=redis_url, mesh_name="one", mesh_node="n") as context:
        feed._stop(goodbye=False)
        feed.running()
        await asyncio.wait_for(feed.sync.settled.wait(), WITHIN)
        assert feed.sync.snapshot.services["web"].own.respond.body == b"1"
        async with asyncio.timeout(WITHIN):
            while not feed.sync.connected:
                await asyncio.sleep(0.005)
        context.configure(feed, mesh_name="two", mesh_node="m")
        await asyncio.wait_for(feed.sync.settled.wait(), WITHIN)
        assert feed.sync.snapshot.services["web"].own.respond.body == b"2"
        async with asyncio.timeout(WITHIN):
            while await nodes("two") != ["m"]:
                await asyncio.sleep(0.005)
        # It has left the first one by the name it had there.
        async with asyncio.timeout(WITHIN):
            while await nodes("one"):
                await asyncio.sleep(0.005)


async def test_the_next_instance_goes_on_with_the_policy_of_the_last():
    """At a reload of the script, also when Redis is away just then."""
    url = f"redis://127.0.0.1:{free_port()}"
    first = PolicyFeed()
    with loaded(first, mesh_redis=url, mesh_name="kept") as context:
        first._stop(goodbye=False)
        first.running()
        first.sync.snapshot = before = snapshot("service: web\nrespond: {body: x}", revision=4)
        first.done()
        second = PolicyFeed()
        second.running()
        assert second.sync.snapshot is before
        assert second.node == first.node
        second.done()
        # Of another mesh it would be wrong.
        context.options.update(mesh_name="another")
        third = PolicyFeed()
        third.running()
        assert third.sync.snapshot is None
        third.done()


def test_the_nodes_name_tells_host_and_process():
    name = policy_feed.default_node()
    assert name == policy_feed.default_node()
    assert re.fullmatch(r"[A-Za-z0-9._-]+-\d+-[0-9a-f]{6}", name)


async def test_inbound_the_source_is_the_one_that_the_certificate_proves():
    with loaded() as context:
        feed = PolicyFeed()
        context.master.addons.add(feed)
        flow = make_flow()
        flow.client_conn.sockname = ("127.0.0.1", 15006)
        context.options.update(mesh_inbound=["15006"], mesh_service="reviews")
        feed.sync = Stub(EMPTY)
        _, exchange = await pinned(feed, flow)
        assert (exchange.peer, exchange.source, exchange.tls) == ("", "", "")
        note_peer(flow.client_conn, Peer("spiffe://mesh/service/web", "web", "TLSv1.3", b"URI=x"))
        _, exchange = await pinned(feed, flow)
        assert (exchange.peer, exchange.source) == ("spiffe://mesh/service/web", "web")
        assert exchange.tls == "TLSv1.3"
