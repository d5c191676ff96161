"""Rate limits that all proxies share: what is asked together, and what happens when Redis does not answer."""

import asyncio
import logging

import pytest

from addons import shared_limits
from addons.shared_limits import SharedLimits
from control.policy.rate_limiting import compile_rate_limit
from control.policy.rates import RateLimit
from control.store import StoreError

LIMIT = compile_rate_limit(RateLimit.model_validate({"requests": 10, "per": "1s", "scope": "mesh"}), "web")


class FakeStore:
    """Each question waits until it is answered, by a number that pass or by an error."""

    def __init__(self):
        self.asked = []

    async def take(self, wanted):
        answer = asyncio.get_running_loop().create_future()
        self.asked.append(({each.bucket: each.count for each in wanted}, answer))
        passes = await answer
        if isinstance(passes, Exception):
            raise passes
        return [(min(each.count, passes), 7) for each in wanted]


@pytest.fixture
def store():
    return FakeStore()


@pytest.fixture
def limits(store):
    return SharedLimits(lambda: store)


async def turns(count=5):
    for _ in range(count):
        await asyncio.sleep(0)


async def test_the_requests_of_one_turn_are_one_question(store, limits):
    futures = [limits.ask(LIMIT, bucket) for bucket in ("a", "b", "a", "a")]
    await turns()
    ((batch, answer),) = store.asked
    assert batch == {"a": 3, "b": 1}
    answer.set_result(2)
    await turns()
    assert [future.result() for future in futures] == [0, 0, 0, 7]


async def test_a_later_request_does_not_wait_for_a_question_under_way(store, limits):
    first = limits.ask(LIMIT, "a")
    await turns()
    second = limits.ask(LIMIT, "a")
    await turns()
    assert len(store.asked) == 2
    store.asked[1][1].set_result(1)
    await turns()
    assert (second.result(), first.done()) == (0, False)


async def test_beyond_the_most_questions_requests_gather_for_the_next(store, limits, monkeypatch):
    monkeypatch.setattr(shared_limits, "MOST_QUESTIONS", 2)
    futures = []
    for _ in range(5):
        futures.append(limits.ask(LIMIT, "a"))
        await turns()
    assert [batch for batch, _ in store.asked] == [{"a": 1}, {"a": 1}]
    store.asked[0][1].set_result(1)
    await turns()
    assert store.asked[2][0] == {"a": 3}
    for _, answer in store.asked[1:]:
        answer.set_result(9)
    await turns()
    assert [future.result() for future in futures] == [0] * 5


async def test_an_error_answers_all_that_wait_and_for_a_while_all_others_at_once(store, limits, caplog):
    caplog.set_level(logging.INFO, "mesh.rate_limit")
    first = limits.ask(LIMIT, "a")
    await turns()
    second = limits.ask(LIMIT, "b")
    store.asked[0][1].set_result(StoreError("cannot use Redis: gone"))
    await turns()
    store.asked[1][1].set_result(StoreError("cannot use Redis: gone"))
    await turns()
    assert (first.result(), second.result()) == (None, None)
    third = limits.ask(LIMIT, "a")
    assert third.result() is None
    assert limits.unanswered == 3
    assert caplog.text.count("not counted") == 1
    assert "cannot use Redis: gone" in caplog.text

    limits._away_until = 0.0
    fourth = limits.ask(LIMIT, "a")
    await turns()
    fifth = limits.ask(LIMIT, "a")
    await turns()
    *_, (batch, answer) = store.asked
    assert batch == {"a": 1}, "one question tries whether Redis is back"
    answer.set_result(1)
    await turns()
    assert fourth.result() == 0
    store.asked[-1][1].set_result(1)
    await turns()
    assert fifth.result() == 0
    assert "counted again" in caplog.text


async def test_nobody_waits_longer_than_the_longest_wait(store, limits, monkeypatch):
    monkeypatch.setattr(shared_limits, "LONGEST_WAIT", 0.01)
    asked = limits.ask(LIMIT, "a")
    assert await asyncio.wait_for(asked, 20) is None
    # The answer that comes too late is nobody's.
    store.asked[0][1].set_result(1)
    await turns()
    assert limits.ask(LIMIT, "a").result() is None
    assert limits._under_way == 0


async def test_without_a_store_nobody_can_tell(limits):
    assert await SharedLimits(lambda: None).ask(LIMIT, "a") is None


async def test_a_request_whose_client_left_does_no_harm(store, limits):
    gone, stays = limits.ask(LIMIT, "a"), limits.ask(LIMIT, "a")
    await turns()
    gone.cancel()
    store.asked[0][1].set_result(2)
    await turns()
    assert stays.result() == 0
