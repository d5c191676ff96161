"""Durations, sizes and percentages: what is read, what is refused, and that what is written reads back the same."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from control.policy.addresses import address, host_claim, split_host_port
from control.policy.patterns import check_regex, compile_regex
from control.policy.units import (
    format_duration,
    format_rate,
    format_size,
    parse_bytes,
    parse_duration,
    parse_percent,
    parse_rate,
    parse_size,
)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("25ms", 0.025),
        ("1.5s", 1.5),
        ("2m", 120.0),
        ("1h", 3600.0),
        ("0.001ms", 1e-6),
        (0, 0.0),
        (0.0, 0.0),
        ("0s", 0.0),
        ("8760h", 31_536_000.0),
    ],
)
def test_durations(text: object, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    "text",
    [
        "5",
        "5 s",
        " 5s",
        "5s\n",
        "s",
        "",
        "-1s",
        "+1s",
        "1e3s",
        ".5s",
        "5.s",
        "1d",
        "1h30m",
        "5S",
        "٣s",
        "0.0001ms",
        "8761h",
        "9" * 5000 + "s",
        5,
        5.5,
        True,
        False,
        None,
        [],
        {},
        float("nan"),
        float("inf"),
    ],
)
def test_what_is_no_duration(text: object) -> None:
    with pytest.raises(ValueError, match="duration"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.025, "25ms"),
        (1.5, "1500ms"),
        (90.0, "90s"),
        (120.0, "2m"),
        (3600.0, "1h"),
        (0.0, "0s"),
        (0.0005, "0.5ms"),
        (1e-6, "0.001ms"),
        (0.0101, "10.1ms"),
    ],
)
def test_durations_are_written_in_the_largest_whole_unit(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


@given(st.integers(0, 365 * 24 * 3600 * 10**6))
def test_durations_read_back(microseconds: int) -> None:
    seconds = microseconds / 1e6
    assert parse_duration(format_duration(seconds)) == seconds


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("100B", 100),
        ("64KiB", 65536),
        ("1MB", 10**6),
        ("1.5KiB", 1536),
        ("1.1KB", 1100),
        ("0.1KB", 100),
        (0, 0),
        ("0B", 0),
        ("1000GB", 10**12),
    ],
)
def test_sizes(text: object, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize(
    "text",
    ["5", "5 KB", "5kb", "5K", "-1B", "0.5B", "1.0001KB", "1001GB", "", 5, True, None, [], float("nan")],
)
def test_what_is_no_size(text: object) -> None:
    with pytest.raises(ValueError, match="size"):
        parse_size(text)


@given(st.integers(0, 10**12))
def test_sizes_read_back(size: int) -> None:
    text = format_size(size)
    assert parse_size(text) == size
    assert "." not in text


@pytest.mark.parametrize(("text", "rate"), [("1B/s", 1), ("10KiB/s", 10240), ("1.5MB/s", 1_500_000)])
def test_rates(text: str, rate: int) -> None:
    assert parse_rate(text) == rate
    assert parse_rate(format_rate(rate)) == rate


@pytest.mark.parametrize("text", ["0B/s", "10KiB", "10KiB/m", "KiB/s", 10, 0, True, None, "/s", "1B/s "])
def test_what_is_no_rate(text: object) -> None:
    with pytest.raises(ValueError, match="rate above 0"):
        parse_rate(text)


@pytest.mark.parametrize(("value", "size"), [(0, 0), (100, 100), ("64KiB", 65536), ("1B", 1)])
def test_numbers_of_bytes(value: object, size: int) -> None:
    assert parse_bytes(value) == size


@pytest.mark.parametrize("value", [-1, 1.5, True, None, 10**13, "100", []])
def test_what_is_no_number_of_bytes(value: object) -> None:
    with pytest.raises(ValueError, match=r"size|number of bytes"):
        parse_bytes(value)


@pytest.mark.parametrize(("value", "percent"), [(0, 0.0), (100, 100.0), (12.5, 12.5), (1e-9, 1e-9)])
def test_percentages(value: object, percent: float) -> None:
    assert parse_percent(value) == percent


@pytest.mark.parametrize(
    "value", [-1, 100.1, "10", "10%", True, False, None, [], float("nan"), float("inf"), 10**400]
)
def test_what_is_no_percentage(value: object) -> None:
    with pytest.raises(ValueError, match="percentage"):
        parse_percent(value)


@given(st.one_of(st.text(), st.integers(), st.floats(), st.booleans(), st.none(), st.lists(st.none())))
@pytest.mark.parametrize(
    "parse", [parse_duration, parse_size, parse_rate, parse_bytes, parse_percent, host_claim, address]
)
def test_a_value_is_taken_or_refused_with_a_sentence(
    parse: Callable[[object], object], value: object
) -> None:
    try:
        parse(value)
        refusal = ValueError("none")
    except ValueError as error:
        refusal = error
    assert type(refusal) is ValueError
    assert str(refusal).isprintable()


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("a:1", "a", 1),
        ("A.Example.", "a.example", None),
        ("[::1]:80", "::1", 80),
        ("[::1]", "::1", None),
        ("[0:0:0::1]", "::1", None),
        ("under_score", "under_score", None),
        ("10.0.0.1:65535", "10.0.0.1", 65535),
    ],
)
def test_hosts_and_ports(text: str, host: str, port: int | None) -> None:
    assert split_host_port(text) == (host, port)


@pytest.mark.parametrize(
    "text",
    [
        "",
        ":80",
        "a:",
        "a:0",
        "a:65536",
        "a:b",
        "a:1:2",
        "a b",
        "a/b",
        "http://a",
        "::1",
        "[::1",
        "[::1]80",
        "[::1]:",
        "[:::]",
        "[fe80::1%eth0]",
        "-a",
        "a-",
        "a..b",
        "10.0.0.256",
        "1.2.3",
        "a:\uff11",
        "ä.example",
        "a" * 64,
        "a\n",
        "*",
    ],
)
def test_what_is_no_host(text: str) -> None:
    with pytest.raises(ValueError, match=r"write|port|not an IPv4"):
        split_host_port(text)


@pytest.mark.parametrize("text", ["*.10.0.0.1", "*.[::1]", "*.", "*.*.a", "a.*", "*a.example"])
def test_what_is_no_wildcard(text: str) -> None:
    with pytest.raises(ValueError, match=r"write|stands"):
        host_claim(text)


@pytest.mark.parametrize(
    "pattern", ["(", "(?=a)", r"(a)\1", "[z-a]", "a**", "(((a{100}){100}){100})", "x" * 10**6]
)
def test_what_is_no_regex(pattern: str) -> None:
    with pytest.raises(ValueError, match="not an RE2 regular expression"):
        check_regex(pattern)


def test_a_regex_takes_linear_time() -> None:
    # Python's own engine would need some 2^40 steps for this.
    assert compile_regex("(a|aa)+b").fullmatch("a" * 40) is None
