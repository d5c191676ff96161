"""Which endpoint of a version gets the next attempt."""

from collections.abc import Collection, Sequence

from control.policy.endpoints import Endpoint


class RoundRobin:
    """Smooth weighted round robin (as nginx does it): in proportion to the weights and evenly spread.

    Mutable: one per version. It takes the endpoints at each pick, so it goes on across changes of policy; an address that stays
    keeps its place.
    """

    __slots__ = ("_current", "_endpoints", "_equal", "_next", "_usable")

    def __init__(self) -> None:
        self._endpoints: Sequence[Endpoint] = ()
        self._usable: tuple[Endpoint, ...] = ()
        self._equal = True
        self._next = 0
        self._current: list[float] = []

    def pick(self, endpoints: tuple[Endpoint, ...], avoid: Collection[Endpoint] = ()) -> Endpoint | None:
        """The next endpoint: one not in `avoid` if there is one, else any; weight 0 never. None: nothing to pick."""
        if endpoints is not self._endpoints:
            self._adopt(endpoints)
        usable = self._usable
        if not usable:
            return None
        if self._equal:
            return self._rotate(usable, avoid)
        return self._weighted(usable, avoid)

    def _adopt(self, endpoints: tuple[Endpoint, ...]) -> None:
        before = {
            endpoint.address: current for endpoint, current in zip(self._usable, self._current, strict=True)
        }
        self._endpoints = endpoints
        self._usable = tuple(endpoint for endpoint in endpoints if endpoint.weight > 0)
        self._equal = len({endpoint.weight for endpoint in self._usable}) <= 1
        self._current = [before.get(endpoint.address, 0.0) for endpoint in self._usable]
        if self._next >= len(self._usable):
            self._next = 0

    def _rotate(self, usable: tuple[Endpoint, ...], avoid: Collection[Endpoint]) -> Endpoint:
        count = len(usable)
        index = self._next
        if avoid:
            for step in range(count):
                if usable[(index + step) % count] not in avoid:
                    index = (index + step) % count
                    break
        self._next = index + 1 if index + 1 < count else 0
        return usable[index]

    def _weighted(self, usable: tuple[Endpoint, ...], avoid: Collection[Endpoint]) -> Endpoint:
        current = self._current
        indices: Sequence[int] = range(len(usable))
        if avoid:
            indices = [index for index in indices if usable[index] not in avoid] or indices
        total = 0.0
        best = indices[0]
        for index in indices:
            weight = usable[index].weight
            total += weight
            current[index] += weight
            if current[index] > current[best]:
                best = index
        current[best] -= total
        return usable[best]
