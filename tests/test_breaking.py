"""The circuit breaker's table and its moments, on a fake clock."""

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from control.policy.breaking import (
    HEALTHY,
    TRANSITIONS,
    CompiledBreaker,
    Event,
    Health,
    State,
    compile_breaker,
    step,
)
from control.policy.circuit_breakers import CircuitBreaker


def policy(**said: object) -> CompiledBreaker:
    return compile_breaker(CircuitBreaker.model_validate(said), "web")


PLAIN = policy()


def test_the_table_says_of_every_pair_what_comes_after_or_nothing() -> None:
    assert TRANSITIONS.keys() == set(State)
    for state, event in product(State, Event):
        after = TRANSITIONS[state].get(event)
        if after is None:
            with pytest.raises(ValueError, match=f"no {event.value} while {state.value}"):
                step(Health(state), event, 1.0, PLAIN)
        else:
            assert step(Health(state), event, 1.0, PLAIN).state is after


def test_every_state_is_reached_and_left() -> None:
    for state in State:
        others = [row for before, row in TRANSITIONS.items() if before is not state]
        assert any(state in row.values() for row in others)
        assert set(TRANSITIONS[state].values()) - {state}


def test_the_time_doubles_with_each_probe_that_fails_up_to_max_open() -> None:
    limits = policy(open_for="10s", max_open="60s")
    health = step(HEALTHY, Event.TRIP, 100.0, limits)
    lasted = []
    for now in range(1000, 6000, 1000):
        lasted.append(health.until - health.since)
        health = step(step(health, Event.PROBE, now, limits), Event.PROBE_FAILURE, now, limits)
    assert lasted == [10, 20, 40, 60, 60]
    assert health.ejections == 6
    health = step(step(health, Event.PROBE, 9000, limits), Event.PROBE_SUCCESS, 9000, limits)
    assert health == HEALTHY
    again = step(health, Event.TRIP, 9000, limits)
    assert again.until == 9010


def test_a_probe_that_tells_nothing_costs_no_time() -> None:
    health = step(HEALTHY, Event.TRIP, 0.0, PLAIN)
    lost = step(step(health, Event.PROBE, 30.0, PLAIN), Event.PROBE_LOST, 31.0, PLAIN)
    assert (lost.state, lost.until, lost.ejections) == (State.OPEN, 31.0, 1)


def test_failures_are_counted_in_a_row() -> None:
    health = HEALTHY
    for _ in range(3):
        health = step(health, Event.FAILURE, 0.0, PLAIN)
    assert health.failures == 3
    assert step(health, Event.SUCCESS, 0.0, PLAIN) == HEALTHY


@given(st.lists(st.sampled_from(Event), max_size=40), st.integers(1, 60), st.integers(60, 600))
def test_whatever_happens_it_is_open_for_no_longer_than_it_should(
    events: list[Event], open_for: int, max_open: int
) -> None:
    limits = policy(open_for=f"{open_for}s", max_open=f"{max_open}s")
    health, now = HEALTHY, 0.0
    for event in events:
        now += 7
        if event not in TRANSITIONS[health.state]:
            continue
        before, health = health, step(health, event, now, limits)
        if health.state is State.OPEN and before is not health:
            assert now <= health.until <= now + max_open
            if event is not Event.PROBE_LOST:
                assert health.until >= now + open_for
        assert health.failures == 0 or health.state is State.CLOSED
        assert (health.ejections == 0) is (health.state is State.CLOSED)


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ({}, (5, 30.0, 300.0, 50.0, False, None, 1024, None, None, False)),
        ({"limits": {"connections": 3}}, (5, 30.0, 300.0, 50.0, False, 3, 1024, None, None, True)),
        ({"limits": {"retries": 0}}, (5, 30.0, 300.0, 50.0, False, None, 1024, None, 0, False)),
        (
            {"panic": True, "limits": {"connections": 3, "pending": 0, "requests": 9}},
            (5, 30.0, 300.0, 50.0, True, 3, 0, 9, None, True),
        ),
    ],
)
def test_what_is_made_of_what_is_said(said: dict[str, object], expected: tuple[object, ...]) -> None:
    made = policy(**said)
    assert (
        made.consecutive_failures,
        made.open_for,
        made.max_open,
        made.max_ejected,
        made.panic,
        made.connections,
        made.pending,
        made.requests,
        made.retries,
        made.admits,
    ) == expected
