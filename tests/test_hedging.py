"""The race of one request's tries, with tries and time in the test's hand."""

import asyncio

import pytest

from addons.deadline import Deadline
from addons.engine.hooks import HookTable
from addons.exchange import Attempt
from addons.hedging import CANCELLED, Race
from addons.retry import Retry
from addons.routing import Routing
from control.policy.answers import FixedAnswer
from control.policy.retrying import CompiledHedge
from tests.engine_proxy import until
from tests.flows import make_flow, pinned

GOOD, BAD = FixedAnswer(200, (), b"good"), FixedAnswer(503, (), b"bad")
SOON, NEVER = 0.0001, 3600.0


class Addons:
    def __init__(self, *chain: object) -> None:
        self.chain = list(chain)
        self.lookup: dict[str, object] = {}


class Tries:
    """A race whose tries end when the test says so."""

    def __init__(
        self, after: float = SOON, most: int = 2, attempts: int = 3, budget: str = "", places: int = 99
    ):
        policy = (
            f"service: web\nretry: {{attempts: {attempts}, on: [5xx], backoff: {{base: 0, max: 0}},"
            f" hedge: {{after: 1s, max: 2}}{budget}}}"
        )
        self.flow = make_flow()
        self.exchange = pinned(self.flow, policy)
        Routing().request(self.flow)
        self.retry = Retry()
        self.deadline = Deadline(asyncio.get_running_loop())
        self.places = places
        self.ends: dict[int, asyncio.Future] = {}
        self.own: dict[int, Deadline] = {}
        hooks = HookTable(Addons(self.retry))
        self.race = Race(
            self.flow,
            self.exchange,
            self.deadline,
            CompiledHedge(after, most),
            self.retry,
            hooks,
            self._begin,
            None,
            lambda: True,
            self._send,
        )
        self.task = asyncio.ensure_future(self._run(hooks))

    async def _run(self, hooks: HookTable):
        try:
            return await self.race.run()
        finally:
            hooks.run("mesh_forwarded", self.flow)

    def _begin(self):
        if len(self.exchange.attempts) >= self.places:
            return None
        attempt = Attempt(len(self.exchange.attempts) + 1, None, "10.0.0.1", 80)
        self.exchange.attempts.append(attempt)
        return attempt

    async def _send(self, attempt, own: Deadline):
        end = self.ends[attempt.number] = asyncio.get_running_loop().create_future()
        self.own[attempt.number] = own
        outcome = await end
        attempt.status = outcome.status
        return outcome

    async def under_way(self, *numbers: int) -> None:
        await until(lambda: set(numbers) <= self.ends.keys())

    def end(self, number: int, outcome: FixedAnswer) -> None:
        self.ends[number].set_result(outcome)

    def told(self) -> list:
        return [(attempt.number, attempt.error or attempt.status) for attempt in self.exchange.attempts]

    def settled(self) -> bool:
        """Nothing is counted as running any more."""
        return not self.retry._requests and not self.retry._retries


async def test_one_that_answers_in_time_is_alone():
    tries = Tries(after=NEVER)
    await tries.under_way(1)
    tries.end(1, GOOD)
    assert await tries.task == (tries.exchange.attempts[0], GOOD)
    assert tries.told() == [(1, 200)]
    assert tries.settled()


@pytest.mark.parametrize(
    ("winner", "told"), [(1, [(2, CANCELLED), (1, 200)]), (2, [(1, CANCELLED), (2, 200)])]
)
async def test_the_first_good_one_wins(winner, told):
    tries = Tries()
    await tries.under_way(1, 2)
    tries.end(winner, GOOD)
    attempt, outcome = await tries.task
    assert (attempt.number, outcome) == (winner, GOOD)
    assert tries.told() == told
    await until(tries.ends[3 - winner].cancelled)
    assert tries.settled()
    assert tries.exchange.flags == []


async def test_no_more_at_once_than_that_and_no_more_in_all():
    tries = Tries(most=2, attempts=3)
    await tries.under_way(1, 2)
    for _ in range(20):
        await asyncio.sleep(SOON)
    assert set(tries.ends) == {1, 2}
    tries.end(2, BAD)
    await tries.under_way(3)
    tries.end(3, BAD)
    for _ in range(20):
        await asyncio.sleep(SOON)
    assert set(tries.ends) == {1, 2, 3}
    assert not tries.task.done()
    tries.end(1, BAD)
    attempt, outcome = await tries.task
    assert (attempt.number, outcome, tries.exchange.flags) == (1, BAD, ["URX"])
    assert tries.told() == [(2, 503), (3, 503), (1, 503)]
    assert tries.settled()


async def test_alone_and_bad_it_is_tried_again_as_ever():
    tries = Tries(after=NEVER, attempts=2)
    await tries.under_way(1)
    tries.end(1, BAD)
    await tries.under_way(2)
    tries.end(2, GOOD)
    attempt, outcome = await tries.task
    assert (attempt.number, outcome) == (2, GOOD)
    assert tries.told() == [(1, 503), (2, 200)]
    assert tries.settled()


async def test_two_that_end_in_the_same_moment():
    tries = Tries()
    await tries.under_way(1, 2)
    tries.end(1, BAD)
    tries.end(2, GOOD)
    attempt, outcome = await tries.task
    assert (attempt.number, outcome) == (2, GOOD)
    assert tries.settled()


async def test_the_budget_stops_it():
    tries = Tries(budget=", budget: {percent: 0, min_concurrent: 0}")
    await tries.under_way(1)
    for _ in range(20):
        await asyncio.sleep(SOON)
    assert set(tries.ends) == {1}
    tries.end(1, BAD)
    assert (await tries.task)[1] is BAD
    assert tries.exchange.flags == ["URX"]
    assert tries.settled()


@pytest.mark.parametrize("places", [0, 1])
async def test_where_there_is_no_endpoint(places):
    tries = Tries(places=places)
    if not places:
        assert await tries.task is None
        return
    await tries.under_way(1)
    for _ in range(20):
        await asyncio.sleep(SOON)
    tries.end(1, GOOD)
    assert (await tries.task)[1] is GOOD
    assert tries.settled()


@pytest.mark.parametrize("how", ["expired", "left", "thrown"])
async def test_all_end_with_the_exchange(how):
    tries = Tries()
    await tries.under_way(1, 2)
    if how == "thrown":
        tries.task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await tries.task
    else:
        if how == "expired":
            tries.deadline.start(0)
        else:
            tries.deadline.abandon()
        _, outcome = await tries.task
        assert outcome is None
    await until(lambda: all(end.cancelled() for end in tries.ends.values()))
    error = CANCELLED if how == "thrown" else "timeout"
    assert tries.told() == [(1, error), (2, error)]
    assert tries.settled()


async def test_the_timeout_of_the_exchange_holds_for_each_try():
    tries = Tries()
    await tries.under_way(1, 2)
    assert tries.own[1]._expiry is None
    tries.end(1, GOOD)
    await tries.task
    deadline = Deadline(asyncio.get_running_loop())
    deadline.start(NEVER)
    assert deadline.child()._expiry == deadline._expiry
