"""Failures made on purpose: whether one hits an attempt."""

from dataclasses import dataclass
from random import Random
from typing import Literal

from control.policy.answers import FixedAnswer, compile_answer
from control.policy.facts import RequestFacts
from control.policy.matching import Condition, compile_match
from control.policy.model import Fault


@dataclass(frozen=True, slots=True)
class CompiledFault:
    """`key` stays the same across snapshots while the fault's text and the place that declares it do: state is kept by it."""

    source: Fault
    key: str
    percent: float
    conditions: Condition | None
    delay: float | None
    abort: FixedAnswer | Literal["reset", "hang"] | None
    first: int | None
    every: int | None
    seed: int | None


class FaultState:
    """What a fault remembers from attempt to attempt."""

    __slots__ = ("fired", "matched", "random")

    def __init__(self, fault: CompiledFault) -> None:
        self.matched = 0
        self.fired = 0
        self.random = None if fault.seed is None else Random(fault.seed)


def fires(fault: CompiledFault, facts: RequestFacts, state: FaultState, random: Random) -> bool:
    """Whether the fault hits this attempt; counts it in `state`.

    The order: `match`, then `every` (the Nth, 2Nth, ... matching attempt), then `percent` of those, then `first` (at most N
    hits in all). With a `seed`, chance comes from the fault's own source, so the same attempts give the same hits.
    """
    if state.random is not None:
        random = state.random
    if fault.first is not None and state.fired >= fault.first:
        return False
    if fault.conditions is not None and not fault.conditions.holds(facts, random):
        return False
    state.matched += 1
    if fault.every is not None and state.matched % fault.every:
        return False
    if fault.percent < 100 and random.random() * 100 >= fault.percent:
        return False
    state.fired += 1
    return True


def compile_faults(faults: tuple[Fault, ...], owner: str) -> tuple[CompiledFault, ...]:
    """The faults of one level; `owner` names the level (service, and route if it is one).

    A fault's key does not hold its place in the list: one more before it leaves its counters alone.
    """
    seen: dict[str, int] = {}
    compiled = []
    for fault in faults:
        text = fault.model_dump_json(exclude_unset=True, by_alias=True)
        ordinal = seen[text] = seen.get(text, -1) + 1
        abort = (
            fault.abort
            if fault.abort is None or isinstance(fault.abort, str)
            else compile_answer(fault.abort)
        )
        compiled.append(
            CompiledFault(
                source=fault,
                key=f"{owner}\n{ordinal}\n{text}",
                percent=fault.percent,
                conditions=compile_match(fault.match),
                delay=fault.delay,
                abort=abort,
                first=fault.first,
                every=fault.every,
                seed=fault.seed,
            )
        )
    return tuple(compiled)
