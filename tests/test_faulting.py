from random import Random
from statistics import mean, stdev
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from control.policy.answers import FixedAnswer
from control.policy.facts import RequestFacts
from control.policy.faulting import (
    Aborted,
    CompiledFault,
    Effects,
    FaultState,
    compile_faults,
    fires,
    is_grpc,
    seconds,
)
from control.policy.model import Policy

GET = RequestFacts("GET", "s", 80, "/", ())
POST = RequestFacts("POST", "s", 80, "/", ())


class NoChance(Random):
    def random(self) -> float:
        raise AssertionError("nothing here is left to chance")


def faults(*values: dict[str, Any], owner: str = "s") -> tuple[CompiledFault, ...]:
    policy = Policy.model_validate({"service": "s", "faults": [{"abort": 503, **value} for value in values]})
    assert policy.faults is not None
    return compile_faults(policy.faults, owner)


def fault(**value: Any) -> CompiledFault:
    return faults(value)[0]


def hits(compiled: CompiledFault, requests: list[RequestFacts], random: Random | None = None) -> list[int]:
    """The places of the requests that are hit, by a fault that starts afresh."""
    state = FaultState(compiled)
    random = NoChance() if random is None else random
    return [place for place, facts in enumerate(requests) if fires(compiled, facts, state, random)]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({}, [0, 1, 2, 3, 4, 5, 6, 7]),
        ({"first": 2}, [0, 1]),
        ({"every": 3}, [2, 5]),
        ({"every": 1}, [0, 1, 2, 3, 4, 5, 6, 7]),
        ({"every": 2, "first": 3}, [1, 3, 5]),
        ({"match": {"method": "POST"}}, [1, 3, 5, 7]),
        ({"match": {"method": "POST"}, "first": 2}, [1, 3]),
        ({"match": {"method": "POST"}, "every": 2}, [3, 7]),
        ({"match": {"method": "POST"}, "every": 2, "first": 1}, [3]),
        ({"match": {"method": "PUT"}}, []),
    ],
)
def test_match_every_and_first(value: dict[str, Any], expected: list[int]) -> None:
    assert hits(fault(**value), [GET, POST] * 4) == expected


def test_percent_0_hits_nothing() -> None:
    assert hits(fault(percent=0), [GET] * 100, Random(1)) == []


def test_percent_is_that_share() -> None:
    n, p = 20_000, 0.3
    assert abs(len(hits(fault(percent=30), [GET] * n, Random(7))) - n * p) < 3 * (n * p * (1 - p)) ** 0.5


def test_every_comes_before_percent_and_first_counts_hits() -> None:
    n = 4000
    half_of_every_other = hits(fault(percent=50, every=2), [GET] * n, Random(3))
    assert all(place % 2 for place in half_of_every_other)
    assert abs(len(half_of_every_other) - n / 4) < 3 * (n / 2 * 0.25) ** 0.5
    assert len(hits(fault(percent=50, first=5), [GET] * 100, Random(3))) == 5


@given(st.integers(0, 2**63 - 1), st.floats(1, 99))
def test_a_seed_repeats(seed: int, percent: float) -> None:
    compiled = fault(percent=percent, seed=seed, match={"percent": 50})
    assert hits(compiled, [GET] * 50) == hits(compiled, [GET] * 50)


def test_seeds_differ() -> None:
    assert hits(fault(percent=50, seed=1), [GET] * 64) != hits(fault(percent=50, seed=2), [GET] * 64)


def test_what_it_does() -> None:
    abort = {"status": 418, "headers": {"X-Tea": "pot"}, "body": "\u00e9"}
    effects = fault(
        abort=abort, delay="250ms", bandwidth="1KiB/s", truncate="2KiB", corrupt=1, slow_close="1s"
    ).effects
    assert effects is not None
    assert (effects.delay, effects.bandwidth, effects.truncate) == (0.25, 1024, 2048)
    assert (effects.corrupt, effects.slow_close, effects.on_body) == (1, 1.0, True)
    assert isinstance(effects.abort, Aborted)
    assert effects.abort.answer(GET) == FixedAnswer(418, ((b"x-tea", b"pot"),), "\u00e9".encode())
    for word in ("reset", "hang"):
        assert fault(abort=word).effects == Effects(abort=word)
    plain = fault(abort=503).effects
    assert plain is not None
    assert not plain.on_body
    assert plain.abort.answer(GET) == FixedAnswer(503, (), b"")


