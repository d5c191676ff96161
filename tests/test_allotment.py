"""Who has which version: in proportion, and whoever is on a version whose share does not fall stays there."""

from collections import Counter
from fractions import Fraction
from itertools import pairwise
from math import sqrt

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from control.policy.allotment import (
    WHOLE,
    Stretches,
    allot,
    from_document,
    grown,
    keeps,
    lengths_of,
    plain,
    to_document,
)

MANY = 20_000
USERS = [f"user-{number}" for number in range(MANY)]

names = st.sampled_from(["v1", "v2", "v3", "v4", "other/v2"])
some_weights = st.one_of(
    st.dictionaries(names, st.sampled_from([0, 1, 5, 10, 30, 50, 90]), min_size=1),
    st.dictionaries(names, st.floats(0, 1e9, allow_nan=False, allow_subnormal=False), min_size=1),
    st.dictionaries(names, st.integers(0, 10**9), min_size=1),
).filter(lambda weights: sum(weights.values()) > 0)


def shares(weights: dict[str, float]) -> dict[str, Fraction]:
    exact = {name: Fraction(str(weight)) for name, weight in weights.items()}
    return {name: weight / sum(exact.values()) for name, weight in exact.items()}


def versions(stretches: Stretches) -> dict[str, str]:
    allotment = allot(stretches, "web")
    return {user: allotment.version(user) for user in USERS}


def test_the_split_is_within_3_sigma_over_20_000_users() -> None:
    for weights in (
        {"v1": 90, "v2": 10},
        {"v1": 70, "v2": 30},
        {"v1": 1, "v2": 2, "v3": 7},
        {"v1": 0, "v2": 1},
    ):
        counted = Counter(versions(plain(weights)).values())
        for name, share in shares(weights).items():
            assert abs(counted[name] - MANY * share) <= 3 * sqrt(MANY * share * (1 - share))


def test_raising_v2_from_10_to_30_moves_nobody_from_v2_back() -> None:
    before = versions(plain({"v1": 90, "v2": 10}))
    after = versions(grown(plain({"v1": 90, "v2": 10}), {"v1": 70, "v2": 30}))
    moved = Counter((before[user], after[user]) for user in USERS if before[user] != after[user])
    assert moved.keys() == {("v1", "v2")}
    assert moved["v1", "v2"] / MANY == pytest.approx(0.2, abs=3 * sqrt(0.16 / MANY))


def test_with_three_versions_one_that_keeps_its_share_keeps_its_users() -> None:
    steps = [
        {"v1": 80, "v2": 10, "v3": 10},
        {"v1": 60, "v2": 30, "v3": 10},
        {"v1": 60, "v2": 10, "v3": 30},
        {"v1": 40, "v2": 30, "v3": 30},
        {"v2": 30, "v3": 70},
        {"v2": 30, "v4": 70},
        {"v1": 40, "v2": 30, "v4": 30},
    ]
    stretches = plain(steps[0])
    for weights, then in pairwise(steps):
        made = grown(stretches, then)
        before, after = versions(stretches), versions(made)
        was, will = shares(weights), shares(then)
        moved = {(before[user], after[user]) for user in USERS if before[user] != after[user]}
        assert {name for name, _ in moved} <= {name for name in was if will.get(name, 0) < was[name]}
        assert {name for _, name in moved} <= {name for name in will if will[name] > was.get(name, 0)}
        counted = Counter(after.values())
        for name, share in will.items():
            # Eighteen looks: one above 3 sigma would be no wonder.
            assert abs(counted[name] - MANY * share) <= 4 * sqrt(MANY * share * (1 - share))
        stretches = made


@given(st.lists(some_weights, min_size=2, max_size=8), st.lists(st.text(max_size=12), max_size=20))
def test_whatever_the_weights_whose_share_does_not_fall_stays(
    steps: list[dict[str, float]], users: list[str]
) -> None:
    stretches = plain(steps[0])
    for weights, then in pairwise(steps):
        made = grown(stretches, then)
        assert sum(length for _, length in made) == WHOLE
        assert all(length > 0 for _, length in made)
        assert all(one[0] != other[0] for one, other in pairwise(made))
        assert lengths_of(made).keys() <= {name for name, weight in then.items() if weight > 0}
        assert keeps(stretches, made, then)
        was, will = shares(weights), shares(then)
        before, after = allot(stretches, "web"), allot(made, "web")
        for user in users:
            name = before.version(user)
            if will.get(name, Fraction(0)) >= was.get(name, Fraction(0)):
                assert after.version(user) == name
        for name, length in lengths_of(made).items():
            assert abs(length - will.get(name, 0) * WHOLE) <= 200
        stretches = made


@given(some_weights, some_weights)
def test_the_same_weights_again_change_nothing(one: dict[str, float], other: dict[str, float]) -> None:
    made = grown(plain(one), other)
    assert grown(made, other) == made
    doubled = {name: weight * 2 for name, weight in other.items()}
    assert grown(made, doubled) == made


@given(some_weights, some_weights)
def test_what_is_written_into_a_document_reads_back_to_it(
    one: dict[str, float], other: dict[str, float]
) -> None:
    made = grown(plain(one), other)
    assert from_document(to_document(made)) == made


@given(st.dictionaries(st.sampled_from(["v1", "v2"]), st.integers(0, 100), min_size=2).filter(any))
def test_two_versions_need_no_memory(weights: dict[str, float]) -> None:
    if sum(weights.values()):
        assert grown(plain({"v1": 35, "v2": 65}), weights) == plain(weights)


def test_what_a_person_writes_is_put_right() -> None:
    stretches = from_document([{"v1": 33.3333333}, {"v2": 66.6666666}])
    assert sum(length for _, length in stretches) == WHOLE
    assert [name for name, _ in stretches] == ["v1", "v2"]


@settings(max_examples=20)
@given(st.lists(st.lists(st.sampled_from([0, 1, 10, 50]), min_size=4, max_size=4), min_size=60, max_size=60))
def test_a_long_history_stays_short(steps: list[list[int]]) -> None:
    stretches = plain({"v0": 1})
    for step in steps:
        weights = {f"v{number}": weight for number, weight in enumerate(step)}
        if any(step):
            stretches = grown(stretches, weights)
    assert len(stretches) <= 40


def test_services_choose_differently() -> None:
    stretches = plain({"v1": 50, "v2": 50})
    one, other = allot(stretches, "web"), allot(stretches, "shop")
    same = sum(one.version(user) == other.version(user) for user in USERS)
    assert same / MANY == pytest.approx(0.5, abs=3 * sqrt(0.25 / MANY))


def test_a_users_version_is_the_same_in_every_release() -> None:
    allotment = allot(plain({"v1": 50, "v2": 50}), "web")
    assert "".join(allotment.version(user)[1] for user in "abcdefghijklmnop") == "2112211111112112"
