import pytest
from hypothesis import given
from hypothesis import strategies as st

from control.policy.moments import format_moment, parse_moment


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("1970-01-01T00:00:00Z", 0.0),
        ("2026-05-01T12:00:00Z", 1777636800.0),
        ("2026-05-01T12:00:00.250Z", 1777636800.25),
        ("2026-05-01T14:00:00.1239+02:00", 1777636800.124),
    ],
)
def test_moments(text, seconds):
    assert parse_moment(text) == seconds


@pytest.mark.parametrize(
    "value",
    [
        "",
        "2026-05-01",
        "2026-05-01T12:00:00",
        "2026-13-01T12:00:00Z",
        "2026-05-01 12:00:00Z",
        0,
        5.5,
        None,
        "now",
    ],
)
def test_what_is_no_moment(value):
    with pytest.raises(ValueError, match="write a time with its zone"):
        parse_moment(value)


@given(st.integers(0, 4 * 10**12))
def test_moments_read_back(milliseconds):
    seconds = milliseconds / 1000
    text = format_moment(seconds)
    assert parse_moment(text) == seconds
    assert text.endswith("Z")
