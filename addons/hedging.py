"""Asks another endpoint, too, where one takes long, and keeps the first good answer: the race of one request's tries."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Protocol

from mitmproxy import http

from addons.deadline import Deadline
from addons.engine.answer import Answer
from addons.engine.narrowed_hooks import Hooks
from addons.exchange import Attempt, Exchange
from control.policy.answers import FixedAnswer
from control.policy.retrying import CompiledHedge

Outcome = Answer | FixedAnswer | None
CANCELLED = "cancelled"
"""The error of an attempt that another one made needless: it tells nothing about its endpoint."""


class Judge(Protocol):
    """Who knows what may be sent again, and keeps the retry budget."""

    def hedge_of(self, flow: http.HTTPFlow, exchange: Exchange) -> CompiledHedge | None:
        """How this request may be hedged; None: not at all."""

    def may_hedge(self, flow: http.HTTPFlow, exchange: Exchange) -> bool:
        """Whether one more try may begin beside those under way; it is counted from here on as any retry."""

    def not_hedged(self, exchange: Exchange) -> None:
        """It did not begin after all."""


class Race:
    """The tries of one exchange, of which some may be under way at once.

    begin: gives the next attempt, or None where there is no endpoint. admitted: waits for a place among the service's limits
    where none is held, else answers the flow; room: whether the limits leave a place for one more at once. send: one try, within a deadline of its own. `mesh_attempt_end` runs for each attempt when it is over, and leaves its `why` empty if the outcome is good; `pause` is only asked for when
    no other is under way. Afterwards the attempts stand in the order in which they ended, the one that decided last.
    """

    def __init__(
        self,
        flow: http.HTTPFlow,
        exchange: Exchange,
        deadline: Deadline,
        hedge: CompiledHedge,
        judge: Judge,
        hooks: Hooks,
        begin: Callable[[], Attempt | None],
        admitted: Callable[[], Awaitable[bool]] | None,
        room: Callable[[], bool],
        send: Callable[[Attempt, Deadline], Awaitable[Outcome]],
    ) -> None:
        self._flow = flow
        self._exchange = exchange
        self._deadline = deadline
        self._hedge = hedge
        self._judge = judge
        self._hooks = hooks
        self._begin = begin
        self._admitted = admitted
        self._room = room
        self._send = send
        self._loop = asyncio.get_running_loop()
        self._running: dict[asyncio.Task[Outcome], tuple[Attempt, Deadline]] = {}
        self._more = True
        self._next = 0.0

    async def run(self) -> tuple[Attempt, Outcome] | None:
        """The attempt that decides, with its outcome; None: the first one could not begin."""
        decided: Attempt | None = None
        outcome: Outcome = None
        try:
            if not await self._start_alone():
                return None
            while self._running:
                task = await self._ended()
                if self._late():
                    break
                if task is None:
                    await self._start_beside()
                    continue
                attempt, own = self._running.pop(task)
                outcome = task.result()
                await self._over(attempt)
                if attempt.why is not None and self._running:
                    # Another may still do better; and one more may begin at once in place of this one.
                    _close(outcome)
                    self._next = self._loop.time()
                    continue
                if attempt.pause is None:
                    decided = attempt
                    self._deadline.adopt(own)
                    break
                _close(outcome)
                outcome = None
                await self._deadline.sleep(attempt.pause)
                if self._late():
                    decided = attempt
                elif await self._start_alone():
                    attempt.pause = None
                else:
                    decided = attempt
        finally:
            await self._cancel()
        if decided is None:
            return self._exchange.attempts[-1], None
        attempts = self._exchange.attempts
        attempts.remove(decided)
        attempts.append(decided)
        return decided, outcome

    def _late(self) -> bool:
        return self._deadline.expired

    async def _ended(self) -> "asyncio.Task[Outcome] | None":
        """Wait for the next try to end; None: time for one more beside those under way, or for none at all."""
        while not self._late():
            for task in self._running:
                if task.done():
                    return task
            wait = None
            if self._more and len(self._running) < self._hedge.max:
                wait = self._next - self._loop.time()
                if wait <= 0:
                    return None
            await self._deadline.sleep(wait)
        return None

    async def _start_alone(self) -> bool:
        return (self._admitted is None or await self._admitted()) and await self._start()

    async def _start_beside(self) -> None:
        if not self._judge.may_hedge(self._flow, self._exchange):
            self._more = False
        elif not self._room() or not await self._start():
            self._judge.not_hedged(self._exchange)
            self._more = False

    async def _start(self) -> bool:
        attempt = self._begin()
        if attempt is None:
            return False
        if (rest := self._hooks.run("mesh_attempt", self._flow, attempt)) is not None:
            await rest
        own = self._deadline.child()
        task = self._loop.create_task(_awaited(self._send(attempt, own)))
        self._running[task] = attempt, own
        task.add_done_callback(self._wake)
        self._next = self._loop.time() + self._hedge.after
        return True

    def _wake(self, task: "asyncio.Task[Outcome]") -> None:
        if task in self._running:
            self._deadline.wake()

    async def _over(self, attempt: Attempt) -> None:
        attempt.ended = time.perf_counter()
        attempts = self._exchange.attempts
        attempts.remove(attempt)
        attempts.append(attempt)
        if (rest := self._hooks.run("mesh_attempt_end", self._flow, attempt)) is not None:
            await rest

    async def _cancel(self) -> None:
        """End what is still under way: at its upstream, too."""
        running, self._running = self._running, {}
        for task, (attempt, own) in running.items():
            own.stop()
            task.cancel()
            # It may have its answer in this very moment.
            task.add_done_callback(_close_result)
            attempt.status = None
            attempt.error = "timeout" if self._late() else CANCELLED
            attempt.detail = "the request's timeout ran out" if self._late() else "another try decided"
        for attempt, _ in running.values():
            await self._over(attempt)


async def _awaited(sending: Awaitable[Outcome]) -> Outcome:
    return await sending


def _close(outcome: Outcome) -> None:
    if isinstance(outcome, Answer):
        outcome.close()


def _close_result(task: "asyncio.Task[Outcome]") -> None:
    if not task.cancelled() and task.exception() is None:
        _close(task.result())
