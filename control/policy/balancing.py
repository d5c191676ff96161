"""Which endpoint of a version gets the next attempt."""

from collections.abc import Collection, Sequence
from fractions import Fraction
from math import lcm

from control.policy.endpoints import Endpoint


class RoundRobin:
    """Smooth weighted round robin (as nginx does it): in proportion to the weights and evenly spread.

    Mutable: one per version. It takes the endpoints at each pick and goes on across changes of policy; other endpoints than
    at the last pick start a new cycle.
    """

    __slots__ = ("_current", "_endpoints", "_equal", "_next", "_usable", "_weights")

    def __init__(self) -> None:
        self._endpoints: tuple[Endpoint, ...] = ()
        self._usable: tuple[Endpoint, ...] = ()
        self._equal = True
        self._next = 0
        self._weights: list[int] = []
        self._current: list[int] = []

    def pick(
        self, endpoints: tuple[Endpoint, ...], avoid: Collection[Endpoint] = (), key: str | None = None
    ) -> Endpoint | None:
        """The next endpoint: one not in `avoid` if there is one, else any; weight 0 never. None: nothing to pick.

        `key` is for balancers that hash.
        """
        if endpoints is not self._endpoints:
            self._adopt(endpoints)
        if not self._usable:
            return None
        if not self._equal:
            return self._weighted(avoid)
        index = self._next if not avoid else self._other(avoid)
        self._next = index + 1 if index + 1 < len(self._usable) else 0
        return self._usable[index]

    def _adopt(self, endpoints: tuple[Endpoint, ...]) -> None:
        self._endpoints = endpoints
        self._usable = tuple(endpoint for endpoint in endpoints if endpoint.weight > 0)
        # Whole numbers in the same proportion: sums of fractions would drift, and a cycle never close.
        exact = [Fraction(str(endpoint.weight)) for endpoint in self._usable]
        scale = lcm(*(weight.denominator for weight in exact))
        self._weights = [int(weight * scale) for weight in exact]
        self._current = [0] * len(exact)
        self._equal = len(set(exact)) <= 1
        if self._next >= len(exact):
            self._next = 0

    def _other(self, avoid: Collection[Endpoint]) -> int:
        """The index of the next that is not to be avoided, else simply of the next."""
        count = len(self._usable)
        for step in range(count):
            index = (self._next + step) % count
            if self._usable[index] not in avoid:
                return index
        return self._next

    def _weighted(self, avoid: Collection[Endpoint]) -> Endpoint:
        usable, weights, current = self._usable, self._weights, self._current
        indices: Sequence[int] = range(len(usable))
        if avoid:
            indices = [index for index in indices if usable[index] not in avoid] or indices
        total = 0
        best = indices[0]
        for index in indices:
            total += weights[index]
            current[index] += weights[index]
            if current[index] > current[best]:
                best = index
        current[best] -= total
        return usable[best]
