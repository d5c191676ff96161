"""A service's endpoints together under a circuit breaker: compared with a plain account of what happened."""

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from control.policy.breaker import Breaker, failed
from control.policy.breaking import CompiledBreaker, State, compile_breaker
from control.policy.circuit_breakers import CircuitBreaker
from control.policy.endpoints import Endpoint


def policy(**said: object) -> CompiledBreaker:
    return compile_breaker(CircuitBreaker.model_validate(said), "web")


def endpoints(count: int) -> tuple[Endpoint, ...]:
    return tuple(
        Endpoint("s", "v1", f"10.0.0.{number}", 80, f"10.0.0.{number}:80", 1) for number in range(count)
    )


def ejected(breaker: Breaker) -> set[str]:
    return {name for name, health in breaker.health().items() if health.state is not State.CLOSED}


@pytest.mark.parametrize(
    ("status", "error", "expected"),
    [
        (200, None, False),
        (404, None, False),
        (429, None, False),
        (500, None, True),
        (503, None, True),
        (599, None, True),
        (None, "connect-failure", True),
        (None, "reset", True),
        (None, "timeout", True),
        (None, "protocol", True),
        (None, "cancelled", None),
        (None, None, None),
    ],
)
def test_what_counts_as_failure(status: int | None, error: str | None, expected: bool | None) -> None:
    assert failed(status, error) is expected


@pytest.mark.parametrize(
    ("said", "expected"),
    [(b"0", False), (b"14", True), (b"13", True), (b"4", True), (b"5", False), (b"2", True), (b"x", True)],
)
def test_a_grpc_status_counts_as_the_http_status_that_stands_for_it(said: bytes, expected: bool) -> None:
    assert failed(200, None, ((b"content-type", b"application/grpc"), (b"Grpc-Status", said))) is expected
    assert failed(503, None, ((b"grpc-status", b"0"),)) is True


@dataclass
class Seen:
    """What a bystander knows of an endpoint."""

    row: int = 0
    until: float | None = None
    ejections: int = 0
    probe: object = None


@dataclass(eq=False)
class Try:
    address: str
    probe: bool
    done: bool = False


