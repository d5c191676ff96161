"""Coroutines stepped without a task: waits, throws, ends; foreign ones in a task of their own."""

import asyncio

import pytest

from addons.engine.driver import Direct, Driver, SelfMade, is_direct, isolated, needs_task, taskless
from addons.engine.errors import ClientGone
from tests.engine_peers import on_both_loops, settled
from tests.engine_proxy import until


class Driven:
    """A driver, and how its coroutine ended."""

    def __init__(self, coroutine) -> None:
        self.ends: list[BaseException | None] = []
        self.driver = Driver(coroutine, self.ends.append)
        self.driver.start()


@on_both_loops
async def test_what_waits_for_nothing_runs_at_once():
    async def work():
        done.append(asyncio.current_task())

    done = []
    assert Driven(work()).ends == [None]
    assert len(done) == 1


@on_both_loops
async def test_it_waits_for_futures_in_turn():
    loop = asyncio.get_running_loop()
    futures = [loop.create_future() for _ in range(3)]
    got = []

    async def work():
        for future in futures:
            result = await future
            got.append(result)
        await asyncio.sleep(0)
        got.append("slept")

    driven = Driven(work())
    for number, future in enumerate(futures):
        assert got == list(range(number))
        future.set_result(number)
        await settled()
    assert got == [0, 1, 2, "slept"]
    assert driven.ends == [None]


@on_both_loops
async def test_it_waits_for_a_future_that_is_done_and_for_one_that_fails():
    loop = asyncio.get_running_loop()
    done, failed, cancelled = (loop.create_future() for _ in range(3))
    done.set_result(1)
    got = []

    async def work():
        got.append(await done)
        for future in (failed, cancelled):
            try:
                await future
            except BaseException as error:
                got.append(type(error))

    driven = Driven(work())
    await settled()
    failed.set_exception(LookupError())
    await settled()
    cancelled.cancel()
    await settled()
    assert got == [1, LookupError, asyncio.CancelledError]
    assert driven.ends == [None]


@on_both_loops
async def test_what_it_raises_is_told():
    async def work():
        raise LookupError("no luck")

    (error,) = Driven(work()).ends
    assert isinstance(error, LookupError)


@on_both_loops
async def test_a_throw_reaches_it_where_it_waits_and_the_wait_is_forgotten():
    loop = asyncio.get_running_loop()
    first, second = loop.create_future(), loop.create_future()
    got = []

    async def work():
        try:
            await first
        except LookupError:
            got.append("caught")
        got.append(await second)

    driven = Driven(work())
    driven.driver.throw(LookupError())
    assert got == ["caught"]
    first.set_result("late")
    await settled()
    assert got == ["caught"]
    second.set_result("second")
    await settled()
    assert got == ["caught", "second"]
    assert driven.ends == [None]
    driven.driver.throw(LookupError())
    assert driven.ends == [None]


@on_both_loops
async def test_a_throw_between_a_result_and_its_telling_wins():
    future = asyncio.get_running_loop().create_future()
    got = []

    async def work():
        try:
            got.append(await future)
        finally:
            got.append("left")

    driven = Driven(work())
    future.set_result("result")
    driven.driver.throw(asyncio.CancelledError())
    await settled()
    assert got == ["left"]
    assert isinstance(driven.ends[0], asyncio.CancelledError)


@on_both_loops
async def test_a_throw_at_what_runs_right_now_is_nothing():
    async def work():
        driven.append("running")
        Driven.current.throw(LookupError())

    driven = []
    ends: list = []
    Driven.current = Driver(work(), ends.append)
    Driven.current.start()
    assert ends == [None]


@on_both_loops
async def test_what_is_no_future_is_refused():
    class Odd:
        def __await__(self):
            yield "odd"

    async def work():
        await Odd()

    with pytest.raises(RuntimeError, match="'odd'"):
        Driver(work(), lambda error: None).start()


@on_both_loops
async def test_only_what_is_driven_and_unmarked_needs_a_task():
    seen = []

    async def foreign():
        pass

    @taskless
    async def ours():
        pass

    async def work():
        seen.append((needs_task(foreign), needs_task(ours)))
        await asyncio.sleep(0)
        seen.append((needs_task(foreign), needs_task(ours)))

    Driven(work())
    assert not needs_task(foreign)
    await settled()
    assert seen == [(True, False)] * 2
    await work()
    assert seen[2:] == [(False, False)] * 2


