"""random, least_request and hash: in proportion, and of hash that a key stays where it is as long as that is there."""

from collections import Counter, defaultdict
from math import sqrt
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from control.policy.balancers import (
    Balancer,
    Hashed,
    LeastRequest,
    RandomChoice,
    choose,
    compile_balancing,
    make_balancer,
)
from control.policy.balancing import RoundRobin
from control.policy.endpoints import Endpoint
from control.policy.facts import RequestFacts
from control.policy.model import Policy

MANY = 20_000


def endpoints(*weights: float) -> tuple[Endpoint, ...]:
    return tuple(
        Endpoint("s", "v1", f"10.0.0.{number}", 80, f"10.0.0.{number}:80", weight)
        for number, weight in enumerate(weights)
    )


def all_balancers() -> list[Balancer]:
    return [RoundRobin(), RandomChoice(Random(1)), LeastRequest({}, Random(2)), Hashed()]


def named(balancer: object) -> str:
    return type(balancer).__name__


def within(counted: int, share: float, many: int = MANY, sigmas: float = 3) -> bool:
    return abs(counted - many * share) <= sigmas * sqrt(many * share * (1 - share))


@pytest.mark.parametrize("weights", [(1, 1), (1, 2, 7), (0.5, 0, 2.5)])
@pytest.mark.parametrize("kind", ["random", "least_request"])
def test_chance_is_in_proportion_to_the_weights_within_3_sigma(kind: str, weights: tuple[float, ...]) -> None:
    balancing = compile_balancing(kind)
    assert balancing is not None
    among = endpoints(*weights)
    balancer = make_balancer(balancing, {}, Random(7))
    counted = Counter(balancer.pick(among) for _ in range(MANY))
    for endpoint in among:
        assert within(counted[endpoint], endpoint.weight / sum(weights))


@pytest.mark.parametrize("weights", [(1, 1, 1, 1), (1, 2, 7), (0.5, 0, 2.5)])
def test_keys_are_spread_in_proportion_to_the_weights_within_3_sigma(weights: tuple[float, ...]) -> None:
    among = endpoints(*weights)
    balancer = Hashed()
    counted = Counter(balancer.pick(among, (), f"user-{number}") for number in range(MANY))
    for endpoint in among:
        # Keys fall into slots, and slots to endpoints: both by chance.
        assert abs(counted[endpoint] - MANY * endpoint.weight / sum(weights)) <= 3 * sqrt(
            MANY * endpoint.weight / sum(weights) * (1 + MANY / 65_536)
        )


@pytest.mark.parametrize("count", [2, 3, 10])
def test_when_one_of_n_goes_only_its_keys_move_and_to_all_others(count: int) -> None:
    among = endpoints(*[1] * count)
    keys = [f"user-{number}" for number in range(MANY)]
    balancer = Hashed()
    before = {key: balancer.pick(among, (), key) for key in keys}
    left = among[1:]
    after = {key: balancer.pick(left, (), key) for key in keys}
    moved = [key for key in keys if before[key] != after[key]]
    assert {before[key] for key in moved} == {among[0]}
    assert len(moved) / MANY == pytest.approx(1 / count, rel=0.15)
    assert {after[key] for key in moved} == set(left)
    # And back again when it comes back.
    assert {key: balancer.pick(among, (), key) for key in keys} == before


@given(st.lists(st.floats(0.1, 10), min_size=1, max_size=6), st.floats(1, 5), st.data(), st.text(max_size=20))
def test_a_weight_that_grows_only_draws_keys(
    weights: list[float], factor: float, data: st.DataObject, key: str
) -> None:
    place = data.draw(st.integers(0, len(weights) - 1))
    grown = [weight * (factor if index == place else 1) for index, weight in enumerate(weights)]
    before = Hashed().pick(endpoints(*weights), (), key)
    after = Hashed().pick(endpoints(*grown), (), key)
    assert before is not None
    assert after is not None
    assert after.host in (before.host, f"10.0.0.{place}")


def test_two_proxies_hash_alike_whatever_the_order_of_the_endpoints() -> None:
    among = endpoints(1, 2, 3)
    one, other = Hashed(), Hashed()
    for number in range(200):
        assert one.pick(among, (), f"{number}") == other.pick(among[::-1], (), f"{number}")


