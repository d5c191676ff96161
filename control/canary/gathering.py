"""The traffic of one step, gathered from the proxies' reports as they come in. Pure; the clock is an argument.

Each proxy tells about once a second what it counted since it told last. What it tells at the first sight of the
step's split it counted before; from then on each report counts once.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from control.canary.judging import Window
from control.histogram import added
from control.traffic import Row, read_traffic

LATE = 3.0
"""Seconds that are waited for a proxy's report, as long as a report lives."""


@dataclass(frozen=True)
class Told:
    """A proxy's report: the revision it has in force, why not a newer one, and the text of its traffic."""

    node: str
    revision: int
    traffic: str
    error: str = ""


@dataclass
class _Node:
    end: float
    fresh: float | None = None
    """When its last report that counts was seen, by the gathering's clock."""


@dataclass
class Gathering:
    """One step of a canary from the moment when its split was put (`since`, of any steady clock), at `revision`."""

    service: str
    versions: tuple[str, ...]
    revision: int
    every: float
    since: float
    rows: dict[str, Row] = field(default_factory=dict)
    """By version: what was told of the callers' side."""
    behind: tuple[Told, ...] = ()
    """Proxies that have not taken the revision."""
    left_out: int = 0
    """Rows that proxies had no room for in their reports."""
    _nodes: dict[str, _Node] = field(default_factory=dict)
    _began: float | None = None
    _looked: float | None = None
    _live: int = 0

    def take(self, told: Iterable[Told], now: float) -> None:
        """What all live proxies tell at this moment."""
        told = list(told)
        if self._looked is not None and now - self._looked > LATE:
            # Nobody looked, so what was told meanwhile is lost: that time does not count.
            self._began = None if self._began is None else self._began + (now - self._looked)
        self._looked = now
        self.behind = tuple(each for each in told if each.revision < self.revision)
        self._live = len(told)
        if self._began is None and (not self.behind or now - self.since >= LATE):
            self._began = now
        self._nodes = {each.node: self._nodes[each.node] for each in told if each.node in self._nodes}
        self.left_out = 0
        for each in told:
            if each.revision >= self.revision:
                self._take(each, now)

    def _take(self, told: Told, now: float) -> None:
        traffic = read_traffic(told.traffic)
        if traffic is None:
            return
        self.left_out += traffic.more
        node = self._nodes.get(told.node)
        if node is None:
            self._nodes[told.node] = _Node(traffic.end)
        elif node.end != traffic.end:
            node.end, node.fresh = traffic.end, now
            for version in self.versions:
                row = traffic.rows.get((self.service, version, "outbound"))
                if row is not None:
                    self.rows[version] = _sum(self.rows.get(version, Row()), row)

    def row(self, version: str) -> Row:
        return self.rows.get(version, Row())

    def elapsed(self, now: float) -> float:
        """Seconds of the step that count."""
        return 0.0 if self._began is None else max(0.0, now - self._began)

    def window(self, version: str, now: float) -> Window:
        """What is known of a version now. The step ends when each proxy told once after its time, or is late."""
        elapsed = self.elapsed(now)
        ended = elapsed >= self.every
        if ended and elapsed < self.every + LATE and self._began is not None:
            end = self._began + self.every
            ended = all(node.fresh is not None and node.fresh >= end for node in self._nodes.values())
        silent = ""
        if not self._live:
            silent = "no live proxy"
        elif self.left_out and not self.row(version).requests:
            silent = "the proxies' reports have no room for quiet services"
        return Window(self.row(version), elapsed, ended, max(0.0, elapsed - self.every), silent)


def _sum(one: Row, other: Row) -> Row:
    latency: Mapping[int, int] = added((one.latency, other.latency))
    return Row(
        one.requests + other.requests,
        one.failed + other.failed,
        one.injected + other.injected,
        dict(latency),
    )
