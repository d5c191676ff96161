"""Durations, sizes and percentages as people write them, and back.

Every parser takes the YAML value and returns a number in base units, or raises
ValueError with one sentence that says what is accepted.
"""

import math
import re

_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h)", re.ASCII)
_DURATION_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_LONGEST_DURATION = 365 * 24 * 3600.0

_SIZE = re.compile(r"(\d+(?:\.\d+)?)(B|KB|MB|GB|KiB|MiB|GiB)", re.ASCII)
_SIZE_UNITS = {
    "B": 1,
    "KB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "KiB": 2**10,
    "MiB": 2**20,
    "GiB": 2**30,
}


def parse_duration(value: object) -> float:
    """Seconds of `25ms`, `1.5s`, `2m`, `1h`; the number 0 needs no unit."""
    if value == 0 and not isinstance(value, bool):
        return 0.0
    if isinstance(value, str) and (found := _DURATION.fullmatch(value)):
        seconds = float(found[1]) * _DURATION_UNITS[found[2]]
        if seconds <= _LONGEST_DURATION:
            return seconds
        raise ValueError("a duration is at most a year")
    raise ValueError("write a duration with its unit, such as 25ms, 1.5s, 2m or 1h")


def format_duration(seconds: float) -> str:
    """The shortest exact spelling: 0.025 -> `25ms`, 90 -> `90s`, 3600 -> `1h`."""
    if seconds == 0:
        return "0s"
    for unit in ("h", "m", "s"):
        count = seconds / _DURATION_UNITS[unit]
        if count.is_integer():
            return f"{int(count)}{unit}"
    # Whole milliseconds read best; anything finer keeps its digits without an exponent.
    return f"{seconds * 1000:.6f}".rstrip("0").rstrip(".") + "ms"


def parse_size(value: object) -> int:
    """Bytes of `100B`, `64KiB`, `1MB`; the number 0 needs no unit."""
    if value == 0 and not isinstance(value, bool):
        return 0
    if isinstance(value, str) and (found := _SIZE.fullmatch(value)):
        size = float(found[1]) * _SIZE_UNITS[found[2]]
        if size.is_integer():
            return int(size)
    raise ValueError("write a size with its unit, such as 100B, 64KiB or 1MB")


def format_size(size: int) -> str:
    """The shortest exact spelling: 65536 -> `64KiB`, 1000000 -> `1MB`."""
    for unit in ("GiB", "MiB", "KiB", "GB", "MB", "KB"):
        if size and size % _SIZE_UNITS[unit] == 0:
            return f"{size // _SIZE_UNITS[unit]}{unit}"
    return f"{size}B"


def parse_percent(value: object) -> float:
    """A share in per cent: a number from 0 to 100, fractions allowed."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        if math.isfinite(value) and 0 <= value <= 100:
            return float(value)
    raise ValueError("write a percentage as a number from 0 to 100")