def test_where_a_key_goes_is_the_same_in_every_release() -> None:
    balancer = Hashed()
    among = endpoints(1, 1, 1)
    assert [among.index(balancer.pick(among, (), key)) for key in "abcdefgh"] == [0, 0, 1, 0, 1, 1, 2, 1]


def test_the_next_choice_of_a_key_is_its_own_too() -> None:
    """A key whose endpoint is avoided goes where it would go if that were gone."""
    among = endpoints(1, 1, 1, 1)
    balancer = Hashed()
    for number in range(100):
        key = f"{number}"
        first = balancer.pick(among, (), key)
        assert first is not None
        left = tuple(endpoint for endpoint in among if endpoint != first)
        assert balancer.pick(among, (first,), key) == Hashed().pick(left, (), key)


def test_without_a_key_endpoints_take_turns() -> None:
    among = endpoints(1, 1, 1)
    balancer = Hashed()
    assert [balancer.pick(among) for _ in range(6)] == [*among, *among]


def test_least_request_takes_the_one_with_fewer_for_its_weight() -> None:
    among = endpoints(1, 1)
    active: dict[str, int] = {among[0].address: 1}
    balancer = LeastRequest(active, Random(3))
    assert {balancer.pick(among) for _ in range(50)} == {among[1]}
    active[among[1].address] = 2
    assert {balancer.pick(among) for _ in range(50)} == {among[0]}
    heavy = endpoints(1, 4)
    active.update({heavy[0].address: 1, heavy[1].address: 3})
    assert {balancer.pick(heavy) for _ in range(50)} == {heavy[1]}


def test_least_request_spreads_what_stays() -> None:
    """Requests that never end: as many everywhere for the weight, which chance alone would not give."""
    among = endpoints(1, 1, 2)
    active: defaultdict[str, int] = defaultdict(int)
    balancer = LeastRequest(active, Random(5))
    for _ in range(4000):
        picked = balancer.pick(among)
        assert picked is not None
        active[picked.address] += 1
    assert [active[endpoint.address] for endpoint in among] == pytest.approx([1000, 1000, 2000], abs=10)


@pytest.mark.parametrize("balancer", all_balancers(), ids=named)
@pytest.mark.parametrize("key", [None, "x"])
def test_nothing_to_pick(balancer: Balancer, key: str | None) -> None:
    for weights in ((), (0,), (0, 0)):
        among = endpoints(*weights)
        assert balancer.pick(among, (), key) is None
        assert choose(balancer, among, (), (), key) is None


@given(
    st.integers(0, 3),
    st.lists(st.sampled_from([0, 1, 2.5]), max_size=5),
    st.data(),
    st.one_of(st.none(), st.text(max_size=5)),
)
def test_never_a_barred_one_and_a_tried_one_only_if_there_is_no_other(
    which: int, weights: list[float], data: st.DataObject, key: str | None
) -> None:
    balancer = all_balancers()[which]
    among = endpoints(*weights)
    usable = [endpoint for endpoint in among if endpoint.weight > 0]
    some = st.lists(st.sampled_from(among), unique=True) if among else st.just([])
    for _ in range(3):
        tried, barred = data.draw(some), data.draw(some)
        picked = choose(balancer, among, tried, barred, key)
        allowed = [endpoint for endpoint in usable if endpoint not in barred]
        assert (picked is None) is (not allowed)
        if picked is not None:
            assert picked in allowed
            assert picked not in tried or all(endpoint in tried for endpoint in allowed)


@pytest.mark.parametrize(
    ("load_balancer", "key"),
    [
        ({"hash": {"header": "X-User"}}, "7"),
        ({"hash": {"header": "x-none"}}, None),
        ({"hash": {"cookie": "uid"}}, "abc"),
        ({"hash": {"cookie": "none"}}, None),
        ({"hash": "source_ip"}, "10.1.2.3"),
        ("random", None),
    ],
)
def test_what_is_hashed(load_balancer: object, key: str | None) -> None:
    facts = RequestFacts("GET", "s", 80, "/", ((b"x-user", b"7"), (b"cookie", b"a=b; uid=abc")))
    facts.client_ip = "10.1.2.3"
    balancing = compile_balancing(
        Policy.model_validate({"service": "s", "load_balancer": load_balancer}).load_balancer
    )
    assert balancing is not None
    assert balancing.key(facts) == key


def test_round_robin_is_what_is_done_without() -> None:
    assert compile_balancing("round_robin") is None
    assert compile_balancing(None) is None
