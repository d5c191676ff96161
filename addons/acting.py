"""The faults that have hit one attempt, or one request: what they do to it, and until when."""

from collections.abc import Callable, Container
from random import Random
from typing import Protocol

from mitmproxy import http

from addons.deadline import Deadline
from addons.engine.answer import Answer
from addons.exchange import Attempt, Exchange
from addons.faulty_answer import FaultyAnswer
from control.policy.answers import FixedAnswer
from control.policy.faulting import CompiledFault, Effects, FaultState, seconds
from control.policy.shaping import Corruption, Shape


class Hit:
    """One fault that has hit; `delay` in seconds, as it was drawn."""

    __slots__ = ("corruption", "delay", "effects", "fault", "state")

    def __init__(self, fault: CompiledFault, state: FaultState, effects: Effects, random: Random) -> None:
        self.fault = fault
        self.state = state
        self.effects = effects
        self.delay = None if effects.delay is None else seconds(effects.delay, random)
        self.corruption: Corruption | None = None
        if effects.corrupt is not None:
            # A source of its own, or the bytes of one body would depend on how those of others arrive meanwhile.
            self.corruption = Corruption(effects.corrupt, Random(random.getrandbits(64)))
        state.active += 1


class Spoilt(Protocol):
    """An answer on its way on whose body faults act."""

    def reshape(self, shape: Shape) -> None: ...


class Acting:
    """Hits on `attempt`, which for a request as a whole stands before its first try. Over after `end`."""

    __slots__ = ("_attempt", "_exchange", "_over", "answer", "answered", "hits", "kinds", "wake")

    def __init__(self, exchange: Exchange, attempt: Attempt, over: Callable[["Acting"], None]) -> None:
        self._exchange = exchange
        self._attempt = attempt
        self._over = over
        self.hits: list[Hit] = []
        self.kinds: list[str] = []
        """What was done to the answer's body, or to the request as a whole; for the metrics."""
        self.answered = False
        """It has answered the request as a whole."""
        self.answer: Spoilt | None = None
        self.wake: Callable[[], None] | None = None
        """Ends a wait before the attempt, so that what has become of its delay is looked at again."""

    def add(self, hit: Hit) -> None:
        """Delays of several hits add up; the first abort stands."""
        attempt, exchange, effects = self._attempt, self._exchange, hit.effects
        self.hits.append(hit)
        if hit.delay is not None:
            attempt.delay = (attempt.delay or 0.0) + hit.delay
            exchange.flag("DI")
        if effects.abort is not None and attempt.abort is None:
            assert exchange.facts is not None
            abort = effects.abort
            attempt.abort = abort if isinstance(abort, str) else abort.answer(exchange.facts)
            exchange.flag("FI")

    def count(self, attempt: Attempt) -> None:
        """Note what is done before the attempt, for one that is not counted itself."""
        if attempt.delay is not None:
            self.kinds.append("delay")
        if attempt.abort is not None:
            self.kinds.append(kind_of(attempt.abort))

    def keep(self, live: Container[str]) -> None:
        """Only the faults with these keys still act; what waits for another goes on at once."""
        kept = [hit for hit in self.hits if hit.fault.key in live]
        if len(kept) == len(self.hits):
            return
        attempt = self._attempt
        for hit in self.hits:
            if hit not in kept:
                hit.state.active -= 1
                if hit.delay is not None and attempt.delay is not None:
                    attempt.delay = max(0.0, attempt.delay - hit.delay)
                if hit.effects.abort is not None and not any(each.effects.abort for each in kept):
                    attempt.abort = None
        self.hits = kept
        if self.wake is not None:
            self.wake()
        if self.answer is not None:
            self.answer.reshape(self._shape())

    def on_answer(self, answer: Answer, method: bytes, gathered: bool) -> Answer | None:
        """The attempt's answer as its receiver shall see it; None: it broke off, as the attempt says.

        gathered: the body was waited for, since more than the head decides whether the answer is good.
        """
        shape = self._shape()
        if shape == Shape() or answer.upgraded or not _has_body(method, answer.status):
            return answer
        if answer.complete:
            short = shape.truncate is not None and len(answer.body) > shape.truncate
            if short and gathered:
                self.cut()
                self._attempt.error = "reset"
                self._attempt.detail = "cut by a fault"
                return None
            if not short and shape.bandwidth is None and shape.slow_close is None:
                for corruption in shape.corruptions:
                    answer.body = corruption.apply(answer.body)
                if shape.corruptions:
                    self._told("corrupt", "FI")
                return answer
        self._tell(shape)
        faulty = self.answer = FaultyAnswer(answer, shape, self.cut, self.end)
        return faulty

    def on_head(self, method: bytes, status: int) -> Shape:
        """What is to be done to a body of which no more than the head of the answer is known."""
        shape = self._shape()
        if status == 101 or not _has_body(method, status):
            return Shape()
        self._tell(shape)
        return shape

    def cut(self) -> None:
        """The answer was cut short."""
        self._told("truncate", "FI")
        self._attempt.injected = True

    def attempt_over(self) -> None:
        """No more of the attempt is to come, unless its answer still is on its way."""
        if self.answer is None:
            self.end()

    def end(self) -> None:
        """Nothing of it acts any more. More than once does no harm."""
        for hit in self.hits:
            hit.state.active -= 1
        self.hits = []
        self.wake = self.answer = None
        self._over(self)

    def _tell(self, shape: Shape) -> None:
        for kind in ("bandwidth", "slow_close"):
            if getattr(shape, kind) is not None:
                self._told(kind, "DI")
        if shape.corruptions:
            self._told("corrupt", "FI")

    def _told(self, kind: str, flag: str) -> None:
        self.kinds.append(kind)
        self._exchange.flag(flag)

    def _shape(self) -> Shape:
        effects = [hit.effects for hit in self.hits]
        return Shape(
            bandwidth=min((each.bandwidth for each in effects if each.bandwidth is not None), default=None),
            truncate=min((each.truncate for each in effects if each.truncate is not None), default=None),
            slow_close=max(
                (each.slow_close for each in effects if each.slow_close is not None), default=None
            ),
            corruptions=tuple(hit.corruption for hit in self.hits if hit.corruption is not None),
        )


def _has_body(method: bytes, status: int) -> bool:
    return method != b"HEAD" and status not in (204, 304)


def kind_of(abort: FixedAnswer | str) -> str:
    """What an abort is called in the metrics."""
    return abort if isinstance(abort, str) else "abort"


def bent(
    acting: Acting, answer: Answer, flow: http.HTTPFlow, deadline: Deadline, gathered: bool
) -> Answer | None:
    """What faults make of an answer, watched by the deadline; None: it broke off."""
    spoilt = acting.on_answer(answer, flow.request.data.method, gathered)
    if isinstance(spoilt, FaultyAnswer):
        deadline.call = spoilt
    deadline.answered(spoilt is None or spoilt.complete)
    return spoilt
