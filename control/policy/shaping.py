"""What faults make of an answer's body: which bytes are flipped, and when a piece may go on."""

from dataclasses import dataclass
from math import log
from random import Random

_SLOT = 0.05
"""Seconds of a throttled stream that travel in one piece."""
_LARGEST = 64 * 1024
_SHORTEST_WAIT = 0.001


class Corruption:
    """Flips one bit in a share (per cent) of the bytes of one body, wherever it is cut into pieces."""

    def __init__(self, percent: float, random: Random) -> None:
        self._share = percent / 100
        self._random = random
        self._intact = self._gap()

    def apply(self, data: bytes) -> bytes:
        """The next bytes of the body, as they arrive at the other end."""
        place = self._intact
        if place >= len(data):
            self._intact -= len(data)
            return data
        flipped = bytearray(data)
        while place < len(flipped):
            flipped[place] ^= 1 << self._random.randrange(8)
            place += 1 + self._gap()
        self._intact = place - len(flipped)
        return bytes(flipped)

    def _gap(self) -> int:
        """Bytes until the next that is hit: drawn at once instead of asking for each byte."""
        if self._share >= 1:
            return 0
        return int(log(1.0 - self._random.random()) / log(1.0 - self._share))


class Pace:
    """When bytes may go on so that no more than `rate` of them do in a second. Times in seconds by any clock."""

    def __init__(self, rate: float, now: float) -> None:
        self._rate = rate
        self._free = now
        self.piece = max(1, min(_LARGEST, int(rate * _SLOT)))
        """Bytes that should go at once, at most."""

    def wait(self, size: int, now: float) -> float:
        """Seconds to wait before so many bytes may go; time in which nothing came is not made up for."""
        self._free = max(self._free, now) + size / self._rate
        left = self._free - now
        return left if left >= _SHORTEST_WAIT else 0.0


@dataclass(frozen=True, slots=True)
class Shape:
    """What is done to one body. bandwidth: bytes a second. truncate: bytes. slow_close: seconds. None is nothing."""

    bandwidth: int | None = None
    truncate: int | None = None
    slow_close: float | None = None
    corruptions: tuple[Corruption, ...] = ()
