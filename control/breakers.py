"""What a proxy tells of its circuit breakers in its report: the text in Redis, written and read."""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from control.store_records import NodeReport

FIELD = "breakers"
"""The field of the node's report."""
MOST = 200
"""Endpoints in a report."""


@dataclass(frozen=True, slots=True)
class Ejected:
    """An endpoint that is left alone. `state`: open or half-open; `since` and `left`: seconds that it is so, and still will be."""

    service: str
    endpoint: str
    state: str
    since: float
    left: float
    ejections: int

    def data(self) -> dict[str, Any]:
        """As JSON data."""
        return asdict(self)


def write_breakers(ejected: Iterable[Ejected]) -> str:
    """Empty if there is none."""
    rows = [each.data() for each in ejected][:MOST]
    return json.dumps(rows, separators=(",", ":")) if rows else ""


def breakers_of(node: NodeReport) -> list[Ejected]:
    """Those in a node's report; none where it tells nothing that can be read."""
    try:
        return [
            Ejected(
                str(row["service"]),
                str(row["endpoint"]),
                str(row["state"]),
                float(row["since"]),
                float(row["left"]),
                int(row["ejections"]),
            )
            for row in json.loads(node.extra.get(FIELD) or "[]")
        ]
    except (ValueError, TypeError, KeyError):
        return []