class Bystander(RuleBasedStateMachine):
    """Tries begin and end in any order while time goes by; a plain account says what must be barred."""

    @initialize(
        count=st.integers(1, 4),
        failures=st.integers(1, 3),
        most=st.sampled_from([0, 34, 50, 67, 100]),
    )
    def start(self, count: int, failures: int, most: int) -> None:
        self.now = 1000.0
        self.among = endpoints(count)
        self.policy = policy(consecutive_failures=failures, open_for="10s", max_open="35s", max_ejected=most)
        self.breaker = Breaker()
        self.seen = {endpoint.address: Seen() for endpoint in self.among}
        self.running: list[Try] = []

    def expected(self, address: str, further: bool) -> bool:
        seen = self.seen[address]
        if seen.until is None:
            return False
        return seen.probe is not None or further or self.now < seen.until

    @rule(seconds=st.sampled_from([0.5, 5.0, 10.0, 20.0, 40.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule(place=st.integers(0, 3), panic=st.booleans())
    def begin(self, place: int, panic: bool) -> None:
        address = self.among[place % len(self.among)].address
        if self.expected(address, False) and not panic:
            return
        seen = self.seen[address]
        probes = seen.until is not None and seen.probe is None and self.now >= seen.until
        attempt = Try(address, probes)
        change = self.breaker.begin(address, attempt, self.now, self.policy)
        assert (change is not None) is probes
        if probes:
            seen.probe = attempt
        self.running.append(attempt)

    @precondition(lambda self: self.running)
    @rule(data=st.data(), outcome=st.sampled_from([True, True, True, False, None]))
    def end(self, data: st.DataObject, outcome: bool | None) -> None:
        attempt = self.running.pop(data.draw(st.integers(0, len(self.running) - 1)))
        seen = self.seen[attempt.address]
        before = sum(each.until is not None for each in self.seen.values())
        self.breaker.end(attempt.address, attempt, outcome, self.now, self.policy, self.among)
        if seen.probe is attempt:
            seen.probe = None
            if outcome:
                lasts = min(35.0, 10.0 * 2**seen.ejections)
                seen.ejections += 1
                seen.until = self.now + lasts
            elif outcome is None:
                seen.until = self.now
            else:
                self.seen[attempt.address] = Seen()
        elif seen.until is None and outcome is not None:
            seen.row = seen.row + 1 if outcome else 0
            room = before == 0 or before + 1 <= len(self.among) * self.policy.max_ejected / 100
            if seen.row >= self.policy.consecutive_failures and room:
                self.seen[attempt.address] = Seen(0, self.now + 10.0, 1)

    @invariant()
    def as_expected(self) -> None:
        if not hasattr(self, "seen"):
            return
        for further in (False, True):
            assert {each.address for each in self.breaker.barred(self.among, self.now, further)} == {
                address for address in self.seen if self.expected(address, further)
            }
        open_now = {address for address, seen in self.seen.items() if seen.until is not None}
        assert ejected(self.breaker) == open_now
        assert self.breaker.calm is (not open_now)
        assert len(open_now) <= max(1, int(len(self.among) * self.policy.max_ejected / 100))


TestBystander = Bystander.TestCase


def trip(breaker: Breaker, limits: CompiledBreaker, address: str, among=(), now: float = 0.0) -> None:
    for _ in range(limits.consecutive_failures):
        breaker.end(address, object(), True, now, limits, among)


@pytest.mark.parametrize(
    ("count", "most", "expected"),
    [(1, 0, 1), (1, 100, 1), (2, 50, 1), (3, 50, 1), (3, 67, 2), (4, 50, 2), (4, 100, 4), (10, 5, 1)],
)
def test_max_ejected_and_one_always_may(count: int, most: int, expected: int) -> None:
    among, limits, breaker = endpoints(count), policy(max_ejected=most), Breaker()
    for endpoint in among:
        trip(breaker, limits, endpoint.address, among)
    assert len(ejected(breaker)) == expected
    # As soon as there is room, the next failure ejects.
    first = min(ejected(breaker))
    probe = object()
    assert breaker.begin(first, probe, 100.0, limits) is not None
    assert breaker.end(first, probe, False, 100.0, limits, among) is not None
    failing = next((each.address for each in among if each.address not in {*ejected(breaker), first}), None)
    if failing is not None:
        assert breaker.end(failing, object(), True, 101.0, limits, among) is not None


def test_a_single_probe_at_a_time() -> None:
    among, limits, breaker = endpoints(1), policy(open_for="10s"), Breaker()
    (only,) = among
    trip(breaker, limits, only.address, among)
    assert breaker.barred(among, 9.9, False) == [only]
    assert breaker.barred(among, 10.0, False) == []
    # A further try of a request that failed elsewhere should not end in an endpoint that is likely down.
    assert breaker.barred(among, 10.0, True) == [only]
    probe = object()
    change = breaker.begin(only.address, probe, 10.0, limits)
    assert change is not None
    assert change.after.state is State.HALF_OPEN
    assert breaker.barred(among, 99.0, False) == [only]
    assert breaker.opens_at(among) is None
    # What was sent before it opened tells nothing any more.
    assert breaker.end(only.address, object(), False, 99.0, limits, among) is None
    assert breaker.end(only.address, object(), True, 99.0, limits, among) is None
    assert breaker.barred(among, 99.0, False) == [only]
    change = breaker.end(only.address, probe, True, 100.0, limits, among)
    assert change is not None
    assert breaker.opens_at(among) == 120.0


def test_none_is_ejected_where_the_policy_only_limits() -> None:
    limits, breaker = policy(consecutive_failures=0), Breaker()
    for _ in range(50):
        assert breaker.end("a:1", object(), True, 0.0, limits) is None
    assert breaker.calm


def test_a_change_of_policy_keeps_what_still_applies() -> None:
    among, limits, breaker = endpoints(3), policy(max_ejected=100), Breaker()
    for endpoint in among[:2]:
        trip(breaker, limits, endpoint.address, among)
    breaker.end(among[2].address, object(), True, 0.0, limits, among)
    breaker.keep([among[0].address, among[2].address], limits)
    assert breaker.barred(among, 1.0, False) == [among[0]]
    assert breaker.health()[among[2].address].failures == 1
    breaker.keep(None, limits)
    assert not breaker.calm
    breaker.keep(None, policy(consecutive_failures=0))
    assert breaker.calm
    assert breaker.blank


def test_a_probe_whose_endpoint_went_and_came_back_is_no_probe() -> None:
    limits, breaker, probe = policy(), Breaker(), object()
    trip(breaker, limits, "a:1")
    breaker.begin("a:1", probe, 100.0, limits)
    breaker.keep([], limits)
    trip(breaker, limits, "a:1", now=100.0)
    assert breaker.end("a:1", probe, False, 101.0, limits) is None
    assert not breaker.calm


@given(st.lists(st.booleans(), max_size=30))
def test_endpoints_that_are_well_are_not_kept(outcomes: list[bool]) -> None:
    limits, breaker = policy(consecutive_failures=100), Breaker()
    for outcome in outcomes:
        breaker.end("a:1", object(), outcome, 0.0, limits)
    breaker.end("a:1", object(), False, 0.0, limits)
    assert breaker.blank


def test_addresses_that_callers_name_do_not_fill_the_memory() -> None:
    limits, breaker = policy(), Breaker()
    trip(breaker, limits, "down:1")
    for number in range(25_000):
        breaker.end(f"10.0.{number >> 8}.{number & 255}:80", object(), True, 0.0, limits)
    assert len(breaker.health()) <= 10_000
    assert "down:1" in ejected(breaker)
