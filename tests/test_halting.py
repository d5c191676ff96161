"""Both lanes' dispatch: AddonHalt ends an event for the addons behind, the mesh's excepted; what fails ends it for nobody."""

import asyncio

import pytest
from mitmproxy import exceptions
from mitmproxy.hooks import all_hooks
from mitmproxy.master import Master
from mitmproxy.options import Options
from mitmproxy.proxy.layers.http import HttpRequestHook
from mitmproxy.test import tflow

from addons.chain import ahead, chain
from addons.engine.hooks import HookTable
from addons.engine.marks import is_of_the_mesh
from addons.fast_lane import FastLane
from addons.guard import Guard
from addons.halting import halt_others_only


class Addon:
    """Its name says what it does: `halts`, `fails`, `cancels`, `waits`; `mesh` is the mesh's, `later` is async."""

    def __init__(self, name, log):
        self.name = name
        log = log.append

        def act():
            log(name)
            if "halts" in name:
                raise exceptions.AddonHalt
            if "fails" in name:
                raise RuntimeError("on purpose")
            if "cancels" in name:
                raise asyncio.CancelledError

        def request(flow):
            act()

        async def request_later(flow):
            await asyncio.sleep(0)
            act()
            if "waits" in name:
                await asyncio.Event().wait()

        self.request = request_later if "later" in name else request
        self.__module__ = self.request.__module__ = "addons.feature" if "mesh" in name else "somebody.addon"


class Holder:
    """As a script that has addons."""

    name = "holder"

    def __init__(self, *inner):
        self.addons = list(inner)


CHAINS = {
    "a halts, b, mesh": "a halts, mesh",
    "a later halts, b, mesh": "a later halts, mesh",
    "mesh 1, a halts, b, mesh 2, c, mesh 3": "mesh 1, a halts, mesh 2, mesh 3",
    "a halts, mesh later, b, mesh": "a halts, mesh later, mesh",
    "a halts, mesh fails, b, mesh": "a halts, mesh fails, mesh",
    "a halts, b halts, mesh": "a halts, mesh",
    "a, mesh halts, b, mesh": "a, mesh halts",
    "a, mesh later halts, b, mesh": "a, mesh later halts",
    "a halts, mesh 1, mesh halts, mesh 2": "a halts, mesh 1, mesh halts",
    "a fails, b halts, mesh": "a fails, b halts, mesh",
    "a cancels, b, mesh": "a cancels, b, mesh",
    "a later cancels, b later, mesh": "a later cancels, b later, mesh",
    "a later fails, b, mesh": "a later fails, b, mesh",
    "mesh, a halts": "mesh, a halts",
    "a halts, b": "a halts",
    "a, b, mesh": "a, b, mesh",
}


@pytest.fixture
def manager():
    loop = asyncio.new_event_loop()
    yield Master(Options(), event_loop=loop).addons
    loop.close()


@pytest.mark.parametrize("lane", ["engine", "table", "mitmproxy's own"])
@pytest.mark.parametrize("chain", CHAINS)
@pytest.mark.parametrize("together", [1, 2])
async def test_the_mesh_hears_what_others_do_not(manager, chain, lane, together):
    log = []
    addons = [Addon(name, log) for name in chain.split(", ")]
    manager.add(Holder(*addons[:together]), *addons[together:])
    await event(manager, lane)
    assert ", ".join(log) == CHAINS[chain]


@pytest.mark.parametrize("lane", ["engine", "table", "mitmproxy's own"])
@pytest.mark.parametrize("last", ["a later waits", "a mesh later cancels"])
async def test_who_is_cancelled_ends_and_so_does_what_a_feature_has_not_finished(manager, last, lane):
    log = []
    manager.add(Addon(last, log), Addon("b", log))
    task = asyncio.ensure_future(event(manager, lane))
    while not log:
        await asyncio.sleep(0)
    if "waits" in last:
        task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert log == [last]


async def event(manager, lane):
    flow = tflow.tflow()
    if lane == "mitmproxy's own":
        halt_others_only(manager)
        await manager.trigger_event(HttpRequestHook(flow))
    else:
        hooks = HookTable(manager)
        await (hooks.engine if lane == "engine" else hooks).trigger("request", flow)


@pytest.mark.parametrize(
    "feature", [*ahead(), *chain(), FastLane(), Guard()], ids=lambda it: type(it).__name__
)
def test_every_feature_and_each_of_its_hooks_is_the_meshs(feature):
    assert is_of_the_mesh(feature)
    hooks = [name for name in dir(feature) if name in all_hooks or name.startswith("mesh_")]
    assert [name for name in hooks if not is_of_the_mesh(getattr(feature, name))] == []
