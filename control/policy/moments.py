"""Points in time as people write them, and back."""

import re
from datetime import UTC, datetime
from typing import Annotated

from pydantic import BeforeValidator, PlainSerializer

from control.policy.parts import Written

_PATTERN = r"^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,6})?(Z|[+-][0-9]{2}:[0-9]{2})$"


def parse_moment(value: object) -> float:
    """Seconds since the epoch of `2026-05-01T12:00:00Z` (RFC 3339), to the millisecond."""
    if isinstance(value, str) and re.fullmatch(_PATTERN, value, re.ASCII):
        try:
            return round(datetime.fromisoformat(value).timestamp(), 3)
        except (ValueError, OverflowError):
            pass
    raise ValueError("write a time with its zone, such as 2026-05-01T12:00:00Z")


def format_moment(seconds: float) -> str:
    """In UTC, to the millisecond where that is not 0."""
    text = datetime.fromtimestamp(round(seconds, 3), UTC).isoformat(timespec="milliseconds")
    return text.removesuffix("+00:00").removesuffix(".000") + "Z"


Moment = Annotated[
    float,
    BeforeValidator(parse_moment),
    PlainSerializer(format_moment, return_type=str),
    Written("a time, such as 2026-05-01T12:00:00Z", {"type": "string", "pattern": _PATTERN}),
]
"""In a part: seconds since the epoch."""
