"""Hooks that have nothing to do for an exchange are not called for it; all others are, in their order."""

import asyncio
from types import SimpleNamespace

import pytest
from mitmproxy.master import Master
from mitmproxy.options import Options

from addons.engine.hooks import HookTable
from addons.engine.marks import beside_others, elsewhere, wanted_if

wants_a = wanted_if(lambda subject: isinstance(subject, str | list) and "a" in subject)
wants_b = wanted_if(lambda subject: isinstance(subject, str | list) and "b" in subject)


class Plain:
    def __init__(self, name, log):
        self.name = name
        self.log = log

    def mesh_event(self, *args):
        self.log.append(self.name)


class ForA(Plain):
    @wants_a
    def mesh_event(self, *args):
        self.log.append(self.name)


class ForB(Plain):
    @wants_b
    async def mesh_event(self, *args):
        await asyncio.sleep(0)
        self.log.append(self.name)


class Elsewhere(Plain):
    @elsewhere
    def mesh_event(self, *args):
        self.log.append(self.name)


@pytest.fixture
def manager():
    loop = asyncio.new_event_loop()
    yield Master(Options(), event_loop=loop).addons
    loop.close()


@pytest.fixture
def log():
    return []


@pytest.mark.parametrize(
    ("subject", "called"),
    [
        ("", ["plain", "end"]),
        ("a", ["plain", "a", "end"]),
        ("b", ["plain", "b", "end"]),
        ("ab", ["plain", "a", "b", "end"]),
    ],
)
async def test_only_what_is_wanted_is_called(manager, log, subject, called):
    manager.add(Plain("plain", log), ForA("a", log), ForB("b", log), Plain("end", log))
    await HookTable(manager).narrowed(subject).trigger("mesh_event")
    assert log == called


async def test_only_the_engine_leaves_out_what_is_elsewhere(manager, log):
    manager.add(Plain("plain", log), Elsewhere("other", log))
    table = HookTable(manager)
    for hooks in (table, table.engine, table.narrowed(""), table.engine.narrowed("")):
        await hooks.trigger("mesh_event")
        log.append("|")
    assert log == ["plain", "other", "|", "plain", "|", "plain", "other", "|", "plain", "|"]


class BesideOthers(Plain):
    @beside_others
    def mesh_event(self, *args):
        self.log.append(self.name)


class Acting:
    """As an addon of a user's."""

    def response(self, flow):
        pass


class ActingForMitmproxy(Acting):
    def response(self, flow):
        pass


ActingForMitmproxy.response.__module__ = "mitmproxy.addons.save"


async def test_what_is_beside_others_is_left_out_where_there_are_none(manager, log):
    other, own = Acting(), ActingForMitmproxy()
    manager.add(BesideOthers("beside", log), Plain("plain", log), own)
    table = HookTable(manager)
    for change in (lambda: None, lambda: manager.add(other), lambda: manager.remove(other)):
        change()
        for hooks in (table, table.engine):
            await hooks.trigger("mesh_event")
        log.append("|")
    assert log == ["plain", "plain", "|", "beside", "plain", "beside", "plain", "|", "plain", "plain", "|"]


def test_what_is_narrowed_is_compiled_once_and_again_when_addons_change(manager, log):
    subject = ["a"]
    manager.add(ForA("a", log))
    table = HookTable(manager)
    narrowed = table.engine.narrowed(subject)
    assert table.engine.narrowed(subject) is narrowed
    assert table.engine.narrowed(["a", "more"]) is narrowed, "those that want the same share it"
    assert table.engine.narrowed(["b"]) is not narrowed
    compiled = narrowed.find("mesh_event")
    assert narrowed.find("mesh_event") is compiled
    late = Plain("late", log)
    manager.add(late)
    assert len(narrowed.find("mesh_event")) == 2
    manager.remove(late)
    assert [hook.__self__.name for hook in narrowed.find("mesh_event")] == ["a"]
    manager.clear()
    assert narrowed.find("mesh_event") == ()


def test_what_was_narrowed_can_be_narrowed_to_something_else(manager, log):
    manager.add(ForA("a", log), ForB("b", log))
    narrowed = HookTable(manager).engine.narrowed("a")
    assert [hook.__self__.name for hook in narrowed.narrowed("b").find("mesh_event")] == ["b"]


def test_more_subjects_than_are_remembered_are_still_told_apart(manager, log, monkeypatch):
    monkeypatch.setattr("addons.engine.narrowed_hooks._MOST_SUBJECTS", 3)
    manager.add(ForA("a", log), ForB("b", log))
    table = HookTable(manager)
    subjects = [["a"], ["b"], ["a", "b"], [], ["a"]]
    for _ in range(2):
        found = [len(table.narrowed(subject).find("mesh_event")) for subject in subjects]
        assert found == [1, 1, 2, 0, 1]


def test_the_marks_of_addons_that_are_not_made_of_methods(manager, log):
    addon = SimpleNamespace(mesh_event=wants_a(lambda: log.append("called")), name="function")
    manager.add(addon)
    table = HookTable(manager)
    table.narrowed("b").run("mesh_event")
    assert log == []
    table.narrowed("a").run("mesh_event")
    assert log == ["called"]
