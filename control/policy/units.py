"""Durations, sizes and percentages as people write them, and back.

Every parser takes the YAML value and returns a number in base units, or raises
ValueError with one sentence that says what is accepted. What a formatter writes
is read back to the very same number.
"""

import re
from fractions import Fraction

_NUMBER = r"(\d{1,15}(?:\.\d{1,15})?)"

_DURATION = re.compile(_NUMBER + "(ms|s|m|h)", re.ASCII)
_MICROSECONDS = {"h": 3_600_000_000, "m": 60_000_000, "s": 1_000_000, "ms": 1000}
_LONGEST_DURATION = 365 * 24 * _MICROSECONDS["h"]

_SIZE = re.compile(_NUMBER + "(B|KB|MB|GB|KiB|MiB|GiB)", re.ASCII)
_BYTES = {"GiB": 2**30, "MiB": 2**20, "KiB": 2**10, "GB": 10**9, "MB": 10**6, "KB": 10**3, "B": 1}
_LARGEST_SIZE = 10**12


def parse_duration(value: object) -> float:
    """Seconds of `25ms`, `1.5s`, `2m`, `1h`; the number 0 needs no unit."""
    if value == 0 and not isinstance(value, bool):
        return 0.0
    if isinstance(value, str) and (found := _DURATION.fullmatch(value)):
        microseconds = Fraction(found[1]) * _MICROSECONDS[found[2]]
        if microseconds > _LONGEST_DURATION:
            raise ValueError("a duration is at most a year (8760h)")
        if microseconds.denominator != 1:
            raise ValueError("a duration is whole microseconds: write fewer decimals")
        return int(microseconds) / 1e6
    raise ValueError("write a duration with its unit, such as 25ms, 1.5s, 2m or 1h")


def format_duration(seconds: float) -> str:
    """In the largest unit that needs no fraction: 0.025 -> `25ms`, 90 -> `90s`, 3600 -> `1h`, 0 -> `0s`."""
    microseconds = round(seconds * 1e6)
    if microseconds == 0:
        return "0s"
    for unit, length in _MICROSECONDS.items():
        if microseconds % length == 0:
            return f"{microseconds // length}{unit}"
    return f"{microseconds // 1000}.{microseconds % 1000:03}".rstrip("0") + "ms"


def parse_size(value: object) -> int:
    """Bytes of `100B`, `64KiB`, `1MB`; the number 0 needs no unit."""
    if value == 0 and not isinstance(value, bool):
        return 0
    if isinstance(value, str) and (found := _SIZE.fullmatch(value)):
        size = Fraction(found[1]) * _BYTES[found[2]]
        if size > _LARGEST_SIZE:
            raise ValueError("a size is at most 1000GB")
        if size.denominator != 1:
            raise ValueError("a size is whole bytes: write fewer decimals")
        return int(size)
    raise ValueError("write a size with its unit, such as 100B, 64KiB or 1MB")


def format_size(size: int) -> str:
    """In the largest unit that needs no fraction: 65536 -> `64KiB`, 1000000 -> `1MB`, 0 -> `0B`."""
    unit = next(unit for unit, length in _BYTES.items() if size % length == 0 and (size or length == 1))
    return f"{size // _BYTES[unit]}{unit}"


def parse_rate(value: object) -> int:
    """Bytes per second of `10KiB/s`, `1MB/s`."""
    if isinstance(value, str) and value.endswith("/s") and (size := _SIZE.fullmatch(value[:-2])):
        rate = parse_size(size[0])
        if rate > 0:
            return rate
    raise ValueError("write a rate above 0 with its unit, such as 100B/s, 10KiB/s or 1MB/s")


def format_rate(rate: int) -> str:
    """Of 10240 -> `10KiB/s`."""
    return f"{format_size(rate)}/s"


def parse_bytes(value: object) -> int:
    """A number of bytes: 100, or a size such as `64KiB`."""
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _LARGEST_SIZE:
        return value
    if isinstance(value, str):
        return parse_size(value)
    raise ValueError("write a number of bytes, such as 100 or 64KiB")


def parse_percent(value: object) -> float:
    """A share in per cent: a number from 0 to 100, fractions allowed."""
    if isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value <= 100:
        return float(value)
    raise ValueError("write a percentage as a number from 0 to 100")
