"""Circuit breaking, one endpoint: an explicit table of states and events.

    closed ── trip ──► open ── probe ──► half-open ── probe succeeds ──► closed
                         ▲                   │
                         └─ probe fails, or ─┘
                            comes to nothing

An endpoint is closed as long as it is used. Open, it is left alone until a
time; the first request after it is the probe, and while that is under way
the endpoint is half-open and left alone by all others. What ends meanwhile
and was sent before changes nothing. As Linkerd does it.
"""

from dataclasses import dataclass, replace
from enum import Enum

from control.policy.circuit_breakers import CircuitBreaker


class State(Enum):
    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half-open"


class Event(Enum):
    SUCCESS = "success"
    FAILURE = "failure"
    TRIP = "trip"
    """A failure, one too many."""
    PROBE = "probe"
    """A request is let through to see how the endpoint is."""
    PROBE_SUCCESS = "probe success"
    PROBE_FAILURE = "probe failure"
    PROBE_LOST = "probe lost"
    """It ended without telling anything: its client left."""


TRANSITIONS: dict[State, dict[Event, State]] = {
    State.CLOSED: {
        Event.SUCCESS: State.CLOSED,
        Event.FAILURE: State.CLOSED,
        Event.TRIP: State.OPEN,
    },
    State.OPEN: {
        Event.SUCCESS: State.OPEN,
        Event.FAILURE: State.OPEN,
        Event.PROBE: State.HALF_OPEN,
    },
    State.HALF_OPEN: {
        Event.SUCCESS: State.HALF_OPEN,
        Event.FAILURE: State.HALF_OPEN,
        Event.PROBE_SUCCESS: State.CLOSED,
        Event.PROBE_FAILURE: State.OPEN,
        Event.PROBE_LOST: State.OPEN,
    },
}
"""What is not here cannot happen."""


@dataclass(frozen=True, slots=True)
class CompiledBreaker:
    """`owner` is the place that declares it, for which state is kept. Times are seconds, None is no limit."""

    source: CircuitBreaker
    owner: str
    consecutive_failures: int
    open_for: float
    max_open: float
    max_ejected: float
    panic: bool
    connections: int | None
    pending: int
    requests: int | None
    retries: int | None
    admits: bool
    """Whether a request must be let in: something is limited that it needs."""


DEFAULT_PENDING = 1024
"""As Envoy's."""


def compile_breaker(source: CircuitBreaker, owner: str) -> CompiledBreaker:
    limits = source.limits
    connections = limits.connections if limits is not None else None
    requests = limits.requests if limits is not None else None
    pending = limits.pending if limits is not None else None
    return CompiledBreaker(
        source=source,
        owner=owner,
        consecutive_failures=source.consecutive_failures,
        open_for=source.open_for,
        max_open=source.max_open,
        max_ejected=source.max_ejected,
        panic=source.panic,
        connections=connections,
        pending=DEFAULT_PENDING if pending is None else pending,
        requests=requests,
        retries=limits.retries if limits is not None else None,
        admits=connections is not None or requests is not None,
    )


@dataclass(frozen=True, slots=True)
class Health:
    """How an endpoint is. `since` and `until` are moments of the breaker's clock, `until` of the open state alone.

    `failures`: in a row, while closed. `ejections`: in a row, without a probe that succeeded in between.
    """

    state: State = State.CLOSED
    failures: int = 0
    ejections: int = 0
    since: float = 0.0
    until: float = 0.0


HEALTHY = Health()
_MOST_DOUBLINGS = 60


def step(was: Health, event: Event, now: float, policy: CompiledBreaker) -> Health:
    """The endpoint after the event. Raises ValueError for an event that cannot happen in its state."""
    after = TRANSITIONS[was.state].get(event)
    if after is None:
        raise ValueError(f"no {event.value} while {was.state.value}")
    if event is Event.FAILURE and after is State.CLOSED:
        return replace(was, failures=was.failures + 1)
    if after is State.CLOSED:
        return HEALTHY
    if after is was.state:
        return was
    if after is State.HALF_OPEN:
        return replace(was, state=after, since=now)
    if event is Event.PROBE_LOST:
        return replace(was, state=after, since=now, until=now)
    lasts = min(policy.max_open, policy.open_for * 2.0 ** min(was.ejections, _MOST_DOUBLINGS))
    return Health(State.OPEN, 0, was.ejections + 1, now, now + lasts)
