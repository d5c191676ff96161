"""Values that stand in faults alone: rates, numbers of bytes, shares above nothing."""

from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, PlainSerializer

from control.policy.parts import Written
from control.policy.units import format_rate, parse_bytes, parse_rate
from control.policy.values import Percent


def _some(percent: float) -> float:
    if percent == 0:
        raise ValueError("write a percentage above 0; leave it out for none")
    return percent


Rate = Annotated[
    int,
    BeforeValidator(parse_rate),
    PlainSerializer(format_rate, return_type=str),
    Written(
        "a rate, such as 100B/s, 10KiB/s or 1MB/s",
        {"type": "string", "pattern": r"^[0-9]+(\.[0-9]+)?(B|KB|MB|GB|KiB|MiB|GiB)/s$"},
    ),
]
ByteCount = Annotated[
    int,
    BeforeValidator(parse_bytes),
    Written(
        "a number of bytes, such as 100 or 64KiB",
        {
            "anyOf": [
                {"type": "integer", "minimum": 0, "maximum": 10**12},
                {"type": "string", "pattern": r"^[0-9]+(\.[0-9]+)?(B|KB|MB|GB|KiB|MiB|GiB)$"},
            ]
        },
    ),
]
SomePercent = Annotated[
    Percent,
    AfterValidator(_some),
    Written("a number above 0, up to 100", {"type": "number", "exclusiveMinimum": 0, "maximum": 100}),
]
"""A share for which 0 would make no sense."""
