from collections import Counter
from math import gcd

import pytest
from hypothesis import given
from hypothesis import strategies as st

from control.policy.balancing import RoundRobin
from control.policy.endpoints import Endpoint


def endpoints(*weights: float) -> tuple[Endpoint, ...]:
    return tuple(
        Endpoint("s", "v1", f"10.0.0.{number}", 80, f"10.0.0.{number}:80", weight)
        for number, weight in enumerate(weights)
    )


def picks(robin: RoundRobin, among: tuple[Endpoint, ...], count: int) -> list[int]:
    """The places of the endpoints picked."""
    found = []
    for _ in range(count):
        endpoint = robin.pick(among)
        assert endpoint is not None
        found.append(among.index(endpoint))
    return found


def test_equal_weights_rotate() -> None:
    assert picks(RoundRobin(), endpoints(2, 2, 2), 7) == [0, 1, 2, 0, 1, 2, 0]


def test_weights_are_spread_smoothly_as_in_nginx() -> None:
    assert picks(RoundRobin(), endpoints(5, 1, 1), 7) == [0, 0, 1, 0, 2, 0, 0]


@given(st.lists(st.integers(0, 12), min_size=1, max_size=6).filter(any), st.integers(1, 3))
def test_over_a_cycle_each_endpoint_is_picked_in_proportion(weights: list[int], cycles: int) -> None:
    cycle = sum(weights) // gcd(*weights)
    counted = Counter(picks(RoundRobin(), endpoints(*weights), cycle * cycles))
    assert [counted[place] for place in range(len(weights))] == [
        weight // gcd(*weights) * cycles for weight in weights
    ]


@pytest.mark.parametrize("weights", [(0.1, 0.2, 0.7), (0.5, 1.5), (1e-3, 0.999)])
def test_fractions_keep_their_proportion_for_ever(weights: tuple[float, ...]) -> None:
    robin, among = RoundRobin(), endpoints(*weights)
    for _ in range(3):
        counted = Counter(picks(robin, among, 1000))
        assert [counted[place] for place in range(len(weights))] == [
            round(1000 * weight / sum(weights)) for weight in weights
        ]


def test_huge_and_tiny_weights_do_not_break_it() -> None:
    assert set(picks(RoundRobin(), endpoints(1e308, 1e308, 1e-300), 50)) == {0, 1}


@pytest.mark.parametrize("weights", [(), (0,), (0, 0)])
def test_nothing_to_pick(weights: tuple[float, ...]) -> None:
    assert RoundRobin().pick(endpoints(*weights)) is None


def test_weight_0_is_never_picked_even_if_all_others_are_avoided() -> None:
    among = endpoints(1, 0, 1)
    robin = RoundRobin()
    assert 1 not in picks(robin, among, 20)
    assert robin.pick(among, avoid=(among[0], among[2])) in (among[0], among[2])


@given(
    st.lists(st.integers(1, 4), min_size=1, max_size=5),
    st.data(),
)
def test_the_avoided_are_picked_only_when_nothing_else_is_left(
    weights: list[int], data: st.DataObject
) -> None:
    among = endpoints(*weights)
    robin = RoundRobin()
    for _ in range(10):
        avoid = data.draw(st.lists(st.sampled_from(among), unique=True))
        picked = robin.pick(among, avoid)
        assert picked in among
        assert picked not in avoid or len(avoid) == len(among)


@pytest.mark.parametrize("weights", [(1, 1, 1), (5, 2, 1)])
def test_if_all_are_avoided_the_turns_go_on_as_if_none_were(weights: tuple[int, ...]) -> None:
    among = endpoints(*weights)
    avoiding, robin = RoundRobin(), RoundRobin()
    assert [avoiding.pick(among, among) for _ in range(16)] == [robin.pick(among) for _ in range(16)]


def test_a_retry_goes_to_every_endpoint_before_it_comes_back() -> None:
    for weights in ((1, 1, 1), (5, 2, 1)):
        among, robin = endpoints(*weights), RoundRobin()
        for _ in range(10):
            tried: list[Endpoint] = []
            for _ in among:
                picked = robin.pick(among, tried)
                assert picked is not None
                tried.append(picked)
            assert set(tried) == set(among)


def test_rotation_goes_on_when_endpoints_change() -> None:
    robin = RoundRobin()
    three, two = endpoints(1, 1, 1), endpoints(1, 1)
    assert picks(robin, three, 2) == [0, 1]
    assert picks(robin, endpoints(1, 1, 1), 1) == [2]
    assert picks(robin, three, 2) == [0, 1]
    assert picks(robin, two, 3) == [0, 1, 0]
