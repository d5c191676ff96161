from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from control.policy.shaping import Corruption, Pace


def differing(before: bytes, after: bytes) -> list[int]:
    assert len(before) == len(after)
    return [place for place, pair in enumerate(zip(before, after, strict=True)) if pair[0] != pair[1]]


@pytest.mark.parametrize("percent", [0.1, 1, 30, 100])
def test_the_share_of_bytes_that_is_flipped(percent):
    data = Random(1).randbytes(200_000)
    flipped = Corruption(percent, Random(2)).apply(data)
    share = percent / 100
    places = differing(data, flipped)
    assert abs(len(places) - len(data) * share) <= 3 * (len(data) * share * (1 - share)) ** 0.5
    assert all((data[place] ^ flipped[place]).bit_count() == 1 for place in places)


@given(st.binary(max_size=2000), st.lists(st.integers(0, 500)), st.integers(0, 99), st.floats(0.5, 100))
def test_pieces_make_no_difference(data, cuts, seed, percent):
    whole = Corruption(percent, Random(seed)).apply(data)
    corruption = Corruption(percent, Random(seed))
    got, rest = b"", data
    for cut in cuts:
        got += corruption.apply(rest[:cut])
        rest = rest[cut:]
    assert got + corruption.apply(rest) == whole


@pytest.mark.parametrize("rate", [1, 10, 1024, 10_000_000, 1_000_000_000_000])
def test_a_stream_takes_as_long_as_its_bytes_at_the_rate(rate):
    now = begun = 100.0
    pace = Pace(rate, now)
    left = total = rate * 5
    pieces = 0
    while left > 0 and pieces < 1000:
        size = min(left, pace.piece)
        now += pace.wait(size, now)
        left -= size
        pieces += 1
    assert 1 <= pace.piece <= 64 * 1024
    assert now - begun == pytest.approx((total - left) / rate, abs=0.0011)


def test_time_in_which_nothing_came_is_not_made_up_for():
    pace = Pace(100, 0.0)
    assert pace.wait(5, 10.0) == pytest.approx(0.05)
    assert pace.wait(5, 10.0) == pytest.approx(0.1)
