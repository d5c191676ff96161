"""One timer for an exchange, on a clock that the test turns."""

import asyncio
import heapq
import itertools

import pytest

from addons.deadline import Deadline


class Loop:
    """The part of an event loop that a deadline uses; time passes when told."""

    def __init__(self) -> None:
        self.now = 100.0
        self._timers: list = []
        self._order = itertools.count()
        self.futures = asyncio.new_event_loop()

    def time(self) -> float:
        return self.now

    def call_at(self, when, callback, *args):
        handle = asyncio.TimerHandle(when, callback, args, self.futures)
        heapq.heappush(self._timers, (when, next(self._order), handle))
        return handle

    def call_later(self, delay, callback, *args):
        return self.call_at(self.now + delay, callback, *args)

    def create_future(self):
        return self.futures.create_future()

    def advance(self, seconds: float, early: float = 0.0) -> None:
        """Fire what is due, as much before its time as loops do."""
        end = self.now + seconds
        while self._timers and self._timers[0][0] <= end + 1e-9:
            when, _, handle = heapq.heappop(self._timers)
            if not handle.cancelled():
                self.now = max(self.now, when - early)
                handle._callback(*handle._args)
        self.now = end

    @property
    def waiting(self) -> int:
        return sum(not handle.cancelled() for _, _, handle in self._timers)


class Call:
    """A call that can be ended."""

    def __init__(self) -> None:
        self.head_seen = False
        self.error: Exception | None = None

    def cancel(self, error: Exception) -> None:
        self.error = error


@pytest.fixture
def loop():
    loop = Loop()
    yield loop
    loop.futures.close()


def drive(coroutine):
    """Start it; returns a function that says whether it has ended."""
    future = coroutine.send(None)

    def ended() -> bool:
        if future.done():
            with pytest.raises(StopIteration):
                coroutine.send(None)
            return True
        return False

    return ended


@pytest.mark.parametrize("early", [0.0, 0.001])
def test_it_ends_the_call_at_its_time(loop, early):
    deadline, call = Deadline(loop), Call()
    deadline.start(2)
    deadline.watch(call, None)
    loop.advance(1.9)
    assert call.error is None
    loop.advance(0.1, early)
    assert str(call.error) == "timeout: the request's timeout ran out"
    assert deadline.expired


def test_a_try_has_a_limit_of_its_own(loop):
    deadline, call = Deadline(loop), Call()
    deadline.start(10)
    deadline.watch(call, 1)
    loop.advance(1)
    assert str(call.error) == "timeout: no answer within 1 s"
    assert not deadline.expired
    deadline.answered(whole=True)
    again = Call()
    deadline.watch(again, 1)
    loop.advance(0.5)
    assert again.error is None


def test_the_limit_of_a_try_is_over_with_the_answers_head(loop):
    deadline, call = Deadline(loop), Call()
    deadline.start(5)
    deadline.watch(call, 1)
    call.head_seen = True
    loop.advance(4)
    assert call.error is None
    loop.advance(1)
    assert str(call.error) == "timeout: the request's timeout ran out"


def test_the_body_is_still_watched_after_the_answer(loop):
    deadline, call = Deadline(loop), Call()
    deadline.start(5)
    deadline.watch(call, 1)
    deadline.answered(whole=False)
    loop.advance(5)
    assert deadline.expired
    assert call.error is not None


def test_after_a_whole_answer_and_after_stop_nothing_happens(loop):
    for end in (lambda deadline: deadline.answered(whole=True), lambda deadline: deadline.stop()):
        deadline, call = Deadline(loop), Call()
        deadline.start(1)
        deadline.watch(call, 1)
        end(deadline)
        loop.advance(5)
        assert call.error is None
        assert loop.waiting == 0


def test_without_a_start_nothing_runs_out(loop):
    deadline, call = Deadline(loop), Call()
    deadline.watch(call, None)
    assert loop.waiting == 0
    ended = drive(deadline.sleep(3))
    loop.advance(2.9)
    assert not ended()
    loop.advance(0.1)
    assert ended()
    assert not deadline.expired


def test_a_pause_ends_with_the_time(loop):
    deadline = Deadline(loop)
    deadline.start(1)
    ended = drive(deadline.sleep(60))
    loop.advance(1)
    assert ended()
    assert deadline.expired
    assert loop.waiting == 0


def test_a_pause_without_end_can_be_ended_and_is_none_when_time_is_over(loop):
    deadline = Deadline(loop)
    ended = drive(deadline.sleep(None))
    loop.advance(1e6)
    assert not ended()
    deadline.wake()
    assert ended()
    deadline.start(0)
    assert deadline.expired
    with pytest.raises(StopIteration):
        deadline.sleep(None).send(None)


def test_a_client_that_left_ends_the_call_and_the_pause(loop):
    deadline, call = Deadline(loop), Call()
    deadline.watch(call, None)
    deadline.abandon()
    assert (deadline.abandoned, deadline.expired) == (True, True)
    assert call.error is not None
    deadline = Deadline(loop)
    ended = drive(deadline.sleep(None))
    deadline.abandon()
    assert ended()
