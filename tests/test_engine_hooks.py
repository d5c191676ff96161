"""The compiled hooks do what mitmproxy's own dispatch does, but for one thing: no hook is skipped for another's error."""

import asyncio
import functools
import logging
import traceback
import types

import pytest
from mitmproxy import addonmanager, exceptions
from mitmproxy import hooks as mitmproxy_hooks
from mitmproxy.addons import script
from mitmproxy.master import Master
from mitmproxy.options import Options
from mitmproxy.test import taddons

from addons.engine.hooks import HookTable


class Note:
    """An addon that writes down its calls."""

    def __init__(self, name, log, addons=None):
        self.name = name
        self.log = log
        if addons is not None:
            self.addons = addons

    def mesh_event(self, *args):
        self.log.append((self.name, *args))

    update = mesh_event  # an event that mitmproxy itself can trigger


class AsyncNote(Note):
    async def mesh_event(self, *args):
        self.log.append((self.name, *args))
        await asyncio.sleep(0)
        self.log.append((self.name, "later"))


class Failing(Note):
    def mesh_event(self, *args):
        raise RuntimeError(f"{self.name} failed")

    update = mesh_event


class AsyncFailing(Note):
    async def mesh_event(self, *args):
        await asyncio.sleep(0)
        raise RuntimeError(f"{self.name} failed")

    update = mesh_event


class Halting(Note):
    def mesh_event(self, *args):
        raise exceptions.AddonHalt


class AsyncHalting(Note):
    async def mesh_event(self, *args):
        await asyncio.sleep(0)
        raise exceptions.AddonHalt


class Deaf:
    """An addon without the hook."""


@pytest.fixture
def manager():
    loop = asyncio.new_event_loop()
    yield Master(Options(), event_loop=loop).addons
    loop.close()


@pytest.fixture
def log():
    return []


def test_hooks_run_in_the_order_of_the_chain_nested_ones_after_their_holder(manager, log):
    inner = [Note("inner", log), Note("last", log)]
    manager.add(Note("first", log), Deaf(), Note("outer", log, inner), Note("end", log))
    assert HookTable(manager).run("mesh_event", 1, 2) is None
    assert log == [(name, 1, 2) for name in ("first", "outer", "inner", "last", "end")]


def test_an_event_that_nobody_hears_costs_nothing(manager):
    table = HookTable(manager)
    assert table.find("nothing") == ()
    assert table.run("nothing", 1) is None


async def test_async_hooks_are_awaited_in_their_place(manager, log):
    manager.add(Note("a", log), AsyncNote("b", log), Note("c", log), AsyncNote("d", log))
    rest = HookTable(manager).run("mesh_event")
    assert log == [("a",)]
    assert rest is not None
    await rest
    assert log == [("a",), ("b",), ("b", "later"), ("c",), ("d",), ("d", "later")]


async def test_a_plain_function_may_return_something_to_await(manager, log):
    async def later():
        log.append("later")

    addon = types.SimpleNamespace(mesh_event=later, name="one")
    other = types.SimpleNamespace(mesh_event=functools.partial(later), name="two")
    manager.add(addon, other)
    await HookTable(manager).trigger("mesh_event")
    assert log == ["later", "later"]


@pytest.mark.parametrize("failing", [Failing, AsyncFailing])
async def test_an_exception_is_logged_as_mitmproxy_does_and_skips_nobody(manager, log, caplog, failing):
    manager.add(Note("outer", log, [failing("bad", log), Note("sibling", log)]), Note("end", log))
    with caplog.at_level(logging.ERROR):
        await HookTable(manager).trigger("update", [])
    assert log == [("outer", []), ("sibling", []), ("end", [])]
    ours = caplog.records[-1]
    caplog.clear()
    await manager.trigger_event(mitmproxy_hooks.UpdateHook([]))
    theirs = caplog.records[-1]
    assert (ours.name, ours.levelno, ours.getMessage()) == (theirs.name, theirs.levelno, theirs.getMessage())
    assert ours.getMessage() == "Addon error: bad failed"
    frames = [(frame.filename, frame.lineno) for frame in _frames(ours)]
    assert frames == [(frame.filename, frame.lineno) for frame in _frames(theirs)]


