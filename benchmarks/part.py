"""What one part of the benchmarks found."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Part:
    """text: the table; note: how to read it; data: the same for JSON."""

    title: str
    note: str
    text: str
    data: list[dict[str, Any]]
