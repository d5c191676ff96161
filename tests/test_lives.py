"""control/identity/lives.py: when a certificate is renewed and warned of."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from control.identity.lives import Life, pause

CHANCE = st.floats(0, 1)


@given(chance=CHANCE, length=st.floats(1, 1e8))
def test_renewal_is_at_half_of_its_life_give_or_take(chance, length):
    life = Life(1000.0, 1000.0 + length, chance)
    assert 0.4 * length - 1e-6 <= life.renewal - 1000.0 <= 0.6 * length + 1e-6


def test_not_all_at_once():
    assert len({Life(0, 100, chance / 10).renewal for chance in range(11)}) == 11


@given(chance=CHANCE, since=st.floats(0, 100))
def test_a_new_root_is_followed_within_seconds_and_never_later_than_otherwise(chance, since):
    life = Life(0.0, 100.0, chance)
    assert life.renewal_under(since) <= min(life.renewal, since + 5)
    assert Life(0.0, 86400.0, 1.0).renewal_under(since) == since + 5


@pytest.mark.parametrize(
    ("now", "left", "ending"),
    [
        (0, 1.0, False),
        (74, 0.26, False),
        (75, 0.25, True),
        (100, 0.0, True),
        (200, 0.0, True),
        (-50, 1.0, False),
    ],
)
def test_the_end_is_near(now, left, ending):
    life = Life(0.0, 100.0)
    assert (life.left(now), life.ending(now)) == (left, ending)


def test_a_certificate_that_was_over_when_it_came():
    assert Life(10.0, 5.0).ending(10.0)


@given(failures=st.integers(0, 10_000), left=st.floats(-100, 1e6), chance=CHANCE)
def test_pauses_grow_but_not_beyond_what_is_left(failures, left, chance):
    seconds = pause(failures, left, chance)
    assert 0.25 <= seconds <= 30
    if left > 5:
        assert seconds <= left / 10


def test_pauses_double():
    assert [pause(failures, 0.0, 1.0) for failures in range(8)] == [0.5, 1, 2, 4, 8, 16, 30, 30]
