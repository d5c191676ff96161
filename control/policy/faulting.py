"""Failures made on purpose: whether one hits an attempt, and what it then does."""

from collections.abc import Mapping
from dataclasses import dataclass
from random import Random
from typing import Literal
from urllib.parse import quote

from control.policy.answers import FixedAnswer
from control.policy.facts import RequestFacts
from control.policy.fault_parts import Abort, Delay, Fault
from control.policy.grpc_status import GRPC_STATUSES, grpc_of_http, http_of_grpc
from control.policy.headers import encode_fields
from control.policy.matching import Condition, compile_match


@dataclass(frozen=True, slots=True)
class Aborted:
    """What an abort answers: to a gRPC call, and to any other request."""

    plain: FixedAnswer
    grpc: FixedAnswer

    def answer(self, facts: RequestFacts) -> FixedAnswer:
        return self.grpc if is_grpc(facts) else self.plain


@dataclass(frozen=True, slots=True)
class Effects:
    """What a fault does where it hits. Seconds, bytes, bytes a second, per cent; None is nothing."""

    delay: float | Delay | None = None
    abort: Aborted | Literal["reset", "hang"] | None = None
    bandwidth: int | None = None
    truncate: int | None = None
    corrupt: float | None = None
    slow_close: float | None = None

    @property
    def on_body(self) -> bool:
        """Whether it acts on the body of an answer."""
        return (self.bandwidth, self.truncate, self.corrupt, self.slow_close) != (None, None, None, None)


@dataclass(frozen=True, slots=True)
class CompiledFault:
    """`key` stays the same across snapshots while the fault's text and the place that declares it do: state is kept by it.

    `effects` is None where the request's header says what the fault does.
    """

    source: Fault
    key: str
    percent: float
    conditions: Condition | None
    effects: Effects | None
    first: int | None
    every: int | None
    max_active: int | None
    seed: int | None


class FaultState:
    """What a fault remembers from attempt to attempt; `active`: hits that have not ended, counted by whoever ends them."""

    __slots__ = ("active", "fired", "matched", "random")

    def __init__(self, fault: CompiledFault) -> None:
        self.matched = 0
        self.fired = 0
        self.active = 0
        self.random = None if fault.seed is None else Random(fault.seed)


def fires(
    fault: CompiledFault, facts: RequestFacts, state: FaultState, random: Random, share: float = 100.0
) -> bool:
    """Whether the fault hits this attempt; counts it in `state`.

    The order: `match`, then `every` (the Nth, 2Nth, ... matching attempt), then `percent` of those (at most `share`), then
    `max_active`, then `first` (at most N hits in all). With a `seed`, chance comes from the fault's own source, so the
    same attempts give the same hits.
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
    percent = min(fault.percent, share)
    if percent < 100 and random.random() * 100 >= percent:
        return False
    if fault.max_active is not None and state.active >= fault.max_active:
        return False
    state.fired += 1
    return True


def seconds(delay: float | Delay, random: Random) -> float:
    """The delay of one hit."""
    if not isinstance(delay, Delay):
        return delay
    if delay.uniform is not None:
        return random.uniform(*delay.uniform)
    assert delay.normal is not None
    return max(0.0, random.gauss(delay.normal.mean, delay.normal.stddev))


def is_grpc(facts: RequestFacts) -> bool:
    """As Envoy tells: by the content type, gRPC-Web not included."""
    kind = facts.field(b"content-type") or ""
    return kind == "application/grpc" or kind.startswith("application/grpc+")


def compile_effects(fault: Fault) -> Effects:
    abort = fault.abort
    return Effects(
        delay=fault.delay,
        abort=_aborted(abort) if isinstance(abort, Abort) else abort,
        bandwidth=fault.bandwidth,
        truncate=fault.truncate,
        corrupt=fault.corrupt,
        slow_close=fault.slow_close,
    )


def _aborted(abort: Abort) -> Aborted:
    """Both answers of an abort, each made from what the policy says of the other where it must."""
    if abort.status is not None:
        status, code = abort.status, grpc_of_http(abort.status)
    else:
        code = str(abort.grpc)
        status = http_of_grpc(code)
    own: Mapping[str, str] = abort.headers
    named = {
        "content-type": "application/grpc",
        "grpc-status": str(GRPC_STATUSES.index(code)),
        "grpc-message": quote(abort.body, safe=" !\"#$&'()*+,-./:;<=>?@[\\]^_`{|}~") or "injected by a fault",
    }
    return Aborted(
        FixedAnswer(status, encode_fields(own), abort.body.encode()),
        FixedAnswer(200, encode_fields({**own, **named}), b""),
    )


def compile_faults(
    faults: tuple[Fault, ...], owner: str, scope: Literal["attempt", "request"] = "attempt"
) -> tuple[CompiledFault, ...]:
    """The faults of one level that have this scope; `owner` names the level (service, and route if it is one).

    A fault's key does not hold its place in the list: one more before it leaves its counters alone.
    """
    seen: dict[str, int] = {}
    compiled = []
    for fault in faults:
        text = fault.model_dump_json(exclude_unset=True, by_alias=True)
        ordinal = seen[text] = seen.get(text, -1) + 1
        if fault.scope != scope:
            continue
        compiled.append(
            CompiledFault(
                source=fault,
                key=f"{owner}\n{ordinal}\n{text}",
                percent=fault.percent,
                conditions=compile_match(fault.match),
                effects=None if fault.allow_header else compile_effects(fault),
                first=fault.first,
                every=fault.every,
                max_active=fault.max_active,
                seed=fault.seed,
            )
        )
    return tuple(compiled)