def _frames(record):
    return traceback.extract_tb(record.exc_info[2])


@pytest.mark.parametrize("halting", [Halting, AsyncHalting])
async def test_halt_ends_the_event(manager, log, halting):
    manager.add(Note("first", log), halting("halt", log), Note("never", log))
    await HookTable(manager).trigger("mesh_event")
    assert log == [("first",)]


async def test_cancelling_is_no_addon_error(manager, log, caplog):
    class Waiting(Note):
        async def mesh_event(self):
            await asyncio.Event().wait()

    manager.add(Waiting("waiting", log), Note("never", log))
    task = asyncio.ensure_future(HookTable(manager).trigger("mesh_event"))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert log == []
    assert not caplog.records


def test_the_table_is_compiled_once_and_again_when_addons_change(manager, log):
    first = Note("first", log)
    manager.add(first)
    table = HookTable(manager)
    compiled = table.find("mesh_event")
    assert len(compiled) == 1
    assert table.find("mesh_event") is compiled
    manager.add(Note("second", log))
    assert len(table.find("mesh_event")) == 2
    manager.remove(first)
    assert [hook.__self__.name for hook in table.find("mesh_event")] == ["second"]
    manager.clear()
    assert table.find("mesh_event") == ()
    manager.add(Note("third", log))
    assert [hook.__self__.name for hook in table.find("mesh_event")] == ["third"]


def test_two_tables_see_the_same_changes(manager, log):
    tables = [HookTable(manager), HookTable(manager)]
    for count in (1, 2, 3):
        manager.add(Note(str(count), log))
        assert [len(table.find("mesh_event")) for table in tables] == [count, count]


async def test_a_reloaded_script_is_seen(tmp_path):
    path = tmp_path / "mine.py"
    seen = []
    with taddons.context() as context:
        path.write_text("def mesh_event(seen): seen.append('one')")
        loader = script.Script(str(path), True)
        loader.reloadtask.cancel()
        context.master.addons.add(loader)
        loader.loadscript()
        table = HookTable(context.master.addons)
        table.run("mesh_event", seen)
        path.write_text("class A:\n  def mesh_event(self, seen): seen.append('two')\naddons = [A()]")
        loader.loadscript()
        table.run("mesh_event", seen)
        path.write_text("this is no Python")
        loader.loadscript()
        table.run("mesh_event", seen)
    assert seen == ["one", "two"]


def test_after_refresh_a_new_method_of_a_live_addon_is_seen(manager, log):
    addon = Deaf()
    manager.add(addon)
    table = HookTable(manager)
    assert table.find("mesh_event") == ()
    addon.mesh_event = lambda: None
    table.refresh()
    assert table.find("mesh_event") == (addon.mesh_event,)


def test_what_only_looks_like_a_hook_is_left_out(manager, log, caplog):
    module = types.SimpleNamespace(mesh_event=logging, name="module")
    wrong = types.SimpleNamespace(mesh_event="text", name="wrong")
    manager.add(module, wrong, Note("right", log))
    table = HookTable(manager)
    table.run("mesh_event")
    table.run("mesh_event")
    assert log == [("right",), ("right",)]
    assert len([each for each in caplog.records if "not callable" in each.getMessage()]) == 1


def test_the_manager_still_finds_its_addons_by_name(manager, log):
    addon = Note("mine", log)
    HookTable(manager).find("mesh_event")
    manager.add(addon)
    assert manager.get("mine") is addon
    assert addon in manager
    with pytest.raises(exceptions.AddonManagerError):
        manager.add(Note("mine", log))
    assert isinstance(manager, addonmanager.AddonManager)
