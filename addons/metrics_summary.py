"""What was counted since the last summary, by service, version and side."""

from collections.abc import Iterable

from addons.metrics_labels import LATENCY
from addons.metrics_series import Labels, Latency, Requests
from control.histogram import added, grown
from control.traffic import Key, Row, Traffic, busiest

_SIDES = {"source": "outbound", "destination": "inbound"}
_AT = tuple(LATENCY.index(name) for name in ("destination_service", "destination_version", "reporter"))


def _key(labels: Labels) -> Key:
    service, version, reporter = (labels[index] for index in _AT)
    return service, version, _SIDES.get(reporter, reporter)


def traffic_since(
    requests: Iterable[Requests], latencies: Iterable[Latency], end: float, seconds: float
) -> Traffic:
    """The busiest rows of the last `seconds` until `end` (Unix seconds); the series remember that they were told."""
    rows: dict[Key, Row] = {}
    for series in requests:
        fresh = series.count - series.told
        if fresh:
            series.told = series.count
            row = rows.setdefault(_key(series.labels), Row())
            row.requests += fresh
            row.failed += fresh if series.failed else 0
            row.injected += fresh if series.injected else 0
    told = busiest(rows)
    for latency in latencies:
        if latency.total != latency.told_total:
            mine = told.get(_key(latency.labels))
            if mine is not None:
                mine.latency = added((mine.latency, grown(latency.buckets, latency.told_buckets)))
            latency.told_buckets = latency.buckets.copy()
            latency.told_total = latency.total
    return Traffic(end, seconds, told, len(rows) - len(told))
