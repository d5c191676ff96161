"""Asks Redis about rate limits that all proxies share, many requests in one question.

The requests of one turn of the event loop go together, and those that find enough questions under way wait for the next: so
a request waits for one round trip as a rule, and however many there are, few connections serve them. Where Redis does not
answer in time, nobody waits: for a while the answer is "unknown", and then one question tries anew.
"""

import asyncio
import logging
from collections.abc import Callable

from control.policy.rate_limiting import CompiledRateLimit
from control.store import Store, StoreError, Wanted

logger = logging.getLogger("mesh.rate_limit")

LONGEST_WAIT = 0.25
"""Seconds that a request waits at most for Redis."""
AWAY = 1.0
"""Seconds until Redis is asked again after it failed to answer."""
MOST_QUESTIONS = 8
"""Questions under way at once."""

Verdict = int | None
"""Microseconds to wait; 0: the request passes. None: nobody could tell."""


class _Asked:
    """The requests that wait for one bucket."""

    __slots__ = ("limit", "waiting")

    def __init__(self, limit: CompiledRateLimit) -> None:
        self.limit = limit
        self.waiting: list[asyncio.Future[Verdict]] = []


class SharedLimits:
    """`store`: the Redis to ask; None while there is none. `unanswered`: requests that nobody could tell anything about."""

    def __init__(self, store: Callable[[], Store | None]) -> None:
        self._store = store
        self.unanswered = 0
        self._next: dict[str, _Asked] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._leaving = False
        self._under_way = 0
        self._away_until = 0.0
        self._failing = False
        self._tasks: set[asyncio.Task[None]] = set()

    def ask(self, limit: CompiledRateLimit, bucket: str) -> "asyncio.Future[Verdict]":
        """May one request more be counted in this bucket?"""
        loop = self._loop
        if loop is None:
            loop = self._loop = asyncio.get_running_loop()
        future: asyncio.Future[Verdict] = loop.create_future()
        if self._failing and loop.time() < self._away_until:
            self.unanswered += 1
            future.set_result(None)
            return future
        asked = self._next.get(bucket)
        if asked is None:
            asked = self._next[bucket] = _Asked(limit)
        asked.waiting.append(future)
        if not self._leaving:
            self._leaving = True
            loop.call_soon(self._leave)
        return future

    def _leave(self) -> None:
        """Send what has gathered, unless enough is under way already."""
        self._leaving = False
        if not self._next or self._under_way >= (1 if self._failing else MOST_QUESTIONS):
            return
        assert self._loop is not None
        batch, self._next = self._next, {}
        self._under_way += 1
        question = _Question(batch)
        question.timer = self._loop.call_later(LONGEST_WAIT, self._late, question)
        task = self._loop.create_task(self._send(question), name="mesh rate limits")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _send(self, question: "_Question") -> None:
        store = self._store()
        try:
            if store is None:
                raise StoreError("there is no Redis to ask")
            batch = question.batch
            granted = await store.take(
                [
                    Wanted(
                        bucket, asked.limit.cost, asked.limit.rate, asked.limit.capacity, len(asked.waiting)
                    )
                    for bucket, asked in batch.items()
                ]
            )
        except Exception as error:
            if not question.over:
                self._fail(question, str(error))
            return
        if question.over:
            return
        self._end(question)
        if self._failing:
            self._failing = False
            logger.info("rate limits of the mesh are counted again")
        for asked, (passed, wait) in zip(batch.values(), granted, strict=True):
            for index, future in enumerate(asked.waiting):
                if not future.done():
                    future.set_result(0 if index < passed else max(1, wait))
        self._leave()

    def _late(self, question: "_Question") -> None:
        self._fail(question, f"no answer within {LONGEST_WAIT:g} s")

    def _fail(self, question: "_Question", reason: str) -> None:
        self._end(question)
        assert self._loop is not None
        if not self._failing:
            self._failing = True
            logger.warning(
                f"rate limits of the mesh are not counted: {reason}; asking again every {AWAY:g} s"
            )
        self._away_until = self._loop.time() + AWAY
        waiting, self._next = self._next, {}
        for asked in (*question.batch.values(), *waiting.values()):
            for future in asked.waiting:
                if not future.done():
                    self.unanswered += 1
                    future.set_result(None)

    def _end(self, question: "_Question") -> None:
        question.over = True
        if question.timer is not None:
            question.timer.cancel()
        self._under_way -= 1


class _Question:
    """One round trip. over: nobody waits for its answer any more."""

    __slots__ = ("batch", "over", "timer")

    def __init__(self, batch: dict[str, _Asked]) -> None:
        self.batch = batch
        self.over = False
        self.timer: asyncio.TimerHandle | None = None
