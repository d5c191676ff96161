"""Counters by label values, bounded in number, and cheap to count in: plain attributes, read at a scrape."""

from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

from control.histogram import BUCKETS

OTHER = "other"
"""The value of every label of the series that counts for all label sets beyond the limit."""
_MOST_REMEMBERED = 10_000

Labels = tuple[str, ...]


class Labelled(Protocol):
    labels: Labels


S = TypeVar("S", bound=Labelled)


class Count:
    """How often something happened."""

    __slots__ = ("count", "labels")

    def __init__(self, labels: Labels) -> None:
        self.labels = labels
        self.count = 0


class Requests:
    """Requests that ended alike. `told`: how many of them the last summary counted."""

    __slots__ = ("count", "failed", "injected", "labels", "told")

    def __init__(self, labels: Labels) -> None:
        self.labels = labels
        self.count = 0
        self.told = 0
        self.failed = False
        self.injected = False


class Latency:
    """Lengths of time, in milliseconds, and the bytes of the bodies that took them. `told_*`: at the last summary."""

    __slots__ = ("buckets", "labels", "received", "sent", "told_buckets", "told_total", "total")

    def __init__(self, labels: Labels) -> None:
        self.labels = labels
        self.buckets = [0] * BUCKETS
        self.total = 0.0
        self.received = 0
        self.sent = 0
        self.told_buckets = self.buckets.copy()
        self.told_total = 0.0


class Cell:
    """Exchanges that are alike, counted until their series are read. `kept`: the objects by whose identity they are alike."""

    __slots__ = (
        "attempts",
        "buckets",
        "count",
        "kept",
        "latency",
        "received",
        "requests",
        "sent",
        "total",
        "upstream",
        "upstream_buckets",
        "upstream_total",
    )

    def __init__(self, requests: Requests, latency: Latency, timed: bool, kept: tuple[object, ...]) -> None:
        self.requests = requests
        self.latency = latency
        self.kept = kept
        self.attempts: Count | None = None
        """Where the one attempt of each is counted; None: attempts are counted elsewhere."""
        self.upstream: Latency | None = None
        self.buckets = latency.buckets if timed else None
        """Those of the series themselves; None: time is not measured."""
        self.upstream_buckets: list[int] | None = None
        self.count = 0
        self.total = 0.0
        self.upstream_total = 0.0
        self.received = 0
        self.sent = 0

    def measure(self, upstream: Latency) -> None:
        """Count there how long the attempt took."""
        self.upstream = upstream
        self.upstream_buckets = upstream.buckets

    def settle(self) -> None:
        """Hand what was counted to the series."""
        self.requests.count += self.count
        self.latency.total += self.total
        self.latency.received += self.received
        self.latency.sent += self.sent
        if self.attempts is not None:
            self.attempts.count += self.count
        if self.upstream is not None:
            self.upstream.total += self.upstream_total
        self.count = self.received = self.sent = 0
        self.total = self.upstream_total = 0.0


class Table(Generic[S]):
    """The series of one metric. When there are `most`, stale ones make room; without those, OTHER counts for the rest."""

    def __init__(self, metric: str, names: Labels, most: int, make: Callable[[Labels], S]) -> None:
        self.metric = metric
        self.names = names
        self.series: dict[Labels, S] = {}
        self.other = make((OTHER,) * len(names))
        self._most = most
        self._make = make
        self._refused: set[int] = set()
        self._find_stale: Callable[[Labels], Callable[[Labels], bool]] | None = None

    @property
    def refused(self) -> int:
        """Label sets that were counted as OTHER, as far as they can be told apart: at most 10,000."""
        return len(self._refused)

    def sweep_when_full(self, find_stale: Callable[[Labels], Callable[[Labels], bool]]) -> None:
        """Once, when a new series finds no room: drop those that `find_stale(names)` gives True for."""
        self._find_stale = find_stale

    def of(self, labels: Labels) -> S:
        """The series of these label values, a new one if need be. Not for every request: keep what it returns."""
        series = self.series.get(labels)
        if series is None:
            if len(self.series) >= self._most:
                self._sweep()
            if len(self.series) >= self._most:
                if len(self._refused) < _MOST_REMEMBERED:
                    self._refused.add(hash(labels))
                return self.other
            series = self.series[labels] = self._make(labels)
        return series

    def all(self) -> list[S]:
        """Every series, OTHER once it counts."""
        return [*self.series.values(), *([self.other] if self._refused else [])]

    def _sweep(self) -> None:
        find_stale, self._find_stale = self._find_stale, None
        if find_stale is not None:
            stale = find_stale(self.names)
            self.series = {labels: series for labels, series in self.series.items() if not stale(labels)}
