from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from control.policy.answers import FixedAnswer
from control.policy.facts import RequestFacts
from control.policy.faulting import CompiledFault, FaultState, compile_faults, fires
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
    compiled = fault(abort={"status": 418, "headers": {"X-Tea": "pot"}, "body": "\u00e9"}, delay="250ms")
    assert compiled.delay == 0.25
    assert compiled.abort == FixedAnswer(418, ((b"x-tea", b"pot"),), "\u00e9".encode())
    assert fault(abort="reset").abort == "reset"
    assert fault(abort="hang").abort == "hang"
    assert fault(abort=503).abort == FixedAnswer(503, (), b"")


def test_keys_tell_faults_apart_and_stay_when_others_come_before() -> None:
    a, b, b_again = faults({"percent": 1}, {"percent": 2}, {"percent": 2})
    assert len({a.key, b.key, b_again.key}) == 3
    _, moved = faults({"percent": 3}, {"percent": 2})
    assert moved.key == b.key
    assert faults({"percent": 2}, owner="other")[0].key != b.key
    assert fault(percent=2, first=1).key != b.key
