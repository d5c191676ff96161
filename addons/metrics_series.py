"""Counters by label values, bounded in number, and cheap to count in: plain attributes, read at a scrape."""

from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

from control.histogram import BUCKETS, tally

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
    """Exchanges that are alike, gathered until their series are read. `kept`: the objects by whose identity they are alike.

    `took` and `waited` are the milliseconds of each, and of its one attempt: a bucket is looked for faster for many
    together.
    """

    __slots__ = (
        "attempts",
        "kept",
        "latency",
        "received",
        "requests",
        "sent",
        "timed",
        "took",
        "upstream",
        "waited",
    )

    def __init__(self, requests: Requests, latency: Latency, timed: bool, kept: tuple[object, ...]) -> None:
        self.requests = requests
        self.latency = latency
        self.kept = kept
        self.timed = timed
        self.attempts: Count | None = None
        """Where the one attempt of each is counted; None: attempts are counted elsewhere."""
        self.upstream: Latency | None = None
        """Where `waited` is counted."""
        self.took: list[float] = []
        self.waited: list[float] = []
        self.received = 0
        self.sent = 0

    def settle(self) -> None:
        """Hand what was gathered to the series."""
        count = len(self.took)
        self.requests.count += count
        if self.timed:
            _add(self.latency, self.took)
        self.latency.received += self.received
        self.latency.sent += self.sent
        if self.attempts is not None:
            self.attempts.count += count
        if self.upstream is not None:
            _add(self.upstream, self.waited)
        self.took.clear()
        self.waited.clear()
        self.received = self.sent = 0


def _add(latency: Latency, milliseconds: list[float]) -> None:
    latency.total += sum(milliseconds)
    tally(latency.buckets, milliseconds)


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
