"""Timers that are shared: whoever waits is told in time, once, and not after it was taken out."""

import random
from types import SimpleNamespace

import pytest

from addons.timers import Timers, timers_of


class Loop:
    """A clock that is moved by hand, and its timers."""

    def __init__(self) -> None:
        self.now = 100.0
        self.timers: list[list] = []
        self.made = 0
        self.errors: list[Exception] = []

    def time(self):
        return self.now

    def call_at(self, at, callback):
        timer = [at, callback]
        self.timers.append(timer)
        self.made += 1

        def cancel():
            if timer in self.timers:
                self.timers.remove(timer)

        return SimpleNamespace(cancel=cancel)

    def call_exception_handler(self, context):
        self.errors.append(context["exception"])

    def go(self, seconds):
        end = self.now + seconds
        while due := [timer for timer in self.timers if timer[0] <= end]:
            timer = min(due, key=lambda timer: timer[0])
            self.timers.remove(timer)
            self.now = max(self.now, timer[0])
            timer[1]()
        self.now = end


class Waiting:
    def __init__(self, loop, at=0.0):
        self.loop = loop
        self.at = at
        self.told: list[float] = []

    def due(self):
        self.told.append(self.loop.now)


@pytest.fixture
def loop():
    return Loop()


def test_each_is_told_at_its_time_and_once(loop):
    timers = Timers(loop)
    entries = []
    for step in range(5):
        entry = Waiting(loop, loop.now + 1)
        timers.add(entry, entry.at, 1.0)
        entries.append(entry)
        loop.go(0.1 * step)
    loop.go(10)
    assert [entry.told for entry in entries] == [[pytest.approx(entry.at, abs=0.003)] for entry in entries]
    assert not loop.timers
    assert not timers.queues


def test_who_was_taken_out_is_not_told_and_costs_no_timer(loop):
    timers = Timers(loop)
    for _ in range(1000):
        entry = Waiting(loop)
        timers.add(entry, loop.now + 30, 30.0).pop(entry)
        loop.go(0.01)
    assert loop.made <= 2
    loop.go(60)
    assert not timers.queues


def test_those_that_come_out_of_order_are_told_in_time_too(loop):
    timers = Timers(loop)
    source = random.Random(5)
    entries = []
    for _ in range(300):
        entry = Waiting(loop, loop.now + source.uniform(0, 2))
        queue = timers.add(entry, entry.at, 2.0)
        if source.random() < 0.3:
            queue.pop(entry)
            entry.at = None
        entries.append(entry)
        loop.go(source.uniform(0, 0.05))
    loop.go(5)
    for entry in entries:
        assert entry.told == ([] if entry.at is None else [pytest.approx(entry.at, abs=0.003)])
    assert not timers.queues


def test_one_that_is_over_may_take_out_others_and_add_new_ones(loop):
    timers = Timers(loop)
    second, late = Waiting(loop), Waiting(loop)

    class First(Waiting):
        def due(self):
            super().due()
            queue.pop(second)
            timers.add(late, loop.now + 1, 1.0)

    first = First(loop)
    timers.add(first, loop.now + 1, 1.0)
    queue = timers.add(second, loop.now + 1, 1.0)
    loop.go(3)
    assert (first.told, second.told, late.told) == ([101.0], [], [pytest.approx(102.0, abs=0.003)])


def test_an_error_of_one_keeps_nobody_waiting(loop):
    timers = Timers(loop)

    class Failing(Waiting):
        def due(self):
            raise RuntimeError("failed on purpose")

    timers.add(Failing(loop), loop.now + 1, 1.0)
    other = Waiting(loop)
    timers.add(other, loop.now + 1, 1.0)
    loop.go(2)
    assert other.told
    assert [str(error) for error in loop.errors] == ["failed on purpose"]


def test_a_loop_has_timers_of_its_own(loop):
    assert timers_of(loop) is timers_of(loop)
    assert timers_of(Loop()) is not timers_of(loop)