def call(kind: str) -> RequestFacts:
    return RequestFacts("POST", "s", 80, "/", ((b"content-type", kind.encode()),))


@pytest.mark.parametrize(
    ("kind", "grpc"),
    [
        ("application/grpc", True),
        ("application/grpc+proto", True),
        ("application/grpc-web", False),
        ("application/json", False),
    ],
)
def test_what_is_a_grpc_call(kind: str, grpc: bool) -> None:
    assert is_grpc(call(kind)) is grpc
    assert not is_grpc(GET)


@pytest.mark.parametrize(
    ("abort", "status", "code", "message"),
    [
        (503, 503, "14", "injected by a fault"),
        (404, 404, "12", "injected by a fault"),
        (418, 418, "2", "injected by a fault"),
        ({"grpc": "NOT_FOUND", "body": "gone \u00e9\n100%"}, 404, "5", "gone %C3%A9%0A100%25"),
        ({"grpc": "OK"}, 200, "0", "injected by a fault"),
        ({"grpc": "INTERNAL"}, 500, "13", "injected by a fault"),
    ],
)
def test_an_abort_speaks_http_and_grpc(abort: Any, status: int, code: str, message: str) -> None:
    effects = fault(abort=abort).effects
    assert effects is not None
    assert isinstance(effects.abort, Aborted)
    assert effects.abort.answer(GET).status == status
    told = effects.abort.answer(call("application/grpc"))
    fields = {name.decode(): value.decode() for name, value in told.fields}
    assert (told.status, told.body) == (200, b"")
    assert fields == {"content-type": "application/grpc", "grpc-status": code, "grpc-message": message}


def test_delays_scatter_as_the_policy_says() -> None:
    def drawn(delay: Any) -> list[float]:
        effects = fault(delay=delay).effects
        assert effects is not None
        assert effects.delay is not None
        random = Random(5)
        return [seconds(effects.delay, random) for _ in range(20_000)]

    assert set(drawn("2s")) == {2.0}
    uniform = drawn({"uniform": ["1s", "3s"]})
    assert 1 <= min(uniform) < 1.01
    assert 2.99 < max(uniform) <= 3
    assert abs(mean(uniform) - 2) < 3 * (2 / 12**0.5) / 20_000**0.5
    normal = drawn({"normal": {"mean": "2s", "stddev": "500ms"}})
    assert abs(mean(normal) - 2) < 3 * 0.5 / 20_000**0.5
    assert abs(stdev(normal) - 0.5) < 0.01
    assert min(drawn({"normal": {"mean": 0, "stddev": "1s"}})) == 0


def test_max_active_counts_only_hits_that_have_not_ended() -> None:
    compiled = fault(max_active=2, first=4)
    state = FaultState(compiled)
    took = []
    for ends in (0, 0, 0, 1, 0, 2, 0):
        state.active -= ends
        hit = fires(compiled, GET, state, NoChance())
        state.active += hit
        took.append(hit)
    assert took == [True, True, False, True, False, True, False]
    assert state.fired == 4


def test_a_share_that_is_asked_for_only_lowers_the_percentage() -> None:
    compiled = fault(percent=40)

    def share(asked: float) -> float:
        state, random = FaultState(compiled), Random(3)
        return sum(fires(compiled, GET, state, random, asked) for _ in range(10_000)) / 10_000

    assert abs(share(100) - 0.4) < 0.015
    assert abs(share(10) - 0.1) < 0.01
    assert share(0) == 0


def test_the_two_scopes_are_apart() -> None:
    policy = Policy.model_validate(
        {"service": "s", "faults": [{"abort": 503}, {"abort": 503, "scope": "request"}, {"delay": "1s"}]}
    )
    assert policy.faults is not None
    assert [each.source for each in compile_faults(policy.faults, "s")] == [
        policy.faults[0],
        policy.faults[2],
    ]
    assert [each.source for each in compile_faults(policy.faults, "s", "request")] == [policy.faults[1]]


def test_keys_tell_faults_apart_and_stay_when_others_come_before() -> None:
    a, b, b_again = faults({"percent": 1}, {"percent": 2}, {"percent": 2})
    assert len({a.key, b.key, b_again.key}) == 3
    _, moved = faults({"percent": 3}, {"percent": 2})
    assert moved.key == b.key
    assert faults({"percent": 2}, owner="other")[0].key != b.key
    assert fault(percent=2, first=1).key != b.key
