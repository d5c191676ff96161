"""Walking a canary through its steps: put the split, watch, decide, go on or back. Its state is written at every turn."""

import asyncio
import contextlib
import os
import secrets
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import Protocol, TypeVar

from control.canary.gathering import Gathering, Told
from control.canary.judging import Next, next_action
from control.canary.plan import (
    BACK,
    DONE,
    RUNNING,
    STOPPED,
    State,
    Weights,
    number,
    read_state,
    split_text,
    write_state,
)
from control.canary.splitting import CannotSplitError, weights, with_split
from control.commands.author import author, storable
from control.commands.canary_hold import HOLD, LIFE, refused, standing_in
from control.commands.planning import plan as planned
from control.policy.errors import PolicyErrors
from control.policy.reading import Document
from control.store import Held, Store, Stored, StoreError

LOOK = 0.4
"""Seconds between looks; proxies report once a second, and no report may be missed."""
ENDED_LIFE = 7 * 86400.0
"""Seconds that the state of one that is over is kept, for --status."""
_LONGEST_PAUSE = 2.0
_SOON, _LONGEST_END = 0.1, 3.0

T = TypeVar("T")


class Show(Protocol):
    """Where the progress is shown."""

    def step(self, state: State) -> None:
        """The split of this step stands."""

    def progress(self, state: State, seen: Gathering, now: float, what: Next) -> None:
        """What was seen so far, at every look; `what` comes next."""

    def trouble(self, text: str) -> None:
        """Redis cannot be used at the moment; "": it can again."""

    def ended(self, state: State) -> None:
        """It is over, or stands where it is."""


class MeddledError(Exception):
    """Somebody else changed the split, or what it needs; says what stands now."""


class LostError(Exception):
    """Another run of the command holds the canary now; `state` is what it wrote."""

    def __init__(self, state: State | None) -> None:
        super().__init__()
        self.state = state


