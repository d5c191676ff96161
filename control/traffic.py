"""What a proxy tells the mesh about its traffic of the last second or so, and the sum of what several told.

It travels in the node's report as a short JSON text:
`{"end": Unix seconds, "seconds": length, "rows": [[service, version, side, requests, failed, injected,
[bucket, count, ...]], ...], "more": rows left out}`, the busiest rows first.
"""

import json
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from math import isfinite
from typing import Any

from control.histogram import BUCKETS, added, quantile

MOST_ROWS = 100
"""Rows in one proxy's report; the busiest are told, of the others how many they are."""
_FORM = 1
"""Of the text and of the buckets; a report in another form, of another release, is not added to the sum."""


@dataclass(slots=True)
class Row:
    """Requests to one version of a service, seen at one side (`outbound` or `inbound`).

    failed: no answer, 5xx, or one that broke off; `injected` of them by a fault. latency: bucket -> count.
    """

    requests: int = 0
    failed: int = 0
    injected: int = 0
    latency: dict[int, int] = field(default_factory=dict)


Key = tuple[str, str, str]
"""Service, version, side."""


@dataclass(frozen=True, slots=True)
class Traffic:
    """One proxy's rows from `end - seconds` to `end` (Unix seconds); `more` rows were left out."""

    end: float
    seconds: float
    rows: Mapping[Key, Row]
    more: int = 0


def busiest(rows: Mapping[Key, Row]) -> dict[Key, Row]:
    """The rows that a report has room for."""
    ordered = sorted(rows.items(), key=lambda item: (-item[1].requests, item[0]))
    return dict(ordered[:MOST_ROWS])


def write_traffic(traffic: Traffic) -> str:
    """The text, of the busiest rows."""
    rows = [
        [
            *key,
            row.requests,
            row.failed,
            row.injected,
            [part for pair in row.latency.items() for part in pair],
        ]
        for key, row in busiest(traffic.rows).items()
    ]
    more = traffic.more + len(traffic.rows) - len(rows)
    said = {"form": _FORM, "end": round(traffic.end, 3), "seconds": round(traffic.seconds, 3), "rows": rows}
    return json.dumps({**said, "more": more}, separators=(",", ":"))


def read_traffic(text: str) -> Traffic | None:
    """The traffic in a report; None: it tells nothing, or not in a form that is understood."""
    try:
        said = json.loads(text)
        if said["form"] != _FORM:
            return None
        rows = {}
        for service, version, side, requests, failed, injected, latency in said["rows"]:
            counts = dict(zip(latency[::2], latency[1::2], strict=True))
            rows[str(service), str(version), str(side)] = Row(
                _count(requests),
                _count(failed),
                _count(injected),
                {_count(bucket, BUCKETS): _count(count) for bucket, count in counts.items()},
            )
        end, seconds = float(said["end"]), float(said["seconds"])
        if not 0 < seconds < 1e9 or not isfinite(end):
            return None
        return Traffic(end, seconds, rows, _count(said["more"]))
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
        return None


def _count(value: Any, below: int = 1 << 53) -> int:
    if type(value) is not int or not 0 <= value < below:
        raise ValueError("not a count")
    return value


@dataclass(frozen=True, slots=True)
class Total:
    """One service and version over all proxies. Times in milliseconds; None where nothing was measured."""

    service: str
    version: str
    side: str
    rate: float
    """Requests per second."""
    requests: int
    failed: int
    injected: int
    p50: float | None
    p95: float | None
    p99: float | None

    @property
    def success(self) -> float:
        """The share (0 to 1) of requests that did not fail."""
        return 1 - self.failed / self.requests if self.requests else 1.0


def totals(told: Iterable[Iterable[Traffic]]) -> list[Total]:
    """The rows of all proxies in one, by service, version and side; `told` is what each of the proxies told.

    Each proxy's rate is over the seconds of its own reports, so one that was missed changes no rate.
    """
    rates: dict[Key, float] = {}
    rows: dict[Key, list[Row]] = {}
    for reports in told:
        reports = list(reports)
        seconds = sum(report.seconds for report in reports)
        for report in reports:
            for key, row in report.rows.items():
                rates[key] = rates.get(key, 0.0) + row.requests / seconds
                rows.setdefault(key, []).append(row)
    return [_total(key, rates[key], rows[key]) for key in sorted(rows)]


def _total(key: Key, rate: float, rows: list[Row]) -> Total:
    latency = added(row.latency for row in rows)
    return Total(
        *key,
        rate,
        sum(row.requests for row in rows),
        sum(row.failed for row in rows),
        sum(row.injected for row in rows),
        *(quantile(latency, share) for share in (0.5, 0.95, 0.99)),
    )


class Windows:
    """What each proxy told, of about the last `over` seconds; the last report of each in any case."""

    def __init__(self, over: float) -> None:
        self._over = over
        self._told: dict[str, deque[Traffic]] = {}

    def take(self, texts: Mapping[str, str]) -> None:
        """Node -> the traffic in its report now. A report that was seen before counts once, a node that is gone not at all."""
        self._told = {node: told for node, told in self._told.items() if node in texts}
        for node, text in texts.items():
            traffic = read_traffic(text)
            if traffic is None:
                continue
            told = self._told.setdefault(node, deque())
            if not told or told[-1].end != traffic.end:
                told.append(traffic)
            # Half a second of slack: a proxy's second is a little longer than ours.
            while sum(each.seconds for each in told) - told[0].seconds >= self._over - 0.5:
                told.popleft()

    @property
    def seconds(self) -> float:
        """How long the longest of them looked, at most about `over`."""
        return max((sum(each.seconds for each in told) for told in self._told.values()), default=0.0)

    @property
    def more(self) -> int:
        """Rows that the proxies' newest reports left out."""
        return sum(told[-1].more for told in self._told.values())

    def totals(self) -> list[Total]:
        return totals(self._told.values())