class Bound:
    @taskless
    async def hook(self):
        pass


def test_methods_can_be_marked():
    assert not needs_task(Bound().hook)


@on_both_loops
async def test_isolated_runs_in_a_task():
    got = []

    async def foreign():
        async with asyncio.timeout(5):
            await asyncio.sleep(0)
        got.append(asyncio.current_task())
        return 7

    async def work():
        got.append(await isolated(foreign()))

    driven = Driven(work())
    await settled()
    assert got[0] is not None
    assert got[1] == 7
    assert driven.ends == [None]


@on_both_loops
async def test_isolated_passes_on_what_is_raised():
    async def foreign():
        raise LookupError("no luck")

    async def work():
        await isolated(foreign())

    driven = Driven(work())
    await settled()
    assert isinstance(driven.ends[0], LookupError)


@pytest.mark.parametrize("stubborn", [False, True])
@on_both_loops
async def test_what_is_isolated_is_cancelled_and_waited_for(stubborn):
    got = []
    future = asyncio.get_running_loop().create_future()

    async def foreign():
        try:
            await future
        except asyncio.CancelledError:
            await asyncio.sleep(0.01)
            got.append("cleaned up")
            if not stubborn:
                raise

    async def work():
        await isolated(foreign())

    driven = Driven(work())
    await settled()
    gone = asyncio.CancelledError("gone")
    driven.driver.throw(gone)
    await settled()
    assert not driven.ends
    await until(lambda: driven.ends)
    assert got == ["cleaned up"]
    assert driven.ends == [gone]


@pytest.mark.parametrize("asked", [True, False])
@on_both_loops
async def test_a_cancellation_that_nobody_asked_for_can_be_told_from_others(asked):
    waiting = []

    async def foreign():
        waiting.append(asyncio.current_task())
        if asked:
            await asyncio.Event().wait()
        raise asyncio.CancelledError

    async def work():
        await isolated(foreign())

    driven = Driven(work())
    await settled()
    if asked:
        waiting[0].cancel()
        await settled()
    assert type(driven.ends[0]) is (asyncio.CancelledError if asked else SelfMade)


@on_both_loops
async def test_a_client_that_leaves_wins_over_a_cancellation():
    gone, task = ClientGone("gone"), asyncio.get_running_loop().create_future()

    async def work():
        await isolated(task)

    driven = Driven(work())
    task.cancel()
    driven.driver.throw(gone)
    await settled()
    assert driven.ends == [gone]


class Told(Direct):
    """Done when somebody says so."""

    def __init__(self):
        self.callback = None

    def then(self, callback):
        self.callback = callback

    def __await__(self):
        yield self


async def test_what_is_direct_goes_on_at_once():
    waiting, log = Told(), []

    async def work():
        log.append(is_direct(asyncio.get_running_loop()))
        await waiting
        log.append("on")

    task = asyncio.current_task()
    # As from a callback of the loop, where no task runs.
    asyncio.tasks._leave_task(asyncio.get_running_loop(), task)
    try:
        driver = Driver(work(), log.append)
        driver.start()
        assert log == [True]
        waiting.callback(waiting)
    finally:
        asyncio.tasks._enter_task(asyncio.get_running_loop(), task)
    assert log == [True, "on", None]
    assert driver.finished


async def test_a_task_is_never_given_what_is_direct():
    log = []

    async def inner():
        log.append(is_direct(asyncio.get_running_loop()))

    async def work():
        # Begins to run here and now where tasks are eager, as mitmproxy's are from Python 3.12 on.
        log.append(asyncio.get_running_loop().create_task(inner()))

    loop = asyncio.get_running_loop()
    if hasattr(asyncio, "eager_task_factory"):
        loop.set_task_factory(asyncio.eager_task_factory)
    Driver(work(), lambda error: None).start()
    await asyncio.sleep(0)
    loop.set_task_factory(None)
    assert False in log
    assert True not in log