class Runner:
    """One run of the command, which holds the canary. `state` is what it wrote last."""

    def __init__(self, store: Store, service: str, show: Show, message: str = "") -> None:
        self.store, self.service, self.show, self.message = store, service, show, message
        self.id = f"{author()} process {os.getpid()} {secrets.token_hex(4)}"
        self.state: State | None = None
        self._patient = False
        """Something of this run stands already: Redis is waited for. Before that its refusals are told."""
        self._revision = 0
        self._clock: Callable[[], float] = asyncio.get_running_loop().time

    async def walk(self, state: State) -> State:
        """From the step that the state names to the end; the last state."""
        try:
            while True:
                state = await self._put(state, state.percent, f"{number(state.percent)} %")
                self.show.step(state)
                decided = await self._watch(state)
                if decided.action == "back":
                    return await self._back(state, decided.why)
                if decided.action == "done":
                    return await self._end(state, DONE, "")
                state = replace(state, step=state.step + 1)
        except MeddledError as changed:
            assert self.state is not None
            return await self._end(self.state, STOPPED, str(changed))
        except LostError as lost:
            return await self._lost(lost)

    async def forget(self, state: State, why: str) -> None:
        """Of a canary whose first split could not be put: it is not under way."""
        with contextlib.suppress(StoreError, LostError):
            await self.save(state.ends(STOPPED, why, state.started), 0, ENDED_LIFE)

    async def go_back(self, state: State, why: str) -> State:
        """All that the new version got returns to the old one; the last state."""
        try:
            return await self._back(state, why)
        except LostError as lost:
            return await self._lost(lost)

    async def save(self, state: State, hold: float = HOLD, life: float = LIFE) -> State:
        """Write the state. Raises LostError if somebody else holds the canary."""
        text = write_state(state)
        self._still_held(
            await self._insist(lambda: self.store.canary(self.service, self.id, "keep", hold, life, text))
        )
        self.state = state
        return state

    async def _lost(self, lost: LostError) -> State:
        """What another run has made of it. It may have come to end it, which takes it a moment."""
        state, until = lost.state, self._clock() + _LONGEST_END
        while state is not None and state.status == RUNNING and self._clock() < until:
            await asyncio.sleep(_SOON)
            held = await self._insist(lambda: self.store.canary(self.service))
            state = read_state(held.state)
        if state is None or state.status == RUNNING:
            raise refused(f"another run has taken over the canary of {self.service}: this one ends") from None
        self.state = state
        return state

    async def _back(self, state: State, why: str) -> State:
        try:
            state = await self._put(state, 0, f"back to {state.plan.source}: {why}")
        except MeddledError as changed:
            return await self._end(state, STOPPED, f"{why}; but it did not go back, since {changed}")
        return await self._end(state, BACK, why)

    async def _end(self, state: State, status: str, why: str) -> State:
        held = await self._insist(lambda: self.store.canary(self.service))
        return await self.save(state.ends(status, why, held.now), 0, ENDED_LIFE)

    async def _put(self, state: State, percent: float, what: str) -> State:
        """This share in force, and the state written before and after. Raises MeddledError, LostError."""
        plan = state.plan
        split = weights(state.stands, plan.source, plan.to, percent)
        state = await self.save(replace(state, coming=split))

        def edit(stored: Stored) -> Mapping[str, str | None]:
            standing = _ours(stored, state)
            if standing == split:
                return {}
            policy = with_split(plan.service, stored.documents[plan.service], plan.route, split)
            try:
                return planned(stored.documents, [Document(policy, "canary", 0)]).writes
            except PolicyErrors as errors:
                raise MeddledError(f"this split is no longer possible: {errors.problems[0]}") from None

        text = storable(": ".join(filter(None, (self.message, f"canary to {plan.to}: {what}"))))
        # After a lost connection it may have been written or not: the edit sees which.
        done = await self._insist(lambda: self.store.change(edit, author=author(), message=text))
        self._patient = True
        self._revision = done.revision
        return await self.save(replace(state, stands=split, revision=done.revision))

    async def _watch(self, state: State) -> Next:
        """What comes after this step. Raises MeddledError, LostError."""
        plan = state.plan
        seen = Gathering(plan.service, (plan.to, plan.source), state.revision, plan.every, self._clock())
        while True:
            await asyncio.sleep(LOOK)
            await self._insist(lambda: self._look(state, seen))
            now = self._clock()
            decided = next_action(plan, state.step, seen.window(plan.to, now))
            self.show.progress(state, seen, now, decided)
            if decided.action != "wait":
                return decided

    async def _look(self, state: State, seen: Gathering) -> None:
        text = write_state(state)
        self._still_held(await self.store.canary(self.service, self.id, "keep", HOLD, LIFE, text))
        if await self.store.revision() != self._revision:
            stored = await self.store.read()
            _ours(stored, state)
            self._revision = stored.revision
            # Lower in a Redis that was restored: what proxies can have in force is no more than that.
            seen.revision = min(seen.revision, stored.revision)
        nodes = await self.store.nodes()
        seen.take((Told(each.id, each.revision, each.traffic, each.error) for each in nodes), self._clock())

    def _still_held(self, held: Held) -> None:
        if not held.mine:
            raise LostError(read_state(held.state))

    async def _insist(self, work: Callable[[], Awaitable[T]]) -> T:
        """What comes of the work, tried again for as long as Redis is away."""
        pause = LOOK
        trouble = False
        while True:
            try:
                result = await work()
            except StoreError as error:
                if not self._patient:
                    raise
                self.show.trouble(str(error))
                trouble = True
                await asyncio.sleep(pause)
                pause = min(_LONGEST_PAUSE, 2 * pause)
            else:
                if trouble:
                    self.show.trouble("")
                return result


def _ours(stored: Stored, state: State) -> Weights | None:
    """The split that stands. Raises MeddledError unless it is as this canary left it."""
    try:
        standing = standing_in(stored, state.plan)
    except CannotSplitError as error:
        raise MeddledError(f"somebody changed the policy: {error}") from None
    if not state.is_ours(standing):
        raise MeddledError(f"somebody changed the split: it is now {split_text(standing)}")
    return standing
