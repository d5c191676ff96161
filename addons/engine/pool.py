"""Idle connections of one origin. Decides at once and closes nothing itself: it returns what to close."""

from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar


@dataclass(frozen=True, slots=True)
class PoolStats:
    """Connections to an origin right now: open (idle ones included), idle, and being opened."""

    open: int
    idle: int
    opening: int


class Poolable(Protocol):
    idle_since: float


C = TypeVar("C", bound=Poolable)


class Pool(Generic[C]):
    """idle: the oldest first. opening and open count connections of the origin, idle ones included in open."""

    __slots__ = ("idle", "limit", "open", "opening")

    def __init__(self, limit: int) -> None:
        self.idle: list[C] = []
        self.limit = limit
        self.open = 0
        self.opening = 0

    def take(self) -> C | None:
        """The connection used last: the others may grow old and be closed when there are too many for the load."""
        return self.idle.pop() if self.idle else None

    def give(self, connection: C, now: float) -> C | None:
        """Keep a connection for later. Returns the one to close instead, where there are too many: the oldest."""
        connection.idle_since = now
        idle = self.idle
        idle.append(connection)
        return idle.pop(0) if len(idle) > self.limit else None

    def remove(self, connection: C) -> None:
        """Take out a connection that ended, if it is idle."""
        if connection in self.idle:
            self.idle.remove(connection)

    def expire(self, until: float) -> list[C]:
        """Take out those that are idle since `until` or longer."""
        keep = 0
        for connection in self.idle:
            if connection.idle_since > until:
                break
            keep += 1
        expired = self.idle[:keep]
        del self.idle[:keep]
        return expired

    @property
    def oldest(self) -> float | None:
        """Since when the longest idle connection is; None when there is none."""
        return self.idle[0].idle_since if self.idle else None
